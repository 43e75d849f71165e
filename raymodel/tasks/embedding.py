"""Embedding: a vector for each text, such that a query's is close to those of what it looks for."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from raymodel.modality.spec import Pooling
from raymodel.tasks.base import Answer, Columns, Example, LeftOut, Limits, Measure, Sample, Task
from raymodel.tasks.fields import Field
from raymodel.tasks.spec import AnyTask
from raymodel.tasks.spec.retrieval import EmbeddingSpec
from raymodel.tasks.texts import drawn_negatives, find_empty, key_of, texts_of, texts_schema
from raymodel.tasks.vectors import vector_text

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from transformers import PreTrainedModel

    from raymodel.chance import Draw
    from raymodel.modality.embedding import EmbeddingProcessor
    from raymodel.tasks.text_augment import WordChanger

_QUERY, _POSITIVE, _NEGATIVE = range(3)
"""What a text is; in a row they stand in this order."""


class Embedding(Task):
    """An encoder or decoder without a head (`AutoModel`), its vectors pooled to one.

    One model reads both sides. A query must find its positive among those of all rows of the step,
    whatever worker they are on, and among the negatives that records bring; see `contrastive.py`.
    """

    name = "embedding"
    modality = "text"
    auto_class = "AutoModel"
    architectures = ("Model",)
    pipeline_tag = "sentence-similarity"
    peft_task = "FEATURE_EXTRACTION"
    fields = MappingProxyType(
        {
            "query": Field(kind="text", default="{query}"),
            "positive": Field(kind="text", default="{positive}", is_target=True),
            "negatives": Field(kind="texts", is_target=True, is_optional=True),
        }
    )
    measures = MappingProxyType(
        {
            # A row is looked for among all others, so rows drawn again would be others to find.
            name: Measure(needs="answers", higher_is_better=True, is_of_rows=False)
            for name in ("recall@1", "recall@10", "mrr", "ndcg@10")
        }
    )
    answers = "vector"

    def __init__(self, spec: AnyTask | None = None, **given: Any) -> None:
        super().__init__(spec, **given)
        self._spec = spec if isinstance(spec, EmbeddingSpec) else EmbeddingSpec()
        if self._processor is not None:  # it is saved with the model, and says then how to pool
            self._processor = self.processor.pooling_by(
                self._spec.pooling or self.processor.pooling or "mean"
            )

    @classmethod
    def processor_class(cls) -> type[EmbeddingProcessor]:
        """A tokenizer with a pooling."""
        from raymodel.modality.embedding import EmbeddingProcessor

        return EmbeddingProcessor

    @property
    def pooling(self) -> Pooling:
        """Of the job, else of the base, else the mean."""
        pooling: Pooling = self.processor.pooling
        return pooling

    def schema(self) -> pa.Schema:
        """The texts of `texts_schema`: query, positive, negatives."""
        return texts_schema()

    def features(self, values: Mapping[str, Any], max_length: int | None) -> Example | LeftOut:
        """Token ids of each text with the tokenizer's special tokens; one that is too long loses
        its end."""
        texts = [("query", values["query"])]
        if "positive" in values:
            negatives = values.get("negatives", ())
            if not values["positive"].strip():
                return LeftOut("query without a positive")
            if values["positive"] in negatives:
                return LeftOut("positive that is among its negatives")
            texts += [("positive", values["positive"]), *(("negative", each) for each in negatives)]
        empty = find_empty(texts)
        if empty is not None:
            return empty
        ids, lengths, cut = list[int](), list[int](), dict[str, None]()
        for what, text in texts:
            own, is_cut = self.processor.encode(text, max_length)
            ids, lengths = ids + own, [*lengths, len(own)]
            cut |= {"negatives" if what == "negative" else what: None} if is_cut else {}
        return Example(features={"input_ids": ids, "lengths": lengths}, cut=tuple(cut))

    def collate(self, rows: Columns, draw: Draw | None = None) -> dict[str, torch.Tensor]:
        """All texts as one batch of R: the queries in the order of the rows, the positives in
        theirs, then the negatives. A request has a query alone.

        `input_ids`, `attention_mask` (R, T); `side` (R,), what a text is; `owner` (R,), its row;
        `key` (R,), equal for equal texts; `labels` (B,), which says which rows bear loss.
        """
        import torch

        from raymodel.tasks.batch import pad_right

        texts = [
            (min(place, _NEGATIVE), row, place, text)
            for row in range(len(rows["lengths"]))
            for place, text in self._chosen(rows, row, draw)
        ]
        texts.sort(key=lambda each: each[:2])
        shown = [self._changed(text, draw, row, place) for _, row, place, text in texts]
        input_ids, mask = pad_right(shown, self.processor.padding)
        return {
            "input_ids": input_ids,
            "attention_mask": mask,
            "side": torch.tensor([side for side, _, _, _ in texts]),
            "owner": torch.tensor([row for _, row, _, _ in texts]),
            # Of the texts as they are: what was changed is still the same text.
            "key": torch.tensor([key_of(text) for _, _, _, text in texts]),
            "labels": torch.zeros(len(rows["lengths"]), dtype=torch.int64),
        }

    def _chosen(self, rows: Columns, row: int, draw: Draw | None) -> list[tuple[int, Any]]:
        """The texts of a row that are used, each with its place in it."""
        given = list(enumerate(texts_of(rows, row)))
        negatives = given[_NEGATIVE:]
        places = drawn_negatives(len(negatives), self._spec.negatives, draw, row)
        return given[:_NEGATIVE] + [negatives[place] for place in places]

    def _changed(self, ids: Any, draw: Draw | None, row: int, place: int) -> Any:
        """A text after changes by chance, which are its own whatever else of the row is used."""
        if draw is None or self._changer is None:
            return ids
        return self._changer.change(ids, draw.of_row(row, "words", str(place))).ids

    @functools.cached_property
    def _changer(self) -> WordChanger | None:
        from raymodel.tasks.text_augment import changer_of

        return changer_of(self.spec, self.processor)

    def check_processor(self, processor: Any) -> None:
        """Raises ValueError when words are to be changed, and the tokens do not tell them."""
        from raymodel.tasks.text_augment import changer_of

        changer_of(self.spec, processor)

    def loss(self, model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Sum of the contrastive loss over the queries of this worker, against the documents of
        all workers."""
        import torch

        from raymodel.tasks.contrastive import contrastive_loss_sum
        from raymodel.tasks.loss import IGNORED

        vectors, key, side = self._vectors(model, batch), batch["key"], batch["side"]
        is_real = (batch["labels"] != IGNORED)[batch["owner"]]
        queries, positives, negatives = (
            (is_real & (side == each)).nonzero()[:, 0] for each in (_QUERY, _POSITIVE, _NEGATIVE)
        )
        documents = torch.cat([positives, negatives])
        return contrastive_loss_sum(
            vectors[queries],
            vectors[documents],
            query_keys_B=key[queries],
            keys_n=key[documents],
            owner_keys_n=torch.cat([key[queries], torch.zeros_like(key[negatives])]),
            temperature=self._spec.temperature,
        )

    def _vectors(self, model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        from raymodel.tasks.batch import text_inputs
        from raymodel.tasks.pooling import pool

        inputs = text_inputs(batch, model)
        return pool(model(**inputs).last_hidden_state, inputs["attention_mask"], self.pooling)

    def trim(self, model: Any) -> None:
        """No pooler, which models make a vector of the first token with that is not used here: a
        base may lack it, and would not learn it."""
        if getattr(model, "pooler", None) is not None:
            model.pooler = None

    def predict(self, model: PreTrainedModel, rows: Columns, limits: Limits) -> list[Answer]:
        """`embedding`, of length 1; and where rows have a positive `document`, that of it."""
        import torch

        from raymodel.tasks.batch import encoder_inputs, pad_right

        both = [texts_of(rows, row)[:_NEGATIVE] for row in range(len(rows["lengths"]))]
        ids, mask = pad_right([text for texts in both for text in texts], self.processor.padding)
        inputs = encoder_inputs({"input_ids": ids, "attention_mask": mask}, model)
        with torch.inference_mode():
            vectors = iter(self._vectors(model, inputs).cpu().tolist())
        names = ("embedding", "document")
        return [dict(zip(names, [next(vectors) for _ in texts], strict=False)) for texts in both]

    def references(self, rows: Columns) -> list[Any]:
        """What tells equal texts: the keys of `query` and `document`."""
        return [
            {"query": key_of(query), "document": key_of(document)}
            for query, document, *_ in (texts_of(rows, row) for row in range(len(rows["lengths"])))
        ]

    def measure(
        self, answers: Sequence[Answer], references: Sequence[Any], names: Collection[str]
    ) -> dict[str, float]:
        """Each query looks for its document among those of all rows, equal ones counted once."""
        from raymodel.tasks.ranks import rank_scores, ranks_among_all

        ranks = ranks_among_all(
            [answer["embedding"] for answer in answers],
            [answer["document"] for answer in answers],
            query_keys=[reference["query"] for reference in references],
            document_keys=[reference["document"] for reference in references],
        )
        return rank_scores(ranks, found="recall")

    def sample(self, rows: Columns, index: int, answer: Answer, reference: Any) -> Sample:
        """The query, how close it comes to its document, and that."""
        query, document, *_ = (self.processor.decode(ids) for ids in texts_of(rows, index))
        pairs = zip(answer["embedding"], answer["document"], strict=True)
        return Sample(
            prompt=query,
            answer=f"similarity {sum(a * b for a, b in pairs):.3f}",
            reference=document,
            request={"query": query},
        )

    @staticmethod
    def answer_text(answer: Answer) -> str:
        """Such as `384 numbers (0.031, -0.120, 0.005, …)`."""
        return vector_text(answer["embedding"])
