"""Token classification: a tag for each word of a text, such as the names of persons and places."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from raymodel.tasks.alignment import NO_PIECE, align, text_of
from raymodel.tasks.base import Answer, Columns, Example, LeftOut, Limits, Measure, Sample, Task
from raymodel.tasks.fields import Field
from raymodel.tasks.label import number_of
from raymodel.tasks.tags import OUTSIDE, Scheme, Span, entity_scores, scheme_of, spans_of

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from raymodel.chance import Draw
    from raymodel.tasks.loss import Scores


class TokenClassification(Task):
    """An encoder or decoder with a head at each token (`AutoModelForTokenClassification`).

    A word's tag is learnt and read at its first piece. The names of all tags together tell whether
    they mark spans and how (`tags.scheme_of`); a model carries them in its configuration.
    """

    name = "token_classification"
    modality = "text"
    auto_class = "AutoModelForTokenClassification"
    architectures = ("ForTokenClassification",)
    pipeline_tag = "token-classification"
    peft_task = "TOKEN_CLS"
    fields = MappingProxyType(
        {
            "tokens": Field(kind="words", default="tokens"),
            "tags": Field(kind="tags", default="tags", is_target=True),
        }
    )
    measures = MappingProxyType(
        {
            name: Measure(needs="answers", higher_is_better=True)
            for name in ("f1", "precision", "recall", "accuracy")
        }
    )
    answers = "spans"
    logits = "BTC"
    has_scores = True
    draws_head = True

    @cached_property
    def _scheme(self) -> Scheme:
        return scheme_of(self.labels)

    def schema(self) -> pa.Schema:
        """`input_ids` list<int32>; and of each word that was kept its text in `tokens`, the place
        of its first piece in `first_piece` (list<int32>), the number of its tag in `tags`
        (list<int32>)."""
        import pyarrow as pa

        numbers, texts = pa.list_(pa.int32()), pa.list_(pa.string())
        return pa.schema(
            [("input_ids", numbers), ("first_piece", numbers), ("tokens", texts), ("tags", numbers)]
        )

    def features(self, values: Mapping[str, Any], max_length: int | None) -> Example | LeftOut:
        """The pieces of the words; a text that is too long ends with the last word that fits.

        Raises:
            ValueError: a tag is not one of `labels`, those are of no scheme, the tokenizer is a
                slow one, or `max_length` leaves no room for words.
        """
        words = values["tokens"]
        if not words:
            return LeftOut("record without words")
        most = sys.maxsize if max_length is None else max_length
        aligned = align(words, self.processor.tokenizer, most)
        kept = aligned.num_words_kept
        if kept == 0:
            return LeftOut("record whose first word alone is too long")
        if len(aligned.words_without_piece) == kept:
            return LeftOut("record whose words are nothing to the tokenizer")
        features = {
            "input_ids": aligned.input_ids,
            "first_piece": aligned.first_piece,
            "tokens": list(words[:kept]),
        }
        if "tags" in values:
            _ = self._scheme  # tags of no scheme end the data here, and not the evaluation
            features["tags"] = [number_of(tag, self.labels) for tag in values["tags"][:kept]]
        return Example(features=features, cut=("tokens",) if kept < len(words) else ())

    def collate(self, rows: Columns, draw: Draw | None = None) -> dict[str, torch.Tensor]:
        """`input_ids`, `attention_mask` (B, T); `labels` (B, T), where rows have tags: at the first
        piece of each word the number of its tag."""
        from raymodel.tasks.batch import pad_right

        input_ids, mask = pad_right(rows["input_ids"], self.processor.padding)
        batch = {"input_ids": input_ids, "attention_mask": mask}
        if "tags" in rows:
            batch["labels"] = _labels(rows, input_ids)
        return batch

    def loss(self, model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Sum of the cross-entropy over the words."""
        return self.scores(model, batch).loss()

    def scores(self, model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> Scores:
        """Of each token, of which the first of a word has a target."""
        from raymodel.tasks.batch import text_inputs
        from raymodel.tasks.loss import Scores

        logits = model(**text_inputs(batch, model)).logits  # (B, T, C)
        labels = batch["labels"][:, : logits.shape[1]]
        return Scores(logits_NV=logits.flatten(0, 1), targets_N=labels.flatten())

    def check_model(self, config: PretrainedConfig) -> None:
        """Raises ValueError when the model's tags are of no scheme."""
        scheme_of((config.id2label or {}).values())

    def predict(self, model: PreTrainedModel, rows: Columns, limits: Limits) -> list[Answer]:
        """`tags`, one for each word; and `entities`, the spans that they mark: `label`, the words
        from `start` to before `end`, and their `text`.

        A word of which the tokenizer leaves nothing is outside of all spans: `O`.
        """
        import torch

        from raymodel.tasks.batch import encoder_inputs
        from raymodel.tasks.classes import class_names

        names = class_names(model)
        scheme = scheme_of(names.values())
        inputs = encoder_inputs(self.collate(rows), model)
        with torch.inference_mode():
            best_BT = model(**inputs).logits.argmax(-1).tolist()
        answers = []
        for words, places, best_T in zip(rows["tokens"], rows["first_piece"], best_BT, strict=True):
            tags = [OUTSIDE if place == NO_PIECE else names[best_T[place]] for place in places]
            entities = [
                span._asdict() | {"text": text_of(words[span.start : span.end])}
                for span in _marked_spans(tags, scheme)
            ]
            answers.append({"tags": tags, "entities": entities})
        return answers

    def references(self, rows: Columns) -> list[Any]:
        """`tags`, and the `scheme` of all tags: those of one text do not tell it."""
        return [
            {"tags": [self.labels[int(number)] for number in numbers], "scheme": self._scheme}
            for numbers in rows["tags"]
        ]

    def measure(
        self, answers: Sequence[Answer], references: Sequence[Any], names: Collection[str]
    ) -> dict[str, float]:
        """`precision`, `recall` and `f1` of the spans, `accuracy` of the tags."""
        return entity_scores(
            truth=[reference["tags"] for reference in references],
            predicted=[answer["tags"] for answer in answers],
            scheme=references[0]["scheme"],
        )

    def sample(self, rows: Columns, index: int, answer: Answer, reference: Any) -> Sample:
        """The text, and twice the text with what is marked in it."""
        words, scheme = [str(word) for word in rows["tokens"][index]], reference["scheme"]
        return Sample(
            prompt=text_of(words),
            answer=_marked_text(words, answer["tags"], scheme),
            reference=_marked_text(words, reference["tags"], scheme),
            request={"tokens": words},
        )

    @staticmethod
    def answer_text(answer: Answer) -> str:
        """Such as `Empire State Building (facility), Ann (person)`."""
        found = [f"{entity['text']} ({entity['label']})" for entity in answer["entities"]]
        return ", ".join(found) or "nothing marked"


def _labels(rows: Columns, input_ids_BT: torch.Tensor) -> torch.Tensor:
    import numpy as np
    import torch

    from raymodel.tasks.loss import IGNORED

    labels_BT = torch.full_like(input_ids_BT, IGNORED)
    words = zip(labels_BT.numpy(), rows["first_piece"], rows["tags"], strict=True)
    for labels_T, first_piece, tags in words:
        places = np.asarray(first_piece)
        has_piece = places != NO_PIECE
        labels_T[places[has_piece]] = np.asarray(tags)[has_piece]
    return labels_BT


def _marked_spans(tags: Sequence[str], scheme: Scheme) -> list[Span]:
    """Those that are not outside, which with the scheme `plain` is a tag like others."""
    return [span for span in spans_of(tags, scheme) if span.label != OUTSIDE]


def _marked_text(words: Sequence[str], tags: Sequence[str], scheme: Scheme) -> str:
    """Such as `The [Empire State Building: facility] again`."""
    marked = list(words)
    for span in _marked_spans(tags, scheme):
        marked[span.start] = "[" + marked[span.start]
        marked[span.end - 1] += f": {span.label}]"
    return text_of(marked)
