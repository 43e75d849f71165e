"""The stages of a job in order, what each is given, and what is said when they end."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from raymodel.compress.origin import Rows
from raymodel.data.mixture import Mixture
from raymodel.errors import ArtifactError, GateError
from raymodel.job.pins import find_moved, pin_job
from raymodel.job.pipeline import Pipeline, log_file_of
from raymodel.job.preflight import check_inputs
from raymodel.job.spec import Job
from raymodel.job.stages import Stage
from raymodel.model.presets import OWN
from raymodel.observe.quiet import quiet_logs, quiet_streams
from raymodel.observe.slow_paths import slow_path_lines
from raymodel.observe.story import Story
from raymodel.observe.text import many
from raymodel.storage.artifact import Artifact
from raymodel.storage.execution import Execution
from raymodel.storage.hub_place import is_on_hub
from raymodel.storage.registry import Run, lock_run
from raymodel.storage.uri import Location, check_writable
from raymodel.tasks import get_task
from raymodel.train.base import BaseModel


def run(
    job: Job,
    *,
    job_path: Path | str | None,
    settings: Sequence[str] = (),
    address: str | None = None,
    keep_serving: bool = False,
    story: Story | None = None,
) -> None:
    """Runs a job from the first stage that is not complete.

    Args:
        job: the loaded job.
        job_path: its file, None of a job that is in none; paths in it are relative to the current
            directory.
        settings: the words of the command line that changed what the file says.
        address: a Ray cluster; by default `RAY_ADDRESS`, else a Ray started here.
        keep_serving: leave the model served when Ray was started here, until interrupted.

    Raises:
        RaymodelError: with its exit code; a GateError comes after the closing table.
    """
    story = story or Story()
    storage = Location.parse(job.storage)
    the_run = Run(storage / job.name)
    pinned = pin_job(job, the_run)
    job = pinned.job
    check_inputs(job, Path.cwd(), story.say)
    check_writable(storage)
    quiet_logs(log_file_of(job))
    started = time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(lock_run(the_run))
        pinned.keep(the_run)
        for note in find_moved(pinned):
            story.say(note)
        stack.enter_context(quiet_streams(log_file_of(job)))
        pipeline = Pipeline(job, the_run, story, stack, address, Path.cwd())
        missed = _run_stages(pipeline, keep_serving)
    pipeline.close(time.monotonic() - started)
    for line in slow_path_lines(pipeline.told):
        story.say(line)
    if missed:
        raise GateError(missed)
    if job_path is not None:
        for line in _next_steps(job, shlex.join([str(job_path), *settings]), the_run):
            story.say(line)


def _run_stages(p: Pipeline, keep_serving: bool) -> str:
    """Returns which gates were not met; then nothing is served."""
    job, stages = p.job, p.stages
    prepared = _prepare(p) if job.prepare else None
    data = stages.data(prepared)
    pretrained = _pretrain(p, data) if job.pretrain and data else None
    base, examples, tuned = stages.pretrain_base(), None, None
    if job.finetune:
        base = stages.base(pretrained)
        examples = _examples(p, stages.reader(base))
        tuned = _finetune(p, base, examples)
    newest = tuned or pretrained
    missed = ""
    if job.evaluate and newest:
        held_out = stages.held_out(data)
        teacher = stages.newest_teacher()
        stage = stages.evaluate(
            newest, base=base, examples=examples, data=held_out, teacher=teacher
        )
        missed = _evaluate(p, stage, held_out, teacher)
    elif newest:
        p.run.set_best(newest)  # nothing to compare and no gate: the newest model is the best
    if job.compress and not missed:
        newest, missed = _compress(p, newest, Rows(examples, stages.held_out(data)))
    if job.serve and not missed:
        model = stages.served(newest)
        assert model is not None, "the job was checked"
        _serve(p, model, keep_serving)
    elif job.monitor and not missed:
        _monitor(p, keep_serving)
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
    base, teacher = p.stages.pretrain_base(), p.stages.teacher(spec)
    place = base.location if base else None

    def work(execution: Execution) -> dict[str, Any]:
        from raymodel.train.run import run_pretrain

        return run_pretrain(spec, execution, p.story, data, place, teacher)

    return p.execute(p.stages.pretrain(data, base, teacher), work)


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
    teacher = p.stages.teacher(spec)
    place = base.location if base else None

    def work(execution: Execution) -> dict[str, Any]:
        if spec.sweep:
            from raymodel.tune.run import run_sweep

            return run_sweep(spec, execution, p.story, place, teacher)
        from raymodel.train.run import run_finetune

        return run_finetune(spec, execution, p.story, place, teacher)

    return p.execute(p.stages.finetune(base, examples, teacher), work)


def _evaluate(p: Pipeline, stage: Stage, data: Mixture, teacher: BaseModel | None) -> str:
    """Moves `best` when the gates are met; returns which are not."""
    spec = p.job.evaluate
    assert spec is not None, "the caller looked"

    def work(execution: Execution) -> dict[str, Any]:
        from raymodel.evaluate.run import run_evaluate

        return run_evaluate(spec, execution, p.story, data, teacher.location if teacher else None)

    content = p.execute(stage, work).content
    if content["passed"] and not _is_followed(p, stage.inputs["model"]):
        p.run.set_best(stage.inputs["model"])
    return _missed(content)


def _is_followed(p: Pipeline, model: Artifact) -> bool:
    """Whether what was made of this model is the best already: it stays so while its stage is
    looked at again, so that a server which follows the best is not sent back and forth."""
    with suppress(ArtifactError):  # one that is damaged is no best
        best = p.run.best() if p.job.compress else None
        return best is not None and best.manifest.parents.get("model") == model.fingerprint
    return False


def _compress(p: Pipeline, newest: Artifact | None, rows: Rows) -> tuple[Artifact, str]:
    """The model that it makes, which becomes `best` when the gates are met; and which are not.

    Args:
        newest: trained by the job.
        rows: those that it was measured on.
    """
    spec, measures = p.job.compress, p.job.evaluate
    assert spec is not None, "the caller looked"
    assert measures is not None, "the spec asks for it"
    models, base = p.stages.compressed(newest), p.stages.compress_base()
    assert models, "the job was checked"
    rows = p.stages.compress_rows(models[0], newest, rows)

    def work(execution: Execution) -> dict[str, Any]:
        from raymodel.compress.run import run_compress

        return run_compress(
            spec, measures, execution, p.story, rows.data, base.location if base else None
        )

    made = p.execute(p.stages.compress(models, base, rows), work)
    if made.content["passed"]:
        p.run.set_best(made)
    return made, _missed(made.content)


def _missed(content: Mapping[str, Any]) -> str:
    """Which gates were not met; empty when all were."""
    missed = [
        f"{gate['name']} is {_value_text(gate['value'])}, the gate asks for {gate['condition']}"
        for gate in content["gates"]
        if not gate["passed"]
    ]
    if not missed:
        return ""
    is_trained = "costs" not in content or "compared_with" in content  # with a teacher
    way = "train longer" if is_trained else "compress less"
    return f"{'; '.join(missed)}. `best` stays as it was; {way}, or change evaluate.gates"


def _value_text(value: float | None) -> str:
    return "not measured, or not finite" if value is None else f"{value}"


def _serve(p: Pipeline, model: BaseModel, keep_serving: bool) -> None:
    """Serves the model; on a Ray that ends with this command, to ask it one question.

    On a cluster, and with `--keep-serving`, being served is the result, so it is never skipped;
    nor where a monitor asks it about texts that have come since.
    """
    spec = p.job.serve
    assert spec is not None, "the caller looked"
    ends = _ends_with_command(p)
    stays = keep_serving or not ends or p.job.monitor is not None

    def serve(execution_or_none: Execution | None) -> dict[str, Any]:
        from raymodel.serve.follow import find_followed
        from raymodel.serve.run import run_serve

        embedder, draft = p.stages.embedder(), p.stages.draft()
        with run_serve(
            spec,
            model.artifact or model.location,
            job_name=p.job.name,
            cluster=p.job.cluster,
            story=p.story,
            follows=find_followed(spec, p.run.location.parent, p.job.name),
            members=[each.artifact or each.location for each in p.stages.members()],
            embedder=(embedder.artifact or embedder.location) if embedder else None,
            classifiers=[each.artifact or each.location for each in p.stages.classifiers()],
            draft=(draft.artifact or draft.location) if draft else None,
            keep=not ends,
        ) as served:
            question, values = _question(p, served.task)
            answer = served.ask(values)
            health = served.health()
            p.story.say(f"          {served.url} answers as {served.name!r}{_engine_text(health)}")
            p.story.say(
                f"          asked:    {_shown(question)}\n          answered: {_shown(answer)}"
            )
            where = model.location.uri
            p.told["serve"] = content = {
                **({"model": where} if is_on_hub(where) else {}),  # of others the inputs say it
                "question": question,
                "answer": answer,
                "slow_paths": health["slow_paths"],
            }
            if p.job.monitor:
                _monitor(p, keep_serving, served.token.get_secret_value() if served.token else None)
            elif keep_serving and ends:
                _wait_until_interrupted(p, served.url)
            if keep_serving and ends:
                p.story.say(f"          ending: answers under way have {spec.grace:g} s")
        return content

    if stays:
        p.story.stage("serve", str(model.location))
        p.connect()
        serve(None)
        return
    p.execute(p.stages.serve(model), serve)


def _monitor(p: Pipeline, goes_on: bool, token: str | None = None) -> None:
    """Deals with the texts that are there, and with `goes_on` with those that come until Ctrl-C.

    Args:
        token: of the server of this job.
    """
    from raymodel.monitor.start import run_monitor

    assert p.job.monitor is not None, "the caller looked"
    own = token if p.job.monitor.url is None else None
    p.story.stage("monitor", "until Ctrl-C" if goes_on else "what is there now")
    run_monitor(
        p.job,
        p.base_dir,
        lambda text: p.story.say(f"          {text}"),
        token=own,
        to_the_end=not goes_on,
    )


def _engine_text(health: Mapping[str, Any]) -> str:
    """Of a model that writes text: what computes it, why, how many requests at once, and the memory
    of their keys and values."""
    if "engine" not in health:
        return ""
    rows = f"; {many(health['rows'], 'request')} at once" if "rows" in health else ""
    room = f", {health['cache_bytes'] / 1e9:.1f} GB of cache" if "cache_bytes" in health else ""
    return f" by {health['engine']} ({health['engine_reason']}{rows}{room})"


def _ends_with_command(p: Pipeline) -> bool:
    return not (p.address or os.environ.get("RAY_ADDRESS")) and (
        p.connection is None or p.connection.started_here
    )


def _question(p: Pipeline, task: str) -> tuple[str, dict[str, Any]]:
    """A held-out example that the evaluation of the job's own model used, as people read it and as
    a server is asked; else one that any model of the task can answer."""
    assert p.job.serve is not None, "the caller looked"
    stage = "compress" if p.job.compress else "evaluate"
    evaluated = None if p.job.serve.model else p.run.latest(stage)
    if evaluated is not None:
        told = (evaluated.location / "report/metrics.json").read_json()["samples"]
        samples = [sample for sample in told if sample["request"]]  # a task may know none
        if samples:
            # The shortest leaves the most room for an answer, and reads well in a terminal.
            shortest = min(samples, key=lambda sample: len(sample["prompt"]))
            return str(shortest["prompt"]), dict(shortest["request"])
    values = get_task(task).example_request()
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


# ---- what comes after ----------------------------------------------------------------------------


def _next_steps(job: Job, words: str, the_run: Run) -> list[str]:
    """What can be done now.

    Args:
        words: of the command line that gave the job.
    """
    lines = [f"  raymodel status {job.storage}"]
    if job.serve:
        lines.append(f"  raymodel run {words} --keep-serving")
    elif job.monitor:
        lines.append(f"  raymodel monitor {words}")
    best = the_run.best()
    if best is not None:
        folder = best.location / "model"
        config = folder / "config.json"
        is_own = config.exists() and config.read_json().get("model_type") == OWN
        load = "load_file({!r})" if is_own else "AutoModel.from_pretrained({!r})"
        place = folder / "model.safetensors" if is_own else folder
        lines.append("  " + load.format(str(place)))
    return ["next:", *lines]
