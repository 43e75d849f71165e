"""The stages of a job in order: skip what is complete, resume what is not, hand artifacts on."""

from __future__ import annotations

import os
import shlex
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from raymodel.cluster.connect import Connection, connect
from raymodel.cluster.spec import ClusterSpec
from raymodel.data.mixture import Mixture
from raymodel.errors import GateError
from raymodel.job.preflight import check_inputs
from raymodel.job.spec import Job
from raymodel.job.stages import Stage, Stages
from raymodel.model.presets import OWN
from raymodel.observe.quiet import quiet_logs, quiet_streams
from raymodel.observe.slow_paths import slow_path_lines
from raymodel.observe.story import Story
from raymodel.observe.text import amount_text, cell_text, duration_text, listed, wrapped
from raymodel.storage.artifact import Artifact, find_artifact
from raymodel.storage.execution import ATTEMPTS_FILE, Execution
from raymodel.storage.manifest import commit_manifest
from raymodel.storage.registry import Run, artifact_text, lock_run, run_of
from raymodel.storage.uri import Location, check_writable
from raymodel.tasks import get_task, make_task
from raymodel.train.base import BaseModel

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
            quiet_logs(_log_file(self.job))
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

    def close(self, seconds: float) -> None:
        """Tells what each stage took and gave, and where the run lies."""
        self.story.say("")
        self.story.table(self.rows)
        for stage, measures in self.measures.items():
            self.story.say(listed(measures, f"{stage:<9} "))
        took = f"{self.job.name}: {duration_text(seconds)}, in {self.run.location}"
        self.story.say("\n" + wrapped(took, indent="  "))


def run(
    job: Job,
    *,
    job_path: Path | str,
    settings: Sequence[str] = (),
    address: str | None = None,
    keep_serving: bool = False,
    story: Story | None = None,
) -> None:
    """Runs a job from the first stage that is not complete.

    Args:
        job: the loaded job.
        job_path: its file; paths in it are relative to the current directory.
        settings: the words of the command line that changed what the file says.
        address: a Ray cluster; by default `RAY_ADDRESS`, else a Ray started here.
        keep_serving: leave the model served when Ray was started here, until interrupted.

    Raises:
        RaymodelError: with its exit code; a GateError comes after the closing table.
    """
    story = story or Story()
    check_inputs(job, Path.cwd(), story.say)
    storage = Location.parse(job.storage)
    check_writable(storage)
    quiet_logs(_log_file(job))
    started = time.monotonic()
    the_run = Run(storage / job.name)
    with ExitStack() as stack:
        stack.enter_context(lock_run(the_run))
        stack.enter_context(quiet_streams(_log_file(job)))
        pipeline = Pipeline(job, the_run, story, stack, address, Path.cwd())
        missed = _run_stages(pipeline, keep_serving)
    pipeline.close(time.monotonic() - started)
    for line in slow_path_lines(pipeline.told):
        story.say(line)
    if missed:
        raise GateError(missed)
    for line in _next_steps(job, shlex.join([str(job_path), *settings]), the_run):
        story.say(line)


def _run_stages(p: Pipeline, keep_serving: bool) -> str:
    """Returns which gates were not met; then nothing is served."""
    job, stages = p.job, p.stages
    prepared = _prepare(p) if job.prepare else None
    data = stages.data(prepared)
    pretrained = _pretrain(p, data) if job.pretrain and data else None
    base = examples = tuned = None
    if job.finetune:
        base = stages.base(pretrained)
        examples = _examples(p, base)
        tuned = _finetune(p, base, examples)
    newest = tuned or pretrained
    missed = ""
    if job.evaluate and newest:
        held_out = stages.held_out(data)
        stage = stages.evaluate(newest, base=base, examples=examples, data=held_out)
        missed = _evaluate(p, stage, held_out)
    elif newest:
        p.run.set_best(newest)  # nothing to compare and no gate: the newest model is the best
    if job.serve and not missed:
        model = stages.served(newest)
        assert model is not None, "the job was checked"
        _serve(p, model, keep_serving)
    return missed


# ---- the stages ----------------------------------------------------------------------------------


def _prepare(p: Pipeline) -> Artifact:
    spec = p.job.prepare
    assert spec is not None, "the caller looked"

    def work(execution: Execution) -> dict[str, Any]:
        from raymodel.data.run import run_prepare

        return run_prepare(spec, execution, p.story, p.base_dir)

    return p.execute(p.stages.prepare(), work)


def _pretrain(p: Pipeline, data: Mixture) -> Artifact:
    spec = p.job.pretrain
    assert spec is not None, "the caller looked"

    def work(execution: Execution) -> dict[str, Any]:
        from raymodel.train.run import run_pretrain

        return run_pretrain(spec, execution, p.story, data)

    return p.execute(p.stages.pretrain(data), work)


def _examples(p: Pipeline, base: BaseModel | None) -> Artifact:
    spec = p.job.finetune
    assert spec is not None, "the caller looked"

    def work(execution: Execution) -> dict[str, Any]:
        from raymodel.data.run import run_examples

        return run_examples(spec, execution, p.story, base.location if base else None, p.base_dir)

    return p.execute(p.stages.examples(base), work)


def _finetune(p: Pipeline, base: BaseModel | None, examples: Artifact) -> Artifact:
    spec = p.job.finetune
    assert spec is not None, "the caller looked"

    def work(execution: Execution) -> dict[str, Any]:
        if spec.sweep:
            from raymodel.tune.run import run_sweep

            return run_sweep(spec, execution, p.story, base.location if base else None)
        from raymodel.train.run import run_finetune

        return run_finetune(spec, execution, p.story, base.location if base else None)

    return p.execute(p.stages.finetune(base, examples), work)


def _evaluate(p: Pipeline, stage: Stage, data: Mixture) -> str:
    """Moves `best` when the gates are met; returns which are not."""
    spec = p.job.evaluate
    assert spec is not None, "the caller looked"

    def work(execution: Execution) -> dict[str, Any]:
        from raymodel.evaluate.run import run_evaluate

        return run_evaluate(spec, execution, p.story, data)

    content = p.execute(stage, work).content
    if content["passed"]:
        p.run.set_best(stage.inputs["model"])
        return ""
    missed = [
        f"{gate['name']} is {_value_text(gate['value'])}, the gate asks for {gate['condition']}"
        for gate in content["gates"]
        if not gate["passed"]
    ]
    return f"{'; '.join(missed)}. `best` stays as it was; train longer, or change evaluate.gates"


def _value_text(value: float | None) -> str:
    return "not measured, or not finite" if value is None else f"{value}"


def _serve(p: Pipeline, model: BaseModel, keep_serving: bool) -> None:
    """Serves the model; on a Ray that ends with this command, to ask it one question.

    On a cluster, and with `--keep-serving`, being served is the result, so it is never skipped.
    """
    spec = p.job.serve
    assert spec is not None, "the caller looked"
    stays = keep_serving or not _ends_with_command(p)

    def serve(execution_or_none: Execution | None) -> dict[str, Any]:
        from raymodel.serve.run import run_serve

        with run_serve(
            spec,
            model.artifact or model.location,
            job_name=p.job.name,
            cluster=p.job.cluster,
            story=p.story,
            keep=stays,
        ) as served:
            question, values = _question(p)
            answer = served.ask(values)
            p.story.say(f"          {served.url} answers as {served.name!r}")
            p.story.say(
                f"          asked:    {_shown(question)}\n          answered: {_shown(answer)}"
            )
            p.told["serve"] = content = {
                "question": question,
                "answer": answer,
                "slow_paths": served.health()["slow_paths"],
            }
            if keep_serving and _ends_with_command(p):
                _wait_until_interrupted(p, served.url)
        return content

    if stays:
        p.story.stage("serve", str(model.location))
        p.connect()
        serve(None)
        return
    p.execute(p.stages.serve(model), serve)


def _ends_with_command(p: Pipeline) -> bool:
    return not (p.address or os.environ.get("RAY_ADDRESS")) and (
        p.connection is None or p.connection.started_here
    )


def _question(p: Pipeline) -> tuple[str, dict[str, Any]]:
    """A held-out example that the evaluation used, as people read it and as a server is asked; else
    one that any model can answer."""
    evaluated = p.run.latest("evaluate")
    if evaluated is not None:
        told = (evaluated.location / "report/metrics.json").read_json()["samples"]
        samples = [sample for sample in told if sample["request"]]  # a task may know none
        if samples:
            # The shortest leaves the most room for an answer, and reads well in a terminal.
            shortest = min(samples, key=lambda sample: len(sample["prompt"]))
            return str(shortest["prompt"]), dict(shortest["request"])
    values = get_task(p.job.task).example_request()
    return str(next(iter(values.values()))), values


def _shown(text: str) -> str:
    """The end of a long text on one line."""
    line = " ⏎ ".join(part.strip() for part in text.strip().splitlines() if part.strip())
    return line if len(line) <= 160 else "… " + line[-158:]


def _wait_until_interrupted(p: Pipeline, url: str) -> None:
    p.story.say(f"          serving at {url} until Ctrl-C")
    with suppress(KeyboardInterrupt):
        while True:
            time.sleep(3600)


# ---- around them ---------------------------------------------------------------------------------


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


def _log_file(job: Job) -> Path:
    storage = Location.parse(job.storage)
    if storage.is_local:
        folder = storage.local_path
    elif os.access(Path.cwd(), os.W_OK):
        folder = Path.cwd() / "runs"
    else:  # a container that writes to its bucket alone
        folder = Path(tempfile.gettempdir()) / "runs"
    return folder / job.name / "log.txt"


def _next_steps(job: Job, words: str, the_run: Run) -> list[str]:
    """What can be done now.

    Args:
        words: of the command line that gave the job.
    """
    lines = [f"  raymodel status {job.storage}"]
    if job.serve:
        lines.append(f"  raymodel run {words} --keep-serving")
    best = the_run.best()
    if best is not None:
        folder = best.location / "model"
        config = folder / "config.json"
        is_own = config.exists() and config.read_json().get("model_type") == OWN
        load = "load_file({!r})" if is_own else "AutoModel.from_pretrained({!r})"
        place = folder / "model.safetensors" if is_own else folder
        lines.append("  " + load.format(str(place)))
    return ["next:", *lines]
