"""`task:` and `objective:` what is learnt, and what a job may say of it; one class a task."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, SerializeAsAny, ValidatorFunctionWrapHandler, WrapValidator

from raymodel.modality.spec import AugmentSpec, ImageSpec
from raymodel.spec.base import Spec
from raymodel.spec.fields import by_name, own_name
from raymodel.spec.own import is_own, own_digest
from raymodel.spec.quantity import Count, Fraction


class OfTraining:
    """Marks what changes how examples are trained on, and not what they are."""


OF_TRAINING = OfTraining()


class AnyTask(Spec):
    """What the specs of all tasks share."""

    name: str
    """Which task."""

    def identity(self) -> dict[str, Any]:
        """Of a user's own task the text of its module too: a class that changed is another one."""
        source = {"source": own_digest(self.name)} if is_own(self.name) else {}
        return super().identity() | source

    def examples_identity(self) -> dict[str, Any]:
        """What decides the examples of the task."""
        fields = type(self).model_fields.items()
        of_training = {
            name
            for name, field in fields
            if any(isinstance(mark, OfTraining) for mark in field.metadata)
        }
        return {name: v for name, v in self.identity().items() if name not in of_training}


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


class Seq2SeqLMSpec(AnyTask):
    """Write a text that follows from another: its translation, its summary; or, of plain text, what
    was taken out of it."""

    name: Literal["seq2seq_lm"] = "seq2seq_lm"
    """Which task."""
    corrupt: Annotated[Fraction, OF_TRAINING] = Field(default=0.15, ge=0.01, le=0.9)
    """Of plain text, the share of the tokens that training takes out, anew at every step, and asks
    for. 15 % as for T5 (arXiv:1910.10683). Validation and evaluation take out 15 % in runs of 3,
    whatever is said here, so that figures compare."""
    mean_span: Annotated[float, OF_TRAINING] = Field(default=3.0, ge=1, le=1000)
    """Tokens of a run that is taken out, on average: 3 as for T5."""
    max_target_length: Count | None = Field(default=None, gt=1)
    """Longest target in tokens; by default, and at most, `max_length`. A longer one loses its
    end."""


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
    | Seq2SeqLMSpec
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


def _read_task(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    """A task of this package by its name, a user's own by where its class is."""
    if isinstance(value, AnyTask):
        return value
    name = value.get("name") if isinstance(value, dict) else value
    if isinstance(name, str) and is_own(name):
        from raymodel.tasks.own import read_own_task

        return read_own_task(value if isinstance(value, dict) else {"name": name})
    return read(by_name(value, TASK_SPECS, "a task"))


TaskSpec = Annotated[
    SerializeAsAny[AnyTaskSpec], Field(discriminator="name"), WrapValidator(_read_task)
]
"""A name, such as `text_classification`, or a mapping with `name` and what the task takes. The name
`module.path:Name` is a user's own task."""
