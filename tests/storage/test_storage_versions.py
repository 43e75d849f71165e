"""Which versions stand in a manifest."""

import ast
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import raymodel
from raymodel.data.cleaning.spec import STEP_SPECS
from raymodel.data.spec import CleanSpec
from raymodel.spec.fields import own_name
from raymodel.storage.artifact import open_artifact
from raymodel.storage.manifest import commit_manifest
from raymodel.storage.registry import STAGES
from raymodel.storage.uri import Location
from raymodel.storage.versions import _BY_STAGE, _BY_STEP, installed_versions, packages_of

# They decide how a job is read, run, told or answered, not what comes of it.
NOT_RESULTS = {
    *(
        "pyyaml",
        "pydantic",
        "rich",
        "fastapi",
        "starlette",
        "uvicorn",
        "tensorboard",
        "prometheus-client",
    ),
    "huggingface-hub",  # reads what a commit holds
    "llguidance",  # answers of a server are no artifact
}


def test_a_manifest_holds_the_versions_of_what_its_stage_used(storage: Location) -> None:
    packages = packages_of("finetune", {"adapter": {"lora": {"rank": 8}}, "sweep": None})
    commit_manifest(
        storage, job_name="j", stage="finetune", fingerprint="f", parents={}, content={},
        packages=packages,
    )  # fmt: skip
    versions = open_artifact(storage).manifest.versions
    for package in ("ray", "torch", "deepspeed", "transformers", "tokenizers", "pyarrow", "peft"):
        assert versions[package] == metadata.version(package)
    assert "optuna" not in versions, "there was no sweep"
    assert "sacrebleu" not in versions


def test_examples_that_the_base_read_hold_the_version_of_torch() -> None:
    assert "torch" not in packages_of("examples", {"base": []})
    assert "torch" in packages_of("examples", {"base_readings": ["chosen_reference"]})


def test_what_was_cleaned_holds_the_versions_of_what_its_steps_use() -> None:
    assert set(_BY_STEP) == {own_name(spec) for spec in STEP_SPECS}
    clean = CleanSpec.model_validate({"steps": ["unicode", "gopher", "c4"]})
    found = packages_of("prepare", {"clean": clean.identity()})
    assert found == (*packages_of("prepare", {"clean": CleanSpec().identity()}), "ftfy", "regex")
    mine = {"steps": [["mine:step", "0"], *clean.identity()["steps"]]}
    assert "ftfy" in packages_of("examples", {"clean": mine})


def test_what_is_not_installed_is_left_out() -> None:
    assert set(installed_versions(["no-such-package"])) == {"python", "raymodel"}


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "compress"])
def test_every_stage_names_its_packages(stage: str) -> None:
    assert {"ray", "transformers"} <= set(packages_of(stage, {}))


def test_every_library_that_is_imported_decides_a_result_or_is_known_not_to() -> None:
    """A new dependency fails here until it is in one of the two lists."""
    known = {package for packages in _BY_STAGE.values() for package in packages}
    known |= {package for packages in _BY_STEP.values() for package in packages}
    known |= {"peft", "optuna"} | NOT_RESULTS
    distributions = metadata.packages_distributions()
    imported = {
        canonicalize_name(distribution)
        for file in Path(raymodel.__file__).parent.rglob("*.py")
        for name in imports_of(file)
        for distribution in distributions.get(name, ())
    }
    assert {"pillow", "rouge-score"} <= imported, "a name that differs from its package's is found"
    assert (imported & declared()) - known == set()


def declared() -> set[str]:
    """From the file: an installation's own list is as old as the installation."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
    return {
        canonicalize_name(Requirement(each).name) for each in project["project"]["dependencies"]
    }


def imports_of(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names
