"""What earlier steps have found of the documents of a partition, for the steps that leave them out.

Each document has at most one reason; a duplicate that is equal to another has none of these, as it
is counted by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raymodel.data.dedup.near import CONFLICT, DUPLICATE
from raymodel.data.dedup.spill import read_spills
from raymodel.data.step import SPLITS, item_file
from raymodel.storage.uri import Location

NEAR = "near-duplicate"
NEAR_OTHER_LABEL = "near-duplicate of another label, on another side of the holdout"

EMPTIED = "shorter than clean.min_chars without what is repeated"

DUPLICATES, CONTAMINATED, NEAR_DUPLICATES, NEAR_CONFLICTS = (
    "duplicates", "contaminated", "near-duplicates", "near-conflicts"
)  # fmt: skip
"""Folders of what was found."""
STRIPPED = "stripped"
"""Folder: documents without what is repeated."""
EMPTIED_COLUMN = "emptied"
"""Of these documents: whether too little is left."""


def contaminated_reason(name: str) -> str:
    """Of documents that have words in common with an evaluation set."""
    return f"has words of the evaluation set {name!r}"


@dataclass(frozen=True, kw_only=True)
class Drops:
    """Where it lies, and how much of it there is."""

    num_partitions: int
    num_buckets: int = 0
    """Files of equal documents; 0 when they are kept."""
    is_stripped: bool = False
    """Whether repeated lines or paragraphs were taken out of the documents."""
    sets: tuple[str, ...] = ()
    """Names of evaluation sets."""
    near_buckets: int = 0
    """Files of near-duplicates, of all bands together."""
    is_labelled: bool = False
    """Whether near-duplicates can contradict one another."""

    def read(self, work: Location, item: int) -> pa.Table:
        """The documents of a partition, as they are by now; those that are dropped too."""
        folder = STRIPPED if self.is_stripped else "documents"
        with item_file(work, folder, item).open_input() as stream:
            return pq.read_table(stream)

    def stays(self, work: Location, item: int, num_documents: int) -> Any:
        """Which documents are not dropped by now, near ones but for. (documents,) bool"""
        found = self.first(work, item, num_documents)
        found &= ~self.emptied(work, item, num_documents)
        found &= self.contaminated(work, item, num_documents) < 0
        return found

    def emptied(self, work: Location, item: int, num_documents: int) -> Any:
        """Which documents have too little left without what is repeated. (documents,) bool"""
        if not self.is_stripped:
            return np.zeros(num_documents, dtype=bool)
        with item_file(work, STRIPPED, item).open_input() as stream:
            table = pq.read_table(stream, columns=[EMPTIED_COLUMN])
        return table[EMPTIED_COLUMN].to_numpy()

    def first(self, work: Location, item: int, num_documents: int) -> Any:
        """Which documents are equal to no earlier one. (documents,) bool"""
        found = np.ones(num_documents, dtype=bool)
        for bucket in range(self.num_buckets):
            with item_file(work, DUPLICATES, bucket).open_input() as stream:
                # The rows are sorted by partition, so statistics let most be passed over.
                table = pq.read_table(stream, filters=[("partition", "=", item)])
            found[table["index"].to_numpy()] = False
        return found

    def contaminated(self, work: Location, item: int, num_documents: int) -> Any:
        """The number of the first evaluation set that each document has words of; -1 for none."""
        if not self.sets:
            return np.full(num_documents, -1)
        with item_file(work, CONTAMINATED, item).open_input() as stream:
            return pq.read_table(stream)["set"].to_numpy()

    def reasons(
        self, work: Location, item: int, splits: Any, moves: Mapping[str, str]
    ) -> tuple[Any, Any]:
        """Why each document is left out, None where it is not; and which are near to an earlier one
        of another label. (documents,) each

        Args:
            splits: of each document, after it was moved.
            moves: group in hex → the split that it moves to.
        """
        reasons = np.full(len(splits), None, dtype=object)
        contradicts, is_apart = self._conflicts(work, item, splits, moves)
        reasons[is_apart] = NEAR_OTHER_LABEL
        buckets = range(self.near_buckets)
        places = [item_file(work, NEAR_DUPLICATES, bucket, "bin") for bucket in buckets]
        near = read_spills(places, item, self.num_partitions, DUPLICATE)
        reasons[near["index"]] = NEAR
        reasons[self.emptied(work, item, len(splits))] = EMPTIED
        contaminated = self.contaminated(work, item, len(splits))
        for index, name in enumerate(self.sets):
            reasons[contaminated == index] = contaminated_reason(name)
        return reasons, contradicts

    def _conflicts(
        self, work: Location, item: int, splits: Any, moves: Mapping[str, str]
    ) -> tuple[Any, Any]:
        """Which documents are near to an earlier one of another label, and which of these fall on
        another side than it."""
        found, is_apart = np.zeros(len(splits), dtype=bool), np.zeros(len(splits), dtype=bool)
        buckets = range(self.near_buckets if self.is_labelled else 0)
        places = [item_file(work, NEAR_CONFLICTS, bucket, "bin") for bucket in buckets]
        for each in read_spills(places, item, self.num_partitions, CONFLICT):
            found[each["index"]] = True
            other = moves.get(each["group"].tobytes().hex(), SPLITS[each["split"]])
            is_apart[each["index"]] |= splits[each["index"]] != other
        return found, is_apart
