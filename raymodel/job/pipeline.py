"""One stage of a run after the other: skipped where it is complete, else made or resumed."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from raymodel.cluster.connect import Connection, connect
from raymodel.cluster.spec import ClusterSpec
from raymodel.job.spec import Job
from raymodel.job.stages import Stage, Stages
from raymodel.observe.quiet import quiet_logs
from raymodel.observe.story import Story
from raymodel.observe.text import amount_text, cell_text, duration_text, listed, wrapped
from raymodel.storage.artifact import Artifact, find_artifact
from raymodel.storage.execution import ATTEMPTS_FILE, Execution
from raymodel.storage.manifest import commit_manifest
from raymodel.storage.registry import Run, artifact_text, run_of
from raymodel.storage.uri import Location
from raymodel.tasks import make_task

Work = Callable[[Execution], dict[str, Any]]
"""Does the work of a stage and returns the manifest's content."""


@dataclass
class Pipeline:
    """One run of a job."""

    job: Job
    run: Run
    story: Story
    stack: ExitStack
    address: str | None
    base_dir: Path
    connection: Connection | None = None
    rows: list[dict[str, object]] = field(default_factory=list)
    """The closing table."""
    measures: dict[str, list[str]] = field(default_factory=dict)
    """Stage → each of its measures in words, below the table."""
    cards: list[str] = field(default_factory=list)
    """A line for each dataset: where the page lies that tells of it."""
    told: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What each stage says of itself, by its name."""

    @property
    def stages(self) -> Stages:
        return Stages(self.job, self.base_dir)

    def execute(self, stage: Stage, work: Work) -> Artifact:
        """Gives the stage's artifact: the complete one, or the one made now."""
        mark = stage.fingerprint(self.job.seed)
        started = time.monotonic()
        artifact = stage.find(self.run, mark)
        if artifact is not None:
            self.story.stage(stage.name, f"complete, skipped ({artifact_text(artifact, self.run)})")
        else:
            artifact = self._make(stage, work, mark, self.run.execution(stage.name, mark))
        self.run.set_latest(stage.name, mark, run_of(artifact.location))
        self._book(stage.name, artifact, time.monotonic() - started)
        return artifact

    def _make(self, stage: Stage, work: Work, mark: str, location: Location) -> Artifact:
        self.connect()
        attempt = _count_attempt(location)
        again = f", start {attempt}" if attempt > 1 else ""
        self.story.stage(stage.name, f"{location}{again}")
        (location / "spec.yaml").write_text(yaml.safe_dump(stage.identity, sort_keys=False))
        execution = Execution(
            job_name=self.job.name,
            stage=stage.name,
            fingerprint=mark,
            location=location,
            seed=self.job.seed,
            cluster=self.job.cluster,
            inputs=stage.inputs,
            trackers=self.job.trackers,
            attempt=attempt,
        )
        from raymodel.train.fault.places import (
            await_places,  # imports ray, so not before its token is set
        )

        self._make_room(stage.name)
        # A cluster that scales from zero may have no node at all yet.
        await_places(ClusterSpec(), self.story, "a free CPU", location)
        content = work(execution)
        commit_manifest(
            location,
            job_name=self.job.name,
            stage=stage.name,
            fingerprint=mark,
            parents={role: artifact.fingerprint for role, artifact in stage.inputs.items()},
            content=content,
            packages=stage.packages,
        )
        artifact = find_artifact(location)
        assert artifact is not None, "the manifest was just written"
        return artifact

    def _make_room(self, stage: str) -> None:
        """Takes this job's own app down where it holds the places that a stage needs."""
        if self.connect().started_here:
            return  # it serves nothing yet

        from raymodel.cluster.places import find_lack, holds_the_places

        needed = _places(self.job, stage)
        if not holds_the_places(self.job.name, needed):
            return
        from raymodel.serve.run import replace_app

        self.story.say(f"          the app of {self.job.name} makes room: {find_lack(needed)}")
        replace_app(self.job.name)

    def connect(self) -> Connection:
        """Connects to Ray when the first stage needs it: a finished job needs none."""
        if self.connection is None:
            sweep = self.job.finetune.sweep if self.job.finetune else None
            trials = sweep.concurrent * sweep.workers_per_trial if sweep else 0
            is_there = self.address or os.environ.get("RAY_ADDRESS")
            with self.story.waiting("the cluster" if is_there else "Ray to start"):
                self.connection = self.stack.enter_context(
                    connect(self.address, self.job.cluster, concurrent_trials=trials)
                )
            from raymodel.cluster.places import check_resources  # imports ray: not before its token

            check_resources(self.job.cluster)
            quiet_logs(log_file_of(self.job))
        return self.connection

    def _book(self, stage: str, artifact: Artifact, seconds: float) -> None:
        content = self.told[stage] = artifact.content
        is_trained = "loss" in content
        losses = [cell_text(content.get(name)) for name in ("first_loss", "loss")]
        self.rows.append(
            {
                "stage": stage,
                "time": duration_text(seconds),
                "tokens": amount_text(content["tokens"], content) if "tokens" in content else "",
                "tokens/s": amount_text(content["tokens_per_s"], content) if is_trained else "",
                "loss": " → ".join(losses) if is_trained else "",
                "fingerprint": artifact.fingerprint,
            }
        )
        measured = content.get("metrics") or {}
        if measured:
            self.measures[stage] = [f"{name} {cell_text(each)}" for name, each in measured.items()]
        if "card" in content:
            self.cards.append(f"{stage:<9} data card: {artifact.location / content['card']}")
        if "costs" in content:
            from raymodel.evaluate.cost_text import cost_words  # imports numpy

            self.measures.setdefault(stage, []).extend(cost_words(content["costs"]))

    def close(self, seconds: float) -> None:
        """Tells what each stage took and gave, and where the run lies."""
        self.story.say("")
        self.story.table(self.rows)
        for stage, measures in self.measures.items():
            self.story.say(listed(measures, f"{stage:<9} "))
        for card in self.cards:
            self.story.say(card)
        took = f"{self.job.name}: {duration_text(seconds)}, in {self.run.location}"
        self.story.say("\n" + wrapped(took, indent="  "))


def _places(job: Job, stage: str) -> ClusterSpec:
    """What a stage cannot begin without."""
    if stage in ("prepare", "examples") and not _asks_base(job, stage):
        return ClusterSpec()  # a free CPU
    workers = job.cluster.min_workers if stage in ("pretrain", "finetune") else 1
    sweep = job.finetune.sweep if job.finetune and stage == "finetune" else None
    if sweep:
        workers = sweep.workers_per_trial
    return ClusterSpec(**job.cluster.to_dict() | {"workers": workers})


def _asks_base(job: Job, stage: str) -> bool:
    """Whether the base reads the examples, which takes the place of a worker."""
    return (
        stage == "examples"
        and job.finetune is not None
        and bool(make_task(job.finetune.task).base_readings)
    )


def _count_attempt(location: Location) -> int:
    file = location / ATTEMPTS_FILE
    attempt = 1 + (int(file.read_json()["attempts"]) if file.exists() else 0)
    file.write_json({"attempts": attempt})
    return attempt


def log_file_of(job: Job) -> Path:
    storage = Location.parse(job.storage)
    if storage.is_local:
        folder = storage.local_path
    elif os.access(Path.cwd(), os.W_OK):
        folder = Path.cwd() / "runs"
    else:  # a container that writes to its bucket alone
        folder = Path(tempfile.gettempdir()) / "runs"
    return folder / job.name / "log.txt"
