"""Low-rank adapters (arXiv:2106.09685) through `peft`: attach, draw, merge.

peft puts a layer of its own around each that it adapts. What names mean beside those of the plain
model is said here alone: `plain_name` leads from one to the other.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from raymodel.errors import SpecError
from raymodel.model.initial import Weights, seeded
from raymodel.model.presets import OWN
from raymodel.model.spec import AdapterSpec

if TYPE_CHECKING:
    import peft
    from transformers import PreTrainedModel

    from raymodel.tasks.base import Task


_ADAPTER = "default"  # the name that peft gives to a model's only one
_TRAINED_IN_FULL = {
    None: ("classifier",),
    "QUESTION_ANS": ("qa_outputs",),
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
}
"""Task of peft → how the names of the modules end that it trains in full: heads, which are new."""
_UPDATE = "lora_"  # how the names of an update's matrices begin


def attach_adapter(model: PreTrainedModel, spec: AdapterSpec, task: Task) -> peft.PeftModel:
    """Freezes `model`, on the meta device, and adds trainable low-rank updates, there too.

    A head is new and therefore trained in full, without an update beside it.

    Raises:
        SpecError: the model is a module of the user's own; or `target` names what is no module of
            it, a head, or a module with tied weights; or the rank is more than any of its matrices
            can have.
    """
    if model.config.model_type == OWN:
        raise SpecError(
            f"adapter.lora is beside a model of transformers, and {model.config.module} is a "
            "module of your own, of which peft does not know the layers that must be trained in "
            "full; leave `adapter` out, or write the update into the module"
        )
    import peft  # seconds, which a run without an adapter need not wait for

    lora = spec.lora
    target = lora.target if isinstance(lora.target, str) else list(lora.target)
    heads = _heads(model, task.peft_task)
    if target != "all-linear" and (head := _named(heads, target)):
        raise SpecError(
            f"adapter.lora.target is {target!r}, and {head} is trained in full, as a new head must "
            "be; leave it out"
        )
    config = peft.LoraConfig(
        task_type=task.peft_task,
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # a float works: it is only divided
        lora_dropout=lora.dropout,
        target_modules=target,
        exclude_modules=(heads or None) if target == "all-linear" else None,
        modules_to_save=[*_TRAINED_IN_FULL[None]] if task.peft_task is None else None,
        # Defaults of peft that decide the result.
        bias="none",
        init_lora_weights=True,
        use_rslora=False,
        use_dora=False,
        lora_bias=False,
    )
    tied = model.all_tied_weights_keys
    linear = sorted({n.rpartition(".")[2] for n, m in model.named_modules() if _is_linear(m)})
    try:
        with torch.device("meta"):
            adapted = peft.get_peft_model(model, config)
    except ValueError as error:
        raise _fits_nothing(linear, target, target) from error
    layers = [plain_name(name) for name in _adapted_modules(adapted)]
    for name in [target] if isinstance(target, str) else target:  # peft asks only for one that fits
        if name != "all-linear" and not any(_ends_in(layer, name) for layer in layers):
            raise _fits_nothing(linear, target, name)
    both = sorted({*tied, *tied.values()} & adapted_layers(adapted).keys())
    if both:
        raise SpecError(
            f"adapter.lora.target is {target!r}, and {both[0]} is tied to another weight, which an "
            "update cannot change along with it; leave it out"
        )
    largest = max(min(layer.weight.shape) for layer in _adapted_modules(adapted).values())
    if lora.rank > largest:
        raise SpecError(
            f"adapter.lora.rank is {lora.rank}, and the matrices that it is beside have ranks of "
            f"{largest} at most: an adapter of that size learns nothing more. Lower it, or train "
            "all weights by leaving `adapter` out"
        )
    return adapted


def _heads(model: PreTrainedModel, peft_task: str | None) -> list[str]:
    """The linear layers that peft trains in full."""
    ends = _TRAINED_IN_FULL.get(peft_task, ())
    return [name for name, m in model.named_modules() if _is_linear(m) and name.endswith(ends)]


def _named(layers: list[str], target: str | list[str]) -> str | None:
    """The first of the layers that a target names."""
    names = [target] if isinstance(target, str) else target
    return next((each for each in layers if any(_ends_in(each, name) for name in names)), None)


def _fits_nothing(linear: list[str], target: Any, name: Any) -> SpecError:
    """Of the target, or of one of its names."""
    which = "which fits no module" if name == target else f"of which {name!r} fits no module"
    return SpecError(
        f"adapter.lora.target is {target!r}, {which}; "
        f"the linear layers are {', '.join(linear)} (or write all-linear)"
    )


def _ends_in(layer: str, name: str) -> bool:
    return layer == name or layer.endswith(f".{name}")


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear)


def plain_name(name: str) -> str:
    """The name in the plain model of a parameter that is none of an update's."""
    name = name.removeprefix("base_model.model.")
    for step in ("base_layer", "original_module", f"modules_to_save.{_ADAPTER}"):
        name = name.replace(f".{step}.", ".")
    return name


def is_update(name: str) -> bool:
    """Whether a parameter of an adapted model is one of an update's matrices."""
    return f".{_UPDATE}" in name


class AdaptedWeights:
    """The first weights of an adapted model: the plain model's, and updates that change nothing."""

    def __init__(self, network: peft.PeftModel, first: Weights, seed: int) -> None:
        self._network = copy.deepcopy(network)  # weightless; layers are drawn on it
        self._first, self._seed = first, seed
        self._drawn: dict[str, torch.Tensor] = {}

    def read(self, name: str) -> torch.Tensor:
        """A parameter or buffer, on the CPU."""
        if not is_update(name):
            return self._first.read(plain_name(name))
        if name not in self._drawn:
            self._drawn = self._draw(name.partition(f".{_UPDATE}")[0])
        return self._drawn.pop(name)

    def _draw(self, name: str) -> dict[str, torch.Tensor]:
        layer: Any = self._network.get_submodule(name)
        with seeded(self._seed, name):
            for _, part in _update_parts(layer):
                part.to_empty(device="cpu")
            layer.reset_lora_parameters(_ADAPTER, init_lora_weights=True)
        drawn = {
            f"{name}.{key}.{rest}": value.detach()
            for key, part in _update_parts(layer)
            for rest, value in part.named_parameters()
        }
        for _, part in _update_parts(layer):
            part.to(device="meta")
        return drawn


def adapted_layers(network: nn.Module) -> dict[str, str]:
    """Name of a weight in the plain model → name of the layer that adapts it."""
    return {f"{plain_name(name)}.weight": name for name in _adapted_modules(network)}


def _adapted_modules(network: nn.Module) -> dict[str, Any]:
    return {
        name: module
        for name, module in network.named_modules()
        if hasattr(module, "reset_lora_parameters")
    }


@torch.no_grad()
def weight_update(network: nn.Module, name: str, weights: Weights) -> torch.Tensor:
    """What an adapted layer adds to its weight, of the shape of that weight, in fp32.

    Args:
        network: On the meta device, and there again afterwards.
        name: The layer's.
        weights: Gives the update's matrices by their names in `network`.
    """
    layer: Any = network.get_submodule(name)
    for key, part in _update_parts(layer):
        part.to_empty(device="cpu")
        for rest, value in part.named_parameters():
            value.copy_(weights.read(f"{name}.{key}.{rest}"))
    update: torch.Tensor = layer.get_delta_weight(_ADAPTER)
    for _, part in _update_parts(layer):
        part.to(device="meta")
    return update


def _update_parts(layer: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    return ((key, part) for key, part in layer.named_children() if key.startswith(_UPDATE))
