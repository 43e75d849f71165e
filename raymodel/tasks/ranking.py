"""Ranking: how relevant a document is to a query, such as an item to a user's history."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from raymodel.tasks.base import Answer, Columns, Example, LeftOut, Limits, Measure, Sample, Task
from raymodel.tasks.fields import Field
from raymodel.tasks.spec import AnyTask
from raymodel.tasks.spec.retrieval import RankingSpec
from raymodel.tasks.texts import drawn_negatives, find_empty, texts_of, texts_schema

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from transformers import PreTrainedModel

    from raymodel.chance import Draw
    from raymodel.tasks.text_augment import WordChanger

_LABEL = "relevance"
"""Of the one output, as cross-encoders of sentence-transformers have it."""


class Ranking(Task):
    """A cross-encoder (`AutoModelForSequenceClassification` with one output): query and document
    are read together.

    A row holds its own candidates: the document that is right, and those that are not. It learns to
    put the first above the others (arXiv:2101.08751), so no row depends on another.
    """

    name = "ranking"
    modality = "text"
    auto_class = "AutoModelForSequenceClassification"
    architectures = ("ForSequenceClassification",)
    pipeline_tag = "text-ranking"
    peft_task = "SEQ_CLS"
    fields = MappingProxyType(
        {
            "query": Field(kind="text", default="{query}"),
            "document": Field(kind="text", default="{document}"),
            "negatives": Field(kind="texts", default="negatives", is_target=True),
        }
    )
    measures = MappingProxyType(
        {
            name: Measure(needs="answers", higher_is_better=True)
            for name in ("hit_rate@1", "hit_rate@10", "mrr", "ndcg@10")
        }
    )
    answers = "scores"
    draws_head = True

    def __init__(self, spec: AnyTask | None = None, **given: Any) -> None:
        super().__init__(spec, **given)
        self._spec = spec if isinstance(spec, RankingSpec) else RankingSpec()

    @classmethod
    def is_named_by(cls, config: Mapping[str, Any]) -> bool:
        """One output, of which nothing is said: with several it has classes, and a regression says
        that it is one."""
        outputs = config.get("id2label") or range(config.get("num_labels", 2))
        return len(outputs) == 1 and config.get("problem_type") is None

    def schema(self) -> pa.Schema:
        """The pairs of `texts_schema`, the right one first, with `token_type_ids` (list<int8>); and
        for people `query` and `document`."""
        import pyarrow as pa

        more = [
            ("token_type_ids", pa.list_(pa.int8())),
            ("query", pa.string()),
            ("document", pa.string()),
        ]
        return pa.schema([*texts_schema(), *more])

    def features(self, values: Mapping[str, Any], max_length: int | None) -> Example | LeftOut:
        """The query with each document; of a pair that is too long the longer text loses its end.

        Raises:
            ValueError: the tokenizer has no form for pairs, or `max_length` leaves no room.
        """
        query, document = values["query"], values["document"]
        negatives = values.get("negatives", ())
        if not document.strip():
            return LeftOut("query without a document")
        empty = find_empty([("query", query), *(("negative", each) for each in negatives)])
        if empty is not None:
            return empty
        if "negatives" in values and not negatives:
            return LeftOut("query without a negative")
        if document in negatives:
            return LeftOut("document that is among its negatives")
        made = [
            self.processor.encode_pair(query, each, max_length) for each in (document, *negatives)
        ]
        # Of a tokenizer that tells the texts of a pair apart by nothing, all are 0.
        types = (pair.token_type_ids or [0] * len(pair.input_ids) for pair in made)
        features = {
            "input_ids": [number for pair in made for number in pair.input_ids],
            "token_type_ids": [number for each in types for number in each],
            "lengths": [len(pair.input_ids) for pair in made],
            "query": query,
            "document": document,
        }
        cut = {"query" for pair in made if pair.is_cut[0]}
        cut |= {("document", "negatives")[n > 0] for n, pair in enumerate(made) if pair.is_cut[1]}
        return Example(features=features, cut=tuple(sorted(cut)))

    def collate(self, rows: Columns, draw: Draw | None = None) -> dict[str, torch.Tensor]:
        """All pairs as one batch of R, those of a row together and its right one first.

        `input_ids`, `attention_mask`, `token_type_ids` (R, T); `owner` (R,), the row of a pair;
        `place` (R,), where it stands in that; `labels` (B,), the place of the right one: 0.
        """
        import torch

        from raymodel.tasks.batch import pad_right

        ids, types, owner, place = list[Any](), list[Any](), list[int](), list[int]()
        for row, lengths in enumerate(rows["lengths"]):
            given = texts_of(rows, row), texts_of(rows, row, "token_type_ids")
            chosen = drawn_negatives(len(lengths) - 1, self._spec.negatives, draw, row)
            for number, index in enumerate([0, *(each + 1 for each in chosen)]):
                pair = self._changed(given[0][index], given[1][index], draw, row, index)
                ids.append(pair[0])
                types.append(pair[1])
                owner.append(row)
                place.append(number)
        input_ids, mask = pad_right(ids, self.processor.padding)
        return {
            "input_ids": input_ids,
            "attention_mask": mask,
            "token_type_ids": pad_right(types, 0)[0],
            "owner": torch.tensor(owner),
            "place": torch.tensor(place),
            "labels": torch.zeros(len(rows["lengths"]), dtype=torch.int64),
        }

    def _changed(
        self, ids: Any, types: Any, draw: Draw | None, row: int, place: int
    ) -> tuple[Any, Any]:
        """A pair after changes by chance, which are its own whatever else of the row is used."""
        if draw is None or self._changer is None:
            return ids, types
        found = self._changer.change(ids, draw.of_row(row, "words", str(place)))
        return found.ids, [types[origin] for origin in found.origins]

    @functools.cached_property
    def _changer(self) -> WordChanger | None:
        from raymodel.tasks.text_augment import changer_of

        return changer_of(self.spec, self.processor)

    def loss(self, model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Sum over the rows of -log of the softmax of the right document among its candidates."""
        from raymodel.tasks.batch import text_inputs
        from raymodel.tasks.loss import cross_entropy_sum

        owner, place = batch["owner"], batch["place"]
        scores_R = model(**text_inputs(batch, model)).logits[:, 0].float()
        shape = (len(batch["labels"]), int(place.max()) + 1)
        scores_BK = scores_R.new_full(shape, float("-inf")).index_put((owner, place), scores_R)
        return cross_entropy_sum(scores_BK, batch["labels"])

    def model_arguments(self) -> dict[str, Any]:
        """One output."""
        names = {"id2label": {0: _LABEL}, "label2id": {_LABEL: 0}}
        return {"num_labels": 1, "problem_type": None, **names}

    def check_processor(self, processor: Any) -> None:
        """Raises ValueError when the tokenizer has no form for pairs, or when words are to be
        changed, and the tokens do not tell them."""
        from raymodel.tasks.text_augment import changer_of

        processor.check_pairs()
        changer_of(self.spec, processor)

    def special_tokens(self, row_tokens: int | None) -> Mapping[str, int]:
        """What parts a query and its document."""
        return {"separator": 1}

    def settle(self, model: PreTrainedModel) -> str | None:
        """A decoder's score is read off the last token that is not padding."""
        from raymodel.tasks.padding import settle_padding

        return settle_padding(self.processor.tokenizer, model.config)

    def predict(self, model: PreTrainedModel, rows: Columns, limits: Limits) -> list[Answer]:
        """`scores` of all documents of a row, from 0 to 1: the logistic function of the output."""
        import numpy as np
        import torch

        from raymodel.tasks.batch import encoder_inputs

        inputs = encoder_inputs(self.collate(rows), model)
        with torch.inference_mode():
            # In fp64, in which what is nearly certain stays less than certain, and apart.
            scores_R = model(**inputs).logits[:, 0].double().sigmoid().cpu().numpy()
        ends = np.cumsum([len(lengths) for lengths in rows["lengths"]])
        return [{"scores": each.tolist()} for each in np.split(scores_R, ends[:-1])]

    def references(self, rows: Columns) -> list[Any]:
        """The place of the right document: the first."""
        return [0] * len(rows["lengths"])

    def measure(
        self, answers: Sequence[Answer], references: Sequence[Any], names: Collection[str]
    ) -> dict[str, float]:
        """Where the right document stands among its own candidates."""
        from raymodel.tasks.ranks import rank_of_first, rank_scores

        ranks = [rank_of_first(answer["scores"]) for answer in answers]
        return rank_scores(ranks, found="hit_rate")

    def sample(self, rows: Columns, index: int, answer: Answer, reference: Any) -> Sample:
        """The query, the rank of its document, and that."""
        from raymodel.tasks.ranks import rank_of_first

        query, document = str(rows["query"][index]), str(rows["document"][index])
        scores = answer["scores"]
        return Sample(
            prompt=query,
            answer=f"rank {rank_of_first(scores)} of {len(scores)} ({scores[0]:.3f})",
            reference=document,
            request={"query": query, "document": document},
        )

    @staticmethod
    def answer_text(answer: Answer) -> str:
        """Such as `relevance 0.913`; of several documents the scores in their order."""
        return "relevance " + ", ".join(f"{score:.3f}" for score in answer["scores"])
