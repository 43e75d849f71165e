"""Image classification: one label of a fixed set for each image."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from raymodel.tasks.base import Answer, Columns, Example, LeftOut, Limits, Sample
from raymodel.tasks.classification import Classification
from raymodel.tasks.fields import Field
from raymodel.tasks.label import number_of
from raymodel.tasks.pictures import (
    GREY_SQUARE,
    fresh_images,
    image_example,
    image_schema,
    pixels_for,
)

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from raymodel.chance import Draw
    from raymodel.modality.image import ImageProcessor
    from raymodel.modality.mix import Mix
    from raymodel.tasks.loss import Scores
    from raymodel.tasks.spec.image import ImageClassificationSpec


class ImageClassification(Classification):
    """A network with a classification head (`AutoModelForImageClassification`)."""

    name = "image_classification"
    modality = "image"
    auto_class = "AutoModelForImageClassification"
    architectures = ("ForImageClassification",)
    pipeline_tag = "image-classification"
    peft_task = None
    has_scores = True
    fields = MappingProxyType(
        {
            "image": Field(kind="image", default="image"),
            "label": Field(kind="label", default="label", is_target=True),
        }
    )

    @property
    def _said(self) -> ImageClassificationSpec:
        from raymodel.tasks.spec.image import ImageClassificationSpec

        return cast("ImageClassificationSpec", self.spec or ImageClassificationSpec())

    def fresh_processor(self) -> ImageProcessor | None:
        """As the job says what images are; None where it leaves that to a base."""
        return fresh_images(self._said.image)

    def takes_over(self, config: PretrainedConfig) -> PretrainedConfig:
        """A ViT where the base is the encoder of a masked autoencoder, whose decoder stays
        behind."""
        from raymodel.tasks.autoencoder import without_decoder

        return without_decoder(config)

    def schema(self) -> pa.Schema:
        """`image` binary, encoded as in its source; `label` int32."""
        import pyarrow as pa

        return image_schema().append(pa.field("label", pa.int32()))

    def features(self, values: Mapping[str, Any], max_length: int | None) -> Example | LeftOut:
        """The encoded image, once it was seen to be whole.

        Raises:
            ValueError: the label is not one of `labels`.
        """
        found = image_example(values, self.processor)
        if isinstance(found, LeftOut) or "label" not in values:
            return found
        label = number_of(values["label"], self.labels)
        return Example(features={**found.features, "label": label})

    def collate(self, rows: Columns, draw: Draw | None = None) -> dict[str, torch.Tensor]:
        """`pixel_values` (B, channels, height, width); `labels` (B,), where rows have labels. Of
        images that may be mixed also `partner_labels` (B,), of what was mixed into them, and
        `share` (B,), which of an image is its own: 1 where nothing was."""
        import torch

        from raymodel.chance import PARTNER
        from raymodel.tasks.batch import class_labels

        mixes = self._mixes(rows, draw)
        pixels = self.processor.pixels_of(
            list(rows["image"]),
            augment=self._said.augment,
            draw=draw,
            threads=torch.get_num_threads(),
            mixed_in=[
                None if mix is None else (rows[PARTNER + "image"][row], mix)
                for row, mix in enumerate(mixes)
            ],
        )
        batch = {"pixel_values": torch.from_numpy(pixels), **class_labels(rows)}
        if mixes:
            batch["share"] = torch.tensor([1.0 if mix is None else mix.share for mix in mixes])
            partners = class_labels({"label": rows[PARTNER + "label"]})
            batch["partner_labels"] = partners["labels"]
        return batch

    def _mixes(self, rows: Columns, draw: Draw | None) -> list[Mix | None]:
        """How each row is mixed with its partner; nothing where no row can be."""
        from raymodel.modality.mix import draw_mix

        if draw is None or not self._said.wants_partners:
            return []
        chances = (draw.of_row(row, "mix") for row in range(len(draw)))
        return [draw_mix(self._said.augment, self.processor.size, chance) for chance in chances]

    def loss(self, model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Sum of the cross-entropy over the images; of mixed ones, that of both labels, each by the
        share of its image."""
        return self.scores(model, batch).loss()

    def scores(self, model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> Scores:
        """Of each image, whose class of a mixed one is both."""
        from raymodel.tasks.loss import Scores

        return Scores(
            logits_NV=model(pixel_values=pixels_for(model, batch)).logits,
            targets_N=batch["labels"],
            others_N=batch.get("partner_labels"),
            share_N=batch.get("share"),
        )

    def predict(self, model: PreTrainedModel, rows: Columns, limits: Limits) -> list[Answer]:
        """`label`, and `probs` of all labels in the order of their numbers."""
        from raymodel.tasks.classes import class_answers

        return class_answers(model, {"pixel_values": self.collate(rows)["pixel_values"]})

    def sample(self, rows: Columns, index: int, answer: Answer, reference: Any) -> Sample:
        """Both labels; the image itself is in the request."""
        return Sample.of_file(
            "image", "image", rows, index, answer=answer["label"], reference=reference
        )

    @classmethod
    def example_request(cls) -> dict[str, Any]:
        """A grey square."""
        return {"image": GREY_SQUARE}
