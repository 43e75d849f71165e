"""Runs of words that documents have in common with evaluation sets, which they must not teach.

The sets are small: the runs of each are one sorted array, which every process that looks for them
holds.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raymodel.data.account import Account
from raymodel.data.cleaning.cleaner import Cleaner
from raymodel.data.dedup.drops import CONTAMINATED, Drops
from raymodel.data.dedup.plan import MAX_SET_NGRAMS
from raymodel.data.dedup.portions import PORTION_ROWS, portions
from raymodel.data.dedup.words import runs_of, words_of
from raymodel.data.document import make_document
from raymodel.data.listed import within
from raymodel.data.read import read_slice
from raymodel.data.record import FileSlice
from raymodel.data.sources import SourceFiles
from raymodel.data.spec import CleanSpec, SourceSpec
from raymodel.data.step import OfPartitions, SourceSize, item_file, write_table
from raymodel.errors import SourceError
from raymodel.storage.uri import Location
from raymodel.tasks.fields import PLAIN_TEXT, Fields

FOUND = "found"
"""Folder: which texts of the sets each partition has words of."""
_FILTER_BITS = 24  # 16 MiB that tell of nearly all runs that they are in no set


class SetRuns(NamedTuple):
    """The runs of words of one evaluation set."""

    hashes: Any
    """Sorted; one that several texts have is there for each. (n,) uint64"""
    texts: Any
    """The text that each is from. (n,) int32"""
    may_hold: Any
    """For the highest bits of a run, whether there is one that begins so. (2^24,) bool"""


@dataclass(frozen=True, kw_only=True)
class SetStep:
    """Evaluation sets → their runs of words, one item a set."""

    work: Location
    sets: tuple[tuple[str, SourceSpec, SourceFiles], ...]
    """Each with its name."""
    ngram: int
    name: str = "sets"
    loads_model: bool = False

    @property
    def num_items(self) -> int:
        return len(self.sets)

    @property
    def max_tasks(self) -> int | None:
        return None

    def source_size(self, item: int) -> SourceSize:
        files = self.sets[item][2]
        return SourceSize(len(files.files), files.total_bytes)

    def run(self, item: int) -> dict[str, Any]:
        name, source, files = self.sets[item]
        account, texts, short = Account(within=within(files.root)), 0, 0
        hashes, owners = [np.empty(0, np.uint64)], [np.empty(0, np.int32)]
        for some in self._texts(source, files, account):
            runs = runs_of(words_of(some), self.ngram, short=False)
            counts = np.diff(runs.bounds)
            hashes.append(runs.hashes)
            owners.append(np.repeat(np.arange(texts, texts + len(some), dtype=np.int32), counts))
            texts, short = texts + len(some), short + int((counts == 0).sum())
            if sum(map(len, hashes)) > MAX_SET_NGRAMS:
                raise SourceError(
                    f"the evaluation set {name!r} has more than {MAX_SET_NGRAMS:,} words, which "
                    "every process would hold; name the files that are evaluated on"
                )
        if short == texts:
            raise SourceError(
                f"none of the {texts:,} texts of the evaluation set {name!r} has "
                f"{self.ngram} words in a row; check `fields`, or lower decontaminate.ngram"
            )
        write_table(
            item_file(self.work, "set-runs", item),
            _sorted(np.concatenate(hashes), np.concatenate(owners)),
        )
        return {"texts": texts, "short": short, "read": account.read, "left_out": account.left_out}

    def _texts(self, source: SourceSpec, files: SourceFiles, account: Account) -> Any:
        """In lists of some thousands."""
        some, cleaner = list[str](), Cleaner(CleanSpec())
        for file in files.files:
            piece = FileSlice(file.name, 0, file.bytes, file.bytes)
            for record in read_slice(files.root, piece, source, account):
                document = make_document(record, source, files.root, PLAIN_TEXT, cleaner, account)
                if document is not None:
                    some.append(str(document.values["text"]))
                if len(some) == PORTION_ROWS:
                    yield some
                    some = []
        yield some


@dataclass(frozen=True, kw_only=True)
class ContaminationStep(OfPartitions):
    """Documents → which have a run of words of a set, one item a partition."""

    work: Location
    fields: Fields
    ngram: int
    drops: Drops
    """Those that are left out already."""
    num_sets: int
    name: str = "contamination"
    loads_model: bool = False

    def run(self, item: int) -> dict[str, Any]:
        table = self.drops.read(self.work, item)
        sets = [_load_runs(item_file(self.work, "set-runs", each)) for each in range(self.num_sets)]
        has = np.zeros((self.num_sets, table.num_rows), dtype=bool)
        found = [set[int]() for _ in sets]
        places = np.flatnonzero(self.drops.stays(self.work, item, table.num_rows))
        for portion in portions(table, places, self.fields):
            self._match(portion.texts, portion.places, sets, has, found)
        first = np.where(has.any(axis=0), has.argmax(axis=0), -1) if sets else np.array([])
        write_table(
            item_file(self.work, CONTAMINATED, item), pa.table({"set": first.astype(np.int32)})
        )
        pairs = [(each, text) for each, texts_ in enumerate(found) for text in sorted(texts_)]
        write_table(
            item_file(self.work, FOUND, item),
            pa.table(
                {
                    "set": pa.array([each for each, _ in pairs], pa.int32()),
                    "text": pa.array([text for _, text in pairs], pa.int32()),
                }
            ),
        )
        return {"matched": has.sum(axis=1).tolist(), "documents": int(has.any(axis=0).sum())}

    def _match(
        self,
        texts: Sequence[Sequence[str]],
        places: Any,
        sets: Sequence[SetRuns],
        has: Any,
        found: Sequence[set[int]],
    ) -> None:
        """Enters which documents have a run of a set, and of which of its texts."""
        flat = [text for document in texts for text in document]
        runs = runs_of(words_of(flat), self.ngram, short=False)
        owners = np.repeat(np.arange(len(texts)), [len(document) for document in texts])
        owners = np.repeat(owners, np.diff(runs.bounds))
        for each, known in enumerate(sets):
            may = np.flatnonzero(known.may_hold[runs.hashes >> np.uint64(64 - _FILTER_BITS)])
            low = np.searchsorted(known.hashes, runs.hashes[may], side="left")
            high = np.searchsorted(known.hashes, runs.hashes[may], side="right")
            hit = low < high
            has[each, places[owners[may[hit]]]] = True
            for start, stop in {*zip(low[hit].tolist(), high[hit].tolist(), strict=True)}:
                found[each].update(known.texts[start:stop].tolist())


def _sorted(hashes: Any, texts: Any) -> pa.Table:
    """Each run of each text once, by run."""
    order = np.lexsort((texts, hashes))
    hashes, texts = hashes[order], texts[order]
    is_new = np.ones(len(order), dtype=bool)
    is_new[1:] = (hashes[1:] != hashes[:-1]) | (texts[1:] != texts[:-1])
    return pa.table({"hash": hashes[is_new], "text": texts[is_new]})


@functools.lru_cache(maxsize=8)
def _load_runs(place: Location) -> SetRuns:
    with place.open_input() as stream:
        table = pq.read_table(stream)
    hashes = table["hash"].to_numpy()
    may_hold = np.zeros(2**_FILTER_BITS, dtype=bool)
    may_hold[hashes >> np.uint64(64 - _FILTER_BITS)] = True
    return SetRuns(hashes, table["text"].to_numpy(), may_hold)
