"""Checks of the models of a job: their sizes, how they are spread, and whether they can be built.

What only transformers knows of a model a process of its own is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from raymodel.data.spec import PrepareSpec
from raymodel.errors import SpecError
from raymodel.job.preflight import offered_to_own
from raymodel.job.spec import Job
from raymodel.model.examine import Question, examine
from raymodel.model.fields import find_wrong_fields
from raymodel.model.presets import OWN, resolve_model
from raymodel.model.spec import ModelSpec
from raymodel.spec.document import Path
from raymodel.spec.own import is_own, own_digest
from raymodel.spec.problems import Problem
from raymodel.train.forecast.support import SEQUENCE, TENSOR, Trained, find_unsupported
from raymodel.train.spec import FinetuneSpec, TrainSpec
from raymodel.tune.space import adapters_of


def check_model(job: Job) -> Iterator[Problem]:
    """The preset of each fresh model exists, and its sizes are some that a model can have."""
    for stage, spec in _fresh_models(job):
        try:
            _, fields = resolve_model(spec)
        except SpecError as error:
            yield Problem((stage, "model", "preset"), str(error))
            continue
        here: Path = (stage, "model", "config")
        wrong = list(find_wrong_fields(fields))
        for name, why in wrong:
            yield Problem((*here, name), why)
        if not wrong and stage == "pretrain":
            yield from _too_small_for_data(job, fields, here)


def _fresh_models(job: Job) -> Iterator[tuple[str, ModelSpec]]:
    """Stage → the model that it makes anew."""
    if job.pretrain is not None and job.pretrain.model is not None:
        yield "pretrain", job.pretrain.model
    if job.finetune is not None and job.finetune.model is not None:
        yield "finetune", job.finetune.model


def _too_small_for_data(job: Job, fields: Mapping[str, Any], here: Path) -> Iterator[Problem]:
    if job.prepare is None or (job.pretrain and job.pretrain.data is not None):
        return
    text = job.prepare.text
    for name, given in (job.prepare.image.facts if job.prepare.image else {}).items():
        if fields.get(name, given) != given:
            yield Problem(
                (*here, name),
                f"{fields[name]} is not what prepare.image says, {given}; leave it out",
            )
    if text is None:
        return
    needed = {
        "vocab_size": (text.tokenizer.vocab_size, "prepare.tokenizer.vocab_size"),
        "max_position_embeddings": (text.length, "prepare.sequence_length"),
    }
    for name, (size, origin) in needed.items():
        if size is not None and fields.get(name, size) < size:
            yield Problem(
                (*here, name),
                f"{fields[name]} is less than {origin}, {size}; leave it out, or give at least "
                "that",
            )


def check_parallel(job: Job) -> Iterator[Problem]:
    """The model to pretrain, and to fine-tune after that, can be spread as the job says.

    What a base folder holds, `preflight.py` sees.
    """
    if job.pretrain is None or job.pretrain.model is None:
        return
    try:
        architecture, config = resolve_model(job.pretrain.model)
    except SpecError:
        return  # told by check_model
    if any(find_wrong_fields(config)):  # told by check_model
        return
    for problem in _layout_problems(job, architecture, config):
        if "parallel" in problem.path:  # the others come after what check_built tells
            yield problem


def check_built(job: Job) -> Iterator[Problem]:
    """Each fresh model can be built, does its task, and takes the adapter of the job."""
    from raymodel.tasks import get_task

    yield from _pretrained_problems(job)
    if job.finetune is None or job.finetune.model is None:
        return
    architecture, fields = resolve_model(job.finetune.model)
    if architecture == OWN:
        fields |= offered_to_own(job.finetune)
    question = Question(task=job.finetune.task.name, architecture=architecture, fields=fields)
    [answer] = examine([question])
    yield from _told(answer.problems, "finetune")
    if not answer.problems:
        cuts_rows = get_task(job.finetune.task.name).cuts_rows
        model = Trained(architecture, answer.config, cuts_rows, job.finetune.max_length)
        for field, reason in find_unsupported(job.finetune, model):
            yield Problem(("finetune", *field.split(".")), reason)


def _pretrained_problems(job: Job) -> Iterator[Problem]:
    if job.pretrain is None or job.pretrain.model is None:
        return
    architecture, fields = resolve_model(job.pretrain.model)
    image, tokenizer = (job.prepare.image, job.prepare.tokenizer) if job.prepare else (None, None)
    sizes = image.facts if image and job.pretrain.data is None else {}
    if architecture == OWN:
        fields |= sizes
    if architecture == OWN and tokenizer is not None and tokenizer.vocab_size:
        fields["vocab_size"] = tokenizer.vocab_size
    model = Question(
        task=job.pretrain.objective.name, architecture=architecture, fields=fields, sizes=sizes
    )
    questions = [model]
    if job.finetune is not None and job.finetune.starts_from_pretrain:
        adapters = adapters_of(job.finetune)
        tuned = replace(model, task=job.finetune.task.name, adapters=adapters, takes_over=True)
        questions.append(tuned)
    answers = examine(questions)
    seen = [problem for answer in answers for problem in answer.problems]
    yield from _told(seen, "pretrain")
    if not seen:
        yield from _layout_problems(job, architecture, answers[0].config)


def check_own(job: Job) -> Iterator[Problem]:
    """The user's own cleaning steps can be called, and the text of a module of his is there; other
    steps can be made, with the lists that they name."""
    from raymodel.tasks.own import own_step

    for stage in ("prepare", "finetune"):
        spec: PrepareSpec | FinetuneSpec | None = getattr(job, stage)
        for i, step in enumerate(spec.clean.steps if spec else ()):
            try:
                if is_own(step.name):
                    own_step(step.name)
                else:  # what it loads, jobs without steps do not wait for
                    from raymodel.data.cleaning.cleaner import build_step

                    build_step(step.with_lists())
            except SpecError as error:
                yield Problem((stage, "clean", "steps", i), str(error))
    for stage, model in _fresh_models(job):
        if model.module is not None:
            try:
                own_digest(model.module)
            except SpecError as error:
                yield Problem((stage, "model", "module"), str(error))


def _told(problems: Iterable[tuple[str, str]], stage: str) -> Iterator[Problem]:
    """What transformers says, at the fields that it is about."""
    places: dict[str, Path] = {
        "config": (stage, "model", "config"),
        "module": (stage, "model", "module"),
        "adapter": ("finetune", "adapter"),
    }
    for subject, message in dict.fromkeys(problems):
        kind, _, name = subject.partition(".")
        yield Problem((*places[kind], *([name] if name else [])), message)


def _layout_problems(job: Job, architecture: str, config: Mapping[str, Any]) -> Iterator[Problem]:
    from raymodel.tasks import get_task

    assert job.pretrain is not None, "the caller looked"
    if architecture in (*TENSOR, *SEQUENCE) and not config.get("num_attention_heads"):
        return  # its own default, which check_built knows
    length = job.prepare.sequence_length if job.prepare else None  # of images none
    trained: list[tuple[str, TrainSpec, str]] = [
        ("pretrain", job.pretrain, job.pretrain.objective.name)
    ]
    if job.finetune is not None and job.finetune.starts_from_pretrain:
        trained.append(("finetune", job.finetune, job.finetune.task.name))
    for stage, spec, task in trained:
        kind = get_task(task)
        model = Trained(architecture, config, kind.cuts_rows, length, kind.apart_architectures)
        for field, reason in find_unsupported(spec, model):
            yield Problem((stage, *field.split(".")), reason)
