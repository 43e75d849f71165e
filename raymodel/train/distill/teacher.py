"""The teacher of a training: opened as any model that is used, and asked about each batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from raymodel.errors import ArtifactError, SpecError
from raymodel.model.initial import Weights
from raymodel.model.load import check_folder, fit, is_quantised
from raymodel.model.own import first_weights
from raymodel.model.positions import find_max_tokens
from raymodel.model.stored import StoredWeights
from raymodel.storage.local import near
from raymodel.storage.uri import Location
from raymodel.tasks.base import Task
from raymodel.tasks.distilled import distilled_loss_sum
from raymodel.train.distill.spec import DistillSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from raymodel.train.distill.hidden import Hidden


@dataclass(frozen=True, kw_only=True)
class OpenTeacher:
    """A teacher on the meta device, and where its weights come from."""

    outline: PreTrainedModel
    weights: Weights


def open_teacher(folder: Location, task: Task, row_tokens: int | None) -> OpenTeacher:
    """The model of a folder, whole, once it was seen to speak of the same things as its student.

    Args:
        task: of the student, with the processor of the data.
        row_tokens: of the longest row; None where rows have none.

    Raises:
        ArtifactError: no whole model for the task, a quantised one, or one that reads with another
            processor, or fewer tokens.
    """
    own, here = type(task)(task.spec), near(folder)
    outline = check_folder(here, own)
    if outline is None or is_quantised(outline.config):
        raise ArtifactError(
            f"distill.teacher, {folder}, holds quantised weights, of which no frozen copy in the "
            "format of the training is made; give the model that they were made from"
        )
    own = own.reading_as(here)
    if own.modality != "text":  # of a text its files are a chat template, which is the student's
        own.adapt_processor({})
    if task.processor.find_difference(own.processor) is not None:
        raise ArtifactError(other_processor(folder, task))
    most = find_max_tokens(outline.config.to_dict())
    if row_tokens is not None and most is not None and row_tokens > most:
        raise ArtifactError(
            f"distill.teacher, {folder}, takes {most} tokens, and rows have up to {row_tokens}; "
            "make them shorter, or take a teacher that takes as many"
        )
    fit(folder, outline, task)
    weights = first_weights(outline, 0, StoredWeights(here, outline))
    return OpenTeacher(outline=outline.requires_grad_(False), weights=weights)


def other_processor(folder: Location, task: Task) -> str:
    """That a teacher reads other numbers than its student does."""
    what = "another tokenizer" if task.modality == "text" else "another processor"
    return (
        f"distill.teacher, {folder}, reads with {what} than the student: what it says of a number "
        "would be learnt of another thing. Take a teacher that was trained with the same, or a "
        "student whose base is of the same family"
    )


class Teacher:
    """A frozen model that says, of each batch that its student is given, what it would say."""

    def __init__(
        self,
        model: Any,
        task: Task,
        spec: DistillSpec,
        close: Callable[[], None] = lambda: None,
        hidden: Hidden | None = None,
    ) -> None:
        """Args:
        model: in evaluation mode, on the device of the student; an engine may be around it.
        close: what lets go of that.
        hidden: what layers of both give, where the spec asks for it.
        """
        self._hidden = hidden
        self._model, self._task, self._spec = model, task, spec
        self.close = close

    @property
    def config(self) -> Any:
        """Of the model."""
        return getattr(self._model, "module", self._model).config

    def loss(self, student: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The sum of the loss over the batch's targets, a scalar in fp32: that of the task and that
        of what the teacher says, by their shares.

        Raises:
            SpecError: the two have logits of other things.
        """
        with torch.no_grad():  # before the student, so that its activations are not there yet
            told_NV = self._task.scores(self._model, batch).logits_NV
        scores = self._task.scores(student, batch)
        # A vocabulary may be filled up to a round number, which no text has the ids of.
        width = scores.logits_NV.shape[1]
        if len(told_NV) != len(scores.logits_NV) or told_NV.shape[1] < width:
            raise SpecError(
                f"the teacher gives logits of {tuple(told_NV.shape)} and the student of "
                f"{tuple(scores.logits_NV.shape)} for the same rows (targets, classes or ids); "
                "take a teacher with as many positions and at least as many ids"
            )
        loss = distilled_loss_sum(
            scores,
            told_NV[:, :width],
            temperature=self._spec.temperature,
            weight=self._spec.weight,
        )
        if self._hidden is None:
            return loss
        assert self._spec.hidden is not None, "the spec asks for it"
        return loss + self._spec.hidden * self._hidden.loss_sum(batch)


def task_of_both(task: Task, student: PreTrainedModel, teacher: PreTrainedModel) -> Task:
    """The task with batches that both models can read.

    Documents of a row are kept apart only where both can do so: each example has a row of its own
    then. Packed rows, which cannot, are refused before.
    """
    for_student, for_teacher = (task.for_model(model.config) for model in (student, teacher))
    return for_student if for_teacher.keeps_apart else for_teacher
