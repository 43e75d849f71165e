"""`distill:` a teacher, and how much of what a model learns is what that says."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from raymodel.model.fields import MAX_LAYERS
from raymodel.spec.base import Spec, Text
from raymodel.spec.quantity import Fraction


class StudentSpec(Spec):
    """A student that begins as a part of its teacher."""

    layers: int = Field(ge=1, le=MAX_LAYERS)
    """So many layers of the teacher: the first, the last, and those evenly between (as DistilBERT
    begins, arXiv:1910.01108). All else, such as embeddings and head, is the teacher's."""


class DistillSpec(Spec):
    """The model learns from what a teacher says of each target, besides the target itself
    (arXiv:1503.02531). The teacher stays as it is, and is in no checkpoint. The loss that training
    tells is the sum of both; the validation loss is the task's own, so that it compares with that
    of a training without a teacher."""

    teacher: Text
    """A model of the same task, tokenizer and classes: a Hugging Face folder,
    `hf://OWNER/NAME[@REVISION]`, `python:PACKAGE/path` or `RUN/STAGE`."""
    temperature: float = Field(default=2.0, ge=0.1, le=100)
    """The logits of both models are divided by it before they are compared: the higher, the more
    counts what the teacher finds improbable."""
    weight: Fraction = Field(default=0.5, gt=0)
    """The teacher's share of the loss; the rest is that of the targets. With 100 % these only say
    which positions count."""
    hidden: float | None = Field(default=None, gt=0, le=1000)
    """Layers are matched too: to the loss of a target this is added, times how far what layers give
    is from what the teacher's give, evenly from the first to the last, through matrices that are
    learnt beside and are no part of the model (arXiv:1909.10351). The distance is a share of the
    teacher's own size, so it is about 1 at first and 0 where they are equal."""
    student: StudentSpec | None = None
    """What the student begins as, in place of `base` or `model`."""

    def identity(self) -> dict[str, Any]:
        """Without the name of the teacher, which is an input; and without `hidden` where nothing
        is matched, as what was trained before it came has its name."""
        known = {name: each for name, each in super().identity().items() if name != "teacher"}
        return {n: v for n, v in known.items() if n != "hidden" or v is not None}
