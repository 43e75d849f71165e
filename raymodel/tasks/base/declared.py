"""What a task declares, and what it is made of."""

from __future__ import annotations

from abc import ABC
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from raymodel.modality import processor_of
from raymodel.tasks.base.values import AnswerKind, Measure
from raymodel.tasks.fields import Fields

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from raymodel.modality.base import Processor
    from raymodel.storage.uri import Location
    from raymodel.tasks.spec import AnyTask


class Declared(ABC):
    """The facts of a task, and its instance."""

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
    has_scores: ClassVar[bool] = False
    """Whether it has `scores`, so that its models can learn from a teacher."""
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
