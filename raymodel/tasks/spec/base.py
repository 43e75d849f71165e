"""What the specs of all tasks share."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import model_validator

from raymodel.modality.spec import BackTranslationSpec, TextAugmentSpec
from raymodel.spec.base import Spec
from raymodel.spec.own import is_own, own_digest


class OfTraining:
    """Marks what changes how examples are trained on, and not what they are."""


OF_TRAINING = OfTraining()


class AnyTask(Spec):
    """What the specs of all tasks share."""

    sees_whole_step: ClassVar[bool] = False
    """Whether the loss of a row depends on the other rows of its step, so that each worker has to
    compute all of its rows in one pass."""
    why_unchanged: ClassVar[str | None] = None
    """Of a task without `augment`: why what it is shown is not changed by chance."""

    name: str
    """Which task."""

    @model_validator(mode="before")
    @classmethod
    def _says_why_it_is_unchanged(cls, data: Any) -> Any:
        if cls.why_unchanged and isinstance(data, dict) and "augment" in data:
            raise ValueError(
                f"{data.get('name', 'the task')} has no `augment`: {cls.why_unchanged}; leave it "
                "out"
            )
        return data

    @property
    def wants_partners(self) -> bool:
        """Whether training gives `Task.collate` another row of the step beside each: the same one
        whatever the number of workers."""
        return False

    def identity(self) -> dict[str, Any]:
        """Of a user's own task the text of its module too: a class that changed is another one. Of
        a file that it names not the path: its text is what decides the examples."""
        source = {"source": own_digest(self.name)} if is_own(self.name) else {}
        files = dict.fromkeys(self.files, "a file")
        known = super().identity().items()
        named = {name: files.get(v, v) if isinstance(v, str) else v for name, v in known}
        return named | source

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of the files that it names, each the value of a field; their text decides the
        examples."""
        return ()

    @property
    def back_translation(self) -> BackTranslationSpec | None:
        """What makes paraphrases of its texts; None where there are none."""
        return None

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


class AnyChangedText(AnyTask):
    """What the specs of those tasks share whose answer stays when words of a text are changed."""

    augment: Annotated[TextAugmentSpec, OF_TRAINING] = TextAugmentSpec()
    """How training changes the texts that it is shown, by chance; nothing is changed by default."""

    def identity(self) -> dict[str, Any]:
        """What changes nothing is what it was before texts could be changed."""
        known = super().identity()
        return known if self.augment.is_on else {k: v for k, v in known.items() if k != "augment"}
