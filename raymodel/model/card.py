"""The model card: README.md of a model folder, in the form that Hugging Face reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml


def render_card(card: Mapping[str, Any]) -> str:
    """Markdown with a YAML head.

    Args:
        card: `name` becomes the title, `pipeline_tag` that of the Hub; every other entry a line,
            and every mapping in it (metrics, data, settings) a table of its own.
    """
    head = {"library_name": "transformers", "tags": ["raymodel"]}
    if "pipeline_tag" in card:
        head["pipeline_tag"] = card["pipeline_tag"]
    facts = {name: value for name, value in card.items() if name not in ("name", "pipeline_tag")}
    lines = ["---", yaml.safe_dump(head, sort_keys=True).strip(), "---", ""]
    lines += [f"# {card.get('name', 'A model')}", "", "Made by raymodel.", ""]
    for name, value in facts.items():
        if not isinstance(value, Mapping):
            lines.append(f"- {_words(name)}: {_show(value)}")
    for name, value in facts.items():
        if isinstance(value, Mapping) and value:
            lines += ["", f"## {_words(name)}", "", "| | |", "|---|---|"]
            lines += [f"| {_words(key)} | {_show(item)} |" for key, item in value.items()]
    return "\n".join(lines) + "\n"


def _words(name: str) -> str:
    text = str(name).replace("_", " ")
    return text[:1].upper() + text[1:]


def _show(value: Any) -> str:
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
