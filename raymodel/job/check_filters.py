"""Checks of `serve.filters:` that read its lists."""

from __future__ import annotations

from collections.abc import Iterator

from raymodel.errors import SpecError
from raymodel.job.spec import Job
from raymodel.serve.filters.spec import ClassifierFilterSpec
from raymodel.spec.problems import Problem


def check_filters(job: Job) -> Iterator[Problem]:
    """Filters without a model can be made, with the lists that they name."""
    for i, spec in enumerate(job.serve.filters if job.serve else ()):
        if isinstance(spec, ClassifierFilterSpec):
            continue
        # What it loads, jobs without filters do not wait for.
        from raymodel.serve.filters.load import build_text_filter

        try:
            build_text_filter(spec)
        except SpecError as error:
            yield Problem(("serve", "filters", i), str(error))
