"""Pages and drawings as trees of elements: whatever the data says is text, since nothing is ever
pasted into markup."""

from __future__ import annotations

import re
from xml.etree.ElementTree import Element, tostring

Part = Element | str | None
_NOT_SHOWN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def element(tag: str, *parts: Part, **attributes: object) -> Element:
    """One element.

    Args:
        parts: what is in it, in order: elements, and texts, which are shown as they are. None is
            nothing.
        attributes: their names without the `_` at the end that keeps them from being Python's
            (`class_`), and with `-` for every other; None is no attribute.
    """
    made = Element(tag)
    for name, value in attributes.items():
        if value is not None:
            made.set(name.removesuffix("_").replace("_", "-"), shown_text(str(value)))
    for part in parts:
        if isinstance(part, str):
            _append_text(made, shown_text(part))
        elif part is not None:
            made.append(part)
    return made


def _append_text(made: Element, text: str) -> None:
    if len(made):
        made[-1].tail = (made[-1].tail or "") + text
    else:
        made.text = (made.text or "") + text


def shown_text(text: str) -> str:
    """A text with a mark in the place of control characters, which no page may hold."""
    return _NOT_SHOWN.sub("\N{REPLACEMENT CHARACTER}", text)


def page_text(title: str, style: str, *parts: Part) -> str:
    """A whole page, which loads nothing and runs nothing.

    Args:
        style: CSS, our own.
    """
    # What it may load stands in it too, so that a browser holds it to that.
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", style),
    )
    page = element("html", head, element("body", *parts), lang="en")
    return "<!doctype html>\n" + tostring(page, encoding="unicode", method="html") + "\n"
