"""Where DeepSpeed keeps the fp32 weights and moments: the only file that reads its internals.

Each optimizer class of DeepSpeed lays the state out in its own way. `owned_slices` and
`held_slices` describe all of them in one form: elements of a parameter (`span`) that lie in a flat
fp32 tensor (`flat`, from `offset` on), whose moments are the optimizer's state for that flat
tensor. The parameter is always the whole one, also where a worker has only a part of the matrix
(tensor parallelism). An upgrade that moves these internals fails in tests/train/test_train_zero.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from raymodel.heap import give_back_freed_memory
from raymodel.model.initial import Weights
from raymodel.model.materialise import LARGE_BYTES
from raymodel.train.checkpoint.index import Index, statistic_name
from raymodel.train.checkpoint.span import Span
from raymodel.train.layout import Layout
from raymodel.train.plan import cut

if TYPE_CHECKING:
    from deepspeed.checkpoint.affine import AffinePiece, ParamAffineMap
    from deepspeed.runtime.engine import DeepSpeedEngine

WEIGHT = "weight"


def partition_as_made(config: Mapping[str, Any]) -> Callable[[torch.nn.Parameter], None]:
    """ZeRO-3: what to call with each parameter of a model before DeepSpeed is given the model.

    Each rank then keeps its share of the parameter, and the rest is freed. It is a collective, so
    all ranks must make the same parameters in the same order.

    Args:
        config: The configuration that DeepSpeed will be given too.
    """
    import deepspeed

    init = deepspeed.zero.Init(config_dict_or_path=dict(config))  # not entered: nothing is patched
    return lambda parameter: init._convert_to_zero_parameters([parameter])


def shared_out(network: torch.nn.Module, config: Mapping[str, Any]) -> Any:
    """ZeRO-3: an engine without an optimizer around a frozen network, of which each rank has its
    share and gathers layer after layer while it computes.

    Args:
        network: whose parameters were made with `partition_as_made`.
        config: that of the training, of which what belongs to an optimizer is left out.
    """
    import deepspeed

    own = {name: value for name, value in config.items() if name != "optimizer"}
    shares = {n: v for n, v in own["zero_optimization"].items() if n != "offload_optimizer"}
    engine, *_ = deepspeed.initialize(model=network, config=own | {"zero_optimization": shares})
    engine.eval()
    return engine


def let_partition(kinds: Iterable[type[torch.optim.Optimizer]]) -> None:
    """Puts optimizers on DeepSpeed's list of those that ZeRO may partition.

    Its switch for the untested would allow them too, with a warning that is not true of them.
    """
    from deepspeed.runtime.zero.utils import ZERO_SUPPORTED_OPTIMIZERS

    known = ZERO_SUPPORTED_OPTIMIZERS
    known.extend(kind for kind in kinds if kind not in known)


@contextmanager
def filled_when_cut(weights: Weights, dtype: torch.dtype) -> Iterator[None]:
    """Tensor parallelism: within it, DeepSpeed is given a model of stand-ins.

    It cuts them up among the workers by their shapes. Each worker then makes one parameter after
    the other and keeps its part, so that none ever holds the model.

    Args:
        weights: Of the whole model.
        dtype: Of what is kept.
    """
    from deepspeed.runtime.engine import DeepSpeedEngine

    inside: Any = DeepSpeedEngine
    cut_up = inside._configure_tensor_parallel

    def cut_and_fill(engine: Any, model: torch.nn.Module, config: Any) -> Any:
        replaced = cut_up(engine, model, config)
        rank = engine.mpu.get_tensor_model_parallel_rank()
        for name, parameter in model.named_parameters():
            whole = weights.read(name).to(dtype).contiguous()
            parameter.data = _tensor_part(parameter, whole, rank).to(parameter.device)
            if whole.nbytes >= LARGE_BYTES:
                del whole
                give_back_freed_memory()
        return replaced

    inside._configure_tensor_parallel = cut_and_fill
    try:
        yield
    finally:
        inside._configure_tensor_parallel = cut_up


def _tensor_part(
    parameter: torch.nn.Parameter, whole: torch.Tensor, tensor_rank: int
) -> torch.Tensor:
    """What a tensor rank has of a parameter, in memory of its own."""
    shared = _tensor_map(parameter)
    if shared is None:
        assert whole.shape == parameter.shape, (whole.shape, parameter.shape)
        return whole
    part = torch.empty(parameter.numel(), dtype=whole.dtype)
    for piece in shared.pieces_by_rank[tensor_rank]:
        span, at = _span_of(piece), piece.dest_offset
        rows = whole.as_strided((span.length // span.run, span.run), (span.stride, 1), span.start)
        part[at : at + span.length] = rows.flatten()
    return part.view(parameter.shape)


@dataclass(frozen=True)
class Slice:
    """Some elements of one parameter, and where this process holds their fp32 state."""

    name: str
    shape: tuple[int, ...]
    """Of the whole parameter."""
    span: Span
    flat: torch.Tensor
    offset: int
    is_tensor_part: bool = False
    """Whether other workers hold the other parts of this matrix."""

    @property
    def start(self) -> int:
        return self.span.start

    @property
    def length(self) -> int:
        return self.span.length

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def cut(self, begin: int, end: int) -> Slice:
        return replace(self, span=self.span.cut(begin, end), offset=self.offset + begin)


def held_slices(engine: DeepSpeedEngine) -> Iterator[Slice]:
    """All state that this rank holds; replicated state is held, whole, by every rank."""
    tensor_rank = _layout(engine).tensor_rank
    for part in _local_parts(engine):
        yield from _in_whole(part, tensor_rank)
        yield from _statistics(engine, part)


def _statistics(engine: DeepSpeedEngine, part: _LocalPart) -> Iterator[Slice]:
    """What an optimizer keeps of the rows and columns of a parameter, not of its elements, each as
    a parameter by the name of both. Only whole parameters have any."""
    for key, value in _torch_optimizer(engine).state.get(part.flat, {}).items():
        if torch.is_tensor(value) and value.ndim > 0 and value.shape != part.flat.shape:
            span = Span.of(0, value.numel())
            yield Slice(statistic_name(part.name, key), tuple(value.shape), span, value, 0)


def owned_slices(engine: DeepSpeedEngine) -> Iterator[Slice]:
    """The state that this rank writes: over all ranks, each element exactly once."""
    layout, is_partitioned = _layout(engine), engine.zero_optimization_stage() > 0
    for part in held_slices(engine):
        # Who else holds these elements: tensor neighbours unless the matrix is shared, and at
        # stage 0 the workers that ZeRO would share them out to.
        rank, copies = 0, 1
        if not is_partitioned:
            rank, copies = layout.grad_rank, layout.grad_workers
        if not part.is_tensor_part:
            rank, copies = rank * layout.tensor + layout.tensor_rank, copies * layout.tensor
        start, stop = cut(part.length, copies)[rank]
        if stop > start:
            yield part.cut(start, stop)


def num_trained(engine: DeepSpeedEngine) -> int:
    """Trained parameters of the whole model."""
    trained = (p for p in engine.module.parameters() if p.requires_grad)
    return sum(math.prod(_whole_shape(p)) for p in trained)


def state_tensors(engine: DeepSpeedEngine, part: Slice) -> dict[str, torch.Tensor]:
    """1-D views of a slice: `weight` and each moment. No moment before the first update."""
    run = slice(part.offset, part.offset + part.length)
    views = {WEIGHT: part.flat.detach().view(-1)[run]}
    for key, value in _torch_optimizer(engine).state.get(part.flat, {}).items():
        if torch.is_tensor(value) and value.shape == part.flat.shape and value.ndim > 0:
            views[key] = value.detach().view(-1)[run]
    return views


def updates_done(engine: DeepSpeedEngine) -> int:
    """How many updates the optimizer has counted, on which its bias correction depends; 0 of one
    that does not count."""
    for state in _torch_optimizer(engine).state.values():
        if "step" in state:
            return int(state["step"])
    return 0


def undo_construction(engine: DeepSpeedEngine) -> None:
    """Takes back the update with zero gradients that FP16_UnfusedOptimizer makes when it is built.

    It decays the fp32 weights once, and counts as an update: the bias correction would make the
    first real one a quarter smaller than at the other ZeRO stages.
    """
    if hasattr(engine.optimizer, "fp32_groups"):
        engine.optimizer.refresh_fp32_params()
        _torch_optimizer(engine).state.clear()


def prepare_moments(engine: DeepSpeedEngine, index: Index) -> None:
    """Makes the optimizer's state to be filled from a checkpoint; it need not exist, and may be of
    another step."""
    state, updates = _torch_optimizer(engine).state, index.updates
    # The parameters in one flat tensor all have the same moments.
    for flat, name in {id(p.flat): (p.flat, p.name) for p in _local_parts(engine)}.values():
        made = state.pop(flat, {})
        shapes = dict.fromkeys(index.keys_of(name) - {WEIGHT}, tuple(flat.shape))
        kept: dict[str, Any] = {
            key: made[key] if key in made else flat.new_zeros(shape)
            for key, shape in (shapes | index.statistics_of(name)).items()
        }
        if kept and updates:
            kept["step"] = updates  # as DeepSpeedCPUAdam counts
            if _is_torch(engine):
                kept["step"] = torch.tensor(float(updates), device=flat.device)
        if kept:
            state[flat] = kept


@torch.no_grad()
def refresh_weights(engine: DeepSpeedEngine) -> None:
    """Pushes the fp32 weights, after they were written, into the weights that the model uses."""
    optimizer: Any = engine.optimizer
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        _refresh_stage_3(optimizer)
    elif hasattr(optimizer, "single_partition_of_fp32_groups"):
        optimizer._lazy_init_hp_params_optimizer_state()
        optimizer.update_lp_params()
    elif hasattr(optimizer, "fp32_groups"):
        for low, high in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True):
            for parameter, master in zip(low, high, strict=True):
                parameter.data.copy_(master.data)


_COUNTERS = ("global_steps", "micro_steps", "global_samples", "skipped_steps")
_SCALER = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")


def counters(engine: DeepSpeedEngine) -> dict[str, float]:
    """The engine's counters and the dynamic loss scale."""
    values = {name: getattr(engine, name) for name in _COUNTERS}
    scale = {name: getattr(_scaler(engine), name, None) for name in _SCALER}
    return values | {name: value for name, value in scale.items() if value is not None}


def restore_counters(engine: DeepSpeedEngine, values: dict[str, float], accumulation: int) -> None:
    """Sets the counters; micro steps follow from the accumulation of *this* world size."""
    for name in _COUNTERS:
        setattr(engine, name, int(values[name]))
    engine.micro_steps = engine.global_steps * accumulation
    scaler = _scaler(engine)
    for name in _SCALER:
        if name in values and hasattr(scaler, name):
            setattr(scaler, name, values[name])


def _scaler(engine: DeepSpeedEngine) -> Any:
    """FP16_UnfusedOptimizer keeps the scale in a configuration, the ZeRO optimizers in a scaler."""
    optimizer = engine.optimizer
    return getattr(optimizer, "loss_scale_config", getattr(optimizer, "loss_scaler", None))


def _is_torch(engine: DeepSpeedEngine) -> bool:
    return not type(_torch_optimizer(engine)).__module__.startswith("deepspeed.")


def _torch_optimizer(engine: DeepSpeedEngine) -> torch.optim.Optimizer:
    return getattr(engine.optimizer, "optimizer", engine.optimizer)


def _layout(engine: DeepSpeedEngine) -> Layout:
    """This rank's place. Workers that share rows hold weights as other replicas do."""
    return Layout(dist.get_rank(), dist.get_world_size(), max(engine.autotp_size(), 1))


def _names(engine: DeepSpeedEngine) -> dict[int, str]:
    """Parameter id → its first name; tied parameters have several."""
    names: dict[int, str] = {}
    for name, parameter in engine.module.named_parameters():
        if parameter.requires_grad:
            names.setdefault(id(parameter), name)
    return names


@dataclass(frozen=True)
class _LocalPart:
    """A run of what this worker has of a parameter."""

    name: str
    parameter: torch.nn.Parameter
    start: int
    length: int
    flat: torch.Tensor
    offset: int


def _local_parts(engine: DeepSpeedEngine) -> Iterator[_LocalPart]:
    names, optimizer = _names(engine), engine.optimizer
    if hasattr(optimizer, "fp32_partitioned_groups_flat"):
        return _stage_3(engine, names)
    if hasattr(optimizer, "single_partition_of_fp32_groups"):
        return _stage_1_2(engine, names)
    if hasattr(optimizer, "fp32_groups"):
        return _replicated_16bit(engine, names)
    return _replicated_32bit(engine, names)


def _stage_3(engine: DeepSpeedEngine, names: dict[int, str]) -> Iterator[_LocalPart]:
    optimizer: Any = engine.optimizer
    for p in engine.module.parameters():
        if id(p) not in names:
            continue
        group, offset, _ = optimizer.grad_position[optimizer.get_param_id(p)]
        start = optimizer._get_param_partition_rank(p) * p.ds_tensor.ds_numel
        length = min(p.ds_tensor.ds_numel, p.ds_numel - start)
        if length > 0:
            flat = optimizer.fp32_partitioned_groups_flat[group]
            yield _LocalPart(names[id(p)], p, start, length, flat, offset)


def _stage_1_2(engine: DeepSpeedEngine, names: dict[int, str]) -> Iterator[_LocalPart]:
    flats = engine.optimizer.single_partition_of_fp32_groups
    for p in engine.module.parameters():
        mapping = getattr(p, "_hp_mapping", None)
        if id(p) in names and mapping is not None:
            low, high = mapping.lp_fragment_address, mapping.hp_fragment_address
            flat = flats[mapping.param_group_index]
            yield _LocalPart(names[id(p)], p, low.start, low.numel, flat, high.start)


def _replicated_16bit(engine: DeepSpeedEngine, names: dict[int, str]) -> Iterator[_LocalPart]:
    optimizer = engine.optimizer
    for low, high in zip(optimizer.fp16_groups, optimizer.fp32_groups, strict=True):
        for p, master in zip(low, high, strict=True):
            yield _LocalPart(names[id(p)], p, 0, p.numel(), master, 0)


def _replicated_32bit(engine: DeepSpeedEngine, names: dict[int, str]) -> Iterator[_LocalPart]:
    for group in _torch_optimizer(engine).param_groups:
        for p in group["params"]:
            yield _LocalPart(names[id(p)], p, 0, p.numel(), p, 0)


def _in_whole(part: _LocalPart, tensor_rank: int) -> Iterator[Slice]:
    """The same elements as parts of the whole parameter."""
    shape, stop = _whole_shape(part.parameter), part.start + part.length
    shared = _tensor_map(part.parameter)
    if shared is None:
        yield Slice(part.name, shape, Span.of(part.start, part.length), part.flat, part.offset)
        return
    for piece in shared.pieces_by_rank[tensor_rank]:
        span, at = _span_of(piece), piece.dest_offset
        first, last = max(part.start, at), min(stop, at + span.length)
        if first < last:
            inside, offset = span.cut(first - at, last - at), part.offset + first - part.start
            yield Slice(part.name, shape, inside, part.flat, offset, is_tensor_part=True)


def _whole_shape(parameter: torch.nn.Parameter) -> tuple[int, ...]:
    """The shape that a parameter has in the model, without any parallelism."""
    shared = _tensor_map(parameter)
    if shared is not None:
        return tuple(shared.logical_shape)
    return tuple(getattr(parameter, "ds_shape", parameter.shape))  # ZeRO-3 keeps it aside


def _tensor_map(parameter: torch.nn.Parameter) -> ParamAffineMap | None:
    """Which part of a matrix each tensor rank has; None where each has all of it."""
    from deepspeed.checkpoint.affine import ParamAffineMap

    meta = getattr(parameter, "ds_autotp_universal_checkpoint_meta", None)
    if meta is None or meta["replicated"]:
        return None
    entry = meta["conversion"].get("affine_map")
    assert entry is not None, f"AutoTP cannot say which part of a matrix it has: {meta}"
    return ParamAffineMap.from_dict(entry)


def _span_of(piece: AffinePiece) -> Span:
    """A block of rows or of columns. Its elements follow each other in the worker's part."""
    *_, row = piece.shape
    assert len(piece.shape) <= 2, piece
    assert piece.scale == 1.0, piece
    assert len(piece.shape) == 1 or piece.dest_strides == (row, 1), piece
    stride = piece.source_strides[0] if len(piece.shape) == 2 else row
    if stride == row:
        return Span.of(piece.source_offset, piece.numel)
    return Span(piece.source_offset, piece.numel, run=row, stride=stride)


def _refresh_stage_3(optimizer: Any) -> None:
    for group, flat in enumerate(optimizer.fp32_partitioned_groups_flat):
        low_flat = optimizer.fp16_partitioned_groups_flat[group]
        low_flat.data.copy_(flat.data)
        parts = optimizer.fp16_partitioned_groups[group]
        for part, view in zip(parts, optimizer.unflatten(low_flat, parts), strict=True):
            part.data = view.data
    if optimizer.persistent_parameters:
        # Small parameters stay gathered between steps: let go of the old values first.
        optimizer.persistent_parameters[0].partition(optimizer.persistent_parameters)
        optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)
