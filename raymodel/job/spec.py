"""Job: one file, one section for each stage, and the checks that span stages."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from raymodel.cluster.spec import ClusterSpec
from raymodel.compress.spec import CompressSpec
from raymodel.data.spec import PrepareSpec
from raymodel.errors import SpecError
from raymodel.evaluate.spec import EvaluateSpec
from raymodel.monitor.spec import MonitorSpec
from raymodel.serve.spec import ServeSpec
from raymodel.spec.base import DISTINCT, Many, Spec, Text
from raymodel.spec.own import is_own
from raymodel.spec.show import show
from raymodel.train.spec import FinetuneSpec, PretrainSpec, TrainSpec


class Job(Spec):
    """The whole way from raw data to a served model, or any part of it."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
    """Folder name of the run under `storage`: lower-case letters, digits, dots, dashes."""
    storage: Text = "runs"
    """Where artifacts are written: a folder, or `s3:// gs:// abfs:// hdfs://`."""
    seed: int = Field(default=0, ge=0, le=2**32 - 1)  # what numpy's generators take
    """Decides initial weights, data order and the sampling of a sweep."""
    cluster: ClusterSpec = ClusterSpec()
    """Where it runs."""
    trackers: Annotated[Many[Literal["tensorboard", "wandb", "mlflow"]], DISTINCT] = (
        "tensorboard",
    )
    """Where training records go beside `metrics.jsonl`. W&B and MLflow are the extra `tracking`."""
    prepare: PrepareSpec | None = None
    """Raw text to shards of tokens."""
    pretrain: PretrainSpec | None = None
    """Shards to a model."""
    finetune: FinetuneSpec | None = None
    """A model to a better one for a task."""
    evaluate: EvaluateSpec | None = None
    """Measures on held-out data; gates."""
    compress: CompressSpec | None = None
    """A cheaper model, or one of several, held to the measures and gates of `evaluate`."""
    serve: ServeSpec | None = None
    """The model behind an HTTP API."""
    monitor: MonitorSpec | None = None
    """Texts as they come, the classes that a served model gives them, alerts."""

    @model_validator(mode="after")
    def _checks_across_stages(self) -> Job:
        stages = ("prepare", "pretrain", "finetune", "evaluate", "compress", "serve", "monitor")
        if not any(getattr(self, stage) for stage in stages):
            raise ValueError(f"no stage given; write at least one of {', '.join(stages)}")
        if self.pretrain and not (self.prepare or self.pretrain.data):
            raise ValueError("pretrain has no data; add a `prepare` section or set `pretrain.data`")
        if self.pretrain and self.pretrain.base and not self.pretrain.data:
            tokenizer = self.prepare.tokenizer if self.prepare else None
            if tokenizer is not None and tokenizer.load is None:
                raise ValueError(
                    "pretrain.base reads with its own tokenizer, and prepare would train another; "
                    f"write prepare.tokenizer: {{load: {show(self.pretrain.base)}}}"
                )
        if self.finetune and self.finetune.starts_from_pretrain and not self.pretrain:
            raise ValueError(
                "finetune has no model; add a `pretrain` section, or set `finetune.base` or "
                "`finetune.model`"
            )
        if self.evaluate and not (self.trains or self.compress):
            raise ValueError("evaluate has no model; add `pretrain` or `finetune`")
        if self.compress and not (self.trains or self.compress.named):
            raise ValueError(
                "compress has no model; add `pretrain` or `finetune`, or set `compress.model`"
            )
        if self.compress and not self.evaluate:
            raise ValueError(
                "compress has no measures; add `evaluate`, whose measures are taken before and "
                "after, and whose gates say when the compressed model is the best"
            )
        if self.serve and not (self.trains or self.compress or self.serve.model):
            raise ValueError(
                "serve has no model; add `pretrain` or `finetune`, or set `serve.model`"
            )
        if self.monitor and not (self.serve or self.monitor.url):
            raise ValueError("monitor has no model; add a `serve` section, or set `monitor.url`")
        for stage, spec in (("pretrain", self.pretrain), ("finetune", self.finetune)):
            if spec is not None:
                _check_global_batch(stage, spec, self.cluster)
        return self

    @property
    def trains(self) -> bool:
        """Whether it makes a model of data. Where it makes one of others alone, `evaluate` is no
        stage of its own, and says how `compress` measures."""
        return bool(self.pretrain or self.finetune)

    @property
    def task(self) -> str:
        """The task whose model is evaluated and served."""
        if self.finetune:
            return self.finetune.task.name
        return self.pretrain.objective.name if self.pretrain else "causal_lm"


def own_parts(job: Job) -> tuple[str, ...]:
    """All parts of the user's own that a job names, as `module.path:Name`."""
    models = [each.model for each in (job.pretrain, job.finetune) if each and each.model]
    named: list[str | None] = [
        job.pretrain.objective.name if job.pretrain else None,
        job.finetune.task.name if job.finetune else None,
        *(model.module for model in models),
        *(step.name for each in (job.prepare, job.finetune) if each for step in each.clean.steps),
        *(job.evaluate.metrics if job.evaluate else ()),
    ]
    return tuple(name for name in dict.fromkeys(named) if name is not None and is_own(name))


def _check_global_batch(stage: str, spec: TrainSpec, cluster: ClusterSpec) -> None:
    try:
        fewest = spec.parallel.data_workers(cluster.min_workers)
        most = spec.parallel.data_workers(cluster.max_workers)
    except SpecError as error:
        raise ValueError(f"{stage}.{error}") from None
    kind = "workers" if spec.parallel.model_workers == 1 else "replicas"
    if fewest == most and spec.global_batch % most:
        lower = spec.global_batch // most * most
        raise ValueError(
            f"{stage}.global_batch of {spec.global_batch} cannot be divided by {most} {kind}; "
            f"use {lower or most} or {lower + most}, or change cluster.workers"
        )
    if spec.global_batch < most:
        raise ValueError(
            f"{stage}.global_batch of {spec.global_batch} is less than {most} {kind}; "
            "each needs at least one row a step"
        )
