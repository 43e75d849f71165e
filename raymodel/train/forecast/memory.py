"""What one training worker keeps in memory, by component and by moment of a step. Pure arithmetic.

A step has a few moments at which memory can be at its peak; each is what is always there plus what
is there then. Both are read off DeepSpeed 0.19.8 (`deepspeed/runtime/`): the file that each term
comes from stands beside it. `benchmarks/plan_memory.py` holds this against measured peaks.

Not counted: code, the CUDA context and NCCL's own buffers, and what an allocator loses to
fragmentation. Whoever compares with a device leaves room for them (`cluster/devices.py`).

Letters: N trained and F frozen parameters of one worker after tensor parallelism has cut them,
b bytes of a weight, D workers that ZeRO spreads the state over.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from raymodel.model.activations import Activations, count_activations
from raymodel.model.counted import CountedShape, Shape
from raymodel.train.forecast.buckets import BUCKET_ELEMENTS, LIVE_ELEMENTS
from raymodel.train.plan import plan_batch, stage_to_run
from raymodel.train.spec import FinetuneSpec, TrainSpec
from raymodel.train.update.optimizer_spec import OptimizerName

FP32 = 4
REPLICATED_BUCKET = 500_000_000  # MEMORY_OPT_ALLREDUCE_SIZE in engine.py, for stage 0
LOSS_CHUNK_ELEMENTS = 2**26  # of tasks/loss.py on a GPU: fp32, and once more for the gradient

Parts = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How a group of workers trains: what memory depends on besides the model and the rows."""

    workers: int
    global_batch: int
    micro_batch: int
    """Rows in one forward pass."""
    row_texts: int = 1
    """Texts of a row, each as long as a row can be."""
    in_one_pass: bool = False
    """Whether each worker has to compute its rows of a step together, and those alone."""
    tensor: int = 1
    sequence: int = 1
    zero: int = 1
    offload: bool = False
    precision: Literal["bf16", "fp16", "fp32"] = "bf16"
    attention: Literal["sdpa", "flash", "eager"] = "sdpa"
    activation_checkpointing: bool = False
    on_gpu: bool = False
    optimizer: OptimizerName = "adamw"
    teacher: int = 0
    """Parameters of a frozen model that says what each batch should give; 0 where there is none."""
    teacher_buffer_bytes: int = 0
    teacher_largest: int = 0
    """Elements of its largest parameter."""
    teacher_working: float = 0.0
    """Bytes a token that it keeps while it computes a layer."""
    moments: int = 2
    """fp32 numbers that the optimizer keeps of each weight; `count_moments` has the rest."""

    @classmethod
    def of(
        cls,
        spec: TrainSpec,
        workers: int,
        *,
        on_gpu: bool,
        teacher: Shape | None = None,
        row_tokens: float = 0.0,
    ) -> Setup:
        """What a spec means for so many workers.

        Args:
            teacher: the shape of the model that is learnt from.
            row_tokens: tokens of the longest row, where there is one.
        """
        parallel = spec.parallel
        replicas = parallel.data_workers(workers)
        task = spec.task if isinstance(spec, FinetuneSpec) else None
        setup = cls(
            workers=workers,
            global_batch=spec.global_batch,
            micro_batch=plan_batch(spec.global_batch, spec.micro_batch, replicas).micro_batch,
            row_texts=task.row_texts if task else 1,
            in_one_pass=task is not None and task.sees_whole_step,
            tensor=parallel.tensor,
            sequence=parallel.sequence,
            zero=parallel.zero,
            offload=parallel.offload == "cpu",
            precision=spec.precision,
            attention=spec.attention,
            activation_checkpointing=spec.activation_checkpointing,
            on_gpu=on_gpu,
            optimizer=spec.optimizer.name,
            moments=spec.optimizer.moments,
        )
        if teacher is None:
            return setup
        kept = _activations(teacher, setup, row_tokens)
        return replace(
            setup,
            teacher=teacher.trained + teacher.frozen,
            teacher_buffer_bytes=teacher.buffer_bytes,
            teacher_largest=teacher.largest,
            # Of one layer, all that a backward pass would need: more is never there at once.
            teacher_working=kept.layer + kept.ends,
        )

    @property
    def data(self) -> int:
        """Replicas that different rows go to."""
        return self.workers // (self.tensor * self.sequence)

    @property
    def shards(self) -> int:
        """Workers that ZeRO spreads the state over: all that hold the same part of the model."""
        return self.workers // self.tensor

    @property
    def stage(self) -> int:
        """The ZeRO stage that is run."""
        return stage_to_run(
            self.zero, workers=self.workers, precision=self.precision, offload=self.offload
        )

    @property
    def accumulation(self) -> int:
        return plan_batch(self.global_batch, self.micro_batch, self.data).accumulation

    @property
    def number_bytes(self) -> int:
        return FP32 if self.precision == "fp32" else 2


@dataclass(frozen=True, kw_only=True)
class Moment:
    """One point of a step at which memory may be at its peak."""

    name: str
    parts: Parts
    """Component → bytes on the worker's device, which for a CPU worker is the host."""

    @property
    def total(self) -> float:
        return sum(self.parts.values())


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """The memory of one worker."""

    moments: tuple[Moment, ...]
    host: Parts = field(default_factory=dict)
    """Beside a GPU: what lies in the memory of its machine."""

    @property
    def peak(self) -> Moment:
        return max(self.moments, key=lambda moment: moment.total)

    @property
    def host_total(self) -> float:
        return sum(self.host.values())


def count_moments(shape: Shape, setup: Setup) -> int:
    """fp32 numbers that the optimizer keeps of the whole model, beside its weights."""
    kept = setup.moments * shape.trained
    if setup.optimizer == "adafactor":
        kept += shape.sides
    if setup.optimizer == "muon":
        kept += shape.trained - shape.hidden
    return kept


def plan_memory(
    shape: Shape, setup: Setup, *, row_tokens: float, checkpoints: bool = True
) -> MemoryPlan:
    """The memory of one worker.

    Args:
        shape: the model.
        setup: how it is trained.
        row_tokens: tokens of the longest row.
        checkpoints: whether any were written: the saver then keeps its copies.
    """
    return _Worker(shape, setup, row_tokens, checkpoints).plan()


class _Worker:
    def __init__(self, shape: Shape, setup: Setup, row_tokens: float, checkpoints: bool) -> None:
        share = shape.tensor_share(setup.tensor)
        self.setup, self.b = setup, setup.number_bytes
        self.trained, self.frozen = shape.trained * share, shape.frozen * share
        self.largest = shape.largest
        self.tokens = setup.micro_batch * setup.row_texts * row_tokens / setup.sequence
        self.checkpoints = checkpoints
        self.head = shape.head_gradient(setup.tensor)
        self.buffers = shape.buffer_bytes
        self.kept = _activations(shape, setup, row_tokens)
        self.moment_bytes = FP32 * count_moments(shape, setup) * share
        self.state_shards = setup.shards if setup.stage >= 1 else 1

    def plan(self) -> MemoryPlan:
        resident, host = self._resident()
        extra = {
            **({"teacher": self._teacher()} if self.setup.teacher else {}),
            "forward": self._forward(),
            "backward": self._backward(),
            "reduction": self._reduction(),
            "update": self._update(),
            "gathering": self._gathering(),
        }
        if not self.setup.on_gpu:
            resident, host = _sum(resident, host), {}
        moments = tuple(
            Moment(name=name, parts=_sum(resident, parts)) for name, parts in extra.items()
        )
        return MemoryPlan(moments=moments, host=host)

    # ---- what is always there ------------------------------------------------------------------

    def _resident(self) -> tuple[Parts, Parts]:
        """Between two steps: on the device, and on the host."""
        zero, shards = self.setup.stage, self.state_shards
        weights = self.b * (self.trained + self.frozen) / (self.setup.shards if zero == 3 else 1)
        # stage_1_and_2.py keeps fp32 weights beside fp32 ones too: `single_partition_of_fp32_
        # groups` is a clone; stage3.py compares a device with its name and so clones as well.
        # Only stage 0 in fp32 hands torch the model's own weights.
        has_copy = zero >= 1 or self.setup.precision != "fp32"
        state: Parts = {
            "fp32 weights": FP32 * self.trained / shards if has_copy else 0.0,
            "moments": self.moment_bytes / shards,
        }
        device: Parts = {"weights": weights + self.buffers}
        # Whole on each worker, as weights are, and shared out where they are.
        teacher = self.b * self.setup.teacher / (self.setup.shards if zero == 3 else 1)
        device["teacher"] = teacher + self.setup.teacher_buffer_bytes
        host: Parts = {}
        if (
            self.checkpoints
        ):  # train/checkpoint/saver.py: weight and moments of the slices that a rank owns
            kept = FP32 * self.trained + self.moment_bytes
            host["checkpoint copies"] = kept / self.setup.shards
        if not self.setup.offload:
            device |= state
        else:
            host |= state
            # The fp32 gradient stays (`initialize_optimizer_states`), and stages 1 and 2 keep the
            # updated weights in 16 bits before they are copied to the device.
            host["gradients on the host"] = FP32 * self.trained / shards
            if zero < 3:
                host["weights on the host"] = self.b * self.trained / shards
        if zero == 3:
            # stage3.py: `grad_partitions_flat_buffer` and the bucket are made once and stay.
            place = host if self.setup.offload else device
            place["gradients"] = self.b * self.trained / self.setup.shards
            device["buckets"] = self.b * self._bucket()
        return device, host

    # ---- the moments ---------------------------------------------------------------------------

    def _teacher(self) -> Parts:
        """While the teacher computes what it says, before its student does."""
        return {
            "activations": self.tokens * self.setup.teacher_working,
            "teacher's logits": self.tokens * self.kept.logits,
            **self._beside_activations(),
        }

    def _forward(self) -> Parts:
        """The end of the forward pass, and the backward of the head that made the logits."""
        beside = self._beside_activations()
        beside["gradients"] += self.b * self.head
        kept = self.kept
        layers = kept.layer_inputs if self.setup.activation_checkpointing else kept.layers
        return {
            "activations": self.tokens * (layers + kept.ends) + kept.once,
            "logits": self._logits(),
            "teacher's logits": self._teacher_logits(),
            **beside,
        }

    def _backward(self) -> Parts:
        """Inside the last layer, the first to be gone back through."""
        kept = self.kept.layers
        if self.setup.activation_checkpointing:
            kept = self.kept.layer_inputs + self.kept.layer
        beside = self._beside_activations()
        beside["gradients"] += self.b * self.head  # made before it is added, reduced or cut up
        size = self.tokens * (kept + self.kept.working) + self.kept.once
        return {"activations": size, **beside}

    def _beside_activations(self) -> Parts:
        makes_bucket = self.setup.on_gpu and self.setup.stage in (1, 2)  # `setup_buckets`
        return {
            "gradients": self._accumulated(),
            "buckets": self.b * BUCKET_ELEMENTS * makes_bucket,
            "gathered weights": self._gathered(),
        }

    def _reduction(self) -> Parts:
        """All gradients are there, the activations are gone, and a bucket is flattened."""
        setup, b = self.setup, self.b
        own = b * self.trained / setup.shards
        if setup.stage == 0:  # engine.py, `allreduce_bucket`
            return {
                "gradients": b * self.trained,
                "buckets": b * min(REPLICATED_BUCKET, self.trained) * (setup.workers > 1),
            }
        # A larger parameter than the bucket is reduced by itself.
        filled = min(max(BUCKET_ELEMENTS, self.largest), self.trained)
        flat = b * filled
        if setup.sequence > 1 and b < FP32 and setup.stage < 3:
            flat += FP32 * filled  # stage_1_and_2.py, `allreduce_bucket` sums these in fp32
        if setup.stage == 1:  # they move into the bucket, and from there to the own partition
            whole = max(b * self.trained, b * self._bucket() + own)
            return {"gradients": whole, "buckets": flat}
        if setup.stage == 2:
            return {"gradients": own + self._accumulated(), "buckets": b * self._bucket() + flat}
        # The embedding's gradient comes last, and waits in the hook that reduces it.
        last = b * self.largest
        return {"gradients": last, "buckets": flat, "gathered weights": last}

    def _update(self) -> Parts:
        """The own gradients as one fp32 tensor, the only form in which they are applied."""
        own = self.trained / self.state_shards
        cast = 0.0 if self.setup.precision == "fp32" else FP32 * own
        if self.setup.offload:
            return {}
        if self.setup.stage == 0:  # unfused_optimizer.py: fp32 gradients beside the others
            return {"gradients": self.b * own + cast}
        # The tensors, the same flattened, and cast. Stage 3 has the tensors in its buffer.
        pieces = 1 if self.setup.stage == 3 else 2
        return {"gradients": pieces * self.b * own + cast}

    def _gathering(self) -> Parts:
        """Stages 1 and 2 collect the updated weights; gloo does so into a second tensor."""
        if self.setup.stage not in (1, 2) or self.setup.on_gpu or self.setup.shards == 1:
            return {}
        return {"buckets": self.b * self.trained}

    # ---- parts of moments ----------------------------------------------------------------------

    def _bucket(self) -> float:
        """Elements of a bucket that take memory: a CPU maps only the pages that are written."""
        return BUCKET_ELEMENTS if self.setup.on_gpu else min(BUCKET_ELEMENTS, self.trained)

    def _gathered(self) -> float:
        """Bytes of whole weights that stage 3 keeps while it computes.

        partitioned_param_coordinator.py fetches ahead until `max_live_parameters`, the last one
        over that.
        """
        if self.setup.stage < 3:
            return 0.0
        own = min(LIVE_ELEMENTS + self.largest, self.trained + self.frozen)
        # The two have a limit each, and what one gathered last may still be there.
        return self.b * (own + min(LIVE_ELEMENTS + self.setup.teacher_largest, self.setup.teacher))

    def _accumulated(self) -> float:
        """Gradients of the step's earlier micro batches; stage 3 has its buffer for them."""
        if self.setup.accumulation == 1 or self.setup.stage == 3:
            return 0.0
        return self.b * self.trained / (self.setup.shards if self.setup.stage == 2 else 1)

    def _teacher_logits(self) -> float:
        """Those of the teacher stay until the gradient of its student's is made; on a GPU the loss
        works on fp32 chunks of them too (tasks/distilled.py)."""
        if not self.setup.teacher:
            return 0.0
        elements = self.tokens * self.kept.logits / self.b
        chunk = min(LOSS_CHUNK_ELEMENTS, elements) if self.setup.on_gpu else 0.0
        return self.b * elements + 2 * FP32 * chunk

    def _logits(self) -> float:
        """Their gradient takes their place; on a GPU the loss works on large fp32 chunks."""
        elements = self.tokens * self.kept.logits / self.b
        chunk = min(LOSS_CHUNK_ELEMENTS, elements) if self.setup.on_gpu else 0.0
        return self.b * elements + 2 * FP32 * chunk


def _activations(shape: Shape, setup: Setup, row_tokens: float) -> Activations:
    """By formula, or as they were counted: then what tensor parallelism would cut is whole."""
    if isinstance(shape, CountedShape):
        return shape.activations()
    return count_activations(
        shape,
        number_bytes=setup.number_bytes,
        attention=setup.attention,
        context=round(row_tokens),
        tensor=setup.tensor,
        on_gpu=setup.on_gpu,
    )


def _sum(*all_parts: Parts) -> Parts:
    """Component by component; what takes nothing is left out."""
    names = dict.fromkeys(name for parts in all_parts for name in parts)
    sums = {name: sum(parts.get(name, 0.0) for parts in all_parts) for name in names}
    return {name: size for name, size in sums.items() if size}
