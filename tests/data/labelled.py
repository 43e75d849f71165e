"""Recipes of labelled examples, and the rows that they give."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from raymodel.data.prepare import Recipe
from raymodel.data.rows import RowKind
from raymodel.data.shard import dataset_of
from raymodel.data.spec import CleanSpec, SourceSpec
from raymodel.modality.text import TextProcessor
from raymodel.storage.uri import Location
from raymodel.tasks.spec import default_spec

MAX_LENGTH = 64


def labelled(
    source: SourceSpec,
    task: str,
    tokenizer: Location,
    clean: CleanSpec | None = None,
    **fields: Any,
) -> Recipe:
    """Examples of one source; the fields are those of the recipe."""
    clean = clean or CleanSpec()
    fields = {"holdout": 0.1, "seed": 7} | fields
    kind = RowKind(task=default_spec(task), length=MAX_LENGTH)
    return Recipe(sources=(source,), clean=clean, kind=kind, processor=tokenizer, **fields)


def write_records(file: Path, records: list[dict[str, Any]]) -> str:
    """A file of JSON lines; returns its path."""
    file.write_text("\n".join(map(json.dumps, records)) + "\n")
    return str(file)


def pairs(path: str) -> SourceSpec:
    """JSON lines with a question and an answer."""
    return SourceSpec(path=path, format="jsonl", fields={"prompt": "{q}", "response": "{a}"})


def classes(path: str) -> SourceSpec:
    """JSON lines with a text and a label."""
    return SourceSpec(path=path, format="jsonl", fields={"label": "label"})


def documents(content: dict[str, Any]) -> int:
    """Those that became rows."""
    return sum(split["documents"] for split in content["splits"].values())


def texts_of(place: Location, content: dict[str, Any], split: str) -> list[tuple[str, Any]]:
    """Each example of a split as text, with its response or its label."""
    if not content["splits"][split]["rows"]:
        return []
    data = dataset_of(place, content, split)
    rows, tokenizer = (
        data.read(np.arange(data.num_rows)),
        TextProcessor.load(data.processor).tokenizer,
    )
    if "label" in rows.column_names:
        labels = [content["labels"][label] for label in rows["label"].to_pylist()]
        texts = [tokenizer.decode(ids) for ids in rows["input_ids"].to_pylist()]
        return list(zip(texts, labels, strict=True))
    pairs = zip(rows["input_ids"].to_pylist(), rows["prompt_length"].to_pylist(), strict=True)
    return [
        (
            tokenizer.decode(ids[:length]),
            tokenizer.decode(ids[length:], skip_special_tokens=True),
        )
        for ids, length in pairs
    ]
