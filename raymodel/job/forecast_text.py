"""A plan as text, for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from raymodel.cluster.devices import USABLE, Fleet
from raymodel.job.forecast import JobPlan, StagePlan, stage_states
from raymodel.model.counted import CountedShape
from raymodel.observe.text import (
    count_text,
    duration_text,
    gib_text,
    listed,
    many,
    table_text,
    wrapped,
)
from raymodel.serve.filters.spec import classifiers_of
from raymodel.train.forecast.stage import ASSUMED_MFU, Forecast
from raymodel.train.spec import FinetuneSpec

_COMPONENTS = (
    "weights",
    "teacher",
    "gathered weights",
    "fp32 weights",
    "moments",
    "gradients",
    "activations",
    "logits",
    "teacher's logits",
    "buckets",
    "checkpoint copies",
    "gradients on the host",
    "weights on the host",
)


def plan_text(plan: JobPlan) -> str:
    """The whole plan."""
    return "\n".join(_lines(plan))


def _lines(plan: JobPlan) -> Iterator[str]:
    yield wrapped(f"{plan.job.name}, in {plan.job.storage}", indent="  ")
    for name, state in stage_states(plan):
        yield wrapped(state, f"  {name:<9} ")
    for stage in plan.stages:
        yield ""
        yield from _stage(stage)
    for name, why in plan.unplanned.items():
        yield ""
        yield wrapped(f"{name}: cannot be planned: {why}", indent="  ")
    for name in plan.wrong:
        yield ""
        yield f"{name}: has a wrong input, see below"
    if plan.served:
        yield ""
        yield "serve"
        for name, words in plan.served:
            yield wrapped(words, f"  {name:<12} ")
    if plan.notes:
        yield ""
        yield from (wrapped(note, indent="  ") for note in plan.notes)
    yield ""
    yield "asked of the cluster"
    for name, words in _resources(plan):
        yield wrapped(words, f"  {name:<9} ")
    if plan.fleet is not None:
        yield wrapped(f"planned for {plan.fleet}, {USABLE:.0%} of whose memory is used", "  ")


def _stage(stage: StagePlan) -> Iterator[str]:
    first = stage.forecasts[0]
    yield stage.name
    for name, words in _facts(stage, first):
        yield wrapped(words, f"  {name:<12} ")
    if stage.seen is not None:
        from raymodel.data.mixing.seen import seen_rows  # imports numpy

        yield "  what each thousand steps will see, and how often each row is visited in the run"
        yield table_text(seen_rows(stage.seen), indent="    ")
    yield "  memory of one worker, at the moment of a step when it is highest"
    yield listed(_moments(first), "    ")
    yield _memory_table(stage)


def _facts(stage: StagePlan, f: Forecast) -> Iterator[tuple[str, str]]:
    shape, plan = f.shape, f.plan
    parameters = shape.trained + shape.frozen
    part = "all trained" if not shape.frozen else f"{shape.trained:,} trained"
    yield "parameters", f"{parameters:,}, {part}"
    if f.teacher is not None:
        yield "teacher", f"{f.teacher.trained + f.teacher.frozen:,} parameters, frozen"
    how = "; counted on the meta device" if isinstance(shape, CountedShape) else ""
    unit = stage.unit.removesuffix("s")
    article = "an" if unit[0] in "aeiou" else "a"
    both = "" if f.teacher is None else ", and forward of the teacher"
    told = f"{count_text(f.flops_per_token)} {article} {unit}, forward and backward{both}{how}"
    yield "FLOPs", told
    yield "data", stage.data
    if plan is None:
        yield "steps", f"not known before the data is: {stage.spec.duration}"
    else:
        yield "steps", f"{plan.total_steps:,} of {plan.global_batch} rows"
        yield stage.unit, f"{count_text(plan.total_tokens)} ({plan.total_tokens:,})"
    for each in stage.forecasts:
        yield "layout", _layout(each)
    if f.seconds is not None and stage.problem is None:
        for each in stage.forecasts:
            assert each.seconds is not None, "known for one, known for all"
            yield (
                "time",
                (
                    f"{duration_text(each.seconds)} on {many(each.setup.workers, 'worker')}, if "
                    f"{ASSUMED_MFU:.0%} of the peak rate is reached"
                ),
            )
    keep = stage.spec.checkpoint.keep
    kept = f", the newest {keep} stay" if keep > 1 else ", the newest stays"
    yield "checkpoint", f"{gib_text(f.checkpoint_bytes)}{kept}"


def _layout(f: Forecast) -> str:
    s = f.setup
    words = [
        f"{many(s.workers, 'worker')} = {s.data} data × {s.tensor} tensor × {s.sequence} sequence"
    ]
    words.append(f"ZeRO {s.zero}" + (" with offload" if s.offload else ""))
    words.append(f"micro batch {s.micro_batch} × accumulation {s.accumulation}")
    words.append(s.precision)
    if s.activation_checkpointing:
        words.append("activation checkpointing")
    return ", ".join(words)


def _moments(f: Forecast) -> list[str]:
    return [f"{m.name} {gib_text(m.total)}" for m in f.memory.moments]


def _memory_table(stage: StagePlan) -> str:
    """A column for each number of workers; on a GPU one more for the memory of the machine."""
    rows: list[dict[str, object]] = [{"component": name} for name in (*_COMPONENTS, "total")]
    for f in stage.forecasts:
        peak = f.memory.peak
        column = f"{many(f.setup.workers, 'worker')} ({peak.name})"
        host = f"host of {f.setup.workers}"
        for row in rows:
            name = str(row["component"])
            size = peak.total if name == "total" else peak.parts.get(name)
            row[column] = gib_text(size) if size else None
            if f.setup.on_gpu:
                size = f.memory.host_total if name == "total" else f.memory.host.get(name)
                row[host] = gib_text(size) if size else None
    return table_text([row for row in rows if any(list(row.values())[1:])], indent="    ")


def _resources(plan: JobPlan) -> Iterator[tuple[str, str]]:
    job, cluster = plan.job, plan.job.cluster
    gpus = 1 if plan.fleet and plan.fleet.device else cluster.gpus_per_worker
    each = f"{cluster.cpus_per_worker} CPU" + (" and 1 GPU" if gpus else "")
    if job.prepare or job.finetune:
        yield "data", "tasks of 1 CPU each, as many at a time as there are CPUs"
    if job.pretrain:
        workers = _range(cluster.min_workers, cluster.max_workers, "worker")
        yield "pretrain", f"{workers} of {each}{_machines(plan.fleet, cluster.max_workers)}"
    if job.finetune:
        yield "finetune", _finetune_resources(job.finetune, each, cluster.max_workers)
    if job.evaluate and job.trains:
        yield "evaluate", f"1 task of {each}"
    if job.compress:
        yield "compress", f"1 task of {each}"
    if job.serve:
        replicas = job.serve.replicas
        twice = ", each with memory for two models, as it watches best" if job.serve.watch else ""
        beside = (
            f", and {cluster.cpus_per_worker} CPU for the documents" if job.serve.documents else ""
        )
        judges = len(classifiers_of(job.serve.filters))
        judged = f", each with the {many(judges, 'classifier')} of its filters" if judges else ""
        names = _range(replicas.min, replicas.max, "replica")
        yield "serve", f"{names} of {each}{twice}{judged}{beside}"


def _machines(fleet: Fleet | None, workers: int) -> str:
    if fleet is None or not fleet.per_node:
        return ""
    return f", which fill {many(-(-workers // fleet.per_node), 'machine')}"


def _finetune_resources(spec: FinetuneSpec, each: str, workers: int) -> str:
    if spec.sweep is None:
        return f"{many(workers, 'worker')} of {each}"
    sweep = spec.sweep
    return (
        f"{many(sweep.trials, 'trial')}, {sweep.concurrent} at a time, each "
        f"{many(sweep.workers_per_trial, 'worker')} of {each}: "
        f"{sweep.concurrent * sweep.workers_per_trial} in all"
    )


def _range(least: int, most: int, what: str) -> str:
    return many(most, what) if least == most else f"{least} to {many(most, what)}"
