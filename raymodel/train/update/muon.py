"""Muon for the matrices of hidden layers and AdamW for all else, as one optimizer.

Muon (https://kellerjordan.github.io/posts/muon/, arXiv:2502.16982) makes the update of a matrix
orthogonal, so it needs whole matrices, and is not meant for embeddings, heads and vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from raymodel.model.groups import HIDDEN


class MuonWithAdamW(torch.optim.Optimizer):
    """torch's two optimizers over the same groups and the same state.

    Whoever sets the rate of a group, puts fp32 copies in the place of its parameters or reads and
    writes the state, as DeepSpeed and a checkpoint do, does so for both.
    """

    def __init__(
        self, groups: Sequence[dict[str, Any]], *, muon: dict[str, Any], adamw: dict[str, Any]
    ) -> None:
        """Args:
        groups: of parameters; those of hidden matrices are marked (`model/groups.py`).
        muon: arguments of torch's Muon.
        adamw: of torch's AdamW.
        """
        super().__init__(list(groups), {HIDDEN: False})
        kinds = ((True, torch.optim.Muon, muon), (False, torch.optim.AdamW, adamw))
        self._parts: list[torch.optim.Optimizer] = []
        for is_hidden, kind, arguments in kinds:
            own = [group for group in self.param_groups if group[HIDDEN] is is_hidden]
            if own:
                part = kind(own, **arguments)
                part.state = self.state
                assert all(a is b for a, b in zip(part.param_groups, own, strict=True)), "copied"
                self._parts.append(part)

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of both."""
        assert closure is None, "nothing here evaluates the loss again"
        for part in self._parts:
            part.step()
