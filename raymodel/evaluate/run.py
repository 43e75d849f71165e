"""Evaluation on Ray: each model is measured in a worker of its own, the driver loads no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import ray

from raymodel.cluster.ray_errors import own_errors
from raymodel.data.mixture import Mixture, mixture_of
from raymodel.data.shard import Dataset, open_dataset
from raymodel.errors import ArtifactError
from raymodel.evaluate.cost import Costs, measure_costs
from raymodel.evaluate.cost_text import cost_text, cost_words
from raymodel.evaluate.measure import (
    Measured,
    Part,
    choose_held_out,
    combine,
    measure_part,
    num_parts,
)
from raymodel.evaluate.report import judge, summary
from raymodel.evaluate.spec import EvaluateSpec
from raymodel.model.purpose import find_task, find_task_spec
from raymodel.observe.slow_paths import forget_slow_paths
from raymodel.observe.text import listed
from raymodel.storage.artifact import Artifact
from raymodel.storage.execution import Execution
from raymodel.storage.local import local_folder
from raymodel.storage.uri import Location
from raymodel.tasks import get_task
from raymodel.tasks.spec import AnyTask

HELD_OUT = ("test", "holdout")
"""The first of these splits that has rows is measured."""


class Teller(Protocol):
    """The part of `observe.story.Story` that is needed here."""

    def say(self, text: str) -> None: ...

    def waiting(self, what: str) -> Any: ...


def run_evaluate(
    spec: EvaluateSpec,
    execution: Execution,
    story: Teller,
    data: Mixture,
    teacher: Location | None = None,
) -> dict[str, Any]:
    """Measures the model and, beside it, the base model, or its teacher; checks the gates; writes
    the report.

    A model that was measured by an earlier attempt is not measured again.

    Args:
        execution: Its inputs are `model` (what is judged), and where there are such: `base` (what
            its fine-tuning started from), `examples` (the fine-tuning dataset).
        data: the pretraining datasets, which are inputs too; empty when there are none.
        teacher: the folder of the model's teacher, where it has one: then it is what the model is
            held to, and what both cost is measured too.

    Returns:
        `metrics` and `base_metrics` by name, `gates`, `passed`, `rows`, and `promoted`
        (`STAGE/FINGERPRINT` of the model, None unless every gate is met); beside a teacher also
        `compared_with` and `costs`.

    Raises:
        ArtifactError: a model cannot be loaded, or nothing was held out.
    """
    inputs = execution.inputs
    model = inputs["model"]
    task_spec = find_task_spec(model)
    task_name = task_spec.name
    models = {"model": model.location / "model"}
    base = inputs.get("base")
    if teacher is not None:
        models["base"] = teacher
    elif base and base.fingerprint != model.fingerprint and _is_comparable(base, task_name):
        models["base"] = base.location / "model"
    held_out = open_held_out(task_name, inputs.get("examples"), data)
    # A base has not been given all that the job's model reads with, such as a chat template.
    processors = {"base": next(iter(held_out.values())).processor}
    measured = measure_models(models, task_spec, held_out, spec, execution, story, processors)
    further, beside = dict[str, str](), dict[str, Any]()
    if teacher is not None:
        costs = time_models(
            teacher, models["model"], task_spec, held_out, execution, story, processors["base"]
        )
        further["Cost"] = cost_text(costs, ("teacher", "model"))
        beside = {"compared_with": "teacher", "costs": costs.to_dict()}

    tuned = measured["model"]
    content = judge(
        tuned,
        measured.get("base"),
        spec,
        execution.location / "report",
        f"{model.stage}/{model.fingerprint}",
        further,
        called="base" if teacher is None else "teacher",
    )
    content |= beside
    story.say(listed(summary(content), " " * 10))
    if "costs" in content:
        story.say(listed(cost_words(content["costs"]), " " * 10))
    for brief in (table["brief"] for table in tuned.tables if table["brief"]):
        story.say(" " * 10 + brief)
    return content


def _is_comparable(base: Artifact, task_name: str) -> bool:
    """Whether a base can do the task before it is taught: that of another one may have no head for
    it, or one that is drawn anew."""
    before, task = get_task(find_task(base)), get_task(task_name)
    has_head = before.auto_class == task.auto_class and not task.draws_head
    return before is task or has_head


def open_held_out(
    task_name: str,
    examples: Artifact | None,
    data: Mixture,
    splits: Sequence[str] = HELD_OUT,
) -> dict[str, Dataset]:
    """The rows that a task can be measured on, by the role of their dataset, examples first.

    Args:
        splits: of each dataset the first of these that has rows.

    Raises:
        ArtifactError: there are none.
    """
    task = get_task(task_name)()
    sources: dict[str, Mixture] = {"data": data} if data else {}
    if examples is not None:
        sources["examples"] = mixture_of(examples)
    problems, datasets = [], {}
    for role, source in sources.items():
        for split in splits:
            try:
                datasets[role] = open_dataset(source, split)
                break
            except ArtifactError as error:
                problems.append(str(error))
    chosen = choose_held_out(task, datasets)
    if not chosen:
        raise ArtifactError(
            f"there are no held-out rows to measure {task.name} on: "
            f"{'; '.join(problems) or 'the inputs hold no dataset that fits'}; "
            "prepare data with a `holdout` above 0"
        )
    return chosen


def measure_models(
    models: Mapping[str, Location],
    task_spec: AnyTask,
    held_out: Mapping[str, Dataset],
    spec: EvaluateSpec,
    execution: Execution,
    story: Teller,
    processors: Mapping[str, Location] | None = None,
) -> dict[str, Measured]:
    """Every model's measures, from its work file or from Ray tasks that start now.

    Args:
        models: the folder of each, by its role.
        processors: by role, what a model reads with where that is not its own.
    """
    work, cluster = execution.location / "work", execution.cluster
    done = {
        role: Measured(**(work / f"{role}.json").read_json())
        for role in models
        if (work / f"{role}.json").exists()
    }
    count = num_parts(held_out, spec.max_rows, cluster.max_workers)
    measure = _measure.options(num_cpus=cluster.cpus_per_worker, num_gpus=cluster.gpus_per_worker)
    wants_gpu = cluster.gpus_per_worker > 0
    started = {
        role: [
            measure.remote(
                folder,
                task_spec,
                dict(held_out),
                spec,
                (i, count),
                (processors or {}).get(role),
                wants_gpu,
            )
            for i in range(count)
        ]
        for role, folder in models.items()
        if role not in done
    }
    with story.waiting(f"the measures of {' and '.join(started) or 'nothing'}"):
        for role, parts in started.items():
            with own_errors():
                found: list[Part] = ray.get(parts)
            done[role] = combine(task_spec.name, found, held_out, spec)
            (work / f"{role}.json").write_json(done[role].to_dict())
    return done


def time_models(
    before: Location,
    after: Location,
    task_spec: AnyTask,
    held_out: Mapping[str, Dataset],
    execution: Execution,
    story: Teller,
    processor: Location | None = None,
) -> Costs:
    """How large two models are, and how long they take for the rows of their task; from its work
    file, where an earlier attempt measured it.

    Args:
        before: the folder of the one that the other is held to.
        after: the folder of that.
        processor: what both read with, where that is not their own.
    """
    work, cluster = execution.location / "work/costs.json", execution.cluster
    if work.exists():
        return Costs.of(work.read_json())
    time = _time.options(num_cpus=cluster.cpus_per_worker, num_gpus=cluster.gpus_per_worker)
    rows = next(iter(held_out.values()))
    with story.waiting("the times of both models"), own_errors():
        costs: Costs = ray.get(
            time.remote(before, after, task_spec, rows, processor, cluster.gpus_per_worker > 0)
        )
    work.write_json(costs.to_dict())
    return costs


@ray.remote(max_retries=2)
def _time(
    before: Location,
    after: Location,
    task_spec: AnyTask,
    rows: Dataset,
    processor: Location | None,
    wants_gpu: bool,
) -> Costs:
    with local_folder(before) as old, local_folder(after) as new:
        return measure_costs(old, new, task_spec, rows, wants_gpu=wants_gpu, processor=processor)


@ray.remote(max_retries=2)
def _measure(
    model: Location,
    task_spec: AnyTask,
    held_out: dict[str, Dataset],
    spec: EvaluateSpec,
    part: tuple[int, int],
    processor: Location | None,
    wants_gpu: bool,
) -> Part:
    forget_slow_paths()  # a process of Ray's may have measured another model
    with local_folder(model) as folder:
        return measure_part(
            folder, task_spec, held_out, spec, part, processor=processor, wants_gpu=wants_gpu
        )
