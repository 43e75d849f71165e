"""What a task is: the only plug-in axis of the system.

A task says what it wants of a record, how a document becomes features, how features become a batch,
what its loss is, how a model answers and what is measured. Data, train, evaluate and serve call
these methods; none of them switches on a task's name. Modules of tasks load torch and transformers
only inside methods, so that `raymodel check` can ask a task about a spec. Each file here has what
one part of the system asks of a task.

Shapes: B rows, T tokens, V vocabulary, C classes.
"""

from __future__ import annotations

from raymodel.tasks.base.answers import OfAnswers
from raymodel.tasks.base.model import OfModel
from raymodel.tasks.base.training import OfSteps
from raymodel.tasks.base.values import (
    WRITTEN,
    Answer,
    AnswerKind,
    Columns,
    Example,
    Features,
    LeftOut,
    Limits,
    Measure,
    Reading,
    Sample,
    Table,
)

__all__ = [
    "WRITTEN",
    "Answer",
    "AnswerKind",
    "Columns",
    "Example",
    "Features",
    "LeftOut",
    "Limits",
    "Measure",
    "Reading",
    "Sample",
    "Table",
    "Task",
]


class Task(OfAnswers, OfSteps, OfModel):
    """One file a task. An instance holds what the data and the job say, and no other state.

    Args:
        spec: what the job says of the task; its defaults when None.
        labels: the names of the classes, in the order of their numbers.
        processor: of the dataset or the model; not needed by those who only ask about a spec.
        roles: those that the documents have; by default all but the optional ones.
    """
