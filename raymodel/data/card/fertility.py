"""What the tokenizer makes of the data: tokens per word, character and byte."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.etree.ElementTree import Element

from raymodel.data.card.parts import section, table
from raymodel.data.card.plots import share_text
from raymodel.modality.scripts import KANA, UNSPACED_SCRIPTS
from raymodel.observe.html import Part, element

_SOURCES_SHOWN, _WRITTEN_SHOWN = 12, 12
_WRITTEN = {
    "language": "By language, as the cleaning step tells it",
    "script": "By script: that of most letters of a document",
}
_WITHOUT_WORDS = {*UNSPACED_SCRIPTS, KANA}
_HEADER = ("tokens per word", "tokens per character", "tokens per byte")
_Card = Mapping[str, Any]


def fertility_section(card: _Card) -> Element | None:
    """The part of a card about the tokenizer, by source and by what documents are written in; None
    where nothing is made of tokens.

    Args:
        card: as `build_card` gives it.
    """
    having = [source for source in card["sources"] if source["fertility"]]
    if not having:
        return None
    rows = [
        [
            source["path"],
            *_figures(source["fertility"]),
            "none" if (unknown := source["fertility"]["unknown"]) is None else share_text(unknown),
        ]
        for source in having
    ]
    special = "" if card["task"] is None else " Special tokens and templates count as tokens."
    return section(
        "Tokenizer",
        table(["source", *_HEADER, "unknown"], rows),
        *_by_writing(having),
        lead="Of documents that lost nothing. Words are what white space parts, so they tell "
        "nothing of languages without it. Fewer tokens are cheaper, and a source or a language "
        f"with many more than the others is one that the tokenizer was not made for.{special}",
    )


def _by_writing(sources: Sequence[_Card]) -> Iterator[Part]:
    """A table of languages and one of scripts, where there are several to compare."""
    for kind, title in _WRITTEN.items():
        found = [(each["path"], each["written_in"].get(kind, {})) for each in sources]
        if len({name for _, names in found for name in names}) < 2:
            continue
        rows = list[list[object]]()
        for path, names in found[:_SOURCES_SHOWN]:
            most = sorted(names.items(), key=lambda item: (-item[1]["tokens"], item[0]))
            for name, sums in most[:_WRITTEN_SHOWN]:
                figures = _figures(sums, has_words=kind != "script" or name not in _WITHOUT_WORDS)
                rows.append([path, name, sums["documents"], *figures])
        yield element("h3", title)
        yield table(["source", kind, "documents", *_HEADER], rows)


def _figures(sums: Mapping[str, float], *, has_words: bool = True) -> list[str]:
    word = f"{sums['per_word']:.3f}" if has_words else "–"
    return [word, *(f"{sums[f'per_{name}']:.3f}" for name in ("character", "byte"))]
