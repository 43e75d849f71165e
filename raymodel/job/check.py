"""Checks of a job that no single section can make: they ask the tasks, the presets, transformers.

Nothing here loads torch, ray, transformers or pyarrow, and nothing touches the job's data or a
cluster, but that the Hugging Face Hub is asked for what is read there (`check_places.py`): what
`raymodel check` accepts can still meet a missing file (`preflight.py` looks, when the job runs) or
too small a cluster. What only transformers knows of a model a process of its own is asked, once for
each change of the model, and only where all else is right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from raymodel.compress.rules import why_not_quantised
from raymodel.data.cleaning.spec import steps_for
from raymodel.data.cleaning.spec.base import Sees
from raymodel.data.dedup.texts import find_wrong_dedup, has_texts
from raymodel.data.spec import PrepareSpec, TokenizerSpec
from raymodel.errors import SpecError
from raymodel.job.check_filters import check_filters
from raymodel.job.check_measures import check_beams, check_measures
from raymodel.job.check_models import check_built, check_model, check_own, check_parallel
from raymodel.job.check_monitor import check_monitor
from raymodel.job.check_places import check_hub, check_places
from raymodel.job.preflight import find_other_modality
from raymodel.job.spec import Job
from raymodel.job.special_tokens import lacking_in_pretraining, lacking_tokens
from raymodel.serve.draft_rules import why_no_draft
from raymodel.spec.document import Path
from raymodel.spec.fields import nearest
from raymodel.spec.load import LoadedJob
from raymodel.spec.problems import Problem, spec_error
from raymodel.tasks.fields import (
    PLAIN,
    PLAIN_TEXT,
    TEXT_KINDS,
    Fields,
    find_wrong_roles,
    find_wrong_sources,
)
from raymodel.train.distill.rules import why_no_teacher
from raymodel.train.plan import find_step_conflict, plan_batch
from raymodel.train.spec import FinetuneSpec
from raymodel.tune.check import check_sweep

_SEEN: dict[Sees, str] = {"text": "texts", "image": "images", "audio": "sounds"}


def check_job(loaded: LoadedJob) -> None:
    """Raises SpecError, one line a problem, when the stages of a job do not fit together."""
    for checks in (CHECKS, (check_built,)):
        problems = [problem for check in checks for problem in check(loaded.job)]
        if problems:
            raise spec_error(problems, loaded.positions)


def check_sources(job: Job) -> Iterator[Problem]:
    """The sources hold what is learnt from: a text, or what the task of fine-tuning needs; and a
    text where one is to be cleaned."""
    from raymodel.tasks import get_task

    stages: list[tuple[str, PrepareSpec | FinetuneSpec, Fields, str]] = []
    if job.prepare:
        stages.append(("prepare", job.prepare, PLAIN[job.prepare.modality], "prepare"))
    if job.finetune:
        name = job.finetune.task.name
        stages.append(("finetune", job.finetune, get_task(name).fields, name))
    for stage, spec, fields, reader in stages:
        yield from _compared(stage, spec, fields)
        for i, source in enumerate(spec.sources):
            for role, why in find_wrong_roles(source, fields, reader):
                named = ("fields", role) if role in source.fields else ()
                yield Problem((stage, "sources", i, *named), why)
        for i, why in find_wrong_sources(spec.sources, fields, reader):
            yield Problem((stage, "sources", i), why)
        yield from _cleaned(stage, spec, fields, reader)


def _cleaned(
    stage: str, spec: PrepareSpec | FinetuneSpec, fields: Fields, reader: str
) -> Iterator[Problem]:
    """What cleaning steps look at, the records have."""
    has: dict[Sees, bool] = {
        "text": any(field.kind in TEXT_KINDS for field in fields.values()),
        "image": any(field.kind == "image" for field in fields.values()),
        "audio": any(field.kind == "audio" for field in fields.values()),
    }
    fitting = [name for sees, is_there in has.items() if is_there for name in steps_for(sees)]
    for i, step in enumerate(spec.clean.steps):
        if has[step.sees]:
            continue
        fix = f"steps that look at these are {', '.join(fitting)}" if fitting else "leave it out"
        yield Problem(
            (stage, "clean", "steps", i),
            f"{step.name} looks at {_SEEN[step.sees]}, and {reader} reads {', '.join(fields)}, "
            f"none of which is one; {fix}",
        )


def _compared(stage: str, spec: PrepareSpec | FinetuneSpec, fields: Fields) -> Iterator[Problem]:
    """What documents are compared by, they have; and so have the evaluation sets."""
    if why := find_wrong_dedup(spec.clean.dedup, fields):
        yield Problem((stage, "clean", "dedup"), why)
    if spec.clean.repeated and (stage != "prepare" or not has_texts(fields)):
        yield Problem(
            (stage, "clean", "repeated"),
            "what is repeated is taken out of texts that are pretrained on, since labels, answers "
            "and their places would no longer fit; leave it out",
        )
    if spec.clean.decontaminate is None:
        return
    path: Path = (stage, "clean", "decontaminate")
    if not has_texts(fields):
        yield Problem(path, "evaluation sets are texts, and the documents have none; leave it out")
    for name, source in spec.clean.decontaminate.sets.items():
        for role, why in find_wrong_roles(source, PLAIN_TEXT, "an evaluation set"):
            named = ("fields", role) if role in source.fields else ()
            yield Problem((*path, "sets", name, *named), why)


def check_processor(job: Job) -> Iterator[Problem]:
    """A fresh model that is fine-tuned has something to read its examples with."""
    if job.finetune is None or job.finetune.model is None or job.finetune.distill is not None:
        return  # a student reads with its teacher's
    from raymodel.tasks import make_task

    task, tokenizer = make_task(job.finetune.task), job.finetune.tokenizer
    if tokenizer is not None and task.modality != "text":
        yield Problem(("finetune", "tokenizer"), f"{task.name} reads no text; leave it out")
    elif tokenizer is not None and tokenizer.load is None:
        for lack in lacking_tokens([(job.finetune.task, None)], _trained(tokenizer)):
            yield Problem(("finetune", "tokenizer"), f"{lack.text}; add {lack.fix}")
        if unread := job.finetune.task.lack_with_own_tokenizer:
            yield Problem(("finetune", "task"), unread)
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
        "mask": int(spec.has_mask),
        "sentinels": spec.sentinels,
        "separator": int(spec.has_separator),
    }


def check_own_tokenizer(job: Job) -> Iterator[Problem]:
    """What is fine-tuned after the job's own pretraining can be read with its own tokenizer."""
    tuned, tokenizer = job.finetune, job.prepare.tokenizer if job.prepare else None
    if tuned is None or not tuned.starts_from_pretrain or tokenizer is None:
        return
    if tokenizer.load is None and (lack := tuned.task.lack_with_own_tokenizer):
        yield Problem(("finetune", "task"), lack)


def check_mixture(job: Job) -> Iterator[Problem]:
    """A mixture names sources that the job has; those of datasets that are there are known then."""
    for stage, spec in (("pretrain", job.pretrain), ("finetune", job.finetune)):
        if spec is None or spec.mixture is None or spec.dataset_names:
            continue
        sources = job.finetune.sources if spec is job.finetune and job.finetune else ()
        if spec is job.pretrain and job.prepare is not None:
            sources = job.prepare.sources
        known = list(dict.fromkeys(source.path for source in sources))
        for path, name in spec.mixture.names:
            if name not in known:
                close = nearest(name, known)
                hint = f"; did you mean {close!r}?" if close else ""
                yield Problem(
                    (stage, "mixture", *path),
                    f"{name!r} is the `path` of no source; there are "
                    f"{', '.join(map(repr, known))}{hint}",
                )


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


def check_examples(job: Job) -> Iterator[Problem]:
    """The task is told what it needs to make examples."""
    if job.finetune is not None and (lack := job.finetune.task.lack_for_examples):
        yield Problem(("finetune", "task"), lack)


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


def check_distill(job: Job) -> Iterator[Problem]:
    """What is to learn from a teacher says logits that it can be held to."""
    from raymodel.tasks import get_task

    for stage, spec, task in (
        ("pretrain", job.pretrain, job.pretrain and job.pretrain.objective.name),
        ("finetune", job.finetune, job.finetune and job.finetune.task.name),
    ):
        if spec is not None and spec.distill is not None:
            reason = why_no_teacher(get_task(str(task)))
            if reason is not None:
                yield Problem((stage, "distill"), reason)


def check_objective(job: Job) -> Iterator[Problem]:
    """What is pretrained can be learnt from the rows that are prepared, and with the tokenizer that
    reads them."""
    if job.pretrain is None:
        return
    from raymodel.tasks import TASKS, get_task

    name = job.pretrain.objective.name
    task = get_task(name)
    if not task.can_pretrain:
        able = ", ".join(each for each, task in TASKS.items() if task.can_pretrain)
        yield Problem(
            ("pretrain", "objective"),
            f"{name} needs labelled examples, which `finetune` has; pretraining reads plain text, "
            f"or plain images: take {able}",
        )
    if job.prepare is None or job.pretrain.data is not None:
        return
    text = job.prepare.text
    if task.can_pretrain and (other := find_other_modality(task, job.prepare.modality)):
        yield Problem(("pretrain", "objective"), other)
    elif text is not None and text.tokenizer.load is None:  # what else one has, preflight.py sees
        for lack in lacking_in_pretraining(job, _trained(text.tokenizer), text.length):
            yield Problem(("prepare", "tokenizer"), f"{lack.text}; add {lack.fix}")


def check_quantised(job: Job) -> Iterator[Problem]:
    """Not all tasks have models of fewer bits; of another run's model its stage says so."""
    if job.compress is None or job.compress.quantize is None or job.compress.model is not None:
        return
    from raymodel.tasks import get_task

    reason = why_not_quantised(get_task(job.task), job.compress.quantize, job.compress.format)
    if reason is not None:
        yield Problem(("compress", "quantize"), reason)


def check_draft(job: Job) -> Iterator[Problem]:
    """A model that the job makes and serves with a draft writes text."""
    if job.serve is None or job.serve.draft is None or job.serve.model:
        return
    if (why := why_no_draft(job.task)) is not None:
        yield Problem(("serve", "draft"), f"the model that is served is for {job.task}, {why}")


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
    text = job.prepare.text if job.prepare else None
    if job.finetune is None or not job.finetune.starts_from_pretrain or text is None:
        return
    try:
        job.finetune.max_length_for(text.length)
    except SpecError:
        yield Problem(
            ("finetune", "max_length"),
            f"{job.finetune.max_length} tokens is more than prepare.sequence_length, "
            f"{text.length}: the base never saw so many; lower it, or prepare "
            "longer rows",
        )


CHECKS: tuple[Callable[[Job], Iterator[Problem]], ...] = (
    check_sources,
    check_processor,
    check_own_tokenizer,
    check_mixture,
    check_step,
    check_reference,
    check_distill,
    check_examples,
    check_objective,
    check_places,
    check_hub,
    check_model,
    check_own,
    check_filters,
    check_holdouts,
    check_quantised,
    check_draft,
    check_lengths,
    check_parallel,
    check_sweep,
    check_measures,
    check_beams,
    check_monitor,
)
