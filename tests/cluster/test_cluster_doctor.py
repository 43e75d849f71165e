"""`raymodel doctor` on real Rays."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
JOB = {
    "name": "patient",
    "cluster": {"workers": 2},
    "serve": {"model": "/nowhere"},
}


def doctor(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-m", "raymodel", "doctor", *arguments],
        env=own | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(JOB | {"storage": str(tmp_path / "runs")}))
    return path


@pytest.mark.slow
def test_this_machine_is_well_enough_for_two_workers(job: Path, tmp_path: Path) -> None:
    done = doctor(str(job))
    assert done.returncode == 0, done.stdout + done.stderr
    lines: dict[str, str] = {}
    for line in done.stdout.splitlines():  # what was seen stands below the table
        check = line.split("  ")[0]
        lines[check] = lines.get(check, "") + line
    for check in ("version of deepspeed", "disk", "shared memory", "clock", "storage"):
        assert check in lines, done.stdout
    assert "2 workers on 1 node" in lines["all-reduce"]
    assert "gloo" in lines["all-reduce"]
    assert not list((tmp_path / "runs").glob(".doctor*"))


@pytest.mark.slow
def test_what_is_wrong_comes_with_its_fix_and_exit_code_1(job: Path, tmp_path: Path) -> None:
    """A storage that is a file."""
    (tmp_path / "runs").touch()
    done = doctor(str(job))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "fails: storage, the driver" in done.stdout
    assert "fix: give the node the permission" in done.stdout


def test_no_cluster_at_the_address_is_one_message() -> None:
    done = doctor("--address", "127.0.0.1:1")
    assert done.returncode == 1
    assert "no Ray answers at '127.0.0.1:1'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_node_with_another_version_is_found_on_a_cluster(tmp_path: Path) -> None:
    from raymodel.testing.nodes import Nodes

    shadow = tmp_path / "shadow" / "deepspeed-0.1.0.dist-info"
    shadow.mkdir(parents=True)
    (shadow / "METADATA").write_text("Metadata-Version: 2.1\nName: deepspeed\nVersion: 0.1.0\n")
    with Nodes() as nodes:
        nodes.environment["PYTHONPATH"] = str(REPOSITORY)
        nodes.add()
        token = {name: nodes.environment[name] for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
        good = doctor("--address", nodes.address, **token)
        assert good.returncode == 0, good.stdout + good.stderr
        nodes.environment["PYTHONPATH"] = f"{shadow.parent}:{REPOSITORY}"
        nodes.add()
        bad = doctor("--address", nodes.address, **token)
    assert bad.returncode == 1, bad.stdout + bad.stderr
    assert "fails: version of deepspeed" in bad.stdout
    assert "; 0.1.0 on " in bad.stdout
    assert "2 workers on 2 nodes" in bad.stdout
