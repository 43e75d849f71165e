"""The weights that a run starts from: those of a folder, and where it has none, drawn ones."""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel
from transformers.initialization import guard_torch_init_functions

from raymodel.errors import SpecError

if TYPE_CHECKING:
    from raymodel.model.gguf_file import GgufWeights
    from raymodel.model.stored import StoredWeights


class Weights(Protocol):
    """Something that gives a network's parameters and buffers one by one."""

    def read(self, name: str) -> torch.Tensor:
        """One of them, whole, on the CPU."""
        ...


class InitialWeights:
    """The first weights of a model on the meta device, one parameter at a time.

    A weight that is drawn is a function of the configuration, the seed and the name of its module
    alone: the same on every rank, for every world size and ZeRO stage, in whatever order they are
    asked for.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        seed: int,
        stored: StoredWeights | GgufWeights | None = None,
    ) -> None:
        self._model = copy.deepcopy(model)  # weightless; modules are drawn on it, one after another
        self._parts = _take_apart(self._model)
        self._seed, self._stored = seed, stored
        self._drawn: dict[str, torch.Tensor] = {}
        self._sources: dict[str, str] = model.all_tied_weights_keys
        for tensor in itertools.chain(self._model.parameters(), self._model.buffers()):
            tensor._is_hf_initialized = True  # type: ignore[attr-defined]  # see `_draw`

    def read(self, name: str) -> torch.Tensor:
        """A parameter or buffer in the type that is stored; drawn ones in fp32.

        Raises:
            SpecError: transformers has no rule by which to draw it.
        """
        name = self._sources.get(name, name)
        if self._stored is not None and name in self._stored:
            return self._stored.read(name)
        if name not in self._drawn:
            self._drawn = self._draw_parts(name) or self._draw(name.rpartition(".")[0])
        return self._drawn.pop(name)

    def _draw_parts(self, name: str) -> dict[str, torch.Tensor]:
        """Of a weight that is computed from several parameters: those that it is computed from."""
        prefix = name.rpartition(".")[0]
        if prefix not in self._parts:
            return {}
        whole, parts_of = self._parts[prefix]
        parts = parts_of(self._draw(whole.rpartition(".")[0])[whole])
        return {f"{prefix}.original{index}": part for index, part in enumerate(parts)}

    def _draw(self, name: str) -> dict[str, torch.Tensor]:
        """All tensors that belong directly to one module.

        An ancestor may draw what its children hold, as GPT-2 does for the last matrix of a block:
        each is asked in turn, and what is marked as initialised, all other tensors, is passed over.
        """
        module = self._model.get_submodule(name)
        weightless = _exchange(module, {k: _blank(t) for k, t in _own_tensors(module).items()})
        with seeded(self._seed, name), guard_torch_init_functions():
            for head, part in _with_ancestors(self._model, name):
                head._init_weights(part)  # type: ignore[no-untyped-call]
            _LAST_WORDS.get(type(module).__name__, lambda module: None)(module)
        drawn = _exchange(module, weightless)
        for key, tensor in drawn.items():
            if tensor.is_floating_point() and bool(tensor.isnan().any()):
                raise SpecError(
                    f"transformers does not say how {key} of {name} in a "
                    f"{type(self._model).__name__} is drawn; start from a folder that holds it"
                )
        prefix = f"{name}." if name else ""
        return {f"{prefix}{key}": tensor.detach() for key, tensor in drawn.items()}


def _draw_decoder_of_mae(module: Any) -> None:
    """The constructor of ViTMAE's decoder writes positions and draws what stands for a hidden
    patch. `_init_weights` of transformers 5.24 then writes zeros over both: such a decoder does not
    know where it paints, and would never learn it, since the positions are frozen."""
    module.initialize_weights(module.decoder_pos_embed.shape[1] - 1)


_LAST_WORDS: Mapping[str, Callable[[Any], None]] = {"ViTMAEDecoder": _draw_decoder_of_mae}
"""Modules that transformers' own rules leave without what they need → what gives it to them."""


_Parts = Callable[[torch.Tensor], Sequence[torch.Tensor]]


def _take_apart(model: nn.Module) -> dict[str, tuple[str, _Parts]]:
    """Makes plain weights of those that are computed from others, as the weight norm of wav2vec2
    does it: the rules of transformers draw the weight and not its parts.

    Returns: prefix of the names of such parts → name of the weight, and what makes parts of it.
    """
    found: dict[str, tuple[str, _Parts]] = {}
    for name, module in list(model.named_modules()):
        if not parametrize.is_parametrized(module):
            continue
        plain: dict[str, torch.Tensor] = {}
        for key, (computed, *more) in dict(module.parametrizations.items()).items():
            assert not more, f"{name}.{key} is computed in several steps"
            found[f"{name}.parametrizations.{key}"] = f"{name}.{key}", computed.right_inverse
            plain[key] = getattr(module, key).detach()
        # By hand: torch's own way back takes the property off a class that `model`'s original has.
        del module.parametrizations
        module.__class__ = type(module).__bases__[0]
        for key, weight in plain.items():
            module.register_parameter(key, nn.Parameter(weight))
    return found


def _with_ancestors(model: PreTrainedModel, name: str) -> list[tuple[PreTrainedModel, nn.Module]]:
    """A module and those around it, innermost first, each with the model whose rules it obeys."""
    found: list[tuple[PreTrainedModel, nn.Module]] = []
    part: nn.Module = model
    head = model
    found.append((head, part))
    for step in name.split(".") if name else ():
        part = part.get_submodule(step)
        head = part if isinstance(part, PreTrainedModel) else head
        found.append((head, part))
    return found[::-1]


def _own_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    own = {**module._parameters, **module._buffers}
    return {key: tensor for key, tensor in own.items() if tensor is not None}


def _blank(tensor: torch.Tensor) -> torch.Tensor:
    """Room for a tensor, marked as not yet written where its type can tell."""
    if not tensor.is_floating_point():
        return torch.zeros_like(tensor, device="cpu")
    blank = torch.full_like(tensor, float("nan"), device="cpu")
    return nn.Parameter(blank) if isinstance(tensor, nn.Parameter) else blank


def _exchange(module: nn.Module, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Puts `tensors` in the place of the module's own; returns those."""
    old = _own_tensors(module)
    for key, tensor in tensors.items():
        held = module._parameters if key in module._parameters else module._buffers
        held[key] = tensor  # type: ignore[assignment]
    return old


@contextmanager
def seeded(seed: int, name: str) -> Iterator[None]:
    """Random numbers that follow from a seed and a name; the caller's go on afterwards."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        # torch takes a signed number
        torch.default_generator.manual_seed(int.from_bytes(digest, "little") >> 1)
        yield
