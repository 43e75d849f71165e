"""The exit code of a command follows from what caused its end."""

import ast
import errno
import inspect
import pickle
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from raymodel import errors
from raymodel.cluster.capacity import check_fits
from raymodel.cluster.connect import connect
from raymodel.cluster.spec import ClusterSpec
from raymodel.errors import LastingError, RaymodelError, UserError
from raymodel.observe.ending import run_command
from raymodel.serve.port import check_port
from raymodel.spec.load import load_job
from raymodel.storage.artifact import find_artifact
from raymodel.storage.registry import Run, lock_run
from raymodel.storage.retry import with_retries
from raymodel.storage.uri import Location, check_writable
from raymodel.train.fault.policy import classify

PACKAGE = Path(errors.__file__).parent

# What causes it → the exit code. A new class needs a row here, and so a decision.
CODES = {
    "RaymodelError": 1,
    # The job file or an input: the same command would fail anywhere, at any time.
    "UserError": 2,
    "SpecError": 2,
    "LocationError": 2,
    "RequestError": 2,
    "FormError": 2,
    "SourceError": 2,
    "MissingSourceError": 2,
    "ArtifactError": 2,
    "MissingArtifactError": 2,
    "ShardError": 2,
    # The cluster, a storage, a machine, the training: another attempt may pass.
    "LastingError": 1,
    "StorageError": 1,
    "ClusterError": 1,
    "PortError": 1,
    "CheckpointError": 1,
    "DamagedCheckpointError": 1,
    "NonFiniteLossError": 1,
    "OutOfMemoryError": 1,
    "SlowPathError": 1,
    "AccountError": 1,
    "NotPlannedError": 1,
    "StorageUnavailableError": 1,
    "TrainingError": 1,
    "HangError": 1,
    "PreemptedError": 1,
    # The run is whole, and the model not good enough.
    "GateError": 3,
}


def all_errors() -> dict[str, type[RaymodelError]]:
    return {
        name: kind
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, RaymodelError)
    }


def test_every_class_of_error_has_its_row() -> None:
    assert {name: kind.exit_code for name, kind in all_errors().items()} == CODES


def test_no_class_of_error_hides_elsewhere() -> None:
    """One that derives from ours outside `errors.py` would have no row. A private one is caught in
    the module that raises it."""
    own = set(all_errors())
    for file in PACKAGE.rglob("*.py"):
        if file.name == "errors.py":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
                assert not bases & own, f"{file}: {node.name} belongs into errors.py"


@pytest.mark.parametrize("name", CODES)
def test_every_error_ends_a_command_with_its_code_and_its_words(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise getattr(errors, name)("seen; rule; fix")

    assert run_command(fail) == CODES[name]
    assert capsys.readouterr().err == "error: seen; rule; fix\n"


@pytest.mark.parametrize("kind", all_errors().values(), ids=lambda kind: kind.__name__)
def test_every_error_crosses_a_process_border(kind: type[RaymodelError]) -> None:
    copy = pickle.loads(pickle.dumps(kind("seen; rule; fix")))
    assert (type(copy), str(copy)) == (kind, "seen; rule; fix")


@pytest.mark.parametrize("kind", all_errors().values(), ids=lambda kind: kind.__name__)
def test_what_the_same_workers_would_meet_again_is_not_retried_in_a_run(
    kind: type[RaymodelError],
) -> None:
    failure = classify([kind("seen; rule; fix")])
    assert (failure.kind == "user") == issubclass(kind, (UserError, LastingError))


# ---- by cause ------------------------------------------------------------------------------------


def wrong_file(folder: Path) -> object:
    (folder / "job.yaml").write_text("name: a\nsed: 1\n")
    return load_job(folder / "job.yaml")


def edited_artifact(folder: Path) -> object:
    (folder / "manifest.json").write_text("{")
    return find_artifact(Location.parse(str(folder)))


def storage_refuses(folder: Path) -> object:
    (folder / "file").touch()
    return check_writable(Location.parse(str(folder / "file" / "runs")))


def storage_fails_at_every_try(folder: Path) -> object:
    def fail() -> None:
        raise OSError(errno.EIO, "out of order")

    return with_retries(fail, "reading", lambda *_: None)


def run_by_another(folder: Path) -> object:
    run = Run(Location.parse(str(folder)) / "job")
    with lock_run(run), lock_run(run):
        return None


def port_taken(folder: Path) -> object:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return check_port(*server.getsockname())


def head_lost(folder: Path) -> object:
    with connect("127.0.0.1:1", ClusterSpec()):
        return None


@pytest.mark.parametrize(
    ("cause", "code"),
    [
        (wrong_file, 2),
        (lambda folder: load_job(folder / "none.yaml"), 2),
        (lambda folder: Location.parse("ftp://host/runs"), 2),
        (lambda folder: Location.parse("s3://key:secret@bucket/runs"), 2),
        (edited_artifact, 2),
        (storage_refuses, 1),
        (storage_fails_at_every_try, 1),
        (run_by_another, 1),
        (port_taken, 1),
        (head_lost, 1),
        (lambda folder: check_fits(ClusterSpec(workers=9), [{"CPU": 1.0}]), 1),
        (lambda folder: check_fits(ClusterSpec(), []), 1),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_the_code_is_that_of_the_cause(
    cause: Callable[[Path], object], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raymodel.storage.retry.FIRST_WAIT_S", 0.0)
    with pytest.raises(RaymodelError) as caught:
        cause(tmp_path)
    assert caught.value.exit_code == code
