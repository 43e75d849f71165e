"""The card of a mixture: `mixture.json` and a page, beside the model that was trained on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree.ElementTree import Element

from raymodel.data.card.parts import section, style, table
from raymodel.data.card.plots import share_text, stacked_bar
from raymodel.observe.html import element, page_text
from raymodel.observe.text import count_text
from raymodel.storage.uri import Location

DATA, PAGE = "mixture.json", "mixture.html"
"""For programs, and for people."""
_WINDOWS_SHOWN = 40
_COLOURS = 6


def save_mixture_card(
    place: Location, seen: Mapping[str, Any], cards: Mapping[str, str], unit: str
) -> None:
    """Writes both files into the folder of a stage.

    Args:
        seen: from `what_is_seen`.
        cards: dataset → where its own data card lies.
        unit: of what rows hold, such as tokens.
    """
    (place / DATA).write_json({**seen, "unit": unit, "cards": dict(cards)})
    (place / PAGE).write_text(mixture_page(seen, cards, unit))


def mixture_page(seen: Mapping[str, Any], cards: Mapping[str, str], unit: str) -> str:
    """The page."""
    parts = (
        _overview(seen, unit),
        _sources(seen, unit),
        _stages(seen, unit),
        _windows(seen, unit),
        _cards(cards),
    )
    return page_text("Mixture card", style(), element("main", *filter(None, parts)))


def _overview(seen: Mapping[str, Any], unit: str) -> Element:
    total = sum(source["tokens_seen"] for source in seen["sources"])
    tiles = [
        ("steps", seen["steps"]),
        ("rows of a step", seen["global_batch"]),
        (f"{unit} seen", total),
        ("sources", len(seen["sources"])),
        ("stages", len(seen["stages"])),
    ]
    lead = "What training sees of each source: exact, since the order of rows is known before."
    if seen["temperature"] != 1:
        lead += f" Sizes are tempered: {seen['temperature']:g}."
    return element(
        "header",
        element("h1", "Mixture card"),
        element("p", lead, class_="lead"),
        element(
            "ul",
            *(
                element("li", element("b", count_text(n)), element("span", what), title=f"{n:,}")
                for what, n in tiles
            ),
            class_="tiles",
        ),
    )


def _bar(seen: Mapping[str, Any], amounts: list[int]) -> Element:
    return stacked_bar(
        (source["source"], amount, f"source-{index % _COLOURS}")
        for index, (source, amount) in enumerate(zip(seen["sources"], amounts, strict=True))
    )


def _sources(seen: Mapping[str, Any], unit: str) -> Element:
    amounts = [source["tokens_seen"] for source in seen["sources"]]
    header = ["source", "dataset", "rows", f"{unit} there", f"{unit} seen", "share", "visits"]
    rows = [
        [
            source["source"],
            source["dataset"],
            source["rows"],
            source["tokens"],
            source["tokens_seen"],
            share_text(source["tokens_seen"] / (sum(amounts) or 1)),
            f"{source['visits_of_a_row']:.3g}",
        ]
        for source in seen["sources"]
    ]
    return section(
        "The whole run",
        _bar(seen, amounts),
        table(header, rows),
        lead="Visits are those of each row by the end. Beyond four there is little left to learn.",
    )


def _stages(seen: Mapping[str, Any], unit: str) -> Element:
    parts = list[Element]()
    for number, stage in enumerate(seen["stages"], start=1):
        window = stage["window"]
        title = f"Stage {number}: steps {stage['from']:,} to {stage['until']:,}"
        steps = window["until"] - window["from"]
        header = ["source", "weight", f"{unit} in {steps:,} steps", "share"]
        total = sum(window["tokens"]) or 1
        rows = [
            [source["source"], f"{weight:.4g}", amount, share_text(amount / total)]
            for source, weight, amount in zip(
                seen["sources"], stage["weights"], window["tokens"], strict=True
            )
        ]
        parts += [element("h3", title), _bar(seen, window["tokens"]), table(header, rows)]
    return section(
        "What each thousand steps will see",
        *parts,
        lead="A weight says how often each row comes in one epoch, as tempered.",
    )


def _windows(seen: Mapping[str, Any], unit: str) -> Element | None:
    windows = seen["windows"]
    if len(windows) < 2:
        return None
    shown = windows[:: -(-len(windows) // _WINDOWS_SHOWN)]
    header = ["steps", *(source["source"] for source in seen["sources"])]
    rows = [[f"{w['from']:,} to {w['until']:,}", *w["tokens"]] for w in shown]
    return section(f"From first to last, in {unit}", table(header, rows))


def _cards(cards: Mapping[str, str]) -> Element | None:
    if not cards:
        return None
    return section("Data cards of the datasets", table(["dataset", "card"], list(cards.items())))
