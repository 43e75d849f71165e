"""What a task is: the only plug-in axis of the system.

A task says what it wants of a record, how a document becomes features, how features become a batch,
what its loss is, how a model answers and what is measured. Data, train, evaluate and serve call
these methods; none of them switches on a task's name. Modules of tasks load torch and transformers
only inside methods, so that `raymodel check` can ask a task about a spec.

Shapes: B rows, T tokens, V vocabulary, C classes.
"""

from __future__ import annotations

import base64
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from raymodel.modality import processor_of
from raymodel.tasks.fields import Fields
from raymodel.tasks.likelihood import likelihood_scores

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from raymodel.chance import Draw
    from raymodel.modality.base import Processor
    from raymodel.storage.uri import Location
    from raymodel.tasks.spec import AnyTask

Features = dict[str, Any]
Columns = Mapping[str, Any]
"""Columns of B rows: of a list a list of arrays, of a number or a list of fixed length an array. Of
requests a list of values, None where one lacks what another has."""
Answer = dict[str, Any]
"""What a model says to one row, as JSON holds it."""
Reading = dict[str, float]
"""Numbers that a model gives to one example, its targets known."""
AnswerKind = Literal[
    "stream",
    "text",
    "label",
    "labels",
    "score",
    "spans",
    "fills",
    "extract",
    "vector",
    "scores",
    "mask",
    "objects",
]
"""`stream`: text, token by token. `text`: one that comes whole. `label`: one class, with the
probabilities of all. `labels`: any number of classes, with the probability of each. `score`: a
number. `spans`: runs of words with a class each. `fills`: what may stand at each hidden place of a
text, and the text with the most probable. `extract`: a piece of a text. `vector`:
numbers that stand for a text, or an image. `scores`: how relevant documents are to a query. `mask`:
the class of each pixel, as an image. `objects`: boxes, each with its class. Routes of the server
and its page follow from it."""
WRITTEN: frozenset[AnswerKind] = frozenset({"stream", "text"})
"""Answers that are made token by token, which takes long."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """What a document became."""

    features: Features
    """One row of `Task.schema`."""
    cut: tuple[str, ...] = ()
    """Roles whose value did not fit whole."""
    classes: tuple[str, ...] = ()
    """That are in it, where no role of the task names them."""


@dataclass(frozen=True)
class LeftOut:
    """A document in which nothing can be learnt."""

    reason: str
    """The same words for all documents of a kind: they are counted by it."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One held-out example as a person reads it."""

    prompt: str
    answer: str
    reference: str
    request: dict[str, Any] = field(default_factory=dict)
    """What a server is asked for this answer: role → value, as JSON holds it."""

    @classmethod
    def of_file(
        cls, what: str, role: str, rows: Columns, index: int, *, answer: str, reference: str
    ) -> Self:
        """Of one of B rows whose role is a file, which is in the request.

        Args:
            what: the file is, for people.
        """
        data = bytes(rows[role][index])
        return cls(
            prompt=f"{what} {index} ({len(data):,} bytes)",
            answer=answer,
            reference=reference,
            request={role: base64.b64encode(data).decode()},
        )


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One that `evaluate.metrics` may ask of a task."""

    needs: Literal["loss", "readings", "answers"]
    """`loss` can be taken on any rows of the task; `readings` and `answers` on those of examples
    alone, where `readings` ask for no answer: what the model makes of the targets is enough."""
    higher_is_better: bool
    is_of_rows: bool = True
    """Whether it is taken of one row after another, so that those of other rows can be guessed by
    drawing these again."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """What no single measure tells of the answers; as large for any number of rows."""

    title: str
    brief: str
    """The same in a line, for the terminal; empty where there is nothing to tell."""
    note: str
    """How it is read."""
    head: list[str]
    rows: list[list[str | int]]
    """Each with as many cells as `head`."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Of answers."""

    max_new_tokens: int = 64
    """Longest answer that is written."""
    beams: int = 1
    """Of an answer that comes whole: how many beginnings are carried on beside each other."""


class Task(ABC):
    """One file a task. An instance holds what the data and the job say, and no other state.

    Args:
        spec: what the job says of the task; its defaults when None.
        labels: the names of the classes, in the order of their numbers.
        processor: of the dataset or the model; not needed by those who only ask about a spec.
        roles: those that the documents have; by default all but the optional ones.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    """Enters the fingerprint of examples: it is raised when the same document gives others."""
    modality: ClassVar[str]
    """Of what the model is given: whose processor reads it."""
    auto_class: ClassVar[str]
    """Name of the `transformers` class that builds the model, such as `AutoModelForCausalLM`."""
    architectures: ClassVar[tuple[str, ...]]
    """Ends of the names of the architectures that do the task: what a folder's configuration names
    tells what its model is for."""
    problem_type: ClassVar[str | None] = None
    """What the configuration of a model calls the task, where others share its architectures."""
    pipeline_tag: ClassVar[str]
    """What the Hugging Face Hub calls the task, for the model card."""
    peft_task: ClassVar[str | None]
    """`peft.TaskType` that tells an adapter which head to leave alone, or to train in full; None
    where peft has none for the task: then the module `classifier` is trained in full."""
    fields: ClassVar[Fields]
    """The roles of a record."""
    measures: ClassVar[Mapping[str, Measure]]
    """By the name that `evaluate.metrics` asks for."""
    answers: ClassVar[AnswerKind]
    no_target: ClassVar[float] = -100
    """What stands in the `labels` of a batch for a target that must bear no loss."""
    cuts_rows: ClassVar[bool] = False
    """Whether it has a `sequence_part`, so that several workers can share a row."""
    can_pretrain: ClassVar[bool] = False
    """Whether it can be an objective of pretraining: whether `collate` takes the plain rows of its
    modality, as `prepare` makes them."""
    needs_encoder: ClassVar[bool] = False
    """Whether its models must see what follows a token: whether no decoder can do it."""
    logits: ClassVar[str | None] = None
    """Shape of what its models give, of the letters B rows, T tokens, C classes, V ids: a user's
    own network is held against it. None where it is not checked."""
    spec_class: ClassVar[type[AnyTask] | None] = None
    """Of a user's own task: what a job may say of it besides its name."""
    apart_architectures: ClassVar[tuple[str, ...]] = ()
    """The `model_type`s that can compute documents of one row as if each were alone."""
    draws_head: ClassVar[bool] = False
    """Whether fine-tuning gives the model a head of its own, so that a base may lack one."""

    def __init__(
        self,
        spec: AnyTask | None = None,
        *,
        labels: Sequence[str] = (),
        processor: Processor | None = None,
        roles: Collection[str] | None = None,
    ) -> None:
        self.spec = spec
        self.labels = tuple(labels)
        self._processor = processor
        required = (role for role, each in self.fields.items() if not each.is_optional)
        self.roles = frozenset(required if roles is None else roles)
        self.keeps_apart = False
        """Whether documents, or examples, lie in one row of a batch and do not see each other."""

    @property
    def processor(self) -> Any:
        """Of the class that reads its modality."""
        assert self._processor is not None, f"{self.name} was made without a processor"
        return self._processor

    def reading_as(self, folder: Location) -> Self:
        """The same task with the processor of a folder. Raises ArtifactError where it has none."""
        processor = self.processor_class().load(folder)
        return type(self)(self.spec, labels=self.labels, processor=processor, roles=self.roles)

    def for_model(self, config: PretrainedConfig) -> Self:
        """The same task, with batches as a model of this configuration reads them best."""
        return self

    # ---- data --------------------------------------------------------------------------------

    @classmethod
    def processor_class(cls) -> type[Processor]:
        """What reads its modality."""
        return processor_of(cls.modality)

    @classmethod
    def class_role(cls) -> str | None:
        """The role whose values are classes; None where the task has none."""
        kinds = ("label", "labels", "tags", "objects")
        return next((role for role, each in cls.fields.items() if each.kind in kinds), None)

    @classmethod
    def has_counted_head(cls) -> bool:
        """Whether its head is over the vocabulary or over classes: the formulas of `model/count.py`
        have these."""
        return cls.can_pretrain or cls.draws_head

    def fresh_processor(self) -> Processor | None:
        """The processor for a model without a base; None where the data has to bring one."""
        return None

    def adapt_processor(self, files: Mapping[str, str]) -> None:  # noqa: B027 (most take it as it is)
        """Makes of its processor, which is a base's, the one that its examples are read with.

        Args:
            files: the texts of `spec.files`, by path.

        Raises:
            ValueError: that cannot be.
        """

    @abstractmethod
    def schema(self) -> pa.Schema:
        """Columns of one example in a shard."""

    @property
    def base_readings(self) -> Mapping[str, str]:
        """Columns of `schema` that `features` cannot know, since they are what the model to start
        from makes of the example: column → which of its `readings`."""
        return {}

    @abstractmethod
    def features(self, values: Mapping[str, Any], max_length: int | None) -> Example | LeftOut:
        """A document, its cleaned values by role → one example.

        A request has no value for roles that are targets; then the example has no column for them.

        Args:
            max_length: in tokens; None where nothing is cut.

        Raises:
            ValueError: a value that the whole data must not have.
        """

    # ---- training ----------------------------------------------------------------------------

    @abstractmethod
    def collate(self, rows: Columns, draw: Draw | None = None) -> dict[str, torch.Tensor]:
        """Columns of B examples → one batch on the CPU, padded unless it `keeps_apart` examples.

        Where the spec `wants_partners`, training gives the columns of another row of the step
        beside each row's own, by the names that begin with `PARTNER`. The result holds at least
        what `loss` needs. Targets that must bear no loss are `no_target`.

        Args:
            draw: the chance of these rows; None where nothing is left to chance, as in evaluation.
        """

    def num_targets(self, batch: Mapping[str, torch.Tensor]) -> int:
        """How many targets bear loss in this batch (tokens, or examples)."""
        return int((batch["labels"] != self.no_target).sum())

    def num_positions(self, batch: Mapping[str, torch.Tensor]) -> int:
        """How many tokens the model computes for this batch, padding included; else examples."""
        return batch["input_ids"].numel() if "input_ids" in batch else len(batch["labels"])

    @abstractmethod
    def loss(self, model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The *sum* of the loss over the batch's targets, a scalar in fp32.

        The caller divides by the targets of the global batch, so the curve does not depend on how
        the batch was cut up. A loss that holds a row against others of its step must gather them
        from all workers (`tasks/gather.py`), and the spec of its task says so: `sees_whole_step`.
        """

    def sequence_part(
        self, batch: Mapping[str, torch.Tensor], part: int, parts: int
    ) -> dict[str, torch.Tensor]:
        """One worker's run of positions of a batch, for rows that several workers share.

        `loss` of the parts adds up to `loss` of the batch. Tasks that need whole rows have none.
        """
        raise NotImplementedError(f"{self.name} needs whole rows")

    # ---- the model ---------------------------------------------------------------------------

    def takes_over(self, config: PretrainedConfig) -> PretrainedConfig:
        """The configuration of what does the task with the weights of a base.

        That of the base, unless an architecture was pretrained under a name of its own: then of the
        one that has the same weights under the same names. What the base has besides is left
        behind, and what it lacks is a head that fine-tuning draws.
        """
        return config

    @classmethod
    def is_named_by(cls, config: Mapping[str, Any]) -> bool:
        """Whether a folder's config.json, of which an architecture fits, says that it is this task
        and no other of that architecture."""
        return cls.problem_type is not None and config.get("problem_type") == cls.problem_type

    def model_arguments(self) -> dict[str, Any]:
        """What the model's configuration must say of the task: the names of the classes, and what
        it calls the task. Nothing where it is not known which classes there are; fields that an
        architecture lacks are left out."""
        if not self.labels:
            return {}
        return {
            "num_labels": len(self.labels),
            "id2label": dict(enumerate(self.labels)),
            "label2id": {label: index for index, label in enumerate(self.labels)},
            **({"problem_type": self.problem_type} if self.problem_type else {}),
        }

    @property
    def num_outputs(self) -> int:
        """Of the head that fine-tuning gives the model; 0 where it gives none."""
        return int(self.model_arguments().get("num_labels", 0))

    def trim(self, model: PreTrainedModel) -> None:  # noqa: B027 (most tasks use all)
        """Takes out of a model what the task has no use for, so that a base may lack it and no
        weight is kept that nothing teaches; and says what of the rest learns, where the model's own
        class does not."""

    def check_model(self, config: PretrainedConfig) -> None:  # noqa: B027 (most tasks take any)
        """Raises ValueError when a model of this configuration would learn the wrong thing."""

    def check_processor(self, processor: Any) -> None:  # noqa: B027 (as above)
        """Raises ValueError when a processor lacks what the examples need."""

    def special_tokens(self, row_tokens: int | None) -> Mapping[str, int]:
        """Kind of special token → how many of it a tokenizer must have: `mask`, which stands for a
        hidden token, and `sentinels`, for runs of them.

        Args:
            row_tokens: of packed rows; None for examples.
        """
        return {}

    def settle(self, model: PreTrainedModel) -> str | None:
        """Tells a model's configurations what they must know of the processor.

        Returns: what was changed, in words; None when nothing was.

        Raises:
            ValueError: the processor lacks it.
        """
        return None

    # ---- size --------------------------------------------------------------------------------

    def longest_row(self, max_length: int) -> int:
        """Tokens of the longest example, where `features` is given this `max_length`. Images and
        sounds have none, and count as one."""
        return max_length if self.modality == "text" else 1

    def forward_lengths(self, tokens: int, max_length: int | None) -> dict[str, int]:
        """Argument of the model's forward → its length, for a row of text of so many tokens.

        Args:
            max_length: of examples, as `features` is given it; None for packed rows.
        """
        return {"input_ids": tokens, "attention_mask": tokens}

    # ---- readings and answers ----------------------------------------------------------------

    def measure_loss(self, loss: float, num_targets: int, num_bytes: int) -> dict[str, float]:
        """Those of `measures` that need the loss. Must load neither torch nor transformers.

        Args:
            loss: the sum over all targets, as `loss` gives it: nats of a likelihood by default.
            num_targets: that bear it.
            num_bytes: of their text.

        Raises:
            ValueError: there is no target.
        """
        return likelihood_scores(loss, num_targets, num_bytes)

    def readings(self, model: PreTrainedModel, rows: Columns) -> list[Reading]:
        """What a model makes of B examples; for `base_readings`, and measures that need them.

        Runs on the model's device, without gradients; the model is in evaluation mode.
        """
        raise NotImplementedError(f"{self.name} has no readings")

    def measure_readings(self, readings: Sequence[Reading]) -> dict[str, float]:
        """Those of `measures` that need readings. Must load neither torch nor transformers."""
        raise NotImplementedError(f"{self.name} has no readings")

    def can_evaluate(self, columns: Collection[str]) -> bool:
        """Whether rows with these columns are examples of this task."""
        return set(self.schema().names) <= set(columns)

    def has_answers(self, rows: Columns) -> bool:
        """Whether there is something to answer in these rows, and something to hold it against."""
        return True

    def target_bytes(self, batch: Mapping[str, torch.Tensor]) -> int:
        """UTF-8 bytes of the targets, where they are text."""
        return 0

    @abstractmethod
    def predict(self, model: PreTrainedModel, rows: Columns, limits: Limits) -> list[Answer]:
        """What a model answers to B examples or requests; evaluation and serving both ask here.

        Runs on the model's device, without gradients; the model is in evaluation mode.
        """

    @abstractmethod
    def references(self, rows: Columns) -> list[Any]:
        """What would be right, one for each row, as JSON holds it."""

    @abstractmethod
    def measure(
        self, answers: Sequence[Answer], references: Sequence[Any], names: Collection[str]
    ) -> dict[str, float]:
        """Those of `measures` that need answers. Must load neither torch nor transformers.

        Args:
            names: asked for; others may be in the result too.
        """

    def tables(
        self,
        answers: Sequence[Answer],
        references: Sequence[Any],
        readings: Sequence[Reading] = (),
    ) -> list[Table]:
        """What the report shows of the answers, or of the readings, beside the measures. Must load
        neither torch nor transformers.

        Args:
            answers: none where no measure needs them, or a few.
            references: of these.
            readings: none where no measure needs them.
        """
        return []

    def signatures(self) -> Mapping[str, str]:
        """Measure → how exactly it is taken, where there are several ways: by that name figures of
        others compare."""
        return {}

    @abstractmethod
    def sample(self, rows: Columns, index: int, answer: Answer, reference: Any) -> Sample:
        """One of B examples as a person reads it."""

    @classmethod
    def example_request(cls) -> dict[str, Any]:
        """Something that any model of the task can be asked: role → value, as JSON holds it."""
        return {
            role: ["The"] if each.kind in ("texts", "words") else "The"
            for role, each in cls.fields.items()
            if not each.is_target and not each.is_optional
        }

    @staticmethod
    @abstractmethod
    def answer_text(answer: Answer) -> str:
        """An answer in a line, for people."""
