"""From a sweep's search to the spec of one trial. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raymodel.model.spec import AdapterSpec
from raymodel.train.spec import FinetuneSpec

Setting = Mapping[str, Any]
"""Field path → value, such as {"optimizer.learning_rate": 3e-4}."""


def apply_setting(spec: FinetuneSpec, setting: Setting) -> FinetuneSpec:
    """A new spec with these values and without the sweep.

    Raises:
        pydantic.ValidationError: when a value does not fit its field.
    """
    data = spec.to_dict()
    data["sweep"] = None
    for path, value in setting.items():
        *parents, field = path.split(".")
        section = data
        for name in parents:
            section = section[name]
        section[field] = value
    return FinetuneSpec(**data)


def adapters_of(spec: FinetuneSpec) -> tuple[AdapterSpec, ...]:
    """What is trained beside the weights: of a sweep over the rank with the highest, of one over
    the target each. Empty where the weights themselves are trained."""
    if spec.adapter is None:
        return ()
    lora, search = spec.adapter.lora, spec.sweep.search if spec.sweep else {}
    rank, target = (search.get(f"adapter.lora.{name}") for name in ("rank", "target"))
    largest = max(rank.choice) if rank and rank.choice else lora.rank
    targets = target.choice if target and target.choice else (lora.target,)
    return tuple(
        AdapterSpec(lora=lora.model_copy(update={"rank": largest, "target": each}))
        for each in targets
    )


def setting_text(setting: Setting) -> str:
    """For the log: `learning_rate 0.00031, rank 8`."""
    return ", ".join(
        f"{path.rpartition('.')[2]} {value:.3g}"
        if isinstance(value, float)
        else f"{path.rpartition('.')[2]} {value}"
        for path, value in setting.items()
    )
