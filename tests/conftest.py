"""What tests of several parts share."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raymodel.observe import slow_paths

sys.path.append(str(Path(__file__).parent / "train"))  # for tiny_runs

# In this process, and in those that tests start: what falls back because of a library fails.
os.environ[slow_paths.VARIABLE] = slow_paths.REFUSE


@pytest.fixture(autouse=True)
def _no_slow_path() -> Iterator[None]:
    yield
    slow_paths.forget_slow_paths()


@pytest.fixture
def slow_paths_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what happens then."""
    monkeypatch.delenv(slow_paths.VARIABLE)


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    """A bucket of an S3 server, and the faults that a test adds to it: (Location, Faults)."""
    from raymodel.testing.s3 import Faults, s3_bucket

    faults = Faults()
    with s3_bucket(faults) as bucket:
        yield bucket, faults
