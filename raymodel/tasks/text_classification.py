"""Text classification: one label of a fixed set for each text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from raymodel.tasks.base import Evaluation, Example, LeftOut, Sample, Task
from raymodel.tasks.template import check_template

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from raymodel.data.spec import SourceSpec


class TextClassification(Task):
    """An encoder or decoder with a classification head (`AutoModelForSequenceClassification`)."""

    name = "text_classification"
    auto_class = "AutoModelForSequenceClassification"
    peft_task = "SEQ_CLS"
    roles = MappingProxyType({"text": "start"})
    has_labels = True
    measures = ("accuracy", "f1")
    draws_head = True

    def check_source(self, source: SourceSpec) -> None:
        """A label field, and a text template that names at least one field."""
        if source.label is None:
            raise ValueError(
                f"source {source.path!r} has no `label`; name the field that holds the label"
            )
        check_template(source, "text")

    def schema(self) -> pa.Schema:
        """`input_ids` list<int32>, `label` int32."""
        import pyarrow as pa

        return pa.schema([("input_ids", pa.list_(pa.int32())), ("label", pa.int32())])

    def features(
        self,
        texts: Mapping[str, str],
        label: str | None,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
    ) -> Example | LeftOut:
        """Token ids with the tokenizer's special tokens; a text that is too long loses its end.

        Raises:
            ValueError: the label is not one of `labels`.
        """
        if label not in self.labels:
            raise ValueError(
                f"label {label!r} is not one of the {len(self.labels)} known: "
                f"{', '.join(self.labels[:20])}; all labels must occur in the training data"
            )
        input_ids = tokenizer(texts["text"], verbose=False)["input_ids"]
        is_cut = len(input_ids) > max_length
        if is_cut:
            cut = tokenizer(texts["text"], truncation=True, max_length=max_length)
            input_ids = cut["input_ids"]
        features = {"input_ids": input_ids, "label": self.labels.index(label)}
        return Example(features=features, cut=("text",) if is_cut else ())

    def collate(self, rows: Mapping[str, Any], pad_token_id: int) -> dict[str, torch.Tensor]:
        """`input_ids`, `attention_mask` (B, T); `labels` (B,)."""
        import numpy as np
        import torch

        from raymodel.tasks.batch import pad_right

        input_ids, mask = pad_right(rows["input_ids"], pad_token_id)
        labels = torch.from_numpy(np.asarray(rows["label"], dtype=np.int64))
        return {"input_ids": input_ids, "attention_mask": mask, "labels": labels}

    def loss(self, model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Sum of the cross-entropy over the examples."""
        from raymodel.tasks.loss import cross_entropy_sum

        return cross_entropy_sum(self._logits(model, batch), batch["labels"])

    @staticmethod
    def _logits(model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        logits: torch.Tensor = model(**inputs).logits  # (B, C)
        return logits

    def model_arguments(self) -> dict[str, Any]:
        """The label names, which the model's configuration keeps in both directions."""
        return {
            "num_labels": len(self.labels),
            "id2label": dict(enumerate(self.labels)),
            "label2id": {label: index for index, label in enumerate(self.labels)},
        }

    def settle_padding(
        self, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase
    ) -> str | None:
        """Padding is the tokenizer's, else its end of text.

        A decoder's class is read off the last token that is not padding, so another id than that
        which rows are filled with would read it off the padding.
        """
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

    def evaluate(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        rows: Mapping[str, Any],
        measures: Sequence[str],
        **limits: int,
    ) -> Evaluation:
        """Accuracy and macro F1 over all rows; the texts beside their labels as samples."""
        import numpy as np
        import torch

        from raymodel.tasks.agreement import accuracy, macro_f1
        from raymodel.tasks.batch import batches, decode, pad_id

        predicted = []
        with torch.inference_mode():
            for part in batches(rows, limits.get("batch_rows", 16)):
                batch = self.collate(part, pad_id(tokenizer))
                batch = {name: value.to(model.device) for name, value in batch.items()}
                predicted.append(self._logits(model, batch).argmax(-1).cpu().numpy())
        classes = np.concatenate(predicted)
        truth = np.asarray(rows["label"])
        names = cast(dict[int, str], model.config.id2label)
        available = {"accuracy": accuracy, "f1": macro_f1}
        return Evaluation(
            metrics={name: available[name](truth, classes) for name in measures},
            samples=tuple(
                Sample(
                    prompt=decode(tokenizer, rows["input_ids"][index]),
                    answer=names[int(classes[index])],
                    reference=names[int(truth[index])],
                )
                for index in range(min(limits.get("num_samples", 5), len(classes)))
            ),
        )
