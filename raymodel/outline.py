"""A job in a few words: one line a stage, as `raymodel check` prints it."""

from __future__ import annotations

from collections.abc import Iterator

from raymodel.cluster.spec import ClusterSpec
from raymodel.data.spec import PrepareSpec
from raymodel.evaluate.spec import EvaluateSpec
from raymodel.job import Job
from raymodel.serve.spec import ServeSpec
from raymodel.train.spec import FinetuneSpec, PretrainSpec, TrainSpec


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
    if job.serve:
        yield "serve", _serve(job.serve)


def _prepare(spec: PrepareSpec) -> str:
    tokenizer = (
        f"vocabulary of {spec.tokenizer.vocab_size}"
        if spec.tokenizer.vocab_size
        else f"tokenizer of {spec.tokenizer.load}"
    )
    sources = ", ".join(source.path for source in spec.sources)
    return f"{sources}; {tokenizer}; rows of {spec.sequence_length} tokens"


def _pretrain(spec: PretrainSpec, cluster: ClusterSpec) -> str:
    return f"{spec.model.preset or spec.model.architecture}; {_training(spec, cluster)}"


def _finetune(spec: FinetuneSpec, cluster: ClusterSpec) -> str:
    parts = [f"{spec.task} from {spec.base or 'pretrain'}"]
    if spec.adapter:
        parts.append(f"LoRA of rank {spec.adapter.lora.rank}")
    if spec.sweep:
        cluster = ClusterSpec(workers=spec.sweep.workers_per_trial)
        parts.append(f"{spec.sweep.trials} trials over {', '.join(spec.sweep.search)}, each")
    parts.append(_training(spec, cluster))
    return "; ".join(parts)


def _training(spec: TrainSpec, cluster: ClusterSpec) -> str:
    least, most = cluster.min_workers, cluster.max_workers
    workers = f"{least} to {most} workers" if least != most else f"workers: {most}"
    return (
        f"{spec.duration} at {spec.global_batch} rows a step; {workers}, "
        f"ZeRO {spec.parallel.zero}, {spec.precision}"
    )


def _evaluate(spec: EvaluateSpec) -> str:
    gates = ", ".join(f"{name} {condition.strip()}" for name, condition in spec.gates.items())
    return ", ".join(spec.metrics) + (f"; `best` needs {gates}" if gates else "")


def _serve(spec: ServeSpec) -> str:
    return f"{spec.model or 'best'} at http://{spec.host}:{spec.port}"
