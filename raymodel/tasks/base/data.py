"""How a task makes rows of documents."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from raymodel.tasks.base.declared import Declared
from raymodel.tasks.base.values import Example, LeftOut

if TYPE_CHECKING:
    import pyarrow as pa

    from raymodel.modality.base import Processor


class OfData(Declared):
    """What `data/` calls."""

    def fresh_processor(self) -> Processor | None:
        """The processor for a model without a base; None where the data has to bring one."""
        return None

    def adapt_processor(self, files: Mapping[str, str]) -> None:
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

    @property
    def paraphrase_columns(self) -> Mapping[str, str]:
        """Columns of `schema` that hold what `features` makes of a document in other words, where
        the job has served models write these: column → which of its features. Both are lists; in
        rows without a paraphrase the column's is empty."""
        return {}

    @property
    def paraphrased_roles(self) -> tuple[str, ...]:
        """Roles whose texts are told in other words then: all that a model is given."""
        given = {r: f for r, f in self.fields.items() if r in self.roles and not f.is_target}
        texts = tuple(role for role, field in given.items() if field.kind == "text")
        return texts if self.paraphrase_columns else ()

    @abstractmethod
    def features(self, values: Mapping[str, Any], max_length: int | None) -> Example | LeftOut:
        """A document, its cleaned values by role → one example.

        A request has no value for roles that are targets; then the example has no column for them.

        Args:
            max_length: in tokens; None where nothing is cut.

        Raises:
            ValueError: a value that the whole data must not have.
        """
