"""Models that a run makes its best, one after the other."""

from raymodel.serve.follow import version_of
from raymodel.storage.artifact import open_artifact
from raymodel.storage.manifest import commit_manifest


def promote(run, number, *, task="causal_lm", write=None):
    """Makes a model of the run its best; returns its version."""
    execution = run.execution("pretrain", f"{number:016x}")
    folder = execution.local_path / "model"
    folder.mkdir(parents=True)
    if write is None:
        (folder / "config.json").write_text("{}")
    else:
        write(folder)
    commit_manifest(
        execution,
        job_name="tiny",
        stage="pretrain",
        fingerprint=f"{number:016x}",
        parents={},
        content={"task": task},
    )
    artifact = open_artifact(execution)
    run.set_best(artifact)
    return version_of(artifact)
