"""A complete artifact to damage, and an S3 server on this machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sample_artifact import FINGERPRINT, write_artifact

from raymodel.storage.uri import Location


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
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Location]:
    """An empty bucket of a moto S3 server that is reached as users reach theirs."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="runs")
    yield Location.parse("s3://runs/team")
    server.stop()
