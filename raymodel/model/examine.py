"""What a model will be, asked of transformers before anything starts.

Transformers takes seconds to import, which neither `raymodel check` nor the process that drives a
run should pay: questions are answered by a process of their own (`examiner.py`), all of a job in
one. The answers are kept below the user's cache folder, since they depend on the question and on
the version of transformers alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from raymodel import __version__
from raymodel.errors import RaymodelError, SpecError
from raymodel.model.counted import Counting, MetaCount
from raymodel.model.fields import is_plain, is_plain_adapter
from raymodel.model.presets import OWN
from raymodel.model.spec import AdapterSpec
from raymodel.spec.own import is_own, own_digest
from raymodel.storage.cache import cache_folder, keep
from raymodel.storage.hub_place import is_on_hub
from raymodel.storage.uri import Location
from raymodel.tasks import get_task

TIMEOUT_S = 600.0  # a model of a thousand layers on a busy machine; else seconds
_FORMAT = 6  # of questions and answers


@dataclass(frozen=True, kw_only=True)
class Question:
    """About a model, fresh or of a folder; or, without a task, about a tokenizer alone."""

    task: str | None = None
    """What it is to do."""
    task_spec: Mapping[str, Any] = field(default_factory=dict)
    """What the job says of the task; nothing where a model is used as it is."""
    files: Mapping[str, str] = field(default_factory=dict)
    """The texts of the files that it names there, by path."""
    architecture: str | None = None
    """Of a fresh model: its `model_type`."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Of a fresh model: the fields of its configuration."""
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Of a fresh model: what follows from the data, for architectures that have such a field."""
    takes_over: bool = False
    """Of a fresh model: whether another task pretrained it before."""
    folder: Location | None = None
    """Of a Hugging Face folder."""
    trains: bool = True
    """Whether it is trained for the task, so that its head may be new; else it is used."""
    layers: int | None = None
    """Of a folder's model that is trained: how many of its layers; None for all."""
    reads_like: Location | None = None
    """Of a folder's model that is used: where another processor lies, as which it must read."""
    adapters: tuple[AdapterSpec, ...] = ()
    """Each is attached to the outline of the model."""
    counting: Counting | None = None
    """What to count of the model, with the first of the adapters."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able data, as the examiner reads it."""
        return {
            "task": self.task,
            "task_spec": dict(self.task_spec),
            "files": dict(self.files),
            "architecture": self.architecture,
            "fields": dict(self.fields),
            "sizes": dict(self.sizes),
            "takes_over": self.takes_over,
            "folder": self.folder.uri if self.folder else None,
            "trains": self.trains,
            "layers": self.layers,
            "reads_like": self.reads_like.uri if self.reads_like else None,
            "adapters": [adapter.to_dict() for adapter in self.adapters],
            "counting": self.counting.to_dict() if self.counting else None,
        }

    @property
    def is_on_hub(self) -> bool:
        """Whether a folder lies on the Hugging Face Hub."""
        return any(each and is_on_hub(each.uri) for each in (self.folder, self.reads_like))

    @property
    def is_plain(self) -> bool:
        """Whether the answer is known without asking."""
        return (
            self.architecture is not None
            and self.counting is None
            # Plain families are decoders.
            and not (self.task is not None and get_task(self.task).needs_encoder)
            and is_plain(self.architecture, self.fields)
            and all(is_plain_adapter(adapter, self.fields) for adapter in self.adapters)
        )

    @property
    def plain_answer(self) -> Answer:
        """No problem; the defaults are left out of the configuration."""
        return Answer(config={"model_type": self.architecture, **self.fields})

    def key(self) -> str:
        """Names the answer: the question, what decides it, and who gives it."""
        files = None
        if self.folder is not None:
            folders = [self.folder, *([self.reads_like] if self.reads_like else [])]
            files = [[e.name, e.bytes, e.changed_ns] for each in folders for e in each.walk()]
        own = {reference: own_digest(reference) for reference in self._own_parts()}
        versions = [__version__, *(_version(n) for n in ("transformers", "peft", "torch"))]
        asked = [_FORMAT, versions, files, self.to_dict(), *([own] if own else [])]
        data = json.dumps(asked, sort_keys=True, default=str)
        return hashlib.sha256(data.encode()).hexdigest()[:32]

    def _own_parts(self) -> Iterator[str]:
        """Parts of the user's own that the answer depends on."""
        if self.task is not None and is_own(self.task):
            yield self.task
        config = self.fields if self.architecture == OWN else {}
        if self.folder is not None and (self.folder / "config.json").exists():
            told = (self.folder / "config.json").read_json()
            config = told if isinstance(told, dict) and told.get("model_type") == OWN else {}
        if "module" in config:
            with contextlib.suppress(SpecError):  # the examiner says it
                own_digest(config["module"])
                yield config["module"]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What transformers says."""

    problems: tuple[tuple[str, str], ...] = ()
    """(subject, why it cannot work); the subject is `config`, `config.FIELD`, `module`, `adapter`
    or `folder`."""
    notes: tuple[str, ...] = ()
    """What will be done that the user may not expect."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The whole configuration, defaults included; empty where there is none."""
    vocab_size: int | None = None
    """Ids of the folder's tokenizer."""
    end_of_text: int | None = None
    """Its id that closes a text."""
    count: MetaCount | None = None
    """What was counted; None where that was not asked, or could not be."""
    not_counted: str = ""
    """Why it could not be."""
    mask: int | None = None
    """Its id that stands for a hidden token."""
    sentinels: int = 0
    """How many of its ids stand for runs of hidden tokens."""


def examine(questions: Sequence[Question]) -> list[Answer]:
    """The answers, in the order of the questions.

    Asks only what neither arithmetic answers nor an earlier time.

    Raises:
        RaymodelError: the examiner ended without an answer.
    """
    asked = iter(_examine([question for question in questions if not question.is_plain]))
    return [question.plain_answer if question.is_plain else next(asked) for question in questions]


def _examine(questions: Sequence[Question]) -> list[Answer]:
    files = [cache_folder() / "models" / f"{question.key()}.json" for question in questions]
    known = {file: _recall(file) for file in files}
    missing = {
        file: question
        for file, question in zip(files, questions, strict=True)
        if known[file] is None
    }
    if missing and not _can_ask():
        known |= {file: _unknown(question) for file, question in missing.items()}
    elif missing:
        answers = ask_apart(list(missing.values()))
        for file, answer in zip(missing, answers, strict=True):
            known[file] = answer
            keep(file, json.dumps(answer))
    return [_answer(known[file] or {}) for file in files]


def ask_apart(questions: Sequence[Question]) -> list[dict[str, Any]]:
    """Asks a process of its own, which takes seconds, and says so."""
    sys.stderr.write("asking transformers about the model, once for each change of it …\n")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "raymodel.model.examiner"],
            input=json.dumps([question.to_dict() for question in questions], default=str),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env=_environment(may_ask_hub=any(each.is_on_hub for each in questions)),
        )
    except subprocess.TimeoutExpired as error:
        raise RaymodelError(
            f"the model cannot be outlined in {TIMEOUT_S:g} s, which takes seconds on a machine "
            "that has two free cores; make it smaller, or try again when there are"
        ) from error
    if done.returncode:
        told = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise RaymodelError(
            f"the model cannot be examined: {told[0]} (exit code {done.returncode}). The process "
            "that does it needs the packages of raymodel and 1 GiB of memory: python -m "
            "raymodel.model.examiner"
        )
    answers: list[dict[str, Any]] = json.loads(done.stdout)
    return answers


def _can_ask() -> bool:
    """A machine that only submits jobs needs no transformers."""
    if importlib.util.find_spec("transformers") is not None:
        return True
    sys.stderr.write("transformers is not installed here: the model is looked at where it runs\n")
    return False


def _unknown(question: Question) -> dict[str, Any]:
    config = dict(question.plain_answer.config) if question.architecture else {}
    return {"config": config, "not_counted": "transformers, which builds it, is not installed here"}


def _environment(*, may_ask_hub: bool) -> dict[str, str]:
    """Without GPUs, and with this package as it was found here; without the Hub, where no folder
    lies there."""
    package = str(Path(__file__).parents[2])
    paths = [package, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return os.environ | {
        **({} if may_ask_hub else {"HF_HUB_OFFLINE": "1"}),
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
    }


def _recall(file: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # never asked, or another process was killed while it wrote: asked again
    return found if isinstance(found, dict) else None


def _answer(data: Mapping[str, Any]) -> Answer:
    count = data.get("count")
    return Answer(
        problems=tuple((subject, message) for subject, message in data.get("problems", ())),
        notes=tuple(data.get("notes", ())),
        config=data.get("config", {}),
        vocab_size=data.get("vocab_size"),
        end_of_text=data.get("end_of_text"),
        count=MetaCount.from_dict(count) if count else None,
        not_counted=data.get("not_counted", ""),
        mask=data.get("mask"),
        sentinels=data.get("sentinels", 0),
    )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"
