"""What documents have in common, with one another and with evaluation sets: the steps between
reading documents and making rows of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from raymodel.data.dedup.contamination import FOUND, ContaminationStep, SetStep
from raymodel.data.dedup.drops import EMPTIED, NEAR, NEAR_OTHER_LABEL, Drops, contaminated_reason
from raymodel.data.dedup.likeness import Likeness, likeness_of
from raymodel.data.dedup.plan import plan_near_buckets, plan_unit_buckets
from raymodel.data.dedup.repeated import CommonStep, StripStep, UnitStep
from raymodel.data.dedup.spec import NearDedup, RepeatedSpec
from raymodel.data.dedup.steps import NearStep, SketchStep
from raymodel.data.ledger import Ledger
from raymodel.data.read_step import ReadStep
from raymodel.data.sources import resolve_source
from raymodel.data.spec import CleanSpec, DecontaminateSpec
from raymodel.data.step import Step, item_file
from raymodel.data.steps import DedupStep
from raymodel.observe.text import many

Do = Callable[[Step], list[dict[str, Any]]]
Say = Callable[[str], None]


def reasons_to_compare(clean: CleanSpec) -> frozenset[str]:
    """Reasons to leave a document out that the job file gives, found here."""
    sets = clean.decontaminate.sets if clean.decontaminate else ()
    return frozenset({NEAR, NEAR_OTHER_LABEL, EMPTIED, *map(contaminated_reason, sets)})


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What was found of all documents."""

    drops: Drops
    duplicates: int
    """Documents that are equal to an earlier one, and are dropped."""
    conflicts: int
    """Texts with several labels."""
    repeated: Mapping[str, Any]
    """What was found of lines or paragraphs that stand in many documents."""
    sets: Mapping[str, Any]
    """Name → what was found of an evaluation set."""
    near: Likeness | None
    """How near-duplicates were looked for."""
    unseen: int
    """Documents that share a band with more others than were looked at."""


def compare(read: ReadStep, documents: int, do: Do, say: Say, base_dir: Path | None) -> Compared:
    """Executes the steps that `clean` asks for.

    Args:
        documents: that were read.
        do: executes a step and gives its summaries.

    Raises:
        SourceError: an evaluation set is missing, or has nothing to be found by.
    """
    clean = read.clean
    drops_equal = clean.dedup.name != "none"
    drops = Drops(
        num_partitions=len(read.partitions), num_buckets=read.num_buckets if drops_equal else 0
    )
    equal, conflicts = _find_equal(read, do, say)
    repeated, sets = dict[str, Any](), dict[str, Any]()
    if clean.repeated is not None:
        repeated = _strip(read, clean.repeated, drops, do, say)
        drops = replace(drops, is_stripped=True)
    if clean.decontaminate is not None:
        sets = _find_sets(read, clean.decontaminate, drops, do, say, base_dir)
        drops = replace(drops, sets=tuple(sets))
    likeness, unseen = None, 0
    if isinstance(clean.dedup, NearDedup):
        likeness = likeness_of(clean.dedup, read.kind.fields)
        drops, unseen = _find_near(read, likeness, documents, drops, do, say)
    return Compared(
        drops=drops,
        duplicates=equal if drops_equal else 0,
        conflicts=conflicts,
        repeated=repeated,
        sets=sets,
        near=likeness,
        unseen=unseen,
    )


def compared_content(
    compared: Compared, ledger: Ledger, near_conflicts: int, say: Say
) -> dict[str, Any]:
    """What the manifest says of it besides counts of equal documents; nothing of what was not asked
    for. Says what the labels of near documents are.

    Args:
        ledger: the accounts of all documents.
        near_conflicts: documents that are kept and near to an earlier one of another label.
    """
    content: dict[str, Any] = {"repeated": compared.repeated, "decontaminated": compared.sets}
    content = {name: dict(found) for name, found in content.items() if found}
    if compared.near is None:
        return content
    left_out = ledger.left_out
    if near_conflicts or NEAR_OTHER_LABEL in left_out:
        say(
            f"warning: {many(near_conflicts, 'document')} that are nearly alike another of another "
            f"label are kept, and {left_out.get(NEAR_OTHER_LABEL, 0):,} are left out that would "
            "fall on another side of the holdout"
        )
    near = {
        **compared.near.facts,
        "duplicates": left_out.get(NEAR, 0),
        "label_conflicts": near_conflicts,
        "unseen": compared.unseen,
    }
    return content | {"near": near}


def _find_equal(read: ReadStep, do: Do, say: Say) -> tuple[int, int]:
    """How many documents repeat an earlier one, and how many texts have several labels."""
    if not read.num_buckets:
        return 0, 0
    step = DedupStep(
        work=read.work, num_buckets=read.num_buckets, num_partitions=len(read.partitions)
    )
    summaries = do(step)
    conflicts = sum(summary["conflicts"] for summary in summaries)
    if conflicts:
        sample = next(each for summary in summaries for each in summary["samples"])
        say(
            f"warning: {conflicts:,} texts have several labels, such as {sample}; they are "
            "kept with each"
        )
    return sum(summary["duplicates"] for summary in summaries), conflicts


def _strip(read: ReadStep, spec: RepeatedSpec, drops: Drops, do: Do, say: Say) -> dict[str, Any]:
    """Takes out what is repeated; how much that is."""
    total_bytes = sum(partition.size.bytes for partition in read.partitions)
    buckets, of_partitions = plan_unit_buckets(total_bytes), len(read.partitions)
    do(
        UnitStep(
            work=read.work,
            partitions=read.partitions,
            spec=spec,
            num_buckets=buckets,
            drops=drops,
        )
    )
    common = do(
        CommonStep(work=read.work, spec=spec, num_buckets=buckets, num_partitions=of_partitions)
    )
    stripped = do(
        StripStep(
            work=read.work,
            partitions=read.partitions,
            clean=read.clean,
            num_buckets=buckets,
            drops=drops,
        )
    )
    units = sum(summary["units"] for summary in common)
    names = ("documents", "removed", "chars")
    sums = {name: sum(summary[name] for summary in stripped) for name in names}
    say(
        f"repeated: {many(units, spec.unit)} in more than "
        f"{many(spec.max_documents, 'document')} each; {sums['removed']:,} were taken out of "
        f"{many(sums['documents'], 'document')}, {sums['chars']:,} characters"
    )
    return {"unit": spec.unit, "max_documents": spec.max_documents, "units": units} | sums


def _find_sets(
    read: ReadStep,
    spec: DecontaminateSpec,
    drops: Drops,
    do: Do,
    say: Say,
    base_dir: Path | None,
) -> dict[str, Any]:
    """Name → texts of an evaluation set, and how many of them were found in which documents."""
    named = [(name, source, resolve_source(source, base_dir)) for name, source in spec.sets.items()]
    own = do(SetStep(work=read.work, sets=tuple(named), ngram=spec.ngram))
    step = ContaminationStep(
        work=read.work,
        partitions=read.partitions,
        fields=read.kind.fields,
        ngram=spec.ngram,
        drops=drops,
        num_sets=len(own),
    )
    matched = [summary["matched"] for summary in do(step)]
    seen = [np.zeros(each["texts"], dtype=bool) for each in own]
    for partition in range(len(read.partitions)):
        with item_file(read.work, FOUND, partition).open_input() as stream:
            table = pq.read_table(stream)
        for index, is_seen in enumerate(seen):
            is_seen[table["text"].to_numpy()[table["set"].to_numpy() == index]] = True
    found = {}
    for index, (name, summary) in enumerate(zip(spec.sets, own, strict=True)):
        documents, texts = sum(each[index] for each in matched), int(seen[index].sum())
        found[name] = {
            "documents": documents,
            "texts": summary["texts"],
            "found": texts,
            "too_short": summary["short"],
            "left_out": summary["left_out"],
        }
        say(_set_line(name, found[name], spec.ngram))
    return found


def _set_line(name: str, found: Mapping[str, Any], ngram: int) -> str:
    share = found["found"] / found["texts"]
    line = (
        f"evaluation set {name!r}: {found['found']:,} of its {found['texts']:,} texts "
        f"({share:.1%}) have {ngram} words in a row in common with "
        f"{many(found['documents'], 'document')}, which are left out"
    )
    if found["too_short"]:
        line += f"; {found['too_short']:,} have fewer words and cannot be found"
    if found["left_out"]:
        unread = ", ".join(f"{count:,} × {why}" for why, count in sorted(found["left_out"].items()))
        line += f"; not read of it: {unread}"
    return line


def _find_near(
    read: ReadStep, likeness: Likeness, documents: int, drops: Drops, do: Do, say: Say
) -> tuple[Drops, int]:
    """Where it is told which documents are near to an earlier one; and how many were not held
    against all others."""
    buckets, is_labelled = plan_near_buckets(documents), read.kind.label_role is not None
    say(f"near-duplicates: {likeness.line}")
    do(
        SketchStep(
            work=read.work,
            partitions=read.partitions,
            label_role=read.kind.label_role,
            likeness=likeness,
            num_buckets=buckets,
            drops=drops,
        )
    )
    step = NearStep(
        work=read.work,
        likeness=likeness,
        num_buckets=buckets,
        num_partitions=len(read.partitions),
        is_labelled=is_labelled,
    )
    unseen = sum(summary["unseen"] for summary in do(step))
    if unseen:
        say(
            f"warning: {unseen:,} times a document has a band in common with so many others that "
            f"it was not held against all of them; where it is near to some it may be kept. "
            f"{likeness.fix}"
        )
    return replace(drops, near_buckets=step.num_items, is_labelled=is_labelled), unseen
