"""A training stage without Ray, under plain `torchrun`:

```
python -m torch.distributed.run --nproc-per-node 2 -m raymodel.torchrun JOB STAGE
```

The inputs of the stage must be complete; they are looked at as `raymodel run` looks at them. It
writes where that does, so that each goes on from the other's checkpoints and skips what the other
completed. The first worker tells the story.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from raymodel.data.mixture import Mixture, mixture_of
from raymodel.errors import ArtifactError, RaymodelError, SpecError
from raymodel.job.check import check_job
from raymodel.job.pins import pin_job
from raymodel.job.preflight import check_inputs
from raymodel.job.spec import Job
from raymodel.job.stages import Stage, Stages
from raymodel.observe.ending import run_command
from raymodel.observe.goodput import activity_rows, loss_rows
from raymodel.observe.story import Story
from raymodel.observe.trackers import build_tracker
from raymodel.observe.watch import watch_training
from raymodel.spec.load import LoadedJob, load_job
from raymodel.storage.artifact import Artifact, find_artifact
from raymodel.storage.execution import Execution
from raymodel.storage.manifest import commit_manifest
from raymodel.storage.registry import STAGES, Run, lock_run
from raymodel.storage.uri import Location, check_writable
from raymodel.tasks.spec import AnyTaskSpec
from raymodel.train.base import BaseModel
from raymodel.train.session import TorchrunSession
from raymodel.train.spec import TrainSpec
from raymodel.train.work import (
    TrainWork,
    open_plan,
    plan_dataset,
    read_ledger,
    summary,
    tell_mixture,
    told_of_base,
    told_of_task,
    told_of_teacher,
    work_for,
)
from raymodel.train.worker import run_worker

_PATIENCE_S = 30.0  # far more than torchrun takes to end the workers beside one that ended


def main(argv: Sequence[str] | None = None) -> int:
    """One worker. Returns the exit code, as `raymodel` does."""
    parser = argparse.ArgumentParser(prog="raymodel.torchrun")
    parser.add_argument("job", metavar="JOB")
    parser.add_argument("stage", metavar="STAGE", choices=("pretrain", "finetune"))
    parser.add_argument("--set", dest="overrides", action="append", default=[])
    arguments = parser.parse_args(argv)

    def call() -> int:
        with _told_once():
            loaded = load_job(arguments.job, arguments.overrides)
            # With the commits that its run keeps, which has made the inputs.
            job = pin_job(loaded.job, _run_of(loaded.job)).job
            plan = _plan(job, arguments.stage)
            if _is_first_here():
                _look(replace(loaded, job=job), arguments.stage)
        train_stage(job, arguments.stage, plan)
        return 0

    return run_command(call)


def train_stage(job: Job, name: str, plan: _Plan) -> None:
    """Trains a stage of a job to the end, unless that is done, and completes its artifact.

    Raises:
        UserError: what trying again cannot mend.
    """
    run, mark = _run_of(job), plan.stage.fingerprint(job.seed)
    execution = Execution(
        job_name=job.name,
        stage=name,
        fingerprint=mark,
        location=run.execution(name, mark),
        seed=job.seed,
        cluster=job.cluster,
        inputs=plan.stage.inputs,
        trackers=job.trackers,
    )
    if find_artifact(execution.location) is None:
        _make(run, execution, plan)
    elif _is_first():
        Story().stage(name, f"complete, skipped ({mark})")


@dataclass(frozen=True)
class _Plan:
    stage: Stage
    spec: TrainSpec
    task: AnyTaskSpec
    dataset: Mixture
    base: Location | None = None
    teacher: BaseModel | None = None


def _plan(job: Job, name: str) -> _Plan:
    """
    Raises:
        SpecError: the job has no such stage, or its data does not do for it.
        ArtifactError: an input is not complete.
    """
    make = _plan_pretrain if name == "pretrain" else _plan_finetune
    plan = make(job, _run_of(job))
    plan_dataset(plan.spec, plan.dataset)
    return plan


def _plan_pretrain(job: Job, run: Run) -> _Plan:
    if (spec := job.pretrain) is None:
        raise SpecError(f"job {job.name!r} has no pretrain section; write one")
    stages = Stages(job, Path.cwd())
    prepared = None if spec.data else _complete(run.latest("prepare"), "prepare")
    data = stages.data(prepared)
    base, teacher = stages.pretrain_base(), stages.teacher(spec)
    stage = stages.pretrain(data, base, teacher)
    place = base.location if base else None
    return _Plan(stage, spec, spec.objective, data, place, teacher)


def _plan_finetune(job: Job, run: Run) -> _Plan:
    spec = job.finetune
    if spec is None or spec.sweep is not None:
        raise SpecError(
            f"job {job.name!r} has no finetune section without a sweep; write one, or use "
            "`raymodel run`, since a sweep needs Ray"
        )
    stages = Stages(job, Path.cwd())
    needs = spec.starts_from_pretrain
    pretrained = _complete(run.latest("pretrain"), "pretrain") if needs else None
    base = stages.base(pretrained)
    examples = _complete(run.latest("examples"), "the examples of finetune")
    teacher = stages.teacher(spec)
    stage = stages.finetune(base, examples, teacher)
    place = base.location if base else None
    return _Plan(stage, spec, spec.task, mixture_of(examples), place, teacher)


def _complete(artifact: Artifact | None, what: str) -> Artifact:
    if artifact is None:
        raise ArtifactError(f"{what} is not complete; it must be, so run the job that makes it")
    return artifact


def _look(loaded: LoadedJob, name: str) -> None:
    """Refuses what `raymodel run` refuses of this stage before its first one."""
    check_job(loaded)
    job = loaded.job
    check_inputs(_alone(job, name), Path.cwd(), Story().say if _is_first() else lambda note: None)
    check_writable(Location.parse(job.storage))


def _alone(job: Job, name: str) -> Job:
    """The job as this stage, which names what other stages made; raw data may be elsewhere."""
    changes: dict[str, Any] = {each: None for each in STAGES if each in type(job).model_fields}
    if name == "pretrain":
        assert job.pretrain is not None, "it was planned"
        data = job.pretrain.data or f"{job.name}/prepare"
        changes[name] = job.pretrain.model_copy(update={"data": data})
    else:
        assert job.finetune is not None, "it was planned"
        own = f"{job.name}/pretrain" if job.finetune.starts_from_pretrain else job.finetune.base
        known = {"sources": (), "tokenizer": None, "base": own}
        changes[name] = job.finetune.model_copy(update=known)
    return job.model_copy(update=changes)


@contextmanager
def _told_once() -> Iterator[None]:
    """What every worker finds, the first of each machine tells: torchrun ends the others then."""
    try:
        yield
    except RaymodelError:
        if not _is_first_here():
            time.sleep(_PATIENCE_S)  # where it found something else, each tells its own
        raise


def _make(run: Run, execution: Execution, plan: _Plan) -> None:
    location = execution.location
    work = work_for(
        plan.spec,
        execution,
        task=plan.task,
        dataset=plan.dataset,
        base=plan.base,
        teacher=plan.teacher,
    )
    if not _is_first():
        run_worker(work, TorchrunSession())
        return
    with lock_run(run):
        card = _train(work, execution)
        (location / "spec.yaml").write_text(yaml.safe_dump(plan.stage.identity, sort_keys=False))
        commit_manifest(
            location,
            job_name=execution.job_name,
            stage=execution.stage,
            fingerprint=execution.fingerprint,
            parents={role: artifact.fingerprint for role, artifact in plan.stage.inputs.items()},
            content={
                **told_of_task(plan.task),
                **told_of_base(work),
                **told_of_teacher(work),
                **card,
                **summary(location, plan.spec),
            },
            packages=[package for package in plan.stage.packages if package != "ray"],
        )
        run.set_latest(execution.stage, execution.fingerprint)


def _train(work: TrainWork, execution: Execution) -> dict[str, str]:
    """The first worker's share, and the story of all; what its manifest says of the mixture."""
    story = Story()
    story.stage(execution.stage, str(execution.location))
    plan = open_plan(work, story.warn)
    card = tell_mixture(work, plan, story.table)
    run_name = f"{work.job_name}/{work.stage}"
    trackers = [build_tracker(name, work.run, run_name) for name in execution.trackers]
    with watch_training(execution.location, story, plan.total_steps, trackers):
        run_worker(work, TorchrunSession())
    books = read_ledger(execution.location).books()
    story.table(activity_rows(books))
    story.table(loss_rows(books))
    return card


def _run_of(job: Job) -> Run:
    return Run(Location.parse(job.storage) / job.name)


def _is_first() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _is_first_here() -> bool:
    """Of its machine, of which each has folders of its own."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


if __name__ == "__main__":
    sys.exit(main())
