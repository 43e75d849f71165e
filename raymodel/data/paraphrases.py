"""Texts in other words, from served models that translate them into another language and back.

The examples are made, and know which documents are kept and which are trained on; beside each lie
its texts. Here the servers are asked, run of rows by run, and what they say becomes columns of the
row in the place of the texts. What is done is not asked for again: an attempt that goes on begins
with the first run that is missing, and a dataset that is whole needs no server.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raymodel.data.parts import PartPlan
from raymodel.data.plan import TRANSLATED_ROWS
from raymodel.data.row_runs import RowRun, plan_runs, with_new_rows
from raymodel.data.rows import TEXT_BESIDE, RowKind, SavedProcessor
from raymodel.data.step import OfResults, item_file, read_rows, write_table
from raymodel.data.translate import Failed, Translated, Translator
from raymodel.errors import RaymodelError
from raymodel.modality.spec import BackTranslationSpec
from raymodel.storage.uri import Location
from raymodel.tasks.base import LeftOut, Task

_MOST_FAILED = 0.5
"""Of the texts of a run: half. A server refuses a few texts as a rule; one that fails at most of
them is down or the wrong one, and nobody wants a dataset of it."""
_TASKS = 2
"""At a time: while one ends with its slowest answers, the other keeps the servers busy."""


@dataclass(frozen=True, kw_only=True)
class ParaphraseStep(OfResults):
    """Rows with their texts beside them → rows with paraphrases, one item a run of rows."""

    work: Location
    runs: tuple[RowRun, ...]
    kind: RowKind
    processor: SavedProcessor
    spec: BackTranslationSpec
    name: str = "paraphrases"
    loads_model: bool = False

    @property
    def num_items(self) -> int:
        return len(self.runs)

    @property
    def max_tasks(self) -> int | None:
        return min(_TASKS, self.spec.concurrency)

    def run(self, item: int) -> dict[str, Any]:
        one = self.runs[item]
        table = read_rows(one.file, one.start, one.stop)
        task = self.kind.task_with(self.processor)
        counts = Counter[str]()
        if one.split == "train":
            table = self._with_paraphrases(table, task, counts)
        table = table.drop_columns([TEXT_BESIDE + role for role in task.paraphrased_roles])
        write_table(self.rows_file(item), table)
        return {"memory_bytes": table.nbytes, "counts": dict(counts)}

    def rows_file(self, item: int) -> Location:
        return item_file(self.work, "paraphrases-rows", item)

    def _with_paraphrases(self, table: pa.Table, task: Task, counts: Counter[str]) -> pa.Table:
        roles = task.paraphrased_roles
        rows = table.select([TEXT_BESIDE + role for role in roles]).to_pylist()
        texts = [[str(row[TEXT_BESIDE + role]) for role in roles] for row in rows]
        chosen = [row for row, own in enumerate(texts) if _is_chosen(own, self.spec.share)]
        told = self._paraphrased([text for row in chosen for text in texts[row]])
        columns: dict[str, list[Any]] = {name: [[]] * len(rows) for name in task.paraphrase_columns}
        for place, row in enumerate(chosen):
            words = told[place * len(roles) : (place + 1) * len(roles)]
            found = _features(task, dict(zip(roles, words, strict=True)), self.kind.length)
            if words == texts[row]:
                found = "back: the text as it was"
            if isinstance(found, str):
                counts[found] += 1
                continue
            counts[_MADE] += 1
            for column, name in task.paraphrase_columns.items():
                columns[column][row] = found[name]
        for column, values in columns.items():
            place = table.schema.get_field_index(column)
            field = table.schema.field(place)
            table = table.set_column(place, field, pa.array(values, field.type))
        return table

    def _paraphrased(self, texts: Sequence[str]) -> list[Translated]:
        """Each text there and back; each is asked for once, however often it comes.

        Raises:
            RaymodelError: the servers fail at most of them.
        """
        threads = self.spec.concurrency // (self.max_tasks or 1)
        there, back = _translators(self.spec)
        asked = list(dict.fromkeys(texts))
        said = dict(zip(asked, there.translate(asked, threads), strict=True))
        abroad = list(dict.fromkeys(each for each in said.values() if isinstance(each, str)))
        home = dict(zip(abroad, back.translate(abroad, threads), strict=True))
        found = {
            text: each if isinstance(each, Failed) else home[each] for text, each in said.items()
        }
        broken = [e for e in found.values() if isinstance(e, Failed) and e.is_of_server]
        if len(broken) > _MOST_FAILED * len(found):
            raise RaymodelError(
                f"{len(broken):,} of {len(found):,} texts could not be translated "
                f"({broken[0].reason}); at most half may fail. See that the servers of "
                "task.augment.back_translation answer, and run the job again: it goes on with "
                "what is missing"
            )
        return [found[text] for text in texts]


_MADE = ""
"""In counts: examples that have a paraphrase."""


def plan_paraphrases(parts: Sequence[PartPlan]) -> tuple[RowRun, ...]:
    """The items of the step; those of what is held out lose their texts, and nobody is asked."""
    return plan_runs(parts, TRANSLATED_ROWS)


def with_paraphrases(
    parts: Sequence[PartPlan], step: ParaphraseStep, summaries: Sequence[dict[str, Any]]
) -> Iterator[PartPlan]:
    """The same parts, of the files that the step has written."""
    return with_new_rows(parts, step, summaries, TRANSLATED_ROWS)


def counts_of(summaries: Sequence[Mapping[str, Any]]) -> tuple[int, dict[str, int]]:
    """How many examples have a paraphrase; and reason → those that keep their text alone."""
    counts = sum((Counter(each["counts"]) for each in summaries), Counter[str]())
    return counts.pop(_MADE, 0), dict(sorted(counts.items()))


def check_translators(spec: BackTranslationSpec) -> None:
    """Asks both servers what they are.

    Raises:
        RequestError: one is no translator, its token is wrong, or it has no such model.
        RaymodelError: nothing answers there.
    """
    for role in ("there", "back"):
        Translator(getattr(spec, role), role, spec.max_tokens)


@functools.lru_cache(maxsize=1)  # once in a process, which may do many runs
def _translators_of(text: str) -> tuple[Translator, Translator]:
    spec = BackTranslationSpec.model_validate_json(text)
    return (
        Translator(spec.there, "there", spec.max_tokens),
        Translator(spec.back, "back", spec.max_tokens),
    )


def _translators(spec: BackTranslationSpec) -> tuple[Translator, Translator]:
    return _translators_of(spec.model_dump_json())


def _features(
    task: Task, words: Mapping[str, Translated], length: int | None
) -> dict[str, Any] | str:
    """What a paraphrase becomes; else why there is none."""
    failed = next((each for each in words.values() if isinstance(each, Failed)), None)
    if failed is not None:
        return failed.reason
    example = task.features(words, length)
    return example.reason if isinstance(example, LeftOut) else example.features


def _is_chosen(texts: Sequence[str], share: float) -> bool:
    """By the texts alone: a larger share holds a smaller one."""
    digest = hashlib.blake2b("\0".join(texts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") < share * 2**64
