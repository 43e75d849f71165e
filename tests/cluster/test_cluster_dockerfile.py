"""What can be known of the Dockerfile without Docker."""

import re
from pathlib import PurePath
from string import Template

from cluster_files import CLUSTER, ROOT, check_image

from raymodel.cluster.connect import OWN_RAY_ENVIRONMENT

LINES = re.sub(r"\\\n", " ", (CLUSTER / "Dockerfile").read_text(encoding="utf-8")).splitlines()


def instructions(name: str) -> list[str]:
    return [line.split(maxsplit=1)[1] for line in LINES if line.startswith(f"{name} ")]


def copied() -> list[str]:
    sources = []
    for line in instructions("COPY"):
        words = [word for word in line.split() if not word.startswith("--")]
        sources += words[:-1]
    return sources


def test_the_base_image_has_the_project_s_ray_and_python() -> None:
    defaults = dict(line.split("=", 1) for line in instructions("ARG"))
    (image,) = instructions("FROM")
    for platform in ("cpu", "gpu"):
        filled = Template(image).substitute(defaults | {"PLATFORM": platform})
        assert check_image(filled) == platform


def test_every_file_that_is_copied_exists_and_is_sent_to_docker() -> None:
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in ignore if line and not line.startswith("#")]
    assert rules[0] == "*", "everything stays out unless it is named"
    sent = {rule[1:] for rule in rules if rule.startswith("!")}
    for source in copied():
        assert (ROOT / source).exists(), source
        assert PurePath(source).parts[0] in sent, source
    assert sent == {PurePath(source).parts[0] for source in copied()}


def test_the_install_finds_all_that_pyproject_names() -> None:
    before_install = LINES[: next(i for i, line in enumerate(LINES) if "pip install" in line)]
    text = "\n".join(before_install)
    for needed in ("pyproject.toml", "README.md", "LICENSE", "raymodel/__init__.py"):
        assert needed in text


def test_its_ray_serve_talks_as_one_that_is_started_here() -> None:
    told = dict(re.findall(r"(RAY_SERVE_\w+)=(\S+)", " ".join(LINES)))
    assert told == {n: v for n, v in OWN_RAY_ENVIRONMENT.items() if n.startswith("RAY_SERVE_")}
