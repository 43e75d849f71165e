"""What of a data card stands out: rules of thumb, so that nobody has to find it in the figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from raymodel.data.card.plots import share_text

_DUPLICATES, _LEFT_OUT, _CUT = 0.05, 0.01, 0.05  # shares from which on a person should know
_FEW_HELD_OUT = 100
"""Of an accuracy of 0.9 the interval that 95 of 100 such sets hold is then 12 points wide."""
_FEW_OF_A_LABEL = 10
_IMBALANCE = 10
_MANY_VISITS = 4.0
"""Beyond four epochs, repeats teach less and less: arXiv:2305.16264, figure 1."""
_UNKNOWN = 0.001
_POOR_FIT = 2.0  # tokens per byte, of one source or language against the best
_LITTLE = 0.01
"""Of the tokens of all sources: of less one does not tell how well a language fits."""
_SHORT_CHARACTERS = 100
_PADDING = 0.5
_NAMES = 3


def notes_of(card: Mapping[str, Any]) -> list[str]:
    """A sentence for each thing that a person should look at, of the whole and then by source."""
    return [*_of_whole(card), *_of_labels(card), *_of_fit(card), *_of_sources(card)]


def _of_whole(card: Mapping[str, Any]) -> Iterator[str]:
    counts, padding = card["counts"], card["padding"]
    measured = "test" if counts["test"] else "holdout"
    if not counts[measured]:
        yield "Nothing is held out, so nothing can be validated or evaluated."
    elif counts[measured] < _FEW_HELD_OUT:
        yield (
            f"Only {counts[measured]:,} documents are held out to measure on; figures taken on "
            "them are rough."
        )
    if counts["label_conflicts"]:
        yield f"{counts['label_conflicts']:,} texts have several labels; they are kept with each."
    worst = max(padding.items(), key=lambda item: item[1], default=("", 0.0))
    if worst[1] > _PADDING:
        yield f"{share_text(worst[1])} of what a model is given is padding ({worst[0]})."


def _of_labels(card: Mapping[str, Any]) -> Iterator[str]:
    train = card["labels"].get("train", {})
    if not train:
        return
    few = sorted((count, label) for label, count in train.items() if count < _FEW_OF_A_LABEL)
    if few:
        shown = ", ".join(f"{label!r} ({count})" for count, label in few[:_NAMES])
        more = f" and {len(few) - _NAMES:,} more" if len(few) > _NAMES else ""
        yield f"Labels with fewer than {_FEW_OF_A_LABEL} examples to train on: {shown}{more}."
    most = max(train, key=lambda label: train[label])
    least = min(train, key=lambda label: train[label])
    if train[most] > _IMBALANCE * max(1, train[least]):
        yield (
            f"Labels are uneven: {most!r} has {train[most]:,} examples, {least!r} "
            f"{train[least]:,}. A model may do well by never giving the rare ones; look at a "
            "measure that counts each label alike."
        )


def _of_fit(card: Mapping[str, Any]) -> Iterator[str]:
    known = [source for source in card["sources"] if source["fertility"]]
    for source in known:
        unknown = source["fertility"]["unknown"]
        if unknown is not None and unknown > _UNKNOWN:
            yield (
                f"{source['path']}: {share_text(unknown)} of the tokens stand for what the "
                "tokenizer does not know."
            )
    best = min((source["fertility"]["per_byte"] for source in known), default=0.0)
    for source in known:
        per_byte = source["fertility"]["per_byte"]
        if per_byte > _POOR_FIT * best:
            yield (
                f"{source['path']}: {per_byte:.2f} tokens a byte, {per_byte / best:.1f} times "
                "those of the source that the tokenizer fits best."
            )
    yield from _of_writing(known)


def _of_writing(known: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Languages and scripts that the tokenizer was not made for, over all sources."""
    for kind in ("language", "script"):
        tokens, num_bytes = Counter[str](), Counter[str]()
        for source in known:
            for name, sums in source["written_in"].get(kind, {}).items():
                tokens[name] += sums["tokens"]
                num_bytes[name] += sums["bytes"]
        enough = [name for name in tokens if tokens[name] > _LITTLE * tokens.total()]
        per_byte = {name: tokens[name] / max(1, num_bytes[name]) for name in sorted(enough)}
        best = min(per_byte.values(), default=0.0)
        for name, own in per_byte.items():
            if own > _POOR_FIT * best:
                yield (
                    f"The {kind} {name!r}: {own:.2f} tokens a byte, {own / best:.1f} times those "
                    f"of the {kind} that the tokenizer fits best."
                )


def _of_sources(card: Mapping[str, Any]) -> Iterator[str]:
    for source in card["sources"]:
        path, read = source["path"], max(1, source["read"])
        kept = max(1, sum(split["documents"] for split in source["splits"].values()))
        if source["duplicates"] > _DUPLICATES * read:
            share = share_text(source["duplicates"] / read)
            yield f"{path}: {share} of what was read are duplicates of other records."
        for reason, count in source["left_out"].items():
            if count > _LEFT_OUT * read:
                yield f"{path}: {share_text(count / read)} of what was read is left out: {reason}."
        for role, count in source["cut"].items():
            if count > _CUT * kept:
                yield f"{path}: {share_text(count / kept)} of the documents lost an end ({role})."
        characters = source["sizes"].get("characters")
        if characters and card["task"] is None and characters["median"] < _SHORT_CHARACTERS:
            yield f"{path}: half of the documents have at most {characters['median']} characters."
        if source["weight"] > _MANY_VISITS:
            yield (
                f"{path}: each row comes {source['weight']:g} times in an epoch; beyond four "
                "repeats there is little left to learn from them."
            )
