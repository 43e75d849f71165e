"""The data card as one page of HTML: without scripts, without anything that is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from xml.etree.ElementTree import Element

from raymodel.data.account import PLACE_COLUMNS, RECORDS, Place
from raymodel.data.card.fertility import fertility_section
from raymodel.data.card.notes import notes_of
from raymodel.data.card.parts import section, style, table
from raymodel.data.card.plots import bar_list, histogram_plot, share_text, stacked_bar
from raymodel.data.card.profile import FIELD
from raymodel.observe.html import Part, element, page_text
from raymodel.observe.text import count_text, many

_SOURCES_SHOWN = 12  # with drawings and examples; figures of all stand in the tables
_LABELS_SHOWN, _NAMES_SHOWN = 30, 12
_SPLITS = {"train": "to train on", "holdout": "held out", "test": "to test on"}
_SIZES = {
    "characters": "Characters of a document",
    "tokens": "Tokens of a document",
    "width": "Width of an image in pixels",
    "height": "Height of an image in pixels",
    "aspect": "Width of an image over its height",
    "milliseconds": "Duration of a clip",
    "lufs": "Loudness of a clip, the louder the further left, of some of each part of the data",
}
_NAMES = {
    "host": "Hosts",
    "folder": "Folders",
    "file": "Files",
    "size": "Sizes of images",
    "rate": "Sampling rates of clips",
}
_COMMON = {"near": "Near-duplicates", "repeated": "Repeated lines or paragraphs"}
_Card = Mapping[str, Any]


def card_page(card: _Card) -> str:
    """The page of what `build_card` gives."""
    sections = (
        _overview(card),
        _notes(card),
        _accounts(card),
        _common(card),
        _lengths(card),
        _labels(card),
        fertility_section(card),
        _mixture(card),
        _origins(card),
        _examples(card),
    )
    return page_text("Data card", style(), element("main", *filter(None, sections)))


# ---- the whole -----------------------------------------------------------------------------------


def _overview(card: _Card) -> Element:
    counts, made_for = card["counts"], card["task"] or f"pretraining on {card['modality']}"
    parts = [f"For {made_for}", many(len(card["sources"]), "source")]
    if card["vocab_size"]:
        parts.append(f"a vocabulary of {card['vocab_size']:,} tokens")
    if card["sequence_length"]:
        parts.append(f"rows of {card['sequence_length']:,} tokens")
    tokens = _total(card, "tokens")
    tiles = [("records read", counts["read"])]
    tiles += [(f"documents {what}", counts[split]) for split, what in _SPLITS.items()]
    if _has_tokens(card):
        tiles.append(("tokens", tokens))
    return element(
        "header",
        element("h1", "Data card"),
        element("p", " · ".join(parts), class_="lead"),
        element(
            "ul",
            *(
                element("li", element("b", count_text(n)), element("span", what), title=f"{n:,}")
                for what, n in tiles
                if n or what != "documents to test on"
            ),
            class_="tiles",
        ),
    )


def _total(card: _Card, name: str) -> int:
    splits = (split for source in card["sources"] for split in source["splits"].values())
    return sum(split[name] for split in splits)


def _has_tokens(card: _Card) -> bool:
    return any("tokens" in source["sizes"] for source in card["sources"])


def _notes(card: _Card) -> Element:
    notes = notes_of(card)
    if not notes:
        return section("What stands out", element("p", "Nothing, by the rules of thumb."))
    return section(
        "What stands out", element("ul", *(element("li", note) for note in notes), class_="notes")
    )


# ---- what became of every record -----------------------------------------------------------------


def _accounts(card: _Card) -> Element:
    counts = card["counts"]
    flow = [(what, counts[split], split) for split, what in _SPLITS.items()]
    flow.append(("duplicates", counts["duplicates"], "duplicates"))
    reasons = enumerate(counts["left_out"].items())
    flow += [(reason, count, f"left-out-{index % 4}") for index, (reason, count) in reasons]
    header = ["source", "read", "duplicates", "left out", "cut", *_SPLITS.values()]
    rows = [
        [
            source["path"],
            source["read"],
            source["duplicates"],
            sum(source["left_out"].values()),
            sum(source["cut"].values()),
            *(source["splits"][split]["documents"] for split in _SPLITS),
        ]
        for source in card["sources"]
    ]
    return section(
        "What became of every record",
        stacked_bar(flow),
        table(header, rows),
        *_changes(card),
        lead="Read = to train on + held out + to test on + duplicates + left out. What is cut is "
        "kept, without an end that was too long.",
    )


def _changes(card: _Card) -> Iterator[Element]:
    """What each cleaning step changed: documents, and what else it counts."""
    rows = [
        [source["path"], step, counts.get(RECORDS, 0), _listed(counts)]
        for source in card["sources"]
        for step, counts in source["changed"].items()
    ]
    if rows:
        yield element("h3", "Changed by cleaning")
        yield table(["source", "step", "documents", "changes"], rows)


def _listed(counts: Mapping[str, int]) -> str:
    others = [f"{count:,} × {what}" for what, count in counts.items() if what != RECORDS]
    return ", ".join(others) or "–"


def _common(card: _Card) -> Element | None:
    """Near-duplicates, repeated lines and evaluation sets, where a job looks for them."""
    parts, common = list[Part](), card["common"]
    for name, title in _COMMON.items():
        if name in common:
            facts = [f"{each.replace('_', ' ')} {count}" for each, count in common[name].items()]
            parts += [element("h3", title), element("p", " · ".join(facts))]
    if sets := common.get("decontaminated"):
        header = ["evaluation set", "its texts", "of them found", "documents left out"]
        rows = [
            [name, *(own[n] for n in ("texts", "found", "documents"))] for name, own in sets.items()
        ]
        parts += [element("h3", "Evaluation sets"), table(header, rows)]
    return section("What documents have in common", *parts) if parts else None


# ---- what documents are like ---------------------------------------------------------------------


def _lengths(card: _Card) -> Element | None:
    is_alone, parts = len(card["sources"]) == 1, list[Part]()
    for name, title in _SIZES.items():
        having = [each for each in card["sources"] if each["sizes"].get(name, {}).get("count")]
        if not having:
            continue
        span = (
            min(source["sizes"][name]["least"] for source in having),
            max(source["sizes"][name]["most"] for source in having),
        )
        figures = [
            _figure(title if is_alone else source["path"], source["sizes"][name], span, name)
            for source in having[:_SOURCES_SHOWN]
        ]
        if is_alone:
            parts += figures
        else:
            parts += [element("h3", title), element("div", *figures, class_="grid")]
    if not parts:
        return None
    return section(
        "How large documents are",
        *([element("div", *parts, class_="grid")] if is_alone else parts),
        lead="Without duplicates, all splits together. The axis grows by factors and is the same "
        "for all sources; the line marks the median.",
    )


def _figure(title: str, size: _Card, span: tuple[int, int], name: str) -> Element:
    write = _WRITTEN.get(name, count_text)
    if size["least"] == size["most"]:
        words = [f"all {write(size['most'])}"]
    else:
        ends = write(size["least"]), write(size["most"])
        is_turned = name == _TURNED
        words = [
            f"median {write(size['median'])}",
            f"mean {write(round(size['mean']))}",
            f"90 % {'from' if is_turned else 'up to'} {write(size['most_of_90'])}"
            + (" on" if is_turned else ""),
            "from {} to {}".format(*(reversed(ends) if is_turned else ends)),
        ]
    about = f"{_SIZES[name]}: {', '.join(words)}"
    return element(
        "figure",
        element("figcaption", title, class_="name"),
        histogram_plot(size, span, write, about) if span[0] < span[1] else None,
        element("p", " · ".join(words), class_="faint"),
    )


def _duration(milliseconds: float) -> str:
    return f"{milliseconds / 1000:.3g} s"


def _ratio(percent: float) -> str:
    return f"{percent / 100:.3g}"


def _level(lufs: float) -> str:
    """Histograms hold numbers from 0 on: here without their sign."""
    return f"{-lufs:g} LUFS" if lufs else "0 LUFS"


_TURNED = "lufs"
"""What is written without the sign that it is counted in: its least is the most."""
_WRITTEN: Mapping[str, Callable[[float], str]] = {
    "milliseconds": _duration,
    "aspect": _ratio,
    "lufs": _level,
}


def _labels(card: _Card) -> Element | None:
    train = card["labels"].get("train", {})
    if not train:
        return None
    parts: list[Part] = []
    for split, what in _SPLITS.items():
        counts = card["labels"][split]
        if not counts:
            continue
        most = sorted(train, key=lambda label: (-train[label], label))[:_LABELS_SHOWN]
        items = [(label, counts.get(label, 0)) for label in most]
        parts.append(
            element(
                "div",
                element("h3", what.capitalize()),
                bar_list(items, sum(counts.values()), split),
            )
        )
    more = len(train) - _LABELS_SHOWN
    return section(
        "Labels",
        element("div", *parts, class_="columns"),
        element("p", f"and {more:,} rarer ones: see card.json", class_="faint")
        if more > 0
        else None,
        lead=f"{len(train):,} different ones, the most frequent first.",
    )


def _mixture(card: _Card) -> Element:
    sources = card["sources"]
    unit = "tokens" if _has_tokens(card) else "rows"
    shown = [
        (source["path"], source["epoch"]["tokens"], f"source-{index % 6}")
        for index, source in enumerate(sources[:_SOURCES_SHOWN])
    ]
    rest = sum(source["epoch"]["tokens"] for source in sources[_SOURCES_SHOWN:])
    shown.append((f"{len(sources) - _SOURCES_SHOWN} other sources", rest, "duplicates"))
    header = ["source", "weight", "rows", "visits an epoch", f"{unit} an epoch", "share"]
    rows = [
        [
            source["path"],
            f"{source['weight']:g}",
            source["splits"]["train"]["rows"],
            source["epoch"]["visits"],
            source["epoch"]["tokens"],
            share_text(source["epoch"]["share"]),
        ]
        for source in sources
    ]
    padding = [f"{name}: {share_text(share)}" for name, share in card["padding"].items()]
    is_packed = card["sequence_length"] is not None
    rule = "Padding of rows" if is_packed else "Padding, where a batch is filled to its longest"
    return section(
        "What an epoch is made of",
        stacked_bar(shown) if len(sources) > 1 else None,
        table(header, rows),
        element("p", f"{rule}: {' · '.join(padding)}.") if padding else None,
        lead="The weight of a source says how often each of its rows comes in one epoch.",
    )


def _origins(card: _Card) -> Element | None:
    lists = [each for source in card["sources"][:_SOURCES_SHOWN] for each in _name_lists(source)]
    return (
        section("Where documents come from", element("div", *lists, class_="columns"))
        if lists
        else None
    )


def _name_lists(source: _Card) -> Iterator[Element]:
    total = source["read"] - sum(source["left_out"].values())
    for name, names in source["names"].items():
        most = [(each or "(outermost)", count) for each, count in names["most"][:_NAMES_SHOWN]]
        # Files of one document each tell nothing that their folders do not.
        if not most or (name == "file" and (most[0][1] == 1 or len(most) == 1)):
            continue
        title = _NAMES.get(name) or f"Values of {name.removeprefix(FIELD)!r}"
        number = f"{names['different']:,}" + (" or more" if names["lost"] else "")
        short = f" Counts may be short by up to {names['lost']:,}." if names["lost"] else ""
        yield element(
            "div",
            element("h3", f"{title} of {source['path']}", class_="name"),
            element("p", f"{number} different; the most frequent:{short}", class_="faint"),
            bar_list(most, total),
        )


# ---- examples ------------------------------------------------------------------------------------


def _examples(card: _Card) -> Element | None:
    parts: list[Part] = []
    for source in card["sources"][:_SOURCES_SHOWN]:
        parts.append(element("h3", source["path"], class_="name"))
        kept = [_kept(each) for each in source["kept"]]
        parts.append(element("div", *kept, class_="grid"))
        if source["dropped"]:
            dropped = [_dropped(each) for each in source["dropped"]]
            title = f"Left out: {sum(source['left_out'].values()):,} records, some of them"
            parts.append(
                element(
                    "details", element("summary", title), element("div", *dropped, class_="grid")
                )
            )
    return section(
        "Examples", *parts, lead="Drawn at random, shortened; and what was left out, by reason."
    )


def _kept(shown: _Card) -> Element:
    values: list[Part] = []
    for role, value in shown["values"].items():
        if isinstance(value, dict):
            what: Part = element("img", src=value["image"], alt=role)
        else:
            what = element("pre", value, dir="auto")
        values += [element("dt", role), element("dd", what)]
    return element(
        "article",
        element("p", _place(shown), element("span", _SPLITS[shown["split"]], class_="tag")),
        element("dl", *values),
    )


def _dropped(shown: _Card) -> Element:
    return element(
        "article",
        element("p", _place(shown), element("span", shown["reason"], class_="tag is-bad")),
        element("img", src=shown["image"], alt="") if "image" in shown else None,
        element("pre", shown["sample"], dir="auto"),
    )


def _place(shown: _Card) -> Element:
    place = Place(**{name: shown[name] for name in PLACE_COLUMNS})
    return element("span", str(place), class_="name faint")
