"""Gates: what a model must reach to become `best`. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from raymodel.observe.measures import holds

TEXT_PREFIX = "text_"
"""Marks measures on plain held-out text, taken beside those on the task's own examples."""


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """One gate and what came of it."""

    name: str
    value: float | None
    """None when the measure was not taken or is not finite."""
    condition: str
    passed: bool

    def to_dict(self) -> dict[str, Any]:
        """As a manifest holds it."""
        return asdict(self)


def check_gates(
    metrics: Mapping[str, float | None], gates: Mapping[str, str]
) -> tuple[GateResult, ...]:
    """Holds each gate against its measure. One that is missing or not finite fails its gate."""
    return tuple(
        _check_gate(name, metrics.get(name), condition) for name, condition in gates.items()
    )


def _check_gate(name: str, value: float | None, condition: str) -> GateResult:
    match = re.fullmatch(r"\s*(<=|>=|<|>)\s*(\S+)\s*", condition)
    assert match, f"EvaluateSpec lets no condition like {condition!r} through"
    passed = holds(value, match[1], float(match[2]))
    return GateResult(name=name, value=value, condition=condition.strip(), passed=passed)
