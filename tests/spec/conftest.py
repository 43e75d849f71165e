from collections.abc import Callable
from pathlib import Path

import pytest

from raymodel.errors import SpecError
from raymodel.spec.load import load_job


@pytest.fixture
def write_job(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a job file of the given text."""

    def write(text: str) -> Path:
        path = tmp_path / "job.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def refusal(write_job: Callable[[str], Path]) -> Callable[..., str]:
    """The message that a job file is refused with, its path shortened to `job.yaml`."""

    def refuse(text: str, *overrides: str) -> str:
        path = write_job(text)
        with pytest.raises(SpecError) as caught:
            load_job(path, overrides)
        return str(caught.value).replace(str(path), "job.yaml")

    return refuse
