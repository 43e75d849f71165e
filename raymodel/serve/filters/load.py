"""From the specs of filters to filters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from raymodel.serve.filters.base import Filter
from raymodel.serve.filters.chain import Filters
from raymodel.serve.filters.pii import PIIFilter
from raymodel.serve.filters.spec import (
    ClassifierFilterSpec,
    FilterSpec,
    PIIFilterSpec,
    WordsFilterSpec,
)
from raymodel.serve.filters.words import Words

if TYPE_CHECKING:
    from raymodel.serve.service import Service


def build_filters(
    specs: Sequence[FilterSpec], load: Callable[[ClassifierFilterSpec], Service]
) -> Filters:
    """The filters of an application, in their order.

    Args:
        load: gives the service of the model that a filter names.

    Raises:
        SpecError: a list cannot be read, or a country is none.
        ArtifactError: a model cannot be loaded, or does not tell the label of its filter.
    """
    filters: list[Filter[Any]] = []
    try:
        for spec in specs:
            if isinstance(spec, ClassifierFilterSpec):
                from raymodel.serve.filters.classifier import Classifier  # loads torch

                filters.append(Classifier(spec, load(spec)))
            else:
                filters.append(build_text_filter(spec))
    except Exception:
        Filters(filters).close()
        raise
    return Filters(filters)


def build_text_filter(spec: FilterSpec) -> Filter[Any]:
    """One that needs no model. Raises SpecError as `build_filters`."""
    if isinstance(spec, WordsFilterSpec):
        return Words(spec)
    assert isinstance(spec, PIIFilterSpec), spec.name
    return PIIFilter(spec)
