"""What the tasks share that answer to a whole text, or to a pair of texts, with one head."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from raymodel.tasks.base import Answer, Columns, Example, LeftOut, Limits, Sample, Task
from raymodel.tasks.fields import Field, Fields, Kind
from raymodel.tasks.paraphrase import PARAPHRASE, drawn_paraphrases

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from transformers import PreTrainedModel

    from raymodel.chance import Draw
    from raymodel.tasks.text_augment import WordChanger


def fields_of_texts(label: Kind) -> Fields:
    """A text, perhaps another one that it is held against, and what is to be said of them."""
    return MappingProxyType(
        {
            "text": Field(kind="text", default="{text}"),
            "text_pair": Field(kind="text", is_optional=True),
            "label": Field(kind=label, default="label", is_target=True),
        }
    )


class TextHead(Task):
    """An encoder or decoder with a head (`AutoModelForSequenceClassification`).

    A pair is given to the model in the form that its tokenizer has for pairs. Rows of pairs have
    two columns more: `token_type_ids`, where the tokenizer makes some, and `pair_start`, the place
    of the first token of the second text.
    """

    modality = "text"
    auto_class = "AutoModelForSequenceClassification"
    architectures = ("ForSequenceClassification",)
    pipeline_tag = "text-classification"
    peft_task = "SEQ_CLS"
    draws_head = True

    # ---- what a task adds ------------------------------------------------------------------------

    @abstractmethod
    def label_type(self) -> pa.DataType:
        """Of the column `label`."""

    @abstractmethod
    def stored_label(self, value: Any) -> Any:
        """What that column holds for the value of the role.

        Raises:
            ValueError: a value that the data must not have.
        """

    @abstractmethod
    def batch_labels(self, column: Any) -> torch.Tensor:
        """That column of B rows → `labels` of a batch (B, …)."""

    @abstractmethod
    def loss_of(self, logits_BC: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The sum of the loss over the rows, a scalar in fp32."""

    @abstractmethod
    def answers_of(self, logits_BC: torch.Tensor, model: PreTrainedModel) -> list[Answer]:
        """What the model says to B rows."""

    @abstractmethod
    def label_text(self, label: Any) -> str:
        """What is answered or would be right, for people.

        Args:
            label: what an answer has under the name of its kind, or a reference.
        """

    # ---- data ------------------------------------------------------------------------------------

    def schema(self) -> pa.Schema:
        """`input_ids` list<int32>, `label`; of pairs also `pair_start` int32 and, where the
        tokenizer makes some, `token_type_ids` list<int8>. With paraphrases `paraphrase_input_ids`,
        and where there are types `paraphrase_token_type_ids`."""
        import pyarrow as pa

        lists = {"input_ids": pa.list_(pa.int32()), "token_type_ids": pa.list_(pa.int8())}
        columns = [("input_ids", lists["input_ids"]), ("label", self.label_type())]
        if "text_pair" in self.roles:
            columns.append(("pair_start", pa.int32()))
            if self._has_types:
                columns.append(("token_type_ids", lists["token_type_ids"]))
        paraphrases = self.paraphrase_columns.items()
        return pa.schema([*columns, *((column, lists[name]) for column, name in paraphrases)])

    @property
    def _has_types(self) -> bool:
        return "text_pair" in self.roles and bool(self.processor.makes_token_types)

    @property
    def paraphrase_columns(self) -> Mapping[str, str]:
        """Tokens, and what numbers the texts of a pair."""
        if self.spec is None or self.spec.back_translation is None:
            return {}
        names = ("input_ids", "token_type_ids") if self._has_types else ("input_ids",)
        return {f"{PARAPHRASE}{name}": name for name in names}

    def features(self, values: Mapping[str, Any], max_length: int | None) -> Example | LeftOut:
        """Token ids with the tokenizer's special tokens; a text that is too long loses its end, of
        a pair the longer one first.

        Raises:
            ValueError: the data must not have the label.
        """
        if "text_pair" in values:
            features, cut = self._pair(values["text"], values["text_pair"], max_length)
        else:
            input_ids, is_cut = self.processor.encode(values["text"], max_length)
            features, cut = {"input_ids": input_ids}, ("text",) if is_cut else ()
        if "label" in values:
            features["label"] = self.stored_label(values["label"])
        return Example(features=features, cut=cut)

    def _pair(
        self, text: str, text_pair: str, max_length: int | None
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        encoded = self.processor.encode_pair(text, text_pair, max_length)
        features = {"input_ids": encoded.input_ids, "pair_start": encoded.pair_start}
        if encoded.token_type_ids is not None:
            features["token_type_ids"] = encoded.token_type_ids
        roles = zip(("text", "text_pair"), encoded.is_cut, strict=True)
        return features, tuple(role for role, is_cut in roles if is_cut)

    # ---- training --------------------------------------------------------------------------------

    def collate(self, rows: Columns, draw: Draw | None = None) -> dict[str, torch.Tensor]:
        """`input_ids`, `attention_mask` (B, T), of pairs also `token_type_ids`; `labels` (B, …),
        where rows have labels."""
        labels = {"labels": self.batch_labels(rows["label"])} if "label" in rows else {}
        shown = drawn_paraphrases(rows, self.spec, draw)
        return self._inputs(self._changed(shown, draw)) | labels

    def _changed(self, rows: Columns, draw: Draw | None) -> Columns:
        """The tokens of rows, and what numbers the texts of a pair, after changes by chance."""
        if draw is None or self._changer is None:
            return rows
        found = [
            self._changer.change(ids, draw.of_row(row, "words"))
            for row, ids in enumerate(rows["input_ids"])
        ]
        made: dict[str, Any] = {"input_ids": [each.ids for each in found]}
        if "token_type_ids" in rows:
            types = zip(rows["token_type_ids"], found, strict=True)
            made["token_type_ids"] = [[row[i] for i in each.origins] for row, each in types]
        return made

    @functools.cached_property
    def _changer(self) -> WordChanger | None:
        from raymodel.tasks.text_augment import changer_of

        return changer_of(self.spec, self.processor)

    def check_processor(self, processor: Any) -> None:
        """Raises ValueError when words are to be changed, and the tokens do not tell them."""
        from raymodel.tasks.text_augment import changer_of

        changer_of(self.spec, processor)

    def _inputs(self, rows: Columns) -> dict[str, torch.Tensor]:
        from raymodel.tasks.batch import pad_right

        input_ids, mask = pad_right(rows["input_ids"], self.processor.padding)
        batch = {"input_ids": input_ids, "attention_mask": mask}
        if "token_type_ids" in rows:
            # Requests for pairs and for single texts may meet in a batch.
            types = zip(rows["token_type_ids"], rows["input_ids"], strict=True)
            filled = [[0] * len(ids) if each is None else each for each, ids in types]
            batch["token_type_ids"] = pad_right(filled, 0)[0]
        return batch

    def loss(self, model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The sum of the loss over the rows."""
        return self.loss_of(self.logits_of(model, batch), batch["labels"])

    def logits_of(self, model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """What the head says of each text. (B, C)"""
        from raymodel.tasks.batch import text_inputs

        logits_BC: torch.Tensor = model(**text_inputs(batch, model)).logits
        return logits_BC

    # ---- the model -------------------------------------------------------------------------------

    def settle(self, model: PreTrainedModel) -> str | None:
        """A decoder's class is read off the last token that is not padding."""
        from raymodel.tasks.padding import settle_padding

        return settle_padding(self.processor.tokenizer, model.config)

    # ---- answers ---------------------------------------------------------------------------------

    def predict(self, model: PreTrainedModel, rows: Columns, limits: Limits) -> list[Answer]:
        """What the head says to each text."""
        import torch

        from raymodel.tasks.batch import encoder_inputs

        inputs = encoder_inputs(self._inputs(rows), model)
        with torch.inference_mode():
            return self.answers_of(model(**inputs).logits.float(), model)

    def sample(self, rows: Columns, index: int, answer: Answer, reference: Any) -> Sample:
        """The text, or both of a pair, beside both labels."""
        ids = list(rows["input_ids"][index])
        texts = {"text": self.processor.decode(ids)}
        if "pair_start" in rows:
            start = int(rows["pair_start"][index])
            texts = {
                "text": self.processor.decode(ids[:start]),
                "text_pair": self.processor.decode(ids[start:]),
            }
        return Sample(
            prompt="\n".join(texts.values()),
            answer=self.label_text(answer[self.answers]),
            reference=self.label_text(reference),
            request=texts,
        )
