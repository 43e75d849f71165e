"""The shapes of a job: which stages there are, and where each takes its input from.

They are read from the job language itself, so that a stage that is added to it, or a place that a
stage may take its input from, is part of them at once, and has no section in `sections` yet.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from raymodel.job.spec import Job
from raymodel.spec.fields import Field
from raymodel.storage.registry import STAGES

OWN, ABSENT = "own", "–"
Shape = dict[str, str]
"""Stage → where its input comes from: one of `origins`, `OWN`, or `ABSENT` for no such stage."""

# How the description of a field says that it names an input of its stage, and which it may be.
_NAMES_AN_INPUT = "by default this job's"
_ORIGINS = {
    "run": re.compile(r"`RUN/"),
    "folder": re.compile(r"\b(folder|URI)\b"),
    "package": re.compile(r"`python:"),
    "list": re.compile(r"\ba list of them\b"),
}


def origins() -> dict[str, dict[str, str]]:
    """Stage → where its input may come from → the field that says so; `OWN` needs none."""
    found = {}
    for stage, info in Job.model_fields.items():
        if info.default is not None or info.is_required() or stage not in STAGES:
            continue  # no stage: each of these may be left out, and makes an artifact
        section = Field(info.annotation).section
        assert section is not None, stage
        found[stage] = {OWN: ""}
        for name, field in section.model_fields.items():
            words = Field(field.annotation, field).description
            if _NAMES_AN_INPUT in words:
                found[stage] |= {
                    origin: name for origin, said in _ORIGINS.items() if said.search(words)
                }
    return found


def sections(tmp: Path, port: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Stage → where its input comes from → what the job file says, for tiny models.

    Args:
        tmp: holds what `given` and the tests write there.
        port: of the served model.
    """
    network = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    training = {"global_batch": 4, "duration": "2 steps", "optimizer": {"learning_rate": 0.01}}
    functions = {
        "path": str(tmp / "corpus"),
        "format": "python_functions",
        "fields": {"prompt": '{code}\n"""', "response": '{docstring}"""'},
    }
    pretrain = training | {
        "model": {"architecture": "llama", "config": network | {"num_attention_heads": 4}}
    }
    generation = training | {
        "task": "causal_lm",
        "sources": [functions],
        "holdout": "20%",
        "max_length": 32,
        "adapter": {"lora": {"rank": 4}},
    }
    classification = training | {
        "task": "text_classification",
        "sources": [
            {"path": str(tmp / "labelled.jsonl"), "format": "jsonl", "fields": {"label": "label"}}
        ],
        "holdout": "20%",
        "max_length": 32,
    }
    dataset = tmp / "runs/given/prepare"
    serve = {"port": port, "max_tokens": 4}
    return {
        "prepare": {
            OWN: {
                "sources": [{"path": str(tmp / "corpus")}],
                "tokenizer": {"vocab_size": 300},
                "sequence_length": 32,
                "holdout": "20%",
            }
        },
        "pretrain": {
            OWN: pretrain,
            "run": pretrain | {"data": "given/prepare"},
            "folder": pretrain | {"data": f"{dataset}/{_latest(dataset)}"},
            "list": pretrain | {"data": [{"path": "given/prepare", "weight": 1.0}]},
        },
        "finetune": {
            OWN: generation,
            "run": generation | {"base": "given/pretrain"},
            "folder": classification | {"base": "tiny_models/bert"},
            "package": classification | {"base": "python:tiny_models/bert"},
        },
        "evaluate": {OWN: {"max_rows": 8, "generate_rows": 2, "max_new_tokens": 4}},
        "compress": {
            OWN: {"prune": {"keep": 1}},
            "run": {"prune": {"magnitude": "50%"}, "model": "given/pretrain"},
        },
        "serve": {
            OWN: serve,
            "run": serve | {"model": "given/best"},
            "folder": serve | {"model": "tiny_models/bert"},
            "package": serve | {"model": "python:tiny_models/bert"},
        },
    }


def _latest(stage: Path) -> str:
    pointer = stage / "latest"
    return pointer.read_text().strip() if pointer.exists() else "none yet"


def job_of(shape: Shape, parts: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """A job file of this shape."""
    stages = {
        stage: dict(parts[stage][origin]) for stage, origin in shape.items() if origin != ABSENT
    }
    if "evaluate" in stages:
        classifies = shape.get("finetune") in ("folder", "package")
        of_another = shape.get("compress") == "run"
        if classifies and of_another:  # what is measured of both models must be known to both
            stages["compress"]["model"] = "given/best"
        # Plain text has no answers to compare.
        of_examples = ["chrf"] if "finetune" in stages and not of_another else []
        stages["evaluate"]["metrics"] = (
            ["accuracy", "f1"] if classifies else ["perplexity", "bits_per_byte", *of_examples]
        )
    return {"name": "shaped", "seed": 7, "cluster": {"workers": 1}, **stages}


def all_shapes(parts: dict[str, dict[str, dict[str, Any]]]) -> Iterator[Shape]:
    """Every one that a job can have."""
    choices = {stage: (ABSENT, *found) for stage, found in origins().items()}
    for chosen in product(*choices.values()):
        shape = dict(zip(choices, chosen, strict=True))
        try:
            Job.model_validate(job_of(shape, parts))
        except ValidationError as error:
            if not re.search(r"no stage given|has no (data|model|measures)", str(error)):
                raise
        else:
            yield shape


def few_shapes(shapes: Iterable[Shape]) -> list[Shape]:
    """So many that each stage is there with each origin, and absent: in turn, the one that adds
    most of these, and of those the one of fewest stages."""
    candidates = list(shapes)
    unseen = {pair for shape in candidates for pair in shape.items()}
    chosen = []
    while unseen:
        best = max(candidates, key=lambda s: (len(s.items() & unseen), -len(stages_of(s))))
        unseen -= best.items()
        chosen.append(best)
    return chosen


def by_stages(shapes: Iterable[Shape]) -> list[Shape]:
    """One for each set of stages; in turn, of those that it can have, the rarest so far."""
    sets: dict[tuple[str, ...], list[Shape]] = {}
    for shape in shapes:
        sets.setdefault(tuple(stages_of(shape)), []).append(shape)
    seen: Counter[tuple[str, str]] = Counter()
    chosen = []
    for candidates in sets.values():
        shape = min(candidates, key=lambda each: sum(seen[pair] for pair in each.items()))
        seen.update(shape.items())
        chosen.append(shape)
    return chosen


def stages_of(shape: Shape) -> list[str]:
    """Those that are there, in their order."""
    return [stage for stage, origin in shape.items() if origin != ABSENT]


def run_stages_of(shape: Shape) -> list[str]:
    """Those that run: where nothing is trained, `evaluate` says how `compress` measures."""
    stages = stages_of(shape)
    trains = {"pretrain", "finetune"} & {*stages}
    return [stage for stage in stages if trains or stage != "evaluate"]


def name_of(shape: Shape) -> str:
    """`pretrain:run finetune:own`."""
    return " ".join(f"{stage}:{shape[stage]}" for stage in stages_of(shape))
