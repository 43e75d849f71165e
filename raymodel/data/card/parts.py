"""What the sections of a data card are made of."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element

from raymodel.observe.html import Part, element


@functools.cache
def style() -> str:
    """The CSS of cards."""
    return Path(__file__).with_name("page.css").read_text(encoding="utf-8")


def section(title: str, *parts: Part, lead: str | None = None) -> Element:
    """A part of a card under a title."""
    about = element("p", lead, class_="lead") if lead else None
    return element("section", element("h2", title), about, *parts)


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> Element:
    """Rows whose first cell is a name; numbers stand right."""

    def cell(tag: str, value: object) -> Element:
        is_number = isinstance(value, int)
        text = f"{value:,}" if is_number else str(value)
        return element(tag, text, class_=None if is_number or tag == "th" else "name")

    body = [
        element(
            "tr",
            element("th", str(first), scope="row", class_="name"),
            *(cell("td", v) for v in rest),
        )
        for first, *rest in rows
    ]
    names = [element("th", name, scope="col") for name in header]
    return element(
        "div",
        element("table", element("thead", element("tr", *names)), element("tbody", *body)),
        class_="scroll",
        tabindex="0",
    )
