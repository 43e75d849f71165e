"""`model:` which architecture, from a preset or from a Hugging Face configuration."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from raymodel.spec.base import Many, Spec, Text
from raymodel.spec.own import check_reference, own_digest

_WAYS = ("preset", "architecture", "module")


class ModelSpec(Spec):
    """A fresh model: a named preset, or a Hugging Face `model_type` with its configuration."""

    preset: Text | None = None
    """A name from `model/presets.yaml`, such as `llama-tiny`."""
    architecture: Text | None = None
    """A Hugging Face `model_type`, such as `llama`, when no preset is used."""
    module: Text | None = None
    """A `torch.nn.Module` of your own, as `module.path:Name`, in place of either."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Fields of the Hugging Face configuration; with a preset, these replace the preset's. With
    `module` the arguments of its constructor, which is given what it asks for of the data too, such
    as `num_labels`, `vocab_size` or `num_channels`."""

    @model_validator(mode="after")
    def _one_way(self) -> ModelSpec:
        given = [name for name in _WAYS if getattr(self, name) is not None]
        if len(given) != 1:
            written = f"; this has {' and '.join(f'`{name}`' for name in given)}" if given else ""
            raise ValueError(f"give one of `preset`, `architecture` and `module`{written}")
        if self.module is not None:
            check_reference(self.module)
        return self

    @property
    def called(self) -> str:
        """What it is, in a word."""
        return self.preset or self.architecture or self.module or ""

    def identity(self) -> dict[str, Any]:
        """Of a user's own module with the text of its file: one that changed is another model."""
        known = super().identity()
        if known.pop("module") is None:
            return known
        return known | {"module": [self.module, own_digest(str(self.module))]}


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
