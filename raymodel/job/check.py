"""Checks of a job that no single section can make: they ask the tasks, the presets, transformers.

Nothing here loads torch, ray, transformers or pyarrow, and nothing touches the job's data or a
cluster: what `raymodel check` accepts can still meet a missing file (`preflight.py` looks, when the
job runs) or too small a cluster. What only transformers knows of a model a process of its own is
asked, once for each change of the model, and only where all else is right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from raymodel.data.spec import PrepareSpec, SourceSpec, TokenizerSpec
from raymodel.errors import SpecError, UserError
from raymodel.evaluate.gates import TEXT_PREFIX
from raymodel.job.preflight import lacking_in_pretraining, lacking_tokens, offered_to_own
from raymodel.job.spec import Job
from raymodel.model.examine import Question, examine
from raymodel.model.fields import find_wrong_fields
from raymodel.model.presets import OWN, resolve_model
from raymodel.model.spec import ModelSpec
from raymodel.spec.document import Path
from raymodel.spec.fields import nearest
from raymodel.spec.load import LoadedJob
from raymodel.spec.own import is_own, own_digest
from raymodel.spec.problems import Problem, spec_error
from raymodel.spec.show import show
from raymodel.storage.hub import check_no_url_of_hub
from raymodel.storage.uri import Location
from raymodel.tasks.fields import PLAIN_TEXT, Fields, find_wrong_roles, find_wrong_sources
from raymodel.train.forecast.support import SEQUENCE, TENSOR, Trained, find_unsupported
from raymodel.train.plan import find_step_conflict, plan_batch
from raymodel.train.spec import FinetuneSpec, TrainSpec
from raymodel.tune.check import check_sweep
from raymodel.tune.space import adapters_of


def check_job(loaded: LoadedJob) -> None:
    """Raises SpecError, one line a problem, when the stages of a job do not fit together."""
    for checks in (CHECKS, (check_built,)):
        problems = [problem for check in checks for problem in check(loaded.job)]
        if problems:
            raise spec_error(problems, loaded.positions)


def check_sources(job: Job) -> Iterator[Problem]:
    """The sources hold what is learnt from: a text, or what the task of fine-tuning needs."""
    from raymodel.tasks import get_task

    stages: list[tuple[str, tuple[SourceSpec, ...], Fields, str]] = []
    if job.prepare:
        stages.append(("prepare", job.prepare.sources, PLAIN_TEXT, "prepare"))
    if job.finetune:
        name = job.finetune.task.name
        stages.append(("finetune", job.finetune.sources, get_task(name).fields, name))
    for stage, sources, fields, reader in stages:
        for i, source in enumerate(sources):
            for role, why in find_wrong_roles(source, fields, reader):
                named = ("fields", role) if role in source.fields else ()
                yield Problem((stage, "sources", i, *named), why)
        for i, why in find_wrong_sources(sources, fields, reader):
            yield Problem((stage, "sources", i), why)


def check_processor(job: Job) -> Iterator[Problem]:
    """A fresh model that is fine-tuned has something to read its examples with."""
    if job.finetune is None or job.finetune.model is None:
        return
    from raymodel.tasks import make_task

    task, tokenizer = make_task(job.finetune.task), job.finetune.tokenizer
    if tokenizer is not None and task.modality != "text":
        yield Problem(("finetune", "tokenizer"), f"{task.name} reads no text; leave it out")
    elif tokenizer is not None and tokenizer.load is None:
        for lack in lacking_tokens([(job.finetune.task, None)], _trained(tokenizer)):
            yield Problem(("finetune", "tokenizer"), f"{lack.text}; add {lack.fix}")
    elif tokenizer is None and task.fresh_processor() is None:
        yield Problem(
            ("finetune", "model"),
            f"{task.name} reads its examples with what its base brings, such as a tokenizer, and a "
            "fresh model has none; give `base`; or `tokenizer`, such as {vocab_size: 4000}, which "
            "is trained on examples of text, or pretrain a model first; or say in `task` what a "
            "fresh model is given, where it has fields for that",
        )


def _trained(spec: TokenizerSpec) -> dict[str, int]:
    """Kind of special token → how many a tokenizer that is trained will have."""
    return {
        "mask": int(spec.mask or spec.tokens == "characters"),
        "sentinels": spec.sentinels,
    }


def check_own_tokenizer(job: Job) -> Iterator[Problem]:
    """What is fine-tuned after the job's own pretraining can be read with its own tokenizer."""
    tuned = job.finetune
    if tuned is None or not tuned.starts_from_pretrain or job.prepare is None:
        return
    if job.prepare.tokenizer.load is None and (lack := tuned.task.lack_with_own_tokenizer):
        yield Problem(("finetune", "task"), lack)


def check_step(job: Job) -> Iterator[Problem]:
    """A task that holds each row against all others of its step is given the whole of it."""
    spec = job.finetune
    if spec is None or not spec.task.sees_whole_step:
        return
    workers = spec.sweep.workers_per_trial if spec.sweep else job.cluster.min_workers
    try:
        batch = plan_batch(spec.global_batch, spec.micro_batch, spec.parallel.data_workers(workers))
    except SpecError:
        return  # told by those who know the number of workers
    reason = find_step_conflict(spec, batch)
    if reason is not None:
        field = ("micro_batch",) if batch.accumulation > 1 else ("parallel",)
        yield Problem(
            ("finetune", *field),
            f"{spec.task.name} holds each row against all others of its step, and {reason}",
        )


def check_reference(job: Job) -> Iterator[Problem]:
    """What a task wants to know of its base, a fresh model has not got."""
    if job.finetune is None or job.finetune.model is None:
        return
    from raymodel.tasks import make_task

    if make_task(job.finetune.task).base_readings:
        yield Problem(
            ("finetune", "model"),
            f"{job.finetune.task.name} asks its base how probable it finds the examples, and a "
            "fresh model has none; give `base`, or set task.reference: none",
        )


def check_objective(job: Job) -> Iterator[Problem]:
    """What is pretrained can be learnt from packed text, with the tokenizer that reads it."""
    if job.pretrain is None:
        return
    from raymodel.tasks import TASKS, get_task

    name = job.pretrain.objective.name
    if not get_task(name).learns_from_text:
        able = ", ".join(each for each, task in TASKS.items() if task.learns_from_text)
        yield Problem(
            ("pretrain", "objective"),
            f"{name} needs labelled examples, which `finetune` has; pretraining reads plain text: "
            f"take {able}",
        )
    if job.prepare is None or job.pretrain.data is not None:
        return
    tokenizer = job.prepare.tokenizer
    if tokenizer.load is not None:
        return  # what it has, preflight.py sees
    for lack in lacking_in_pretraining(job, _trained(tokenizer), job.prepare.sequence_length):
        yield Problem(("prepare", "tokenizer"), f"{lack.text}; add {lack.fix}")


def check_places(job: Job) -> Iterator[Problem]:
    """Each place that the job names is written as one: a path, or a URI of a known scheme."""
    for path, place in _places(job):
        try:
            check_no_url_of_hub(place)
            if not place.startswith("python:"):
                Location.parse(place)
        except UserError as error:
            yield Problem(path, str(error))


def _places(job: Job) -> Iterator[tuple[Path, str]]:
    yield ("storage",), job.storage
    for stage in ("prepare", "finetune"):
        spec: PrepareSpec | FinetuneSpec | None = getattr(job, stage)
        for i, source in enumerate(spec.sources if spec else ()):
            yield (stage, "sources", i, "path"), source.path
    for file in job.finetune.task.files if job.finetune else ():
        yield ("finetune", "task"), file
    if job.prepare and job.prepare.tokenizer.load:
        yield ("prepare", "tokenizer", "load"), job.prepare.tokenizer.load
    for i, dataset in enumerate(job.pretrain.datasets if job.pretrain else ()):
        is_alone = job.pretrain is not None and isinstance(job.pretrain.data, str)
        yield ("pretrain", "data", *(() if is_alone else (i, "path"))), dataset.path
    if job.finetune and job.finetune.base:
        yield ("finetune", "base"), job.finetune.base
    if job.finetune and job.finetune.tokenizer and job.finetune.tokenizer.load:
        yield ("finetune", "tokenizer", "load"), job.finetune.tokenizer.load
    if job.serve and job.serve.model:
        yield ("serve", "model"), job.serve.model


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
    if job.pretrain is not None:
        yield "pretrain", job.pretrain.model
    if job.finetune is not None and job.finetune.model is not None:
        yield "finetune", job.finetune.model


def _too_small_for_data(job: Job, fields: Mapping[str, Any], here: Path) -> Iterator[Problem]:
    if job.prepare is None or (job.pretrain and job.pretrain.data is not None):
        return
    needed = {
        "vocab_size": (job.prepare.tokenizer.vocab_size, "prepare.tokenizer.vocab_size"),
        "max_position_embeddings": (job.prepare.sequence_length, "prepare.sequence_length"),
    }
    for name, (size, origin) in needed.items():
        if size is not None and fields.get(name, size) < size:
            yield Problem(
                (*here, name),
                f"{fields[name]} is less than {origin}, {size}; leave it out, or give at least "
                "that",
            )


def check_holdouts(job: Job) -> Iterator[Problem]:
    """What is trained has rows to train on, and some to validate it on."""
    if job.prepare is not None:
        trains = job.pretrain is not None and job.pretrain.data is None
        yield from _wrong_holdout("prepare", job.prepare.holdout, trains=trains)
    if job.finetune is not None:
        yield from _wrong_holdout("finetune", job.finetune.holdout, trains=True)


def _wrong_holdout(stage: str, holdout: float, *, trains: bool) -> Iterator[Problem]:
    if holdout >= 1:
        yield Problem((stage, "holdout"), "100% of the documents leave none to train on; lower it")
    elif trains and holdout <= 0:
        yield Problem(
            (stage, "holdout"),
            "0 leaves no documents to validate the training on, and none to evaluate; give a "
            "share, such as 1%",
        )


def check_lengths(job: Job) -> Iterator[Problem]:
    """Examples are no longer than the rows that the job's own base was pretrained on."""
    if job.finetune is None or not job.finetune.starts_from_pretrain or job.prepare is None:
        return
    try:
        job.finetune.max_length_for(job.prepare.sequence_length)
    except SpecError:
        yield Problem(
            ("finetune", "max_length"),
            f"{job.finetune.max_length} tokens is more than prepare.sequence_length, "
            f"{job.prepare.sequence_length}: the base never saw so many; lower it, or prepare "
            "longer rows",
        )


def check_parallel(job: Job) -> Iterator[Problem]:
    """The model to pretrain, and to fine-tune after that, can be spread as the job says.

    What a base folder holds, `preflight.py` sees.
    """
    if job.pretrain is None:
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
    if job.pretrain is None:
        return
    architecture, fields = resolve_model(job.pretrain.model)
    if architecture == OWN and job.prepare is not None and job.prepare.tokenizer.vocab_size:
        fields["vocab_size"] = job.prepare.tokenizer.vocab_size
    model = Question(task=job.pretrain.objective.name, architecture=architecture, fields=fields)
    questions = [model]
    if job.finetune is not None and job.finetune.starts_from_pretrain:
        adapters = adapters_of(job.finetune)
        questions.append(replace(model, task=job.finetune.task.name, adapters=adapters))
    answers = examine(questions)
    seen = [problem for answer in answers for problem in answer.problems]
    yield from _told(seen, "pretrain")
    if not seen:
        yield from _layout_problems(job, architecture, answers[0].config)


def check_own(job: Job) -> Iterator[Problem]:
    """The user's own cleaning steps can be called, and the text of a module of his is there."""
    from raymodel.tasks.own import own_step

    for stage in ("prepare", "finetune"):
        spec: PrepareSpec | FinetuneSpec | None = getattr(job, stage)
        for i, step in enumerate(spec.clean.steps if spec else ()):
            try:
                own_step(step)
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
    length = job.prepare.sequence_length if job.prepare else None
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


def check_measures(job: Job) -> Iterator[Problem]:
    """The task of the job knows every measure, and every gate is on one that is taken."""
    if job.evaluate is None:
        return
    from raymodel.tasks import get_task

    task = get_task(job.task)
    known = task.measures
    of_examples = [name for name, measure in known.items() if measure.needs != "loss"]
    taken = job.evaluate.metrics
    for i, name in enumerate(taken):
        if is_own(name):
            yield from _own_measure_problems(job, i, name)
        elif name not in known:
            close = nearest(name, known)
            hint = f"; did you mean {close!r}?" if close else ""
            rule = (
                f"{show(name)} is not a measure of {job.task}, which has {', '.join(known)}{hint}"
            )
            yield Problem(("evaluate", "metrics", i), rule)
        elif name in of_examples and job.finetune is None:
            others = ", ".join(each for each in known if each not in of_examples)
            rule = f"{name!r} compares answers with those of examples, which only `finetune` has"
            yield Problem(("evaluate", "metrics", i), f"{rule}; of plain text take {others}")
    by_answers = {*of_examples, *filter(is_own, taken)}
    of_text = [name for name in taken if name not in by_answers and _measures_text(job)]
    gated = (*taken, *(TEXT_PREFIX + name for name in of_text))
    for gate in job.evaluate.gates:
        if gate not in gated:
            close = nearest(gate, gated)
            rule = f"the gate is on {show(gate)}, which is not measured; "
            fix = f"did you mean {close!r}?" if close else f"add {show(gate)} to evaluate.metrics"
            yield Problem(("evaluate", "gates", gate), rule + fix)


def _own_measure_problems(job: Job, index: int, name: str) -> Iterator[Problem]:
    from raymodel.tasks.own import own_measure

    here: Path = ("evaluate", "metrics", index)
    if job.finetune is None:
        yield Problem(
            here, f"{show(name)} compares answers with those of examples, which only `finetune` has"
        )
    try:
        own_measure(name)
    except (SpecError, ValueError) as error:
        yield Problem(here, str(error))


def check_beams(job: Job) -> Iterator[Problem]:
    """Several beams are asked for only where an answer is searched with them."""
    if job.pretrain is None and job.finetune is None:
        return  # what the model is for, is seen when it is opened
    from raymodel.tasks import get_task

    if get_task(job.task).answers == "text":
        return
    asked = {"evaluate": job.evaluate.beams if job.evaluate else 1}
    if job.serve and job.serve.model is None:
        asked["serve"] = job.serve.beams
    for stage, beams in asked.items():
        if beams > 1:
            rule = f"{job.task} has no answers that are searched with beams, as seq2seq_lm has"
            yield Problem((stage, "beams"), f"{rule}; leave it out")


def _measures_text(job: Job) -> bool:
    """Whether plain text is measured beside the examples: rows of the job's own pretraining."""
    pretrain, finetune = job.pretrain, job.finetune
    if pretrain is None or finetune is None or not finetune.starts_from_pretrain:
        return False
    return finetune.task.name == pretrain.objective.name


CHECKS: tuple[Callable[[Job], Iterator[Problem]], ...] = (
    check_sources,
    check_processor,
    check_own_tokenizer,
    check_step,
    check_reference,
    check_objective,
    check_places,
    check_model,
    check_own,
    check_holdouts,
    check_lengths,
    check_parallel,
    check_sweep,
    check_measures,
    check_beams,
)
