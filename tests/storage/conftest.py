"""A complete artifact to damage, and an S3 server on this machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sample_artifact import FINGERPRINT, write_artifact

from raymodel.storage.uri import Location
from raymodel.testing.s3 import s3_bucket


@pytest.fixture
def storage(tmp_path: Path) -> Location:
    return Location.parse(str(tmp_path))


@pytest.fixture
def execution(storage: Location) -> Location:
    """A complete artifact."""
    location = storage / "job" / "prepare" / FINGERPRINT
    write_artifact(location)
    return location


@pytest.fixture
def bucket() -> Iterator[Location]:
    """An empty bucket of a moto S3 server that is reached as users reach theirs."""
    with s3_bucket() as location:
        yield location
