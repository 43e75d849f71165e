"""How a task makes batches of rows, and what its loss is."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

from raymodel.tasks.base.declared import Declared
from raymodel.tasks.base.values import Columns

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from raymodel.chance import Draw
    from raymodel.tasks.loss import Scores


class OfSteps(Declared):
    """What a training step calls."""

    @abstractmethod
    def collate(self, rows: Columns, draw: Draw | None = None) -> dict[str, torch.Tensor]:
        """Columns of B examples → one batch on the CPU, padded unless it `keeps_apart` examples.

        Where the spec `wants_partners`, training gives the columns of another row of the step
        beside each row's own, by the names that begin with `PARTNER`. The result holds at least
        what `loss` needs. Targets that must bear no loss are `no_target`.

        Args:
            draw: the chance of these rows; None where nothing is left to chance, as in evaluation.
        """

    def num_targets(self, batch: Mapping[str, torch.Tensor]) -> int:
        """How many targets bear loss in this batch (tokens, or examples)."""
        return int((batch["labels"] != self.no_target).sum())

    def num_positions(self, batch: Mapping[str, torch.Tensor]) -> int:
        """How many tokens the model computes for this batch, padding included; else examples."""
        return batch["input_ids"].numel() if "input_ids" in batch else len(batch["labels"])

    @abstractmethod
    def loss(self, model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The *sum* of the loss over the batch's targets, a scalar in fp32.

        The caller divides by the targets of the global batch, so the curve does not depend on how
        the batch was cut up. A loss that holds a row against others of its step must gather them
        from all workers (`tasks/gather.py`), and the spec of its task says so: `sees_whole_step`.
        """

    def scores(self, model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> Scores:
        """What a model says of the batch's targets, where `loss` is the cross-entropy of that.

        Of two models in the same batch the same rows are the same targets, so that one can be held
        against the other. Tasks with other losses have none.
        """
        raise NotImplementedError(f"the loss of {self.name} is no cross-entropy of its targets")

    def sequence_part(
        self, batch: Mapping[str, torch.Tensor], part: int, parts: int
    ) -> dict[str, torch.Tensor]:
        """One worker's run of positions of a batch, for rows that several workers share.

        `loss` of the parts adds up to `loss` of the batch. Tasks that need whole rows have none.
        """
        raise NotImplementedError(f"{self.name} needs whole rows")
