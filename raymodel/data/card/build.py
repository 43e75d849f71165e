"""The data card as JSON: what became of every record, and what those that are kept are like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from raymodel.data.card.profile import Profile
from raymodel.data.card.sketch import Histogram, next_edge
from raymodel.data.order import Part

CARD_VERSION = 1
"""Of the form of `card.json`: it is raised when a key means something else."""
NAMES_SHOWN = 20
"""Of each kind, the most frequent."""
DROPPED_SHOWN = 3
"""Records of each reason and source."""
BATCHES = (8, 32)
"""Examples of a batch for which the share of padding is told."""
_COMMON = ("near", "repeated", "decontaminated")
"""What the manifest says of what documents have in common, with one another and others."""
SPLITS = ("train", "holdout", "test")
_COUNTS = ("documents", "rows", "tokens", "num_bytes")


def build_card(
    content: Mapping[str, Any],
    sources: Sequence[Mapping[str, Any]],
    partition_sources: Sequence[int],
    profiles: Sequence[Profile],
    found: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    rejects: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """What `card.json` holds. A pure function: the same dataset has the same card.

    Args:
        content: of the dataset's manifest.
        sources: of each the `path`, `format`, `weight`, and what was `read` and `left_out` of it.
        partition_sources: the source of each partition.
        profiles: of each source.
        found: the summaries of the partitions when they were read.
        rows: and when they became rows.
        rejects: samples of what was left out.
    """
    cards = [
        _source_card(
            source,
            [i for i, own in enumerate(partition_sources) if own == index],
            profiles[index],
            found,
            rows,
            [each for each in rejects if each["source"] == source["path"]],
        )
        for index, source in enumerate(sources)
    ]
    _weigh(cards, content)
    return {
        "version": CARD_VERSION,
        "task": content["task"],
        "modality": content["processor"]["modality"],
        "sequence_length": content["sequence_length"],
        "vocab_size": content["processor"].get("vocab_size"),
        "counts": {
            "read": content["read"],
            **{split: content["splits"][split]["documents"] for split in SPLITS},
            "duplicates": content["duplicates"],
            "left_out": content["left_out"],
            "cut": content["cut"],
            "label_conflicts": content["label_conflicts"],
        },
        "labels": {split: content["classes"][split] for split in SPLITS if content["labels"]},
        "padding": _padding(content, cards),
        "common": {name: content[name] for name in _COMMON if name in content},
        "sources": cards,
    }


def _source_card(
    source: Mapping[str, Any],
    items: Sequence[int],
    profile: Profile,
    found: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    rejects: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    cut, changed = Counter[str](), dict[str, Counter[str]]()
    splits = {
        split: {name: sum(rows[item][split][name] for item in items) for name in _COUNTS}
        for split in SPLITS
    }
    kept = sum(counts["documents"] for counts in splits.values())
    for item in items:
        cut.update(rows[item]["cut"])
        for step, counts in found[item]["account"].get("changed", {}).items():
            changed.setdefault(step, Counter()).update(counts)
    return {
        **source,
        # All others have left: it adds up, or there is no dataset.
        "duplicates": source["read"] - sum(source["left_out"].values()) - kept,
        "changed": {step: dict(sorted(each.items())) for step, each in sorted(changed.items())},
        "cut": dict(sorted(cut.items())),
        "splits": splits,
        "sizes": {name: _size_card(each) for name, each in sorted(profile.sizes.items())},
        "fertility": _fertility(profile.sums),
        "written_in": {
            kind: {name: _per(sums) for name, sums in sorted(names.items()) if sums["tokens"]}
            for kind, names in sorted(profile.written.items())
        },
        "names": {
            name: {"lost": each.lost, "different": len(each), "most": each.most(NAMES_SHOWN)}
            for name, each in sorted(profile.names.items())
            if name != "folder" or len(each) > 1
        },
        "kept": [{k: v for k, v in each.items() if k != "key"} for each in profile.kept],
        "dropped": _first_of_each(rejects),
    }


def _first_of_each(rejects: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    seen, kept = Counter[str](), list[dict[str, Any]]()
    for reject in rejects:
        seen[reject["reason"]] += 1
        if seen[reject["reason"]] <= DROPPED_SHOWN:
            kept.append({name: value for name, value in reject.items() if name != "source"})
    return sorted(kept, key=lambda each: each["reason"])


def _size_card(histogram: Histogram) -> dict[str, Any]:
    shares = {"median": 0.5, "most_of_90": 0.9, "most_of_99": 0.99}
    return {
        **histogram.summary(),
        "mean": round(histogram.mean, 3),
        **{name: histogram.quantile(share) for name, share in shares.items()},
    }


def _fertility(sums: Mapping[str, int]) -> dict[str, Any]:
    """Tokens per character, word and byte of the documents that lost nothing; and the share of
    unknown tokens, None where the tokenizer knows everything."""
    if not sums.get("tokens") or not sums.get("characters"):
        return {}
    unknown = sums["unknown"] / max(1, sums["known_by"]) if "unknown" in sums else None
    return {**_per(sums), "unknown": unknown}


def _per(sums: Mapping[str, int]) -> dict[str, Any]:
    per = {
        f"per_{n[:-1]}": sums["tokens"] / max(1, sums[n]) for n in ("characters", "words", "bytes")
    }
    counts = (name for name in ("documents", "tokens", "characters", "bytes") if name in sums)
    return {**per, **{name: sums[name] for name in counts}}


def _weigh(cards: Sequence[dict[str, Any]], content: Mapping[str, Any]) -> None:
    """Says of each source how often its rows are visited, and what share of an epoch it is."""
    parts = content["splits"]["train"]["parts"]
    by_folder = {part["folder"].rpartition("-")[2]: part for part in parts}
    told = []
    for index in range(len(cards)):
        part = by_folder.get(f"{index:03d}")
        visits = 0
        if part is not None:
            visits = Part(part["rows"], part["rows_per_block"], part["weight"]).visits
        tokens = part["tokens"] * visits / part["rows"] if part else 0.0
        told.append((visits, tokens))
    total = sum(tokens for _, tokens in told) or 1.0
    for card, (visits, tokens) in zip(cards, told, strict=True):
        card["epoch"] = {"visits": visits, "tokens": round(tokens), "share": tokens / total}


def _padding(content: Mapping[str, Any], cards: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What share of what a model is given is padding.

    Of packed rows exactly, by split. Of examples, if a batch is filled up to its longest: by the
    lengths that are expected of so many drawn at random. Nothing where rows have no tokens.
    """
    if length := content["sequence_length"]:
        places = {split: content["splits"][split]["rows"] * length for split in SPLITS}
        return {
            split: 1 - content["splits"][split]["tokens"] / places[split]
            for split in SPLITS
            if places[split]
        }
    whole = Histogram()
    for card in cards:
        if tokens := card["sizes"].get("tokens"):
            whole.merge(tokens)
    if not whole.total:
        return {}
    return {f"batches of {number}": _padding_of(whole, number) for number in BATCHES}


def _padding_of(lengths: Histogram, number: int) -> float:
    """1 - mean / the expected longest of `number`: P(longest ≤ x) = P(one ≤ x) ** number."""
    seen, before, longest = 0, 0.0, 0.0
    for edge, count in sorted(lengths.bins.items()):
        seen += count
        below = (seen / lengths.count) ** number
        middle = (edge + min(next_edge(edge) - 1, lengths.most or 0)) / 2
        longest += (below - before) * middle
        before = below
    return max(0.0, 1 - lengths.mean / max(longest, 1.0))
