"""`serve.filters:` what the texts that are asked, and those that are answered, go through; one
class a filter."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, ValidatorFunctionWrapHandler, WrapValidator, model_validator

from raymodel.data.cleaning.spec.base import MAX_TERMS, read_terms
from raymodel.data.cleaning.spec.mend import PIIKind, PIISpec
from raymodel.spec.base import DISTINCT, Many, Spec, Text
from raymodel.spec.fields import WrittenByName, by_name
from raymodel.spec.quantity import Fraction

Side = Literal["in", "out"]
Sides = Literal["in", "out", "both"]
Action = Literal["refuse", "redact"]
ALL_KINDS: tuple[PIIKind, ...] = get_args(PIIKind)


class FilterSpec(Spec):
    """What all filters share."""

    name: str
    """Which filter."""
    side: Sides = "both"
    """`in`: what is asked; `out`: what is answered."""
    action: Action = "refuse"
    """`refuse`: a question is answered with 400 and the code `content_filter`; an answer ends with
    the finish reason `content_filter`, without its text. `redact`: what is found gives way to a
    placeholder."""

    def with_lists(self) -> Self:
        """The same with the terms of the lists that it names in it, for processes elsewhere.

        Raises:
            SpecError: one cannot be read.
        """
        return self

    def mark(self) -> dict[str, Any]:
        """What tells it from others in a fingerprint: of a list the terms, not the path. Raises as
        `with_lists`."""
        return self.identity()


class WordsFilterSpec(FilterSpec):
    """Words and phrases that are not to be said."""

    name: Literal["words"] = "words"
    """Which filter."""
    words: Many[Text] = Field(default=(), max_length=MAX_TERMS)
    """They stand in a text as whole words; capitals do not matter. Those of scripts without spaces
    are found wherever they stand."""
    file: Text | None = None
    """A text file in the job's folder with more of them, one a line."""

    @model_validator(mode="after")
    def _has_a_list(self) -> WordsFilterSpec:
        if not (self.words or self.file):
            raise ValueError("there is no list; give `words` or `file`")
        return self

    def with_lists(self) -> WordsFilterSpec:
        if self.file is None:
            return self
        words = (*self.words, *read_terms(self.file))
        return self.model_copy(update={"words": words, "file": None})

    def mark(self) -> dict[str, Any]:
        terms = "\n".join(self.with_lists().words)
        digest = hashlib.sha256(terms.encode()).hexdigest()[:16]
        return self.identity() | {"words": digest, "file": None}


class PIIFilterSpec(FilterSpec):
    """What tells who a person is, as the cleaning step `pii` finds it."""

    name: Literal["pii"] = "pii"
    """Which filter."""
    action: Action = "redact"
    """As of all filters."""
    kinds: Annotated[Many[PIIKind], DISTINCT] = Field(default=ALL_KINDS, min_length=1)
    """What is looked for: see the cleaning step."""
    regions: Many[Text] = ()
    """Countries whose telephone numbers are found without `+` too: see the cleaning step."""

    @model_validator(mode="after")
    def _as_the_step(self) -> PIIFilterSpec:
        self.step  # noqa: B018 - it says what is wrong with regions
        return self

    @property
    def step(self) -> PIISpec:
        """The cleaning step that finds it."""
        return PIISpec(kinds=self.kinds, regions=self.regions)


class ClassifierFilterSpec(FilterSpec):
    """What a classifier of texts tells. Each replica loads it beside its model."""

    name: Literal["classifier"] = "classifier"
    """Which filter."""
    action: Literal["refuse"] = "refuse"
    """As of all filters, but that it only refuses: it says of a text that it has something, and not
    where."""
    model: Text
    """A Hugging Face folder, `hf://OWNER/NAME[@REVISION]`, `python:PACKAGE/path`, or `RUN/STAGE`,
    for a task whose answer to a text is one class, or any number of them."""
    label: Text
    """The class that is not to be said."""
    at_least: Fraction = Field(default=0.5, gt=0, le=1)
    """Its probability from which on a text is refused."""
    unit: Literal["sentence", "answer"] = "sentence"
    """What of an answer is judged at once, and held back until it is: each sentence by itself, so
    that a stream goes out sentence by sentence, or the whole answer, which then goes out at its
    end. What is asked is judged whole, each text by itself."""


OurFilter = WordsFilterSpec | PIIFilterSpec | ClassifierFilterSpec
FILTER_SPECS: tuple[type[FilterSpec], ...] = get_args(OurFilter)


def _read_filter(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    return (
        value if isinstance(value, FilterSpec) else read(by_name(value, FILTER_SPECS, "a filter"))
    )


AnyFilterSpec = Annotated[
    OurFilter,
    Field(discriminator="name"),
    WrapValidator(_read_filter),
    WrittenByName(),
]
"""A mapping with `name` and what the filter takes, or a name alone."""


def classifiers_of(filters: Sequence[FilterSpec]) -> list[ClassifierFilterSpec]:
    """Those with a model, in their order."""
    return [each for each in filters if isinstance(each, ClassifierFilterSpec)]
