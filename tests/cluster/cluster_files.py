"""The files of `cluster/`, for the tests that check them."""

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
IMAGE = re.compile(r"rayproject/ray:(?P<ray>[\d.]+)-py(?P<python>\d+)-(?P<platform>cpu|gpu)")


def load(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((CLUSTER / name).read_text(encoding="utf-8")))


def project() -> dict[str, Any]:
    return dict(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"])


def ray_versions() -> SpecifierSet:
    """The versions of Ray that the project accepts."""
    requirements = [Requirement(text) for text in project()["dependencies"]]
    (ray,) = [each for each in requirements if each.name == "ray"]
    return ray.specifier


def check_image(image: str) -> str:
    """A Ray and a Python that the project accepts; returns `cpu` or `gpu`."""
    match = IMAGE.fullmatch(image)
    assert match, image
    assert match["ray"] in ray_versions()
    python = f"{match['python'][0]}.{match['python'][1:]}"
    assert python in SpecifierSet(project()["requires-python"])
    return match["platform"]


def crd_folder() -> Path:
    """KubeRay's schemas, `ray.io_*.yaml.gz`; they are not part of the project."""
    named = os.environ.get("RAYMODEL_KUBERAY_CRD")
    return Path(named) if named else ROOT.parent / "shared" / "kuberay-crd"
