"""`task:` of those that say something of a text, of its words, or of a pair of texts."""

from __future__ import annotations

from typing import Literal

from raymodel.tasks.spec.base import AnyChangedText, AnyTask


class TextClassificationSpec(AnyChangedText):
    """One class of a fixed set for each text, or pair of texts."""

    name: Literal["text_classification"] = "text_classification"
    """Which task."""


class MultiLabelClassificationSpec(AnyChangedText):
    """Any number of classes of a fixed set for each text, or pair of texts."""

    name: Literal["multi_label_classification"] = "multi_label_classification"
    """Which task."""


class TextRegressionSpec(AnyChangedText):
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
