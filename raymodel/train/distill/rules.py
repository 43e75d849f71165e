"""What can be told of a teacher before a model is opened. Loads no torch."""

from __future__ import annotations

from raymodel.spec.own import is_own
from raymodel.tasks import TASKS, get_task
from raymodel.tasks.base import Task


def why_no_teacher(task: type[Task]) -> str | None:
    """Why models of a task cannot learn from a teacher here; None where they can."""
    if not task.has_scores:
        able = ", ".join(name for name, each in TASKS.items() if each.has_scores)
        return (
            f"the loss of {task.name} is no cross-entropy of ids or classes, by whose logits a "
            f"student is held to its teacher; leave it out, or take {able}"
        )
    if is_own(task.name) and "scores" not in vars(task):
        return (
            f"{task.name} is a task of your own, whose loss may be another than that of what it "
            "is derived from; give it a method `scores` of its own, or leave distill out"
        )
    return None


def why_other_task(teacher: str, student: str) -> str | None:
    """Why a model for a task cannot teach one for another; None where it can.

    A head for classes is of one task alone. What models of whole vocabularies say, such as those
    that chat and those that go on with a text, means the same.
    """
    one, other = get_task(teacher), get_task(student)
    if one is other or (one.auto_class == other.auto_class and not other.draws_head):
        return None
    return (
        f"a model for {teacher}, and the student learns {student}; take a teacher that was trained "
        "for the same task"
    )
