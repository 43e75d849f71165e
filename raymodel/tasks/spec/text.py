"""`task:` of those that say something of a text, of its words, or of a pair of texts."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from raymodel.modality.spec import BackTranslationSpec, WholeTextAugmentSpec
from raymodel.tasks.spec.base import OF_TRAINING, AnyChangedText, AnyTask


class AnyWholeText(AnyChangedText):
    """What the specs of those tasks share that say something of a text as a whole."""

    augment: Annotated[WholeTextAugmentSpec, OF_TRAINING] = WholeTextAugmentSpec()
    """How training changes the texts that it is shown, by chance; nothing is changed by default."""

    @property
    def back_translation(self) -> BackTranslationSpec | None:
        """As `augment` has it."""
        return self.augment.back_translation

    def examples_identity(self) -> dict[str, Any]:
        """Paraphrases lie in the rows."""
        known, made_by = super().examples_identity(), self.back_translation
        return known | {"back_translation": made_by.identity_of_examples()} if made_by else known


class TextClassificationSpec(AnyWholeText):
    """One class of a fixed set for each text, or pair of texts."""

    name: Literal["text_classification"] = "text_classification"
    """Which task."""


class MultiLabelClassificationSpec(AnyWholeText):
    """Any number of classes of a fixed set for each text, or pair of texts."""

    name: Literal["multi_label_classification"] = "multi_label_classification"
    """Which task."""


class TextRegressionSpec(AnyWholeText):
    """A number for each text, or pair of texts."""

    name: Literal["text_regression"] = "text_regression"
    """Which task."""


class TokenClassificationSpec(AnyTask):
    """One tag of a fixed set for each word of a text."""

    why_unchanged = "each word has a tag of its own, which would no longer be where it is"

    name: Literal["token_classification"] = "token_classification"
    """Which task."""


class QuestionAnsweringSpec(AnyTask):
    """The piece of a context that answers a question, or none."""

    why_unchanged = "an answer is a place in its context, which would no longer be there"

    name: Literal["question_answering"] = "question_answering"
    """Which task."""


TextTask = (
    TextClassificationSpec
    | MultiLabelClassificationSpec
    | TextRegressionSpec
    | TokenClassificationSpec
    | QuestionAnsweringSpec
)
