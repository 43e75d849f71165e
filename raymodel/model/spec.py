"""`model:` which architecture, from a preset or from a Hugging Face configuration."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from raymodel.spec.base import Many, Spec, Text


class ModelSpec(Spec):
    """A fresh model: a named preset, or a Hugging Face `model_type` with its configuration."""

    preset: Text | None = None
    """A name from `model/presets.yaml`, such as `llama-tiny`."""
    architecture: Text | None = None
    """A Hugging Face `model_type`, such as `llama`, when no preset is used."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Fields of the Hugging Face configuration; with a preset, these replace the preset's."""

    @model_validator(mode="after")
    def _one_way(self) -> ModelSpec:
        if (self.preset is None) == (self.architecture is None):
            raise ValueError("give either `preset` or `architecture`")
        return self


class LoraSpec(Spec):
    """Low-rank adapters (arXiv:2106.09685), by `peft`."""

    rank: int = Field(default=8, ge=1, le=100_000)
    """Rank of the update matrices."""
    alpha: float = Field(default=16.0, gt=0, le=1e6)
    """The update is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before the adapter."""
    target: Text | Many[Text] = "all-linear"
    """Module names, or `all-linear`: every linear layer but the output head."""


class AdapterSpec(Spec):
    """Which adapter is trained in place of the full weights."""

    lora: LoraSpec
    """Low-rank adaptation."""
