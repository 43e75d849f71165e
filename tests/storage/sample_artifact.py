"""A small complete artifact."""

from raymodel.storage.manifest import commit_manifest
from raymodel.storage.uri import Location

FINGERPRINT = "0123456789abcdef"


def write_artifact(execution: Location, content: dict | None = None) -> None:
    (execution / "data" / "shard-0.bin").write_bytes(b"0123456789")
    (execution / "data" / "shard-1.bin").write_bytes(b"abcdefghij")
    (execution / "spec.yaml").write_text("name: job\n")
    commit_manifest(
        execution,
        job_name="job",
        stage="prepare",
        fingerprint=execution.name,
        parents={"data": "f" * 16},
        content=content or {"rows": 3},
    )
