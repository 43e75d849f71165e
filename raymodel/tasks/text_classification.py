"""Text classification: one label of a fixed set for each text."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from raymodel.tasks.base import Answer, Columns, Example, LeftOut, Limits, Sample
from raymodel.tasks.classification import Classification
from raymodel.tasks.fields import Field
from raymodel.tasks.label import number_of

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from raymodel.chance import Draw


class TextClassification(Classification):
    """An encoder or decoder with a classification head (`AutoModelForSequenceClassification`)."""

    name = "text_classification"
    modality = "text"
    auto_class = "AutoModelForSequenceClassification"
    architectures = ("ForSequenceClassification",)
    pipeline_tag = "text-classification"
    peft_task = "SEQ_CLS"
    fields = MappingProxyType(
        {
            "text": Field(kind="text", default="{text}"),
            "label": Field(kind="label", default="label", is_target=True),
        }
    )

    def schema(self) -> pa.Schema:
        """`input_ids` list<int32>, `label` int32."""
        import pyarrow as pa

        return pa.schema([("input_ids", pa.list_(pa.int32())), ("label", pa.int32())])

    def features(self, values: Mapping[str, Any], max_length: int | None) -> Example | LeftOut:
        """Token ids with the tokenizer's special tokens; a text that is too long loses its end.

        Raises:
            ValueError: the label is not one of `labels`.
        """
        input_ids, is_cut = self.processor.encode(values["text"], max_length)
        features = {"input_ids": input_ids}
        if "label" in values:
            features["label"] = number_of(values["label"], self.labels)
        return Example(features=features, cut=("text",) if is_cut else ())

    def collate(self, rows: Columns, draw: Draw | None = None) -> dict[str, torch.Tensor]:
        """`input_ids`, `attention_mask` (B, T); `labels` (B,), where rows have labels."""
        from raymodel.tasks.batch import class_labels, pad_right

        input_ids, mask = pad_right(rows["input_ids"], self.processor.padding)
        return {"input_ids": input_ids, "attention_mask": mask, **class_labels(rows)}

    def loss(self, model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Sum of the cross-entropy over the examples."""
        from raymodel.tasks.loss import cross_entropy_sum

        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        return cross_entropy_sum(model(**inputs).logits, batch["labels"])  # (B, C)

    def settle(self, config: PretrainedConfig) -> str | None:
        """Padding is the tokenizer's, else its end of text.

        A decoder's class is read off the last token that is not padding, so another id than that
        which rows are filled with would read it off the padding.
        """
        tokenizer = self.processor.tokenizer
        padding = tokenizer.pad_token_id
        if padding is None:
            padding = tokenizer.eos_token_id
        if padding is None:
            raise ValueError(
                "the tokenizer has neither a padding nor an end-of-text token, and texts of "
                "different lengths need one to be filled up with; set tokenizer.pad_token and save "
                "it again"
            )
        text_config = config.get_text_config()
        if text_config.pad_token_id == padding:
            return None
        before, text_config.pad_token_id = text_config.pad_token_id, padding
        word = "padding" if tokenizer.pad_token_id is not None else "end-of-text"
        return (
            f"pad_token_id of the model becomes {padding}, the tokenizer's {word} token, which its "
            f"texts are filled up with (it was {before})"
        )

    def predict(self, model: PreTrainedModel, rows: Columns, limits: Limits) -> list[Answer]:
        """`label`, and `probs` of all labels in the order of their numbers."""
        from raymodel.tasks.batch import encoder_inputs
        from raymodel.tasks.classes import class_answers

        return class_answers(model, encoder_inputs(self.collate(rows), model))

    def sample(self, rows: Columns, index: int, answer: Answer, reference: Any) -> Sample:
        """The text beside its labels."""
        text = self.processor.decode(rows["input_ids"][index])
        return Sample(
            prompt=text, answer=answer["label"], reference=reference, request={"text": text}
        )
