"""What a task is: the only plug-in axis of the system.

A task says which `AutoModelFor…` it needs, how a raw record becomes features, how features become
a batch, what its loss is, what is measured, and how a request is answered. Data, train, evaluate
and serve call these methods; none of them switches on a task's name. Modules of tasks load torch
and transformers only inside methods, so that `raymodel check` can ask a task about a spec.

Shapes: B rows, T tokens, V vocabulary, C classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from raymodel.data.spec import SourceSpec

Features = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Example:
    """What a document became."""

    features: Features
    """One row of `Task.schema`."""
    cut: tuple[str, ...] = ()
    """Roles whose text did not fit whole."""


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


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What `Task.evaluate` found."""

    metrics: dict[str, float]
    """Measure → value."""
    samples: tuple[Sample, ...] = ()
    """A few answers of the model beside what was expected."""


class Task(ABC):
    """One file a task; instances hold no state but what `labels` gives them."""

    name: ClassVar[str]
    auto_class: ClassVar[str]
    """Name of the `transformers` class that builds the model, such as `AutoModelForCausalLM`."""
    peft_task: ClassVar[str]
    """`peft.TaskType` that tells an adapter which head to leave alone, or to train in full."""
    measures: ClassVar[tuple[str, ...]]
    """Names that `evaluate.metrics` may ask of this task."""
    roles: ClassVar[Mapping[str, Literal["start", "end"]]]
    """The texts of a document, each a template of the source, and which end of it stays when it is
    too long. The first is what the model is given: equal ones are on one side of the holdout."""
    has_labels: ClassVar[bool] = False
    """Whether a document has a label, the field that `label` of the source names."""
    example_measures: ClassVar[tuple[str, ...]] = ()
    """Those of `measures` that compare answers with the ones of examples, which plain text has
    not."""
    cuts_rows: ClassVar[bool] = False
    """Whether it has a `sequence_part`, so that several workers can share a row."""

    draws_head: ClassVar[bool] = False
    """Whether fine-tuning gives the model a head of its own, so that a base may lack one."""

    def __init__(self, labels: Sequence[str] = ()) -> None:
        self.labels = tuple(labels)

    @abstractmethod
    def check_source(self, source: SourceSpec) -> None:
        """Raises ValueError when the source lacks what this task needs (a prompt, a label)."""

    @abstractmethod
    def schema(self) -> pa.Schema:
        """Columns of one example in a shard."""

    @abstractmethod
    def features(
        self,
        texts: Mapping[str, str],
        label: str | None,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
    ) -> Example | LeftOut:
        """A document, its cleaned texts by role and its label → one example."""

    @abstractmethod
    def collate(self, rows: Mapping[str, Any], pad_token_id: int) -> dict[str, torch.Tensor]:
        """Columns of B examples (lists or arrays) → one padded batch on the CPU.

        The result holds at least what `loss` needs. Targets that must bear no loss are -100.
        """

    def num_targets(self, batch: Mapping[str, torch.Tensor]) -> int:
        """How many targets bear loss in this batch (tokens, or examples)."""
        return int((batch["labels"] != -100).sum())

    @abstractmethod
    def loss(self, model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The *sum* of the loss over the batch's targets, a scalar in fp32.

        The caller divides by the targets of the global batch, so the curve does not depend on how
        the batch was cut up.
        """

    def sequence_part(
        self, batch: Mapping[str, torch.Tensor], part: int, parts: int
    ) -> dict[str, torch.Tensor]:
        """One worker's run of positions of a batch, for rows that several workers share.

        `loss` of the parts adds up to `loss` of the batch. Tasks that need whole rows have none.
        """
        raise NotImplementedError(f"{self.name} needs whole rows")

    def model_arguments(self) -> dict[str, Any]:
        """Extra arguments of the model's configuration (number of labels and their names)."""
        return {}

    def check_model(self, config: PretrainedConfig) -> None:  # noqa: B027 (most tasks take any)
        """Raises ValueError when a model of this configuration would learn the wrong thing."""

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:  # noqa: B027 (as above)
        """Raises ValueError when a tokenizer lacks a token that the examples need."""

    def settle_padding(
        self, config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase
    ) -> str | None:
        """Tells a model's configuration which id fills its rows up, where the model looks for it.

        Returns: what was changed, in words; None when nothing was.

        Raises:
            ValueError: the tokenizer has no such id.
        """
        return None

    def can_evaluate(self, columns: Collection[str]) -> bool:
        """Whether rows with these columns are examples of this task."""
        return set(self.schema().names) <= set(columns)

    @abstractmethod
    def evaluate(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        rows: Mapping[str, Any],
        measures: Sequence[str],
        **limits: int,
    ) -> Evaluation:
        """Measures of `model` on held-out examples (columns as `collate` takes them)."""
