"""What `preflight.py` looks at where a model is to learn from a teacher."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from raymodel.data.mixture import resolve_mixture
from raymodel.data.sources import find_tokenizer
from raymodel.errors import ArtifactError
from raymodel.job.spec import Job
from raymodel.model.examine import Answer
from raymodel.model.positions import find_max_tokens
from raymodel.model.purpose import find_task
from raymodel.storage.uri import Location
from raymodel.tasks import get_task
from raymodel.tasks.spec import AnyTask
from raymodel.train.base import BaseModel, classes_of, resolve_base
from raymodel.train.distill.rules import why_other_task
from raymodel.train.forecast.support import Trained, find_unsupported


def check_same_task(teacher: BaseModel, task: AnyTask, named: str) -> None:
    """Raises ArtifactError for a teacher that was made for another task than its student's."""
    other = why_other_task(find_task(teacher.artifact or teacher.location), task.name)
    if other is not None:
        raise ArtifactError(f"distill.teacher, {named!r}, is {other}")


def named_reader(job: Job, stage: str) -> str | None:
    """What of the job says with what a student reads; None where its teacher does, or where that is
    not known before there is data."""
    if stage == "finetune":
        return job.finetune.base if job.finetune else None
    datasets = job.pretrain.datasets if job.pretrain else ()
    if datasets:
        return datasets[0].path
    return job.prepare.tokenizer.load if job.prepare and job.prepare.tokenizer else None


def find_reader(job: Job, stage: str, storage: Location, base_dir: Path) -> Location:
    """Where the processor of that lies. Errors are those of what is named."""
    named = named_reader(job, stage)
    assert named is not None, "the caller looked"
    if stage == "finetune":
        return resolve_base(named, storage, base_dir).location
    datasets = job.pretrain.datasets if job.pretrain else ()
    if not datasets:
        return find_tokenizer(named, base_dir)
    artifact = resolve_mixture(datasets, storage, base_dir)[0].artifact
    return artifact.location / str(artifact.content["processor"]["folder"])


def find_wrong_teacher(job: Job, stage: str, answer: Answer, base: Answer | None) -> Iterator[str]:
    """Why a teacher cannot teach: fewer tokens than rows have, other classes than the job names, or
    documents of a row that it cannot keep apart. The classes of data are seen when there is data.

    Args:
        answer: about its folder.
        base: about what fine-tuning starts from.
    """
    if not answer.config:
        return  # nobody here could tell
    if stage == "finetune":
        yield from _wrong_for_examples(job, answer, base)
    else:
        yield from _wrong_for_rows(job, answer)


def _wrong_for_examples(job: Job, answer: Answer, base: Answer | None) -> Iterator[str]:
    spec, most = job.finetune, find_max_tokens(answer.config)
    assert spec is not None, "the caller looked"
    named, told = list(spec.task.named_classes), classes_of(answer.config)
    if named and told != named:
        yield (
            f"it tells the classes {', '.join(told)} apart, and the task has {', '.join(named)}; "
            "take a teacher that was trained on these"
        )
    if base is None or most is None or get_task(spec.task.name).modality != "text":
        return
    length = spec.max_length_for(find_max_tokens(base.config))
    if length > most:
        yield (
            f"it takes {most} tokens, and examples have up to {length}; lower finetune.max_length, "
            "or take a teacher that takes as many"
        )


def _wrong_for_rows(job: Job, answer: Answer) -> Iterator[str]:
    spec, most = job.pretrain, find_max_tokens(answer.config)
    assert spec is not None, "the caller looked"
    text = job.prepare.text if job.prepare and not spec.datasets else None
    if text is not None and most is not None and text.length > most:
        yield (
            f"it takes {most} tokens, and prepare.sequence_length is {text.length}; lower that, or "
            "take a teacher that takes as many"
        )
    kind, architecture = get_task(spec.objective.name), str(answer.config.get("model_type"))
    model = Trained(architecture, answer.config, kind.cuts_rows, None, kind.apart_architectures)
    for field, reason in find_unsupported(spec, model):
        if field.startswith("objective"):
            yield f"{field}: {reason}"
