"""`task:` and `objective:` what is learnt, and what a job may say of it; one class a task."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field

from raymodel.modality.spec import AugmentSpec, ImageSpec
from raymodel.spec.base import Spec
from raymodel.spec.fields import by_name, own_name
from raymodel.spec.quantity import Fraction


class OfTraining:
    """Marks what changes how examples are trained on, and not what they are."""


OF_TRAINING = OfTraining()


class AnyTask(Spec):
    """What the specs of all tasks share."""

    name: str
    """Which task."""

    def examples_identity(self) -> dict[str, Any]:
        """What decides the examples of the task."""
        whole = self.identity()
        return {
            name: whole[name]
            for name, field in type(self).model_fields.items()
            if not any(isinstance(mark, OfTraining) for mark in field.metadata)
        }


class CausalLMSpec(AnyTask):
    """Predict the next token of a text, or of the answer to a prompt."""

    name: Literal["causal_lm"] = "causal_lm"
    """Which task."""


class MaskedLMSpec(AnyTask):
    """Guess the tokens of a text that are hidden, from what stands on both sides of them."""

    name: Literal["masked_lm"] = "masked_lm"
    """Which task."""
    mask: Annotated[Fraction, OF_TRAINING] = Field(default=0.15, ge=0.01)
    """The share of a text's tokens that training hides, anew at every step. 15 % as for BERT
    (arXiv:1810.04805); 40 % can serve large models better (arXiv:2202.08005). Validation and
    evaluation hide 15 % of the tokens, single ones, whatever is said here, so that figures
    compare."""
    whole_words: Annotated[bool, OF_TRAINING] = False
    """Hide all tokens of a word together, which makes a harder task. Chinese characters are words
    of their own."""


class TextClassificationSpec(AnyTask):
    """One class of a fixed set for each text, or pair of texts."""

    name: Literal["text_classification"] = "text_classification"
    """Which task."""


class MultiLabelClassificationSpec(AnyTask):
    """Any number of classes of a fixed set for each text, or pair of texts."""

    name: Literal["multi_label_classification"] = "multi_label_classification"
    """Which task."""


class TextRegressionSpec(AnyTask):
    """A number for each text, or pair of texts."""

    name: Literal["text_regression"] = "text_regression"
    """Which task."""


class QuestionAnsweringSpec(AnyTask):
    """The piece of a context that answers a question, or none."""

    name: Literal["question_answering"] = "question_answering"
    """Which task."""


class ImageClassificationSpec(AnyTask):
    """One class of a fixed set for each image."""

    name: Literal["image_classification"] = "image_classification"
    """Which task."""
    image: ImageSpec | None = None
    """What images a fresh model takes; a base says that itself."""
    augment: Annotated[AugmentSpec, OF_TRAINING] = AugmentSpec()
    """How training changes what it is shown, by chance; nothing is changed by default."""


class TokenClassificationSpec(AnyTask):
    """One tag of a fixed set for each word of a text."""

    name: Literal["token_classification"] = "token_classification"
    """Which task."""


AnyTaskSpec = (
    CausalLMSpec
    | MaskedLMSpec
    | TextClassificationSpec
    | MultiLabelClassificationSpec
    | TextRegressionSpec
    | TokenClassificationSpec
    | QuestionAnsweringSpec
    | ImageClassificationSpec
)
TASK_SPECS: tuple[type[AnyTask], ...] = get_args(AnyTaskSpec)


def default_spec(name: str) -> AnyTask:
    """A task of which nothing is said."""
    kind: Any = next(spec for spec in TASK_SPECS if own_name(spec) == name)
    return kind()  # type: ignore[no-any-return]


def _by_name(value: Any) -> Any:
    return by_name(value, TASK_SPECS, "a task")


TaskSpec = Annotated[AnyTaskSpec, Field(discriminator="name"), BeforeValidator(_by_name)]
"""A name, such as `text_classification`, or a mapping with `name` and what the task takes."""
