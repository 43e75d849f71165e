"""What tests of several parts share."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent / "train"))  # for tiny_runs


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    """A bucket of an S3 server, and the faults that a test adds to it: (Location, Faults)."""
    from raymodel.testing.s3 import Faults, s3_bucket

    faults = Faults()
    with s3_bucket(faults) as bucket:
        yield bucket, faults
