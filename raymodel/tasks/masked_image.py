"""Masked images: paint the patches of an image that are hidden (MAE, arXiv:2111.06377)."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from raymodel.tasks.base import Answer, Columns, Example, LeftOut, Limits, Measure, Sample, Task
from raymodel.tasks.fields import PLAIN_IMAGE
from raymodel.tasks.pictures import GREY_SQUARE, image_example, image_schema
from raymodel.tasks.spec import AnyTask
from raymodel.tasks.spec.image import MaskedImageSpec
from raymodel.tasks.vectors import vector_text

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from raymodel.chance import Chance, Draw
    from raymodel.tasks.autoencoder import Patches


class MaskedImage(Task):
    """A masked autoencoder (`ViTMAEForPreTraining`) over images without labels.

    Which patches are hidden is drawn anew at every step. Without chance, as in validation and
    evaluation, it follows from the image alone, so that they are the same for all models that hide
    as much.
    """

    name = "masked_image"
    modality = "image"
    auto_class = "AutoModelForPreTraining"
    architectures = ("ViTMAEForPreTraining",)
    pipeline_tag = "image-feature-extraction"
    peft_task = "FEATURE_EXTRACTION"  # of peft's the one that adds no head and trains none
    fields = PLAIN_IMAGE
    measures = MappingProxyType(
        {"reconstruction_error": Measure(needs="loss", higher_is_better=False)}
    )
    answers = "vector"
    can_pretrain = True

    def __init__(self, spec: AnyTask | None = None, **given: Any) -> None:
        super().__init__(spec, **given)
        self._spec = spec if isinstance(spec, MaskedImageSpec) else MaskedImageSpec()
        self._patches: Patches | None = None

    @property
    def patches(self) -> Patches:
        """Of the model that batches are made for."""
        assert self._patches is not None, "the patches are those of a model, see `for_model`"
        return self._patches

    def for_model(self, config: PretrainedConfig) -> Self:
        """Images are cut up, and hidden, as the model says."""
        from raymodel.tasks.autoencoder import Patches

        made = copy.copy(self)
        made._patches = Patches.of(config)
        return made

    def check_model(self, config: PretrainedConfig) -> None:
        """It is a masked autoencoder, whose patches are whole and some of them hidden."""
        from raymodel.tasks.autoencoder import find_misfit, is_default_size

        is_sized = self._processor is not None or not is_default_size(config)
        misfit = find_misfit(config, is_sized=is_sized)
        if misfit is not None:
            raise ValueError(f"{self.name}: {misfit}")

    # ---- data ------------------------------------------------------------------------------------

    def schema(self) -> pa.Schema:
        """`image` binary, encoded as in its source."""
        return image_schema()

    def features(self, values: Mapping[str, Any], max_length: int | None) -> Example | LeftOut:
        """The encoded image, once it was seen to be whole."""
        return image_example(values, self.processor)

    def collate(self, rows: Columns, draw: Draw | None = None) -> dict[str, torch.Tensor]:
        """`pixel_values` (B, channels, height, width); `noise` (B, P), the place of each patch
        in an order of which the model sees the first; `labels` (B, P), which says where it has to
        paint.
        """
        import numpy as np
        import torch

        from raymodel.tasks.loss import IGNORED

        patches = self.patches
        chances = [
            draw.of_row(row, "mask") if draw else _own_chance(data)
            for row, data in enumerate(rows["image"])
        ]
        order_BP = torch.from_numpy(np.stack([patches.order(chance) for chance in chances]))
        pixels = self.processor.pixels_of(
            list(rows["image"]),
            augment=self._spec.augment,
            draw=draw,
            threads=torch.get_num_threads(),
        )
        return {
            "pixel_values": torch.from_numpy(pixels),
            "noise": order_BP.float(),
            "labels": torch.where(order_BP < patches.left, IGNORED, 0),
        }

    def loss(self, model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Sum over the hidden patches of the mean squared error of their numbers."""
        from raymodel.tasks.autoencoder import forward_inputs, painting_errors
        from raymodel.tasks.loss import IGNORED

        painted_BPD = model(**forward_inputs(model, batch)).logits
        errors_BP = painting_errors(painted_BPD, batch["pixel_values"], self.patches)
        return errors_BP.masked_fill(batch["labels"] == IGNORED, 0.0).sum()

    # ---- answers ---------------------------------------------------------------------------------

    def measure_loss(self, loss: float, num_targets: int, num_bytes: int) -> dict[str, float]:
        """`reconstruction_error`: the mean squared error of a hidden patch. With `norm_pix_loss` 1
        is what painting its mean grey would give, whatever the images; else it is in the units of
        the normalised pixels. Figures compare between models that hide as much in patches as large.
        """
        return {"reconstruction_error": loss / max(1, num_targets)}

    def has_answers(self, rows: Columns) -> bool:
        """Never: nothing is right or wrong about a vector by itself."""
        return False

    def predict(self, model: PreTrainedModel, rows: Columns, limits: Limits) -> list[Answer]:
        """`embedding`, of length 1: what the encoder makes of the whole image."""
        import torch

        from raymodel.tasks.autoencoder import forward_inputs, whole_image_vectors

        batch = {name: value.to(model.device) for name, value in self.collate(rows).items()}
        inputs = forward_inputs(model, batch)
        with torch.inference_mode():
            vectors = whole_image_vectors(model, inputs["pixel_values"], inputs["noise"])
        return [{"embedding": vector} for vector in vectors.cpu().tolist()]

    def references(self, rows: Columns) -> list[Any]:
        """None is known."""
        return ["" for _ in rows["image"]]

    def measure(
        self, answers: Sequence[Answer], references: Sequence[Any], names: Collection[str]
    ) -> dict[str, float]:
        """No measure needs answers."""
        return {}

    def sample(self, rows: Columns, index: int, answer: Answer, reference: Any) -> Sample:
        """The beginning of the vector; the image itself is in the request."""
        shown = self.answer_text(answer)
        return Sample.of_file("image", "image", rows, index, answer=shown, reference=reference)

    @classmethod
    def example_request(cls) -> dict[str, Any]:
        """A grey square."""
        return {"image": GREY_SQUARE}

    @staticmethod
    def answer_text(answer: Answer) -> str:
        return vector_text(answer["embedding"])


def _own_chance(data: bytes) -> Chance:
    """Of a row by its image alone."""
    import hashlib

    from raymodel.chance import Chance

    return Chance("masked_image", hashlib.blake2b(data, digest_size=16).hexdigest())
