"""Makes the optimizer that a spec names. What decides a result is written, as in
`deepspeed_config.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from raymodel.train.update.lion import Lion
from raymodel.train.update.muon import MuonWithAdamW
from raymodel.train.update.optimizer_spec import OptimizerSpec

Groups = list[dict[str, Any]]
MakeOptimizer = Callable[[Groups], torch.optim.Optimizer]

FUSED = ("adamw", "adam", "sgd")
"""Updated by one kernel of torch over many parameters."""
PARTITIONED = (torch.optim.Adam, torch.optim.SGD, Lion)
"""Elementwise, so that ZeRO may cut parameters up anywhere."""


def find_maker(spec: OptimizerSpec) -> MakeOptimizer | None:
    """What DeepSpeed is to call with the groups of parameters, once it has cut up the model.

    Each group brings its own weight decay; the rate is written into them before each update.

    Returns:
        None for AdamW, which DeepSpeed makes itself, as `deepspeed_config` says: under offload it
        is another one.
    """
    n = spec.numbers
    makers: dict[str, MakeOptimizer] = {
        "adam": lambda groups: torch.optim.Adam(
            groups,
            lr=n["learning_rate"],
            betas=n["betas"],
            eps=n["eps"],
            weight_decay=n["weight_decay"],
            amsgrad=False,
            fused=True,
            decoupled_weight_decay=False,
        ),
        "sgd": lambda groups: torch.optim.SGD(
            groups,
            lr=n["learning_rate"],
            momentum=n["momentum"],
            dampening=0,
            weight_decay=n["weight_decay"],
            nesterov=n["nesterov"],
            fused=True,
        ),
        "lion": lambda groups: Lion(
            groups, lr=n["learning_rate"], betas=n["betas"], weight_decay=n["weight_decay"]
        ),
        "adafactor": lambda groups: torch.optim.Adafactor(
            groups,
            lr=n["learning_rate"],
            # As in the paper; None is the smallest difference that the format can tell.
            beta2_decay=-0.8,
            eps=(None, 1e-3),
            d=1.0,
            weight_decay=n["weight_decay"],
        ),
        "muon": lambda groups: MuonWithAdamW(
            groups,
            muon={
                "lr": n["learning_rate"],
                "weight_decay": n["weight_decay"],
                "momentum": n["momentum"],
                "nesterov": n["nesterov"],
                # Of the author; the coefficients converge fast rather than exactly.
                "ns_coefficients": (3.4445, -4.7750, 2.0315),
                "eps": 1e-7,
                "ns_steps": 5,
                # Updates as large as AdamW's, so that one rate and decay is for both
                # (arXiv:2502.16982).
                "adjust_lr_fn": "match_rms_adamw",
            },
            adamw={
                "lr": n["learning_rate"],
                "betas": n["betas"],
                "eps": n["eps"],
                "weight_decay": n["weight_decay"],
                "amsgrad": False,
                "fused": True,
            },
        ),
    }
    return makers.get(spec.name)
