"""Compressing on Ray: the model is made, measured and timed in workers of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray

from raymodel.cluster.ray_errors import own_errors
from raymodel.compress.calibrate import Calibration
from raymodel.compress.make import make_model
from raymodel.compress.origin import models_by_role, models_in, other_examples
from raymodel.compress.report import card_of, numbers_words, parts_text
from raymodel.compress.rules import wants_calibration
from raymodel.compress.spec import CompressSpec
from raymodel.data.mixture import Mixture
from raymodel.errors import ArtifactError
from raymodel.evaluate.cost_text import cost_text, cost_words
from raymodel.evaluate.measure import Measured
from raymodel.evaluate.report import judge, summary
from raymodel.evaluate.run import Teller, measure_models, open_held_out, time_models
from raymodel.evaluate.spec import EvaluateSpec
from raymodel.model.card import render_card
from raymodel.model.purpose import find_task_spec
from raymodel.observe.text import listed, wrapped
from raymodel.storage.artifact import Artifact
from raymodel.storage.execution import Execution
from raymodel.storage.uri import Location
from raymodel.tasks import get_task
from raymodel.tasks.spec import AnyTask


def run_compress(
    spec: CompressSpec,
    measures: EvaluateSpec,
    execution: Execution,
    story: Teller,
    data: Mixture,
    base: Location | None = None,
) -> dict[str, Any]:
    """Makes a model of others; measures it and them on the same rows; checks the gates.

    What an earlier attempt has made or measured is not made or measured again.

    Args:
        measures: the job's `evaluate`.
        execution: Its inputs are `model`, `model-2`, …, of which the first is what the result is
            compared with; and the datasets of which rows were held out, `examples` among them.
        data: the datasets of plain rows, which are inputs too.
        base: the folder that merged models were tuned from, where the method asks for it.

    Returns:
        What `run_evaluate` does, and `task`, `task_spec`, `method`, `parts` (measures of each
        model that was merged) and `costs`.

    Raises:
        ArtifactError: a model cannot be loaded, they do not fit together, or nothing was held out.
        SpecError: the method cannot be used on this model.
    """
    models = models_in(execution.inputs)
    task_spec = _task_of(models)
    held_out = open_held_out(task_spec.name, execution.inputs.get("examples"), data)
    head = _card_head(spec, execution, models, task_spec)
    seen = _calibration(spec, task_spec, execution, data)
    _make_once(spec, models, base, task_spec, execution, story, head, seen)

    new, old = execution.location / "model", models[0].location / "model"
    parts = {role: m.location / "model" for role, m in models_by_role(models).items()}
    parts["base"] = parts.pop("model")  # as the work files of an evaluation call them
    measured = measure_models(
        {"model": new, **parts}, task_spec, held_out, measures, execution, story
    )
    after, before = measured["model"], measured["base"]
    costs = time_models(old, new, task_spec, held_out, execution, story)

    merged = _named(measured, models) if len(models) > 1 else {}
    further = {"Cost": cost_text(costs)}
    note = other_examples(models)
    if merged:
        further["Merged models"] = "\n\n".join([parts_text(merged, after), *note])
    verdict = judge(
        after,
        before,
        measures,
        execution.location / "report",
        f"{execution.stage}/{execution.fingerprint}",
        further,
    )
    head |= numbers_words((new / "config.json").read_json())
    card = card_of(head, before, after, costs, sum(after.rows.values()))
    (new / "README.md").write_text(render_card(card))
    content: dict[str, Any] = {
        "task": task_spec.name,
        "task_spec": task_spec.to_dict(),
        "method": spec.method,
        **verdict,
        "parts": {name: each.metrics for name, each in merged.items()},
        "costs": costs.to_dict(),
    }
    story.say(listed(summary(content), " " * 10))
    story.say(listed(cost_words(content["costs"]), " " * 10))
    for line in note:
        story.say(wrapped(line, " " * 10))
    return content


def _task_of(models: list[Artifact]) -> AnyTask:
    """The task of the first; the others are for the same one."""
    specs = [find_task_spec(model) for model in models]
    for model, spec in zip(models, specs, strict=True):
        if spec.name != specs[0].name:
            raise ArtifactError(
                f"{models[0].location} is a model for {specs[0].name}, and {model.location} one "
                f"for {spec.name}; merge models of one task"
            )
    return specs[0]


def _calibration(
    spec: CompressSpec, task_spec: AnyTask, execution: Execution, data: Mixture
) -> Calibration | None:
    """The rows of training that the method looks at, of the dataset that the model is measured on
    first: its own examples, where it has some."""
    if not wants_calibration(spec, get_task(task_spec.name)):
        return None
    examples = execution.inputs.get("examples")
    trained_on = open_held_out(task_spec.name, examples, data, splits=("train",))
    dataset = next(iter(trained_on.values()))
    return Calibration(dataset=dataset, seed=execution.seed, max_rows=spec.max_calibration_rows)


def _card_head(
    spec: CompressSpec, execution: Execution, models: list[Artifact], task_spec: AnyTask
) -> dict[str, Any]:
    made_of = ", ".join(f"{m.manifest.job_name}/{m.stage} ({m.fingerprint})" for m in models)
    return {
        "name": execution.job_name,
        "stage": execution.stage,
        "task": task_spec.name,
        "pipeline_tag": get_task(task_spec.name).pipeline_tag,
        "method": spec.method,
        "made_of": made_of,
    }


def _named(measured: Mapping[str, Measured], models: list[Artifact]) -> dict[str, Measured]:
    """The measures of each merged model, by its job and stage."""
    roles = ["base", *list(models_by_role(models))[1:]]
    return {
        f"{model.manifest.job_name}/{model.stage} {model.fingerprint}": measured[role]
        for role, model in zip(roles, models, strict=True)
    }


def _make_once(
    spec: CompressSpec,
    models: list[Artifact],
    base: Location | None,
    task_spec: AnyTask,
    execution: Execution,
    story: Teller,
    card: Mapping[str, Any],
    calibration: Calibration | None,
) -> None:
    done = execution.location / "work/made.json"
    if done.exists():
        return
    folders = [model.location / "model" for model in models]
    make = _make.options(num_cpus=execution.cluster.cpus_per_worker)
    with story.waiting("the weights of the new model"), own_errors():
        target = execution.location / "model"
        ray.get(make.remote(spec, folders, base, task_spec, target, card, calibration))
    done.write_json({})


@ray.remote(max_retries=2)
def _make(
    spec: CompressSpec,
    folders: list[Location],
    base: Location | None,
    task_spec: AnyTask,
    target: Location,
    card: Mapping[str, Any],
    calibration: Calibration | None,
) -> None:
    make_model(spec, folders, base, task_spec, target, card, calibration)
