"""A Serve config names a job file; the application that comes of it serves that job's model."""

from pathlib import Path

import pytest
import yaml

from raymodel.errors import ArtifactError, SpecError
from raymodel.serve.deploy import application, find_model
from raymodel.spec.load import load_job
from raymodel.testing.tiny import tiny_job


def write(folder: Path, **sections: object) -> Path:
    file = folder / "job.yaml"
    job = tiny_job(folder, duration="2 steps") | {"storage": str(folder / "runs")} | sections
    file.write_text(yaml.safe_dump(job))
    return file


@pytest.fixture
def model(llama, tokenizer, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    llama.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_the_model_that_the_job_names_is_deployed(tmp_path: Path, model: Path) -> None:
    file = write(tmp_path, serve={"replicas": {"min": 2, "max": 3}})
    built = application({"job": str(file), "set": [f"serve.model={model}"]})
    gate = built._bound_deployment
    assert (gate.name, gate.num_replicas, gate.ray_actor_options) == ("gate", 1, {"num_cpus": 0})
    [behind] = gate.init_args
    deployment = behind._bound_deployment
    assert deployment.name == "model"
    scale = deployment._deployment_config.autoscaling_config
    assert (scale.min_replicas, scale.max_replicas) == (2, 3)


def test_many_replicas_have_several_gates(tmp_path: Path, model: Path) -> None:
    replicas = {"min": 1, "max": 17}
    file = write(tmp_path, serve={"model": str(model), "replicas": replicas})
    gate = application({"job": str(file)})._bound_deployment
    assert gate.num_replicas == 3


def test_a_job_that_promoted_nothing_yet_has_nothing_to_deploy(tmp_path: Path) -> None:
    job = load_job(write(tmp_path, serve={})).job
    with pytest.raises(ArtifactError, match=r"runs/tiny has no promoted model; run the job"):
        find_model(job, tmp_path)


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    job = load_job(write(tmp_path, serve={"model": "nowhere"})).job
    with pytest.raises(ArtifactError, match="'nowhere', which is no folder here"):
        find_model(job, tmp_path)


def test_a_job_without_a_serve_section_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="has no `serve:` section"):
        application({"job": str(write(tmp_path))})


@pytest.mark.parametrize("arguments", [{}, {"job": "job.yaml", "storage": "/storage"}])
def test_wrong_arguments_are_told_with_the_right_ones(arguments: dict[str, str]) -> None:
    with pytest.raises(SpecError, match=r"give `job`, the path of a job file, and perhaps `set`"):
        application(arguments)


def test_a_token_that_is_asked_for_must_be_there(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAYMODEL_TOKEN", raising=False)
    file = write(tmp_path, serve={"model": str(model), "token_env": "RAYMODEL_TOKEN"})
    with pytest.raises(SpecError, match="names RAYMODEL_TOKEN, which is not set"):
        application({"job": str(file)})
