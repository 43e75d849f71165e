"""Answers `examine.py`: questions as JSON on stdin, answers as JSON on stdout. Loads transformers.

A model is built on the meta device, where it takes no memory, and of a folder only the headers of
its weights are read: so all that its workers would refuse is found without any of them.
"""

from __future__ import annotations

import contextlib
import copy
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from raymodel.errors import NotPlannedError, RaymodelError, SpecError
from raymodel.modality.base import Processor
from raymodel.modality.text import TextProcessor
from raymodel.model.adapters import attach_adapter
from raymodel.model.build import build_config, known_fields, outline_config, with_arguments
from raymodel.model.counted import Counting, rows_of
from raymodel.model.layers import begin_with_layers
from raymodel.model.load import check_folder, fit, open_model, read_config
from raymodel.model.meta_count import count_on_meta
from raymodel.model.own import OwnModel, first_weights, outline_own, own_config
from raymodel.model.own_try import check_forward
from raymodel.model.presets import OWN
from raymodel.model.spec import AdapterSpec
from raymodel.storage.uri import Location
from raymodel.tasks import get_task
from raymodel.tasks.spec import task_spec

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from raymodel.tasks.base import Task

_LABELS = ("one", "other")
"""Stand for the labels of a task that has some: how many there are changes only the head."""

_MODULE = "model.module: "
_TRIED_TOKENS = 8
"""Of the rows on which a user's own module is tried; its rows may have any number."""


def answer(question: Mapping[str, Any]) -> dict[str, Any]:
    """What `Answer` holds; a problem is an answer like any other."""
    found: dict[str, Any] = {"problems": [], "notes": []}
    subject = "config" if question["folder"] is None else "folder"
    try:
        _look(question, found)
    except _AdapterError as error:
        found["problems"].append(("adapter", str(error)))
    except RaymodelError as error:
        found["problems"].append(_placed(subject, str(error)))
    return found


class _AdapterError(SpecError):
    """An adapter that the model cannot take."""


def _look(question: Mapping[str, Any], found: dict[str, Any]) -> None:
    folder = Location(question["folder"]) if question["folder"] else None
    if question["task"] is None:
        assert folder is not None, "a tokenizer lies in a folder"
        _describe(TextProcessor.load(folder), found)
        return
    task = _task(question)
    if folder is None:
        model = _fresh(question, task)
        found["config"] = _plain(model.config)
    elif question["trains"]:
        found["config"] = _plain(read_config(folder, task))
        model, stored = open_model(folder, task)
        if question["layers"] is not None:
            weights = first_weights(model, 0, stored)
            model, _ = begin_with_layers(model, weights, question["layers"], task)
            found["config"] = _plain(model.config)
        task = task.reading_as(folder)
        _describe(task.processor, found)
        with _as_spec_error(f"the tokenizer of {folder}"):
            task.adapt_processor(question["files"])
            task.check_processor(task.processor)
        note = fit(folder, model, task)
        found["notes"] += [note] if note else []
        if question["reads_like"] is not None:
            _compare(task.processor, folder, Location(question["reads_like"]), found)
    else:
        found["config"] = _plain(read_config(folder, task))
        outline = check_folder(folder, task)
        task = task.reading_as(folder)
        if outline is not None:
            fit(folder, outline, task)
        if question["reads_like"] is not None:
            _compare(task.processor, folder, Location(question["reads_like"]), found)
        return
    if isinstance(model, OwnModel) and folder is None:
        _try(model, task, question["fields"])
    adapted: list[Any] = [_adapted(model, adapter, task) for adapter in question["adapters"]]
    if question["counting"] is not None:
        _count((adapted or [model])[0], Counting.from_dict(question["counting"]), found)


def _compare(own: Processor, folder: Location, other: Location, found: dict[str, Any]) -> None:
    if (difference := type(own).load(other).find_difference(own)) is not None:
        told = f"{folder} reads with another {own.file} than {other}: {difference}"
        found["problems"].append(("folder", f"{told}, so one number is another thing to each"))


def _try(model: OwnModel, task: Task, known: Mapping[str, Any]) -> None:
    """A forward of a user's own module, where it is known what a row is."""
    try:
        [(_, row), *_] = rows_of(task.modality, known, _TRIED_TOKENS)
    except KeyError:
        return
    check_forward(model, task, row)


def _adapted(model: PreTrainedModel, adapter: Mapping[str, Any], task: Task) -> Any:
    try:
        return attach_adapter(copy.deepcopy(model), AdapterSpec.model_validate(adapter), task)
    except RaymodelError as error:
        raise _AdapterError(str(error)) from error


def _count(model: Any, counting: Counting, found: dict[str, Any]) -> None:
    try:
        found["count"] = asdict(count_on_meta(model, counting))
    except NotPlannedError as error:
        found["not_counted"] = str(error)


def _task(question: Mapping[str, Any]) -> Task:
    kind, said = get_task(question["task"]), question["task_spec"]
    spec = task_spec(said) if said else None
    if not (question["trains"] and kind.draws_head):
        return kind(spec)
    counting = question["counting"]
    if counting is None:
        return kind(spec, labels=_LABELS)
    return kind(spec, labels=[str(index) for index in range(counting["labels"])])


def _fresh(question: Mapping[str, Any], task: Task) -> PreTrainedModel:
    architecture, sizes, fields = (question[name] for name in ("architecture", "sizes", "fields"))
    if architecture == OWN:
        return outline_own(own_config(fields, task, None), task)
    known = known_fields(architecture) if sizes else set()
    made = {name: size for name, size in sizes.items() if name in known}
    said = with_arguments(architecture, dict(fields), task)
    config = build_config(architecture, {**made, **said})
    return outline_config(task.takes_over(config) if question["takes_over"] else config, task)


def _describe(processor: Processor, found: dict[str, Any]) -> None:
    facts = processor.facts()
    told = ("vocab_size", "end_of_text", "mask", "sentinels")
    found |= {name: facts[name] for name in told if name in facts}


def _plain(config: PretrainedConfig) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return plain


def _placed(subject: str, message: str) -> tuple[str, str]:
    """A message about one field goes to that field, without its name."""
    if subject == "config" and message.startswith(_MODULE):
        return "module", message.removeprefix(_MODULE)
    found = re.match(r"model\.config(?:\.(\w+))?(?::| is)? ?", message)
    if subject != "config" or found is None:
        return subject, message
    name, rest = found[1], message[found.end() :]
    if name is None:
        named = re.match(r"Field '(\w+)'", rest)  # transformers' own validators
        name = named[1] if named else None
    return (f"config.{name}" if name else subject), rest


@contextlib.contextmanager
def _as_spec_error(what: str) -> Any:
    try:
        yield
    except ValueError as error:
        raise SpecError(f"{what}: {error}") from error


def main() -> None:
    questions = json.load(sys.stdin)
    out, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no answer
    json.dump([answer(question) for question in questions], out)


if __name__ == "__main__":
    main()
