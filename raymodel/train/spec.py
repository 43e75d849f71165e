"""`pretrain:` and `finetune:` how a model is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from raymodel.data.mixing.spec import MixtureSpec
from raymodel.data.spec import (
    MAX_LEFT_OUT,
    MAX_ROW_TOKENS,
    CleanSpec,
    DatasetSpec,
    SourceSpec,
    TokenizerSpec,
)
from raymodel.errors import SpecError
from raymodel.model.spec import AdapterSpec, ModelSpec
from raymodel.spec.base import OPERATIONAL, Many, Spec, Text
from raymodel.spec.quantity import Amount, Count, Fraction, Seconds
from raymodel.tasks.spec import TaskSpec
from raymodel.tasks.spec.language import CausalLMSpec
from raymodel.train.distill.spec import DistillSpec
from raymodel.train.update.optimizer_spec import OptimizerSpec, find_conflict
from raymodel.train.update.schedule_spec import ScheduleSpec
from raymodel.tune.spec import SweepSpec

MAX_BATCH = 100_000_000
"""Rows in one step; their positions lie in the memory of one process."""
MAX_WORKERS_OF_A_NODE = 64
"""Who shares matrices or rows sits in one node, and nodes hold far fewer devices."""


class ParallelSpec(Spec):
    """How the model state is spread over the workers. Never changes the curve."""

    zero: int = Field(default=1, ge=0, le=3)
    """ZeRO stage (arXiv:1910.02054): 0 replicates, 1 shards optimizer state, 2 adds gradients,
    3 adds weights."""
    tensor: int = Field(default=1, ge=1, le=MAX_WORKERS_OF_A_NODE)
    """Workers that share each matrix (tensor parallelism, arXiv:1909.08053), inside one node.
    For llama, mistral, qwen, gemma and others like them; the heads must divide."""
    sequence: int = Field(default=1, ge=1, le=MAX_WORKERS_OF_A_NODE)
    """Workers that share each row, by positions (Ulysses, arXiv:2309.14509), inside one node.
    For causal_lm with llama, mistral, qwen, gemma and others like them; the heads must divide."""
    offload: Literal["none", "cpu"] = "none"
    """Where the optimizer's state lives: with the weights, or in the host's memory
    (ZeRO-Offload, arXiv:2101.06840)."""

    @property
    def model_workers(self) -> int:
        """Workers that hold one replica between them, before ZeRO spreads it further."""
        return self.tensor * self.sequence

    @model_validator(mode="before")
    @classmethod
    def _not_offered(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        if "pipeline" in data:
            raise ValueError(
                "pipeline parallelism is not offered: DeepSpeed's takes ZeRO 0 and 1 only, no tied "
                "weights, and models rewritten as lists of layers; zero: 3 with tensor or sequence "
                "spreads as large a model, so use those"
            )
        if data.get("offload") == "nvme":
            raise ValueError(
                "offload to nvme is not offered: DeepSpeed's takes ZeRO 3 only, and swaps out the "
                "state that a checkpoint reads; use offload: cpu, and more workers where the "
                "memory of the hosts is too small"
            )
        return data

    @model_validator(mode="after")
    def _offloads_what_is_shared_out(self) -> ParallelSpec:
        if self.offload == "cpu" and self.zero == 0:
            raise ValueError(
                "offload is cpu and zero is 0: only state that ZeRO shares out can be offloaded; "
                "use zero: 1, 2 or 3"
            )
        return self

    def data_workers(self, workers: int) -> int:
        """Replicas that different rows go to.

        Raises:
            SpecError: the workers cannot be shared out to whole replicas.
        """
        each = self.model_workers
        if workers % each:
            lower = workers // each * each
            raise SpecError(
                f"parallel needs a multiple of tensor x sequence = {self.tensor} x {self.sequence} "
                f"= {each} workers, and there are {workers}; use "
                f"{f'{lower} or ' if lower else ''}{lower + each}, or a smaller layout"
            )
        return workers // each


class CheckpointSpec(Spec):
    """When training state is saved, and how much of it is kept."""

    every: Amount | None = None
    """Steps or tokens between checkpoints; by default a tenth of the run."""
    keep: int = Field(default=2, ge=1, le=1_000_000)
    """The newest checkpoints that stay."""
    wait: bool = False
    """Write while training waits. By default a thread writes beside it; only the copy out of the
    optimizer stops training."""


class FaultSpec(Spec):
    """What is done when something breaks."""

    retries: int = Field(default=3, ge=0, le=1_000_000)
    """Infrastructure failures (worker, node, storage) survived before the run gives up."""
    preemption_retries: int = Field(default=100, ge=0, le=1_000_000)
    """Times that the run goes on after nodes were taken away with notice. Many more than `retries`:
    it is normal on spot machines, and costs little."""
    non_finite_loss: Literal["stop", "skip", "rewind"] = "stop"
    """When a loss or gradient is NaN or infinite: `stop`; `skip` leaves the step's update out, ten
    times in a row at most; `rewind` goes back to the newest checkpoint and leaves out the data from
    there to the bad step, five times in a run at most."""
    hang_after: Seconds = Field(default="30min", ge=1)  # type: ignore[assignment]
    """No step for this long, and for twenty times the median step, counts as a failure; stack
    traces are saved first."""


class TrainSpec(Spec):
    """What pretraining and fine-tuning share."""

    global_batch: int = Field(ge=1, le=MAX_BATCH)
    """Rows in one optimizer step, over all workers."""
    micro_batch: Annotated[int | None, OPERATIONAL] = Field(default=None, ge=1, le=MAX_BATCH)
    """Rows in one forward pass of one worker; by default all of its share of the batch."""
    duration: Amount
    """How long to train."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """The optimizer."""
    schedule: ScheduleSpec = ScheduleSpec()
    """The learning rate over time."""
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    """Number format of weights and activations; the optimizer always keeps fp32 weights."""
    attention: Annotated[Literal["sdpa", "flash", "eager"], OPERATIONAL] = "sdpa"
    """Attention kernel: torch's own choice, FlashAttention 2 (CUDA only, the package `flash-attn`),
    or plain matrices."""
    activation_checkpointing: Annotated[bool, OPERATIONAL] = False
    """Keep only the input of each layer for the backward pass and compute the rest again
    (arXiv:1604.06174): far less memory for a third more arithmetic."""
    compile: Annotated[bool, OPERATIONAL] = False
    """Compile the model with `torch.compile` before the first step."""
    mixture: MixtureSpec | None = None
    """How the sources are mixed over the run; by default by their sizes and weights."""
    distill: DistillSpec | None = None
    """Learn from a teacher too; by default from the data alone."""
    batch_norm: Literal["synchronised", "frozen"] = "synchronised"
    """Batch norm, in models that have it. `synchronised` takes the statistics of the whole step,
    over all workers, which needs one forward pass a step; `frozen` keeps the running statistics as
    the base has them and uses those, as for small batches, and trains scales and biases only."""
    parallel: Annotated[ParallelSpec, OPERATIONAL] = ParallelSpec()
    """How the state is spread."""
    checkpoint: Annotated[CheckpointSpec, OPERATIONAL] = CheckpointSpec()
    """Saving."""
    export: Literal["last", "best"] = "last"
    """Which checkpoint becomes the model: the last, or the one with the lowest validation loss.
    With `best` every checkpoint is validated, and the best one stays beside the newest."""
    fault: Annotated[FaultSpec, OPERATIONAL] = FaultSpec()
    """Failures."""
    on_bad_shard: Literal["stop", "skip"] = "stop"
    """`skip` leaves out the rows of a corrupt shard, counts them, and changes the data digest."""
    validate_every: Annotated[Amount | None, OPERATIONAL] = None
    """Steps between measurements on held-out rows; by default five times in a run."""
    validate_rows: Annotated[Count, OPERATIONAL] = Field(default=256, ge=1)
    """Held-out rows used for each measurement."""
    log_every: Annotated[Amount | None, OPERATIONAL] = None
    """Steps between log records; by default about two hundred in a run."""

    @model_validator(mode="after")
    def _warms_up_within_the_run(self) -> TrainSpec:
        if self.duration.unit == "steps":  # else known with the data, to `plan_training`
            try:
                self.schedule.phases(math.ceil(self.duration.value))
            except SpecError as error:
                raise ValueError(str(error)) from None
        return self

    @model_validator(mode="after")
    def _optimizer_takes_the_layout(self) -> TrainSpec:
        p = self.parallel
        reason = find_conflict(self.optimizer.name, zero=p.zero, tensor=p.tensor, offload=p.offload)
        if reason is not None:
            raise ValueError(reason)
        return self

    def identity(self) -> dict[str, Any]:
        """Without a teacher nothing of one, so that what was made before keeps its name; nor of a
        mixture that changes nothing."""
        known, mixture = super().identity(), self.mixture
        left_out = set() if self.distill else {"distill"}
        left_out |= {"mixture"} if mixture is None or mixture.is_plain else set()
        return {k: v for k, v in known.items() if k not in left_out}

    @property
    def dataset_names(self) -> tuple[str, ...]:
        """How `mixture` calls the datasets that the job names, in their order."""
        return ()

    @model_validator(mode="after")
    def _teacher_is_not_cut(self) -> TrainSpec:
        for field in ("tensor", "sequence"):
            workers = getattr(self.parallel, field)
            if self.distill is not None and workers > 1:
                raise ValueError(
                    f"distill has a teacher, which is not cut among workers, and parallel.{field} "
                    f"is {workers}; use parallel: {{zero: 3}}, which spreads both models"
                )
        return self

    @model_validator(mode="after")
    def _layers_are_heard(self) -> TrainSpec:
        """What layers give is taken by hooks, within one pass that is computed as it is written."""
        matches = self.distill is not None and self.distill.hidden is not None
        for field in ("activation_checkpointing", "compile"):
            if matches and getattr(self, field):
                raise ValueError(
                    f"distill.hidden takes what each layer gives, and with {field} layers are not "
                    "computed one by one; leave one of them out"
                )
        return self

    @model_validator(mode="after")
    def _flash_is_for_16_bits(self) -> TrainSpec:
        if self.attention == "flash" and self.precision == "fp32":
            raise ValueError(
                "attention is flash and precision is fp32, which FlashAttention does not compute "
                "in; use precision: bf16, or attention: sdpa"
            )
        return self


class PretrainSpec(TrainSpec):
    """Trains a model on prepared rows: a fresh one, or one that goes on from where it was."""

    objective: TaskSpec = CausalLMSpec()
    """What the model learns to predict."""
    model: ModelSpec | None = None
    """A fresh model."""
    base: Text | None = None
    """The model to go on from in place of a fresh one: a Hugging Face folder,
    `hf://OWNER/NAME[@REVISION]`, `python:PACKAGE/path`, or `RUN/STAGE`. Its data must be read as it
    reads: `prepare.tokenizer: {load: …}` the same. All of its weights are trained, with a fresh
    optimizer and a schedule of its own."""
    data: Text | Annotated[Many[DatasetSpec], Field(min_length=1)] | None = None
    """A dataset artifact (URI or `RUN/prepare`), or a list of them with weights, such as
    `[{path: code/prepare, weight: 2.0}, {path: prose/prepare}]`; by default this job's
    `prepare`."""

    @model_validator(mode="after")
    def _starts_from_one(self) -> PretrainSpec:
        if self.model is None and self.base is None:
            raise ValueError(
                "there is no model; give `model` (a fresh one), or `base` (go on from its weights)"
            )
        if self.model is not None and self.base is not None:
            raise ValueError("give either `base` (go on from its weights) or `model` (a fresh one)")
        return self

    @model_validator(mode="after")
    def _student_is_the_model(self) -> PretrainSpec:
        if self.distill is not None and self.distill.student is not None:
            raise ValueError(
                "distill.student begins as layers of the teacher, and pretraining has a `model` "
                "or a `base`; leave student out, or distill in `finetune`"
            )
        return self

    @property
    def datasets(self) -> tuple[DatasetSpec, ...]:
        """The datasets that the job names; none when it trains on its own `prepare`."""
        if isinstance(self.data, str):
            return (DatasetSpec(path=self.data),)
        return self.data or ()

    def identity(self) -> dict[str, Any]:
        """Of the named datasets only the weights: which they are, the stage's inputs say. A dataset
        alone, as it is, says nothing: it may be this job's own."""
        weights = [dataset.identity() for dataset in self.datasets]
        is_plain = len(self.datasets) == 1 and self.datasets[0].weight == 1
        known = super().identity() | {"data": None if is_plain else weights or None}
        del known["base"]  # which it is, the stage's input says, or its content
        if "mixture" in known:
            known["mixture"]["stages"] = [
                {**stage, "weights": self._by_place(stage["weights"])}
                for stage in known["mixture"]["stages"]
            ]
        return known

    def _by_place(self, weights: dict[str, float]) -> dict[str, float]:
        """Datasets by their places, as the stage's inputs have them, and not by where they lie."""
        places = {name: f"data-{i}" for i, name in enumerate(self.dataset_names, start=1)}
        return {places.get(name, name): weight for name, weight in weights.items()}

    @property
    def dataset_names(self) -> tuple[str, ...]:
        """Their paths."""
        return tuple(dataset.path for dataset in self.datasets)


class FinetuneSpec(TrainSpec):
    """Adapts a model to labelled data."""

    task: TaskSpec
    """What the model is adapted to: a name, or a section with `name` and what the task takes."""
    sources: Many[SourceSpec] = Field(min_length=1)
    """Labelled records."""
    clean: CleanSpec = CleanSpec()
    """What to keep."""
    holdout: Fraction = 0.05
    """Share of the documents kept for evaluation, chosen by a hash of the file where a file is a
    document (`text`, `folder`, `python_functions`), so that a module falls on one side; else of the
    prompt or text, so that all answers to a prompt and all labels of a text do. Above 0, since
    training is validated on them."""
    max_left_out: Annotated[Fraction, OPERATIONAL] = MAX_LEFT_OUT
    """Stop when more than this share of what was read of a source is left out, other than by
    `clean`. By default half: bad records are a few in a hundred as a rule, while a wrong format,
    encoding or name of a field loses nearly all. A dataset that is complete is not judged again."""
    max_length: Count = Field(default=512, gt=1, le=MAX_ROW_TOKENS)
    """Longest example in tokens; longer ones are cut. By default 512, or what the base can take."""
    base: Text | None = None
    """The model to start from: a Hugging Face folder, `hf://OWNER/NAME[@REVISION]` on the Hugging
    Face Hub, `python:PACKAGE/path`, or `RUN/STAGE`; by default this job's `pretrain`. Of the Hub
    safetensors are read, at a commit that the run keeps; each machine fetches them once."""
    model: ModelSpec | None = None
    """A fresh model in place of a base, for tasks that learn from their examples alone."""
    tokenizer: TokenizerSpec | None = None
    """What a fresh model reads text with: trained on the texts of its examples, or loaded. A base
    has its own."""
    adapter: AdapterSpec | None = None
    """Train an adapter and merge it at the end; by default all weights are trained."""
    sweep: Annotated[SweepSpec | None, "sweep"] = None
    """Search over settings; the best trial becomes the result."""

    @model_validator(mode="after")
    def _starts_from_one(self) -> FinetuneSpec:
        if self.model is not None and self.base is not None:
            raise ValueError("give either `base` (start from its weights) or `model` (a fresh one)")
        if self.model is not None and self.adapter is not None:
            raise ValueError(
                "adapter is for the weights of a base, and `model` is fresh; leave adapter out"
            )
        if self.makes_student and (self.model is not None or self.base is not None):
            raise ValueError(
                "distill.student says what the student begins as; leave `base` and `model` out, or "
                "leave student out"
            )
        if self.adapter is not None and self.distill is not None and self.distill.hidden:
            raise ValueError(
                "distill.hidden trains matrices beside whole layers, and an adapter leaves those "
                "as they are; leave one of them out"
            )
        if self.tokenizer is not None and self.distill is not None:
            raise ValueError(
                "tokenizer is for a fresh `model` alone, and a student reads with its teacher's, "
                "whose ids both give logits for; leave it out"
            )
        if self.tokenizer is not None and self.model is None:
            raise ValueError(
                "tokenizer is for a fresh `model`, and a base reads with its own; leave it out"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """A tokenizer that is not named changes nothing."""
        known = super().identity()
        return known if self.tokenizer else {k: v for k, v in known.items() if k != "tokenizer"}

    @property
    def starts_from_pretrain(self) -> bool:
        """Whether the model is that of this job's `pretrain`."""
        return self.base is None and self.model is None and not self.makes_student

    @property
    def makes_student(self) -> bool:
        """Whether the model begins as a part of its teacher."""
        return self.distill is not None and self.distill.student is not None

    def max_length_for(self, most: int | None) -> int:
        """The longest example for a base that takes so many tokens; None where it names no limit.

        Raises:
            SpecError: the job file asks for more.
        """
        if most is None or self.max_length <= most:
            return self.max_length
        if "max_length" in self.model_fields_set:
            raise SpecError(
                f"finetune.max_length is {self.max_length}, and the base has {most} "
                "positions for tokens; lower it, or start from a base with more"
            )
        return most
