"""What config.json says of weights in the forms of compressed-tensors that are written and read
here; loads no torch.

vLLM reads such folders and computes with their numbers on GPUs, and so does transformers where that
package is installed. Here their tensors are read as those of every model.
Source: https://github.com/vllm-project/compressed-tensors; the schemes are those that vLLM names
FP8_DYNAMIC, INT8 (W8A8) and W4A16.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from raymodel.compress.spec import Bits
    from raymodel.tasks.base import Task

_METHOD = "compressed-tensors"
_FORMATS: Mapping[Bits, str] = {
    "fp8": "float-quantized",
    "int8": "int-quantized",
    "int4": "pack-quantized",
}
_HOW_IT_WAS_MADE = ("observer", "observer_kwargs", "zp_dtype")
"""Of other writers: what found the scales, and the type of what symmetric numbers have not."""


@dataclass(frozen=True)
class Form:
    """Of the linear layers in the stack of a model."""

    bits: Bits
    group: int | None = None
    """Of four bits: as many neighbours in a row of weights share a scale; else all of the row."""

    @property
    def rounds_inputs(self) -> bool:
        """Whether what goes into a layer is rounded to such numbers too, each token by a scale of
        its own, which is found when it is there."""
        return self.bits != "int4"


INT8, FP8 = Form("int8"), Form("fp8")


def form_config(form: Form, kept: Iterable[str]) -> dict[str, Any]:
    """What config.json says of such weights.

    Args:
        kept: names of the linear layers that are not of this form.
    """
    return {
        "quant_method": _METHOD,
        "format": _FORMATS[form.bits],
        "quantization_status": "compressed",
        "ignore": sorted(kept),
        "config_groups": {"group_0": _group(form)},
    }


def find_form(said: Any) -> Form | None:
    """The form of the weights, where a `quantization_config` says that they are of one of these.

    Those of other writers are, where what they say besides changes no number.
    """
    if not isinstance(said, Mapping) or said.get("quant_method") != _METHOD:
        return None
    bits = next((b for b, name in _FORMATS.items() if name == said.get("format")), None)
    groups = said.get("config_groups")
    if bits is None or not isinstance(groups, Mapping) or len(groups) != 1:
        return None
    group = next(iter(groups.values()))
    weights = group.get("weights") if isinstance(group, Mapping) else None
    size = weights.get("group_size") if bits == "int4" and isinstance(weights, Mapping) else None
    form = Form(bits, size)
    if bits == "int4" and not isinstance(size, int):
        return None
    if said.get("kv_cache_scheme") or said.get("sparsity_config") or said.get("transform_config"):
        return None
    names = said.get("ignore") or ()
    is_named = all(isinstance(name, str) and not name.startswith("re:") for name in names)
    return form if is_named and _says(group, _group(form)) else None


def has_int8_layers(form: Form | None, task: Task | type[Task]) -> bool:
    """Whether layers compute with such numbers here, see `int8.py`.

    Those round what goes in by one scale for all of a batch. For a class or a vector that is a
    rounding; what is written token by token would go on differently by what else is in the batch.
    """
    return form == INT8 and task.answers != "stream"


def kept_layers(said: Mapping[str, Any]) -> frozenset[str]:
    """Names of the linear layers that are not of the form."""
    return frozenset(cast("Iterable[str]", said.get("ignore") or ()))


def _group(form: Form) -> dict[str, Any]:
    type = "float" if form.bits == "fp8" else "int"
    number = {"num_bits": 4 if form.bits == "int4" else 8, "type": type, "symmetric": True}
    shared = (
        {"strategy": "channel"}
        if form.group is None
        else {"strategy": "group", "group_size": form.group}
    )
    group: dict[str, Any] = {
        "targets": ["Linear"],
        "weights": {**number, **shared, "dynamic": False},
    }
    if form.rounds_inputs:
        group["input_activations"] = {**number, "strategy": "token", "dynamic": True}
    return group


def _says(said: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether it says all that is wanted and, besides, nothing that changes numbers."""
    for name in {*said, *wanted}:
        one, other = said.get(name), wanted.get(name)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            if not _says(one, other):
                return False
        elif name == "format" and other is None:
            continue  # of the group, which the whole has too
        elif name not in _HOW_IT_WAS_MADE and one != other and (one or other):
            return False
    return True
