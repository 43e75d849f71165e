"""What tests of several parts share."""

import gc
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from raymodel.observe import slow_paths

sys.path.append(str(Path(__file__).parent / "train"))  # for tiny_runs

# In this process, and in those that tests start: what falls back because of a library fails.
os.environ[slow_paths.VARIABLE] = slow_paths.REFUSE

# What one process compiled the others find: hundreds are started, and each imports the package.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

_SHIPPED = "tests/journey/test_journey_shipped.py"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Under `-n` a file stays in one process: its tests share what is dear, such as one Ray. So do
    two files of journeys, which share a run that others begin with, and its Ray.

    Files come as they are collected. By the number of their tests, the default, the few and long
    journeys would come last, when the other processes have nothing left.
    """
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return _SHIPPED if file.endswith("test_journey_shapes.py") else file

    config.option.loadscopereorder = False
    return ByFile(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported meanwhile stays: it is not looked at for garbage again and again, nor later,
    which takes half a second each time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def _no_slow_path() -> Iterator[None]:
    yield
    slow_paths.forget_slow_paths()


@pytest.fixture
def slow_paths_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what happens then."""
    monkeypatch.delenv(slow_paths.VARIABLE)


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What transformers answered is kept below the tests' own folder; processes inherit it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def ask_here(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Transformers is asked in this process, which has imported it; gives what was asked."""
    from raymodel.model import examine, examiner

    asked: list[Any] = []

    def ask(questions: Any) -> list[dict[str, Any]]:
        asked.extend(questions)
        return [examiner.answer(question.to_dict()) for question in questions]

    monkeypatch.setattr(examine, "ask_apart", ask)
    return asked


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    """A bucket of an S3 server, and the faults that a test adds to it: (Location, Faults)."""
    from raymodel.testing.s3 import Faults, s3_bucket

    faults = Faults()
    with s3_bucket(faults) as bucket:
        yield bucket, faults


@pytest.fixture
def own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """Makes a folder the working directory, by default an empty one; returns it.

    What was imported from it is forgotten at the end, as it is between processes.
    """
    from raymodel.tasks.own import own_step

    path, entered = list(sys.path), list[Path]()

    def enter(folder: Path | None = None) -> Path:
        entered.append(folder or tmp_path)
        monkeypatch.chdir(entered[-1])
        return entered[-1]

    yield enter
    sys.path[:] = path
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        if any(Path(file).is_relative_to(folder) for folder in entered):
            del sys.modules[name]
    own_step.cache_clear()
