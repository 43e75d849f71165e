"""A job in a few words: one line a stage, as `raymodel check` prints it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from raymodel.cluster.spec import ClusterSpec
from raymodel.compress.spec import CompressSpec
from raymodel.data.spec import PrepareSpec
from raymodel.evaluate.spec import EvaluateSpec
from raymodel.job.spec import Job
from raymodel.monitor.spec import MonitorSpec
from raymodel.observe.text import many
from raymodel.serve.spec import ServeSpec
from raymodel.spec.show import shorten
from raymodel.train.spec import FinetuneSpec, PretrainSpec, TrainSpec

_MOST_LISTED = 5


def outline(job: Job) -> Iterator[tuple[str, str]]:
    """(stage, what it does) of each stage of the job, in the order they run."""
    if job.prepare:
        yield "prepare", _prepare(job.prepare)
    if job.pretrain:
        yield "pretrain", _pretrain(job.pretrain, job.cluster)
    if job.finetune:
        yield "finetune", _finetune(job.finetune, job.cluster)
    if job.evaluate:
        yield "evaluate", _evaluate(job.evaluate)
    if job.compress:
        yield "compress", _compress(job.compress)
    if job.serve:
        yield "serve", _serve(job.serve)
    if job.monitor:
        yield "monitor", _monitor(job.monitor)


def _listed(names: Sequence[str]) -> str:
    """The first names; a line of a terminal holds no more."""
    more = [f"{len(names) - _MOST_LISTED:,} more"] if len(names) > _MOST_LISTED else []
    return ", ".join([*map(shorten, names[:_MOST_LISTED]), *more])


def _prepare(spec: PrepareSpec) -> str:
    sources, text = _listed([source.path for source in spec.sources]), spec.text
    if spec.image is not None:
        return f"{sources}; images of {spec.image.size} pixels, {spec.image.channels} channels"
    assert text is not None, "the spec has one of the two"
    tokenizer = (
        f"vocabulary of {text.tokenizer.vocab_size}"
        if text.tokenizer.vocab_size
        else f"tokenizer of {shorten(text.tokenizer.load or '')}"
    )
    return f"{sources}; {tokenizer}; rows of {text.length} tokens"


def _pretrain(spec: PretrainSpec, cluster: ClusterSpec) -> str:
    model = shorten(spec.model.called) if spec.model else f"from {shorten(spec.base or '')}"
    parts = [model, *_teacher(spec), _training(spec, cluster)]
    return "; ".join(parts)


def _finetune(spec: FinetuneSpec, cluster: ClusterSpec) -> str:
    model = spec.model and spec.model.called
    origin = shorten(spec.base or model or "pretrain")
    if spec.distill is not None and spec.distill.student is not None:
        origin = f"{many(spec.distill.student.layers, 'layer')} of its teacher"
    parts = [f"{spec.task.name} from {origin}", *_teacher(spec)]
    if spec.adapter:
        parts.append(f"LoRA of rank {spec.adapter.lora.rank}")
    if spec.sweep:
        cluster = ClusterSpec(workers=spec.sweep.workers_per_trial)
        parts.append(f"{spec.sweep.trials} trials over {_listed([*spec.sweep.search])}, each")
    parts.append(_training(spec, cluster))
    return "; ".join(parts)


def _teacher(spec: TrainSpec) -> list[str]:
    return [f"taught by {shorten(spec.distill.teacher)}"] if spec.distill else []


def _training(spec: TrainSpec, cluster: ClusterSpec) -> str:
    least, most = cluster.min_workers, cluster.max_workers
    workers = f"{least} to {most} workers" if least != most else f"workers: {most}"
    return (
        f"{spec.duration} at {spec.global_batch} rows a step; {workers}, "
        f"ZeRO {spec.parallel.zero}, {spec.precision}"
    )


def _evaluate(spec: EvaluateSpec) -> str:
    gates = _listed([f"{name} {condition.strip()}" for name, condition in spec.gates.items()])
    return ", ".join(spec.metrics) + (f"; `best` needs {gates}" if gates else "")


def _compress(spec: CompressSpec) -> str:
    return f"{spec.method} of {_listed(spec.named) or 'the newest model'}"


def _serve(spec: ServeSpec) -> str:
    model = shorten(spec.model or "best") + (", as it changes," if spec.watch else "")
    return f"{model} at http://{shorten(spec.host)}:{spec.port}"


def _monitor(spec: MonitorSpec) -> str:
    read = [
        *(each.path for each in spec.follow),
        *([f"{spec.http.url}/texts"] if spec.http else []),
    ]
    labels = _listed(sorted({label for rule in spec.alerts for label in rule.labels}))
    return f"{_listed(read)}; alerts when {labels} rises"
