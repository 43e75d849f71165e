"""`task:` of those that write or fill in text, by itself, as a conversation, or as pairs teach."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from raymodel.modality.spec import TEMPLATES
from raymodel.spec.base import Text
from raymodel.spec.fields import nearest
from raymodel.spec.quantity import Count, Fraction
from raymodel.tasks.spec.base import OF_TRAINING, AnyTask


class AnyAnswerSpec(AnyTask):
    """What the specs of those tasks share that learn answers of any length."""

    why_unchanged = (
        "what it learns to write is the text itself, and what was changed would be learnt"
    )

    too_long: Literal["cut", "drop"] = "cut"
    """What becomes of an example of more than `max_length` tokens. `cut`: of a prompt with its
    response the prompt loses the start of its text, and a long response its end; a conversation
    loses its last turns. What was cut off is not learnt, nor that an answer ends where it was cut.
    `drop`: it is left out. Both are counted."""


class CausalLMSpec(AnyAnswerSpec):
    """Predict the next token of a text, or of the answer to a prompt."""

    name: Literal["causal_lm"] = "causal_lm"
    """Which task."""
    cross_documents: Annotated[bool, OF_TRAINING] = False
    """Let the documents of one row see each other, as if they were one text. By default each is
    computed as if it were alone, and its first token is not predicted from the end of another one,
    and short examples are put end to end, which saves their padding and changes no loss. Needed
    for models that cannot keep documents apart. Evaluation does as the training did."""


class AnyChatSpec(AnyAnswerSpec):
    """What the specs of those tasks share whose texts a chat template writes."""

    chat_template: Text | None = None
    """How conversations are written as text: the path of a Jinja file, `my/chat.jinja`, or
    `chatml`, `roles` (which has the special tokens of tokenizers that raymodel trains) or `plain`
    (for any tokenizer with an end of text). It is saved with the model. By default the one that
    the base brings."""

    @field_validator("chat_template")
    @classmethod
    def _is_known(cls, template: str | None) -> str | None:
        if template is None or template in TEMPLATES or _is_path(template):
            return template
        close = nearest(template, TEMPLATES)
        hint = f"; did you mean {close!r}?" if close else ""
        raise ValueError(
            f"there is no chat template {template!r}{hint} (there are {', '.join(TEMPLATES)}; a "
            "file of your own ends in .jinja)"
        )

    @property
    def files(self) -> tuple[str, ...]:
        is_file = self.chat_template is not None and self.chat_template not in TEMPLATES
        return (str(self.chat_template),) if is_file else ()

    @property
    def lack_with_own_tokenizer(self) -> str | None:
        if self.chat_template not in (None, "chatml"):
            return None
        what = "no <|im_end|>, which chatml needs" if self.chat_template else "no chat template"
        return (
            f"a tokenizer that the job trains has {what}; add chat_template: roles, which has "
            "the special tokens of such tokenizers"
        )


def _is_path(template: str) -> bool:
    return template.endswith((".jinja", ".jinja2", ".j2"))


class ChatSpec(AnyChatSpec):
    """Answer as the assistant of conversations does, in one turn or several."""

    name: Literal["chat"] = "chat"
    """Which task."""
    loss: Annotated[Literal["answers", "all"], OF_TRAINING] = "answers"
    """`answers`: only what the assistant says is learnt, with the token that ends its turn. `all`:
    every token, also of the system's and the user's turns. Validation and evaluation measure the
    answers, whatever is said here, so that figures compare."""


class AnyPreferenceSpec(AnyAnswerSpec):
    """What the specs of those tasks share that learn from pairs which answer is wanted.

    A pair's advantage h is how much more the model's log-probability of the chosen answer has risen
    since the base than that of the rejected one: (log π(chosen) - log π_base(chosen)) -
    (log π(rejected) - log π_base(rejected)), in nats.
    """

    loss: Annotated[Literal["dpo", "ipo"], OF_TRAINING] = "dpo"
    """`dpo`: -log sigmoid(beta h - margin) of each pair (arXiv:2305.18290). `ipo`:
    (h - 1 / (2 beta))², which does not go on for ever to drive apart what is told apart already
    (arXiv:2310.12036)."""
    beta: Annotated[float, OF_TRAINING] = Field(default=0.1, gt=0, le=1000)
    """How soon a pair has taught enough: a small beta lets the model go far from its base. 0.1 is
    what most runs of `dpo` take; answers by the token take 2 and more."""
    reference: Literal["base", "none"] = "base"
    """`base`: what fine-tuning starts from says once, while the examples are made, how probable it
    finds every answer; it is not in memory while training goes on. `none`: the log-probabilities of
    the base count as 0, and nothing is asked of it."""
    by_token: Annotated[bool, OF_TRAINING] = False
    """Divide the log-probabilities of an answer by its tokens, so that a longer one is not the less
    probable for it. With `reference: none` and a margin it is SimPO (arXiv:2405.14734)."""
    margin: Annotated[float, OF_TRAINING] = Field(default=0.0, ge=0, le=1000)
    """By how much beta times the advantage should exceed 0; of `dpo` only. SimPO takes 0.5 to 1.6
    at a beta of 2 to 2.5."""
    chosen_weight: Annotated[float, OF_TRAINING] = Field(default=0.0, ge=0, le=1000)
    """How much the chosen answers themselves are learnt beside: their loss, in nats a token, is
    added times this. Both losses alone are content to make the chosen answer less probable as
    long as the rejected one falls faster; 1 keeps it (arXiv:2404.19733)."""
    label_smoothing: Annotated[float, OF_TRAINING] = Field(default=0.0, ge=0, lt=0.5)
    """The share of pairs that are thought to be the wrong way round; of `dpo` only (section 4.2 of
    https://ericmitchell.ai/cdpo.pdf)."""

    @property
    def row_texts(self) -> int:
        """Both sides, each with the prompt before it."""
        return 2

    @model_validator(mode="after")
    def _ipo_has_neither(self) -> AnyPreferenceSpec:
        if self.loss == "ipo" and (self.margin or self.label_smoothing):
            named = "margin" if self.margin else "label_smoothing"
            raise ValueError(
                f"{named} is {getattr(self, named)} and loss is ipo, which aims at an advantage of "
                f"1 / (2 beta); leave {named} out, or take loss: dpo"
            )
        return self


class PreferenceSpec(AnyPreferenceSpec):
    """Prefer one answer to a prompt over another, as pairs of texts teach."""

    name: Literal["preference"] = "preference"
    """Which task."""


class ChatPreferenceSpec(AnyChatSpec, AnyPreferenceSpec):
    """Prefer one answer in a conversation over another, as pairs of them teach."""

    name: Literal["chat_preference"] = "chat_preference"
    """Which task."""


class MaskedLMSpec(AnyTask):
    """Guess the tokens of a text that are hidden, from what stands on both sides of them."""

    why_unchanged = "`mask` says how much is hidden, and what was changed would be learnt"

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
    cross_documents: Annotated[bool, OF_TRAINING] = False
    """Let the documents of one row see each other, as if they were one text. By default each is
    computed as if it were alone, as it is asked about,
    and short examples are put end to end, which saves their padding and changes no loss. Needed
    for models that cannot keep documents apart. Evaluation does as the training did."""


class Seq2SeqLMSpec(AnyTask):
    """Write a text that follows from another: its translation, its summary; or, of plain text, what
    was taken out of it."""

    why_unchanged = (
        "what it learns to write is the text itself, and what was changed would be learnt"
    )

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


LanguageTask = (
    CausalLMSpec | ChatSpec | PreferenceSpec | ChatPreferenceSpec | MaskedLMSpec | Seq2SeqLMSpec
)
