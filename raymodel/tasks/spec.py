"""`task:` and `objective:` what is learnt, and what a job may say of it; one class a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import (
    Field,
    SerializeAsAny,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

from raymodel.modality.spec import (
    IGNORED,
    TEMPLATES,
    AudioAugmentSpec,
    AudioSpec,
    AugmentSpec,
    ImageSpec,
    Pooling,
    find_wrong_alphabet,
)
from raymodel.spec.base import Spec, Text
from raymodel.spec.fields import by_name, nearest, own_name
from raymodel.spec.own import is_own, own_digest
from raymodel.spec.quantity import Count, Fraction


class OfTraining:
    """Marks what changes how examples are trained on, and not what they are."""


OF_TRAINING = OfTraining()


Pixel = Annotated[int, Field(ge=0, le=65_535)]
"""The value of a pixel in a mask of up to 16 bits."""


class AnyTask(Spec):
    """What the specs of all tasks share."""

    sees_whole_step: ClassVar[bool] = False
    """Whether the loss of a row depends on the other rows of its step, so that each worker has to
    compute all of its rows in one pass."""

    name: str
    """Which task."""

    @property
    def wants_partners(self) -> bool:
        """Whether training gives `Task.collate` another row of the step beside each: the same one
        whatever the number of workers."""
        return False

    def identity(self) -> dict[str, Any]:
        """Of a user's own task the text of its module too: a class that changed is another one."""
        source = {"source": own_digest(self.name)} if is_own(self.name) else {}
        return super().identity() | source

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of the files that it names, whose text decides the examples."""
        return ()

    @property
    def named_classes(self) -> tuple[str, ...]:
        """The names of the classes in the order of their numbers, where the job says them; else the
        examples do."""
        return ()

    @property
    def lack_for_examples(self) -> str | None:
        """What the job must say beside the name before examples can be made; None where it has."""
        return None

    @property
    def lack_with_own_tokenizer(self) -> str | None:
        """Why it cannot read its examples with a tokenizer that the job trains; None where it
        can."""
        return None

    @property
    def row_texts(self) -> int:
        """Texts of a row that go through the model each by itself, as far as the spec tells."""
        return 1

    def examples_identity(self) -> dict[str, Any]:
        """What decides the examples of the task."""
        fields = type(self).model_fields.items()
        of_training = {
            name
            for name, field in fields
            if any(isinstance(mark, OfTraining) for mark in field.metadata)
        }
        return {name: v for name, v in self.identity().items() if name not in of_training}


class AnyAnswerSpec(AnyTask):
    """What the specs of those tasks share that learn answers of any length."""

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

    @property
    def wants_partners(self) -> bool:
        """What an image is mixed with."""
        return self.augment.mixup + self.augment.cutmix > 0


def _unmixed(augment: AugmentSpec) -> AugmentSpec:
    for name in ("mixup", "cutmix"):
        if share := getattr(augment, name):
            raise ValueError(
                f"{name} is {share:g}, and only images with one label each are mixed; leave it out"
            )
    return augment


class MaskedImageSpec(AnyTask):
    """Paint what is hidden of an image, from the patches that are left: learns from images without
    labels what a classifier can start from (MAE, arXiv:2111.06377).

    How much is hidden, the size of a patch, and whether each is compared after its own mean and
    deviation are taken out, the configuration of the model says: `mask_ratio`, `patch_size` and
    `norm_pix_loss`.
    """

    name: Literal["masked_image"] = "masked_image"
    """Which task."""
    augment: Annotated[AugmentSpec, OF_TRAINING] = AugmentSpec()
    """How training changes what it is shown, by chance; nothing is changed by default. MAE takes
    `crop: 0.2` and `flip: true` for photographs, and no more. Images are not mixed."""

    @field_validator("augment")
    @classmethod
    def _mixes_nothing(cls, augment: AugmentSpec) -> AugmentSpec:
        return _unmixed(augment)


class ImageSegmentationSpec(AnyTask):
    """One class of a fixed set for each pixel of an image."""

    name: Literal["image_segmentation"] = "image_segmentation"
    """Which task."""
    classes: dict[Text, Pixel] = Field(default_factory=dict, max_length=IGNORED)
    """Name → the value that its pixels have in the masks, such as `{ground: 0, road: 1}`. Needed
    for examples. A mask with another value, but for `ignore`, is left out."""
    ignore: Pixel | None = 255
    """The value of pixels that bear no loss and are not measured; null where there is none."""
    image: ImageSpec | None = None
    """What images a fresh model takes; a base says that itself. All of an image is scaled to that
    size, nothing is cut off."""
    augment: Annotated[AugmentSpec, OF_TRAINING] = AugmentSpec()
    """How training changes what it is shown, by chance, the masks alike; nothing is changed by
    default."""

    @property
    def named_classes(self) -> tuple[str, ...]:
        return tuple(sorted(self.classes, key=self.classes.__getitem__))

    @property
    def lack_for_examples(self) -> str | None:
        if len(self.classes) > 1:
            return None
        said = f"names {len(self.classes)} classes" if self.classes else "does not say its classes"
        return (
            f"{self.name} {said}; it needs two or more, each with the value of its pixels in the "
            "masks: classes: {ground: 0, road: 1}"
        )

    @field_validator("augment")
    @classmethod
    def _mixes_nothing(cls, augment: AugmentSpec) -> AugmentSpec:
        return _unmixed(augment)

    @model_validator(mode="after")
    def _values_differ(self) -> ImageSegmentationSpec:
        names: dict[int | None, str] = {self.ignore: "`ignore`"}
        for name, value in self.classes.items():
            if value in names:
                raise ValueError(
                    f"the value {value} is that of {names[value]} and of {name!r}; each needs a "
                    "value of its own. Change one"
                    + (", or set ignore: null" if value == self.ignore else "")
                )
            names[value] = repr(name)
        return self


class ObjectDetectionSpec(AnyTask):
    """The box and the class of each object in an image."""

    name: Literal["object_detection"] = "object_detection"
    """Which task."""
    image: ImageSpec | None = None
    """What images a fresh model takes; a base says that itself. All of an image is scaled to that
    size, nothing is cut off."""
    augment: Annotated[AugmentSpec, OF_TRAINING] = AugmentSpec()
    """How training changes what it is shown, by chance, the boxes alike; nothing is changed by
    default. Objects whose middle is cut off are none any more. Boxes cannot be turned, so `rotate`
    stays 0."""

    @field_validator("augment")
    @classmethod
    def _turns_nothing(cls, augment: AugmentSpec) -> AugmentSpec:
        if augment.rotate:
            raise ValueError(
                f"rotate is {augment.rotate:g}, and the box of an object that was turned in its "
                "box is not known; leave it out"
            )
        return _unmixed(augment)


class TokenClassificationSpec(AnyTask):
    """One tag of a fixed set for each word of a text."""

    name: Literal["token_classification"] = "token_classification"
    """Which task."""


class EmbeddingSpec(AnyTask):
    """A vector for each text, close to those of the texts that belong to it."""

    sees_whole_step = True

    name: Literal["embedding"] = "embedding"
    """Which task."""
    pooling: Annotated[Pooling | None, OF_TRAINING] = None
    """How the vectors of a text's tokens become one: `mean`, `cls` (the first token), or `last`,
    as for decoders. By default as the base says in the files of sentence-transformers, else
    `mean`."""
    temperature: Annotated[float, OF_TRAINING] = Field(default=0.05, ge=0.001, le=10)
    """Similarities, from -1 to 1, are divided by it: the lower, the more the nearest wrong texts
    count. 0.05 as for SimCSE (arXiv:2104.08821) and sentence-transformers."""
    negatives: Annotated[Count | None, OF_TRAINING] = Field(default=None, ge=0)
    """How many of a record's own negatives are used at each step, drawn anew; by default all. The
    texts of all other rows of the step are negatives in any case, and cost nothing."""

    @property
    def row_texts(self) -> int:
        """Query, positive, negatives."""
        return 2 + (self.negatives or 0)


class RankingSpec(AnyTask):
    """How relevant a document is to a query, for both read together."""

    name: Literal["ranking"] = "ranking"
    """Which task."""
    negatives: Annotated[Count | None, OF_TRAINING] = Field(default=None, ge=1)
    """How many of a record's negatives are used at each step, drawn anew; by default all. Each is a
    pass of its own through the model. Validation and evaluation use all."""

    @property
    def row_texts(self) -> int:
        """The query with its document, and with each negative."""
        return 1 + (self.negatives or 1)


class AudioClassificationSpec(AnyTask):
    """One class of a fixed set for each clip."""

    name: Literal["audio_classification"] = "audio_classification"
    """Which task."""
    audio: AudioSpec | None = None
    """What sounds a fresh model takes, and how long a clip may be; a longer one is cut at silence.
    Without it they are those of the base."""
    augment: Annotated[AudioAugmentSpec, OF_TRAINING] = AudioAugmentSpec()
    """How training changes what it hears, by chance; nothing is changed by default. What the model
    itself would hide or leave out by chance, as wav2vec2 does, is off."""


class AnySpeechSpec(AnyTask):
    """What the specs of speech share."""

    audio: AudioSpec | None = None
    """What sounds a fresh model takes, and how long a clip may be; a longer one with a transcript
    is left out. Without it they are those of the base."""
    augment: Annotated[AudioAugmentSpec, OF_TRAINING] = AudioAugmentSpec()
    """How training changes what it hears, by chance; nothing is changed by default. What the model
    itself would hide or leave out by chance, as wav2vec2 and Whisper can, is off."""


class SpeechRecognitionSpec(AnySpeechSpec):
    """What is said in a clip, by Whisper: an encoder and a decoder."""

    name: Literal["speech_recognition"] = "speech_recognition"
    """Which task."""
    language: str | None = Field(default=None, pattern="^[a-z]{2,3}$")
    """Code of the transcripts' language, such as `de`. A multilingual base needs it, one for
    English alone has none."""


class SpeechCTCSpec(AnySpeechSpec):
    """What is said in a clip, character by character, by wav2vec2 and its like."""

    name: Literal["speech_ctc"] = "speech_ctc"
    """Which task."""
    alphabet: Text | None = None
    """Of a fresh model: all characters that it writes besides the space, such as
    `abcdefghijklmnopqrstuvwxyz'`. Transcripts are put into its case; those with letters or
    digits that are not in it are left out."""

    @field_validator("alphabet")
    @classmethod
    def _is_one(cls, alphabet: str | None) -> str | None:
        if alphabet is not None and (problem := find_wrong_alphabet(alphabet)):
            raise ValueError(problem)
        return alphabet


AnyTaskSpec = (
    CausalLMSpec
    | ChatSpec
    | PreferenceSpec
    | ChatPreferenceSpec
    | MaskedLMSpec
    | Seq2SeqLMSpec
    | TextClassificationSpec
    | MultiLabelClassificationSpec
    | TextRegressionSpec
    | TokenClassificationSpec
    | QuestionAnsweringSpec
    | ImageClassificationSpec
    | MaskedImageSpec
    | ImageSegmentationSpec
    | ObjectDetectionSpec
    | EmbeddingSpec
    | RankingSpec
    | AudioClassificationSpec
    | SpeechRecognitionSpec
    | SpeechCTCSpec
)
TASK_SPECS: tuple[type[AnyTask], ...] = get_args(AnyTaskSpec)


def default_spec(name: str) -> AnyTask:
    """A task of which nothing is said."""
    kind: Any = next(spec for spec in TASK_SPECS if own_name(spec) == name)
    return kind()  # type: ignore[no-any-return]


def task_spec(data: Mapping[str, Any]) -> AnyTask:
    """A task by what `to_dict` gives of it."""
    name = str(data["name"])
    if is_own(name):
        from raymodel.tasks.own import read_own_task

        return read_own_task(dict(data))
    kind: Any = next(spec for spec in TASK_SPECS if own_name(spec) == name)
    return kind.model_validate(data)  # type: ignore[no-any-return]


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
