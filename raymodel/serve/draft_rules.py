"""What a model and its draft must have in common; loads no torch."""

from __future__ import annotations

from raymodel.errors import ArtifactError
from raymodel.tasks import get_task


def check_draft(task: str, draft_task: str) -> None:
    """Raises ArtifactError unless both write text token by token.

    Args:
        task: of the model that is served.
        draft_task: of the draft.
    """
    for name, whose in ((task, "the model that is served"), (draft_task, "the draft")):
        if (why := why_no_draft(name)) is not None:
            raise ArtifactError(f"serve.draft: {whose} is for {name}, {why}")


def why_no_draft(task: str) -> str | None:
    """Why models for a task neither have a draft nor are one."""
    if get_task(task).answers == "stream":
        return None
    return "which does not write text token by token, as a model and its draft do; leave draft out"


def other_tokenizer(draft: object, difference: str) -> ArtifactError:
    """What to say of a draft whose tokens are other texts.

    Args:
        draft: where it lies.
        difference: between its processor and the model's, in words.
    """
    return ArtifactError(
        f"serve.draft.model, {draft}, has another tokenizer than the model that is served "
        f"({difference}), so the tokens that it writes are other texts. Take a model of the same "
        "family, or a student that finetune.distill made of the one that is served"
    )
