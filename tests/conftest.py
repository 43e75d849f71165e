"""What tests of several parts share."""

import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from raymodel.observe import slow_paths

sys.path.append(str(Path(__file__).parent / "train"))  # for tiny_runs

# Of these folders and files all tests run in one of the two processes, one after the other: each
# Ray takes both cores. Every other file keeps together too, since its fixtures are made once.
STARTS_RAY = ("chaos", "journey", "test_data_run.py", "test_evaluate_run.py", "test_serve_run.py")

# In this process, and in those that tests start: what falls back because of a library fails.
os.environ[slow_paths.VARIABLE] = slow_paths.REFUSE


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def takes_ray(item: pytest.Item) -> bool:
        return any(part in item.path.parts for part in STARTS_RAY)

    items.sort(key=takes_ray, reverse=True)  # they take longest, so they begin
    for item in items:
        group = "ray" if takes_ray(item) else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """What goes from process to process is UTF-8, and file names of some tests are not."""
    report = yield
    report.sections = [(name, _encodable(text)) for name, text in report.sections]
    if report.failed:
        report.longrepr = _encodable(str(report.longrepr))
    return report


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


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
