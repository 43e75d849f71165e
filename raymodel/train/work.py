"""What a training run is told and what it leaves, for those who start it: no torch in here.

Ray's driver, its controllers and the trials of a sweep read this module; only workers pay for
importing torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from raymodel.data.mixing.card import PAGE as MIXTURE_PAGE
from raymodel.data.mixing.card import save_mixture_card
from raymodel.data.mixing.seen import (
    check_visits,
    is_mixed,
    plan_legs,
    seen_rows,
    what_is_seen,
)
from raymodel.data.mixture import Mixture
from raymodel.data.order import Leg
from raymodel.data.shard import Dataset, open_dataset
from raymodel.modality import processor_of
from raymodel.observe.goodput import Ledger
from raymodel.observe.records import read_records
from raymodel.observe.slow_paths import as_content, from_events
from raymodel.storage.execution import Execution
from raymodel.storage.hub_place import is_on_hub
from raymodel.storage.uri import Location
from raymodel.tasks.spec import AnyTaskSpec
from raymodel.train.base import BaseModel, check_teacher_classes
from raymodel.train.checkpoint.state import find_exported
from raymodel.train.plan import TrainPlan, check_rows, plan_training
from raymodel.train.spec import TrainSpec

METRICS_FILE = "metrics.jsonl"
EVENTS_FILE = "events.jsonl"
FAILURES_FILE = "failures.jsonl"


@dataclass(frozen=True, kw_only=True)
class TrainWork:
    """What a worker is told; picklable."""

    job_name: str
    stage: str
    spec: TrainSpec
    task: AnyTaskSpec
    labels: tuple[str, ...]
    seed: int
    run: Location
    """Where metrics, events, checkpoints and the model go."""
    dataset: Mixture
    base: Location | None
    """Hugging Face folder to start from; None for the fresh model of the spec."""
    teacher: BaseModel | None = None
    """What the model learns from besides the data."""
    use_gpu: bool = False
    threads: int | None = None
    runs_at_a_time: int = 1
    """Runs that share a machine's cores, as the trials of a sweep do."""
    attempt: int = 1
    """How often the command was run, this time included."""
    started_at: float | None = None
    """Unix time at which the command asked for workers."""
    export: bool = True
    """Write `model/` at the end."""


def work_for(
    spec: TrainSpec,
    execution: Execution,
    *,
    task: AnyTaskSpec,
    dataset: Mixture,
    base: Location | None = None,
    teacher: BaseModel | None = None,
) -> TrainWork:
    """What the workers are told.

    Raises:
        ArtifactError: the teacher tells other classes apart than the data has.
    """
    labels = tuple(dataset[0].artifact.content.get("labels", ()))
    if teacher is not None:
        check_teacher_classes(teacher.location, labels)
    return TrainWork(
        job_name=execution.job_name,
        stage=execution.stage,
        spec=spec,
        task=task,
        labels=labels,
        seed=execution.seed,
        run=execution.location,
        dataset=dataset,
        base=base,
        teacher=teacher,
        use_gpu=execution.cluster.gpus_per_worker > 0,
        threads=execution.cluster.threads_per_worker,
        attempt=execution.attempt,
    )


def open_train(spec: TrainSpec, data: Mixture) -> Dataset:
    """What a stage is trained on, as its spec mixes it."""
    dataset = open_dataset(data, "train")
    temperature = spec.mixture.temperature if spec.mixture else 1.0
    return replace(dataset, temperature=temperature)


def plan_for(spec: TrainSpec, dataset: Dataset) -> TrainPlan:
    """The plan for a dataset from `open_train`, from the counts in its manifest.

    Raises:
        SpecError: the duration is in epochs, of which none has a whole step; or shorter than the
            warm-up, or than that and the decay; or rows would be visited too often, or the stages
            of the mixture do not fit.
    """
    rows_per_epoch = dataset.order(0, spec.global_batch).rows_per_epoch
    check_rows(spec, rows_per_epoch)
    plan = plan_training(spec, rows_per_epoch=rows_per_epoch, tokens_per_row=dataset.tokens_per_row)
    if spec.mixture is not None:
        legs = legs_for(spec, dataset, plan.total_steps)
        order = dataset.order(0, spec.global_batch, legs=legs)
        check_visits(spec.mixture, dataset, spec.dataset_names, order, plan.total_steps)
    return plan


def legs_for(spec: TrainSpec, dataset: Dataset, total_steps: int) -> tuple[Leg, ...]:
    """The stages of the mixture; none where it has none. Raises SpecError as of `plan_legs`."""
    if spec.mixture is None:
        return ()
    return plan_legs(spec.mixture, dataset, spec.dataset_names, total_steps)


def seen_of(spec: TrainSpec, dataset: Dataset, plan: TrainPlan) -> dict[str, Any] | None:
    """What the run will see of each source; None where it has one source and one stage."""
    legs = legs_for(spec, dataset, plan.total_steps)
    order = dataset.order(0, spec.global_batch, legs=legs)
    seen = what_is_seen(dataset, order, legs, plan.total_steps, spec.dataset_names)
    return seen if is_mixed(seen) else None


def tell_mixture(
    work: TrainWork, plan: TrainPlan, table: Callable[[list[dict[str, object]]], None]
) -> dict[str, str]:
    """Writes the card of the mixture, and tells what the run will see.

    Returns: what the manifest says of it; nothing where there is one source and one stage.
    """
    seen = seen_of(work.spec, open_train(work.spec, work.dataset), plan)
    if seen is None:
        return {}
    cards = {
        str(artifact.location): str(artifact.location / artifact.content["card"])
        for artifact, _ in work.dataset
        if "card" in artifact.content
    }
    facts = work.dataset[0].artifact.content["processor"]
    save_mixture_card(work.run, seen, cards, processor_of(facts["modality"]).unit)
    table(seen_rows(seen))
    return {"card": MIXTURE_PAGE}


def plan_dataset(spec: TrainSpec, data: Mixture) -> TrainPlan:
    """The plan of a run before it starts: for those who plan, check and start alike.

    Raises:
        SpecError: as of `plan_for`.
    """
    return plan_for(spec, open_train(spec, data))


def open_plan(work: TrainWork, warn: Callable[[str], None]) -> TrainPlan:
    """The plan of a run that starts.

    Args:
        warn: told when the data does not fill a step.

    Raises:
        SpecError: as of `plan_for`.
    """
    plan = plan_dataset(work.spec, work.dataset)
    if plan.repeats is not None:
        warn(plan.repeats)
    return plan


def read_ledger(run: Location) -> Ledger:
    """The time of all attempts of a run so far."""
    return Ledger(read_records(run / EVENTS_FILE), read_records(run / FAILURES_FILE))


def told_of_teacher(work: TrainWork) -> dict[str, Any]:
    """What a model's card and manifest say of its teacher; nothing where it had none."""
    distill = work.spec.distill
    if work.teacher is None or distill is None:
        return {}
    about = {
        "teacher": work.teacher.named,
        "temperature": distill.temperature,
        "teacher_weight": distill.weight,
    }
    return about | ({"layers_of_teacher": distill.student.layers} if distill.student else {})


def told_of_base(work: TrainWork) -> dict[str, Any]:
    """What a model's card and manifest say of the model on the Hugging Face Hub that it was trained
    on from; nothing of another, which its artifact says, or its content."""
    if work.base is None or not is_on_hub(work.base.uri):
        return {}
    return {"base": work.base.uri}


def told_of_task(task: AnyTaskSpec) -> dict[str, Any]:
    """What a model's manifest says of its task; `find_task_spec` reads it back."""
    return {"task": task.name, "task_spec": task.to_dict()}


def summary(run: Location, spec: TrainSpec) -> dict[str, Any]:
    """What the manifest says about a finished run, from its records and checkpoints."""
    logged = [r for r in read_records(run / METRICS_FILE) if "loss" in r]
    last, exported = logged[-1], find_exported(run, spec)
    assert exported is not None, "a finished run has written its model from a checkpoint"
    rates = sorted(r["tokens_per_s"] for r in logged)
    unit = {"unit": logged[0]["unit"]} if "unit" in logged[0] else {}
    padding = [r["padding"] for r in logged if "padding" in r]
    return {
        **unit,
        "padding": sum(padding) / len(padding) if padding else None,
        "steps": last["step"],
        "tokens": last["tokens"],
        "first_loss": logged[0]["loss"],
        "loss": last["loss"],
        "validation_loss": exported.state["validation_loss"],
        "exported_step": exported.step,
        "tokens_per_s": rates[len(rates) // 2],
        "data_digest": last["data_digest"],
        "slow_paths": as_content(from_events(read_records(run / EVENTS_FILE))),
    }
