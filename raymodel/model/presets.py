"""Presets: model geometries as data. Loads only YAML, so that `raymodel check` can ask."""

from __future__ import annotations

import copy
import difflib
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from raymodel.errors import SpecError
from raymodel.model.spec import ModelSpec
from raymodel.spec.show import show

OWN = "raymodel_own"
"""The `model_type` of a user's own module, of which `config` holds the arguments."""
PRESETS_FILE = Path(__file__).with_name("presets.yaml")


def load_presets() -> dict[str, dict[str, Any]]:
    """Preset name → `{"architecture": model_type, "config": {field: value}}`; the caller's own."""
    return copy.deepcopy(_read())


@cache
def _read() -> dict[str, dict[str, Any]]:
    presets: dict[str, dict[str, Any]] = yaml.safe_load(PRESETS_FILE.read_text(encoding="utf-8"))
    return presets


def resolve_model(spec: ModelSpec) -> tuple[str, dict[str, Any]]:
    """The `model_type` and configuration fields that `spec` stands for. Of a module of the user's
    own these are `module` and the `arguments` of its constructor.

    Raises:
        SpecError: the preset does not exist; the message holds the nearest name.
    """
    if spec.module is not None:
        return OWN, {"module": spec.module, "arguments": copy.deepcopy(spec.config)}
    if spec.architecture is not None:
        return spec.architecture, copy.deepcopy(spec.config)
    presets = load_presets()
    assert spec.preset is not None  # ModelSpec holds exactly one of the three
    if spec.preset not in presets:
        nearest = difflib.get_close_matches(spec.preset, presets, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise SpecError(
            f"there is no model preset {show(spec.preset)}; "
            f"the presets are {', '.join(presets)}{hint}"
        )
    preset = presets[spec.preset]
    return preset["architecture"], preset["config"] | copy.deepcopy(spec.config)
