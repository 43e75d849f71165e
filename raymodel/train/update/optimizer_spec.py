"""`optimizer:` the optimizers by name, and which numbers each takes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from raymodel.spec.base import Many, Spec

OptimizerName = Literal["adamw", "adam", "sgd", "lion", "adafactor", "muon"]
WHOLE_MATRICES = {
    "adafactor": "keeps sums over the rows and columns of each matrix",
    "muon": "makes the update of each matrix orthogonal",
}
"""Optimizers that cannot work on a part of a matrix, and what for they need it whole."""

_ADAM = {"betas": (0.9, 0.95), "eps": 1e-8}
DEFAULTS: dict[str, dict[str, Any]] = {
    # 0.95 is usual for language models (arXiv:2005.14165).
    "adamw": {"learning_rate": 1e-3, "weight_decay": 0.1, **_ADAM},
    # A decay in the gradient is divided by the root of the second moment too: AdamW's number would
    # mean something else.
    "adam": {"learning_rate": 1e-3, "weight_decay": 0.0, **_ADAM},
    "sgd": {"learning_rate": 0.1, "weight_decay": 0.0, "momentum": 0.9, "nesterov": False},
    # Every weight moves by the whole rate: a rate 3 to 10 times smaller than AdamW's, and as much
    # more decay (arXiv:2302.06675, section 5). The rate times the decay is as AdamW's here.
    "lion": {"learning_rate": 1e-4, "weight_decay": 1.0, "betas": (0.9, 0.99)},
    # Relative to the size of each matrix, as in the paper (arXiv:1804.04235, algorithm 5).
    "adafactor": {"learning_rate": 1e-2, "weight_decay": 0.0},
    "muon": {
        "learning_rate": 1e-3,
        "weight_decay": 0.1,
        "momentum": 0.95,
        "nesterov": True,
        **_ADAM,
    },
}
"""Optimizer → the fields that it takes, with what they are when left out."""


class OptimizerSpec(Spec):
    """The optimizer and its numbers. A field that the optimizer does not take is refused."""

    name: OptimizerName = "adamw"
    """`adamw` (arXiv:1711.05101), `adam` (arXiv:1412.6980, the decay is added to the gradient),
    `sgd` with momentum, `lion` (arXiv:2302.06675, one moment instead of two), `adafactor`
    (arXiv:1804.04235, a sum of each row and column instead of moments) and `muon`
    (arXiv:2502.16982; for the matrices of hidden layers, with AdamW for all else). The last two
    work on whole matrices, so with `parallel: {zero: 0}` only."""
    learning_rate: float | None = Field(default=None, gt=0, le=1000)
    """The peak of the schedule. By default 0.001; `sgd` 0.1, `lion` 0.0001, and `adafactor` 0.01 of
    the size of each matrix."""
    weight_decay: float | None = Field(default=None, ge=0, le=1000)
    """Applied to matrices and embeddings, not to biases and norms. By default 0.1; `lion` 1,
    `adafactor` 0, and `adam` and `sgd` 0: they add it to the gradient."""
    betas: (
        Annotated[Many[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)]
        | None
    ) = None
    """Decay rates of the moments. By default [0.9, 0.95], which is usual for language models
    (arXiv:2005.14165); `lion` [0.9, 0.99], the first of which weighs the gradient of a step and the
    second its only moment; those of `muon` are of its AdamW. Not of `sgd` and `adafactor`."""
    eps: float | None = Field(default=None, gt=0, le=1)
    """Added to the root of the second moment, by default 1e-8. Of `adamw`, `adam` and the AdamW of
    `muon`."""
    momentum: float | None = Field(default=None, ge=0, lt=1)
    """Share of the last update's direction that is kept, by default 0.9, of `muon` 0.95; at 0
    `sgd` keeps no state. Of `sgd` and `muon`."""
    nesterov: bool | None = None
    """Look ahead along the momentum, by default false, of `muon` true. Of `sgd` and `muon`."""
    gradient_clip: float = Field(default=1.0, ge=0, le=1e9)
    """Largest global norm of the gradient; 0 switches clipping off."""

    @model_validator(mode="after")
    def _takes_what_it_is_given(self) -> OptimizerSpec:
        taken = DEFAULTS[self.name]
        known = dict.fromkeys(field for fields in DEFAULTS.values() for field in fields)
        unused = [f for f in known if getattr(self, f) is not None and f not in taken]
        if unused:
            raise ValueError(
                f"{self.name} does not take {' and '.join(unused)}; leave out what it does not "
                f"take, it takes {', '.join((*taken, 'gradient_clip'))}"
            )
        if self.nesterov and self.numbers["momentum"] == 0:
            raise ValueError("nesterov is true and momentum is 0; give a momentum, such as 0.9")
        return self

    @property
    def numbers(self) -> dict[str, Any]:
        """Every field that this optimizer takes: as it was given, else its default."""
        given = {name: getattr(self, name) for name in DEFAULTS[self.name]}
        return DEFAULTS[self.name] | {k: v for k, v in given.items() if v is not None}

    @property
    def peak(self) -> float:
        """The learning rate at the peak of the schedule."""
        return float(self.numbers["learning_rate"])

    @property
    def moments(self) -> int:
        """fp32 numbers that it keeps of each weight; `muon` one more of what AdamW updates."""
        counts = {"sgd": int(self.numbers.get("momentum", 0) > 0), "adafactor": 0}
        return (counts | {"lion": 1, "muon": 1}).get(self.name, 2)

    def identity(self) -> dict[str, Any]:
        """What is taken, defaults and all, and nothing else: a field for another optimizer
        changes no name."""
        own = super(OptimizerSpec, self.model_copy(update=self.numbers)).identity()
        return {name: value for name, value in own.items() if value is not None}


def find_conflict(name: OptimizerName, *, zero: int, tensor: int, offload: str) -> str | None:
    """Why an optimizer cannot work under a layout, with the nearest that can; None when it can."""
    if name in WHOLE_MATRICES and (zero > 0 or tensor > 1):
        cut = f"zero is {zero}: ZeRO" if zero > 0 else f"tensor is {tensor}: tensor parallelism"
        fix = "zero: 0" if tensor == 1 else "tensor: 1" if zero == 0 else "zero: 0 and tensor: 1"
        return (
            f"optimizer.name is {name}, which {WHOLE_MATRICES[name]}, and parallel.{cut} cuts "
            f"matrices up; use parallel.{fix}, or lion, which keeps half of AdamW's state"
        )
    if offload == "cpu" and name != "adamw":
        return (
            f"optimizer.name is {name} and parallel.offload is cpu: the update in the memory of "
            "the host is DeepSpeed's own, of AdamW; use adamw, or offload: none"
        )
    return None
