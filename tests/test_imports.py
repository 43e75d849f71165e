"""The layers of the package, held by import-linter."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("importlinter", reason="import-linter comes with the `test` extra")

REPOSITORY = Path(__file__).parents[1]
LINT = "from importlinter.cli import lint_imports_command; lint_imports_command()"


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LINT, "--no-cache"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_imports_go_one_way():
    done = lint(REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("tasks/base/data.py", "import raymodel.train.spec, raymodel.serve", "Imports go one way"),
        ("storage/uri.py", "from raymodel.observe import text", "Imports go one way"),
        ("train/loop.py", "import ray", "Ray is wiring"),
        ("train/loop.py", "import deepspeed", "DeepSpeed is behind"),
        ("train/spec.py", "import torch", "The job language"),
        ("tasks/spec/image.py", "import torch", "The job language"),
    ],
)
def test_an_import_against_the_layers_is_found(tmp_path, file, line, contract):
    shutil.copytree(REPOSITORY / "raymodel", tmp_path / "raymodel")
    shutil.copy(REPOSITORY / ".importlinter", tmp_path)
    with open(tmp_path / "raymodel" / file, "a", encoding="utf-8") as source:
        source.write(f"\n{line}\n")
    done = lint(tmp_path)
    assert done.returncode == 1
    broken = [text for text in done.stdout.splitlines() if " BROKEN" in text]
    assert any(text.startswith(contract) for text in broken), done.stdout
