"""cluster/README.md names every file, and its commands are commands."""

import re
import shlex

import pytest
from cluster_files import CLUSTER, ROOT

from raymodel.cli import build_parser

README = (CLUSTER / "README.md").read_text(encoding="utf-8")
FILES = [path.relative_to(CLUSTER).as_posix() for path in CLUSTER.rglob("*") if path.is_file()]
BLOCKS = "\n".join(re.findall(r"```\n(.*?)```", README, flags=re.DOTALL)).replace("\\\n", " ")


@pytest.mark.parametrize("name", sorted(set(FILES) - {"README.md"}))
def test_every_file_has_its_line(name: str) -> None:
    assert any(line.startswith("|") and f"`{name}`" in line for line in README.splitlines())


def test_every_raymodel_command_is_one_and_its_job_file_exists() -> None:
    commands = [
        shlex.split(line, comments=True)[1:]
        for line in BLOCKS.splitlines()
        if line.startswith("raymodel ")
    ]
    assert commands
    for words in commands:
        arguments = build_parser().parse_args(words)
        assert (ROOT / arguments.job).is_file()


def test_every_path_in_a_command_exists() -> None:
    for path in re.findall(r"(?<![\w/])cluster/[\w./-]+\w", BLOCKS):
        assert (ROOT / path).exists(), path
