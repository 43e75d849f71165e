"""The files for `ray up` pass Ray's own checks, and say what the README promises of them."""

import json
from pathlib import Path
from typing import Any

import pytest
import ray.autoscaler
from cluster_files import ROOT, check_image, load
from ray.autoscaler._private.util import prepare_config, validate_config

CLOUDS = ("aws", "gcp", "azure")
DOCKER = (*CLOUDS, "on-premise")


@pytest.fixture(params=CLOUDS)
def cloud(request: pytest.FixtureRequest) -> dict[str, Any]:
    return load(f"{request.param}.yaml")


@pytest.fixture(params=DOCKER)
def docker(request: pytest.FixtureRequest) -> dict[str, Any]:
    return load(f"{request.param}.yaml")


@pytest.mark.parametrize("name", [*DOCKER, "local-autoscaling"])
def test_ray_accepts_the_file(name: str) -> None:
    validate_config(prepare_config(load(f"{name}.yaml")))


def test_ray_refuses_a_file_with_a_key_that_it_does_not_know() -> None:
    config = load("aws.yaml")
    config["available_node_types"]["data"]["idle_minutes"] = 5
    with pytest.raises(Exception, match="idle_minutes"):
        validate_config(prepare_config(config))


def test_nothing_but_the_head_runs_until_a_job_needs_it(cloud: dict[str, Any]) -> None:
    types = prepare_config(cloud)["available_node_types"]
    head = types.pop(cloud["head_node_type"])
    assert head["resources"] == {"CPU": 0}
    assert {each["min_workers"] for each in types.values()} == {0}
    assert sum(each["max_workers"] for each in types.values()) == cloud["max_workers"]
    assert 0 < cloud["idle_timeout_minutes"] <= 10


def test_data_needs_no_gpu_and_trainers_are_spot_before_on_demand(cloud: dict[str, Any]) -> None:
    types = cloud["available_node_types"]
    spot, other = types["trainer-spot"], types["trainer-on-demand"]
    assert "GPU" not in types["data"]["resources"]
    assert spot["resources"] == other["resources"]
    assert spot["resources"]["GPU"] > 0
    assert spot["priority"] > other.get("priority", 0)
    words = [json.dumps(each["node_config"]).lower() for each in (spot, other)]
    assert ["spot" in each for each in words] == [True, False]


def test_images_have_the_project_s_ray_and_gpus_where_they_are_used(cloud: dict[str, Any]) -> None:
    assert check_image(cloud["docker"]["head_image"]) == "cpu"
    for name, node in cloud["available_node_types"].items():
        image = node.get("docker", cloud["docker"])["worker_image"]
        assert check_image(image) == ("gpu" if "GPU" in node["resources"] else "cpu"), name


def test_machines_of_one_s_own_have_the_project_s_ray() -> None:
    assert check_image(load("on-premise.yaml")["docker"]["image"]) == "gpu"


def test_every_node_asks_for_the_token_and_installs_the_working_copy(
    docker: dict[str, Any],
) -> None:
    assert "--env RAY_AUTH_MODE=token" in docker["docker"]["run_options"]
    mounts = docker["file_mounts"]
    assert mounts["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert (ROOT / mounts["~/raymodel"] / "pyproject.toml").exists(), "ray up runs at the root"
    assert docker["setup_commands"] == [
        "chmod 600 ~/.ray/auth_token",
        "pip install --quiet -e ~/raymodel",
    ]


def test_heads_listen_on_loopback_and_start_the_autoscaler(docker: dict[str, Any]) -> None:
    start = docker["head_start_ray_commands"][-1]
    assert "--autoscaling-config=~/ray_bootstrap_config.yaml" in start
    assert "--dashboard-host" not in start  # Ray's own default is loopback


# ---- what the clouds themselves are told ---------------------------------------------------------


def test_aws_would_start_every_node_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray fills in the rest from an AWS played by moto; botocore knows what it may be asked."""
    import boto3
    from moto import mock_aws
    from ray.autoscaler._private.aws.config import bootstrap_aws

    monkeypatch.setenv("HOME", str(tmp_path))  # Ray writes the key pair that it makes there
    (tmp_path / ".ssh").mkdir()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setattr("ray.autoscaler._private.aws.config.time.sleep", lambda seconds: None)
    with mock_aws(config={"iam": {"load_aws_managed_policies": True}}):
        iam = boto3.client("iam", "us-east-1")
        iam.create_instance_profile(InstanceProfileName="raymodel-node")
        config = bootstrap_aws(prepare_config(load("aws.yaml")))
        client = boto3.client("ec2", config["provider"]["region"])
        for name, node_type in config["available_node_types"].items():
            own = config["head_node"] if name == config["head_node_type"] else {}
            request = node_type["node_config"] | own
            subnets = request.pop("SubnetIds")  # Ray takes them in turn
            with pytest.raises(Exception, match="DryRunOperation"):
                client.run_instances(
                    **request, SubnetId=subnets[0], MinCount=1, MaxCount=1, DryRun=True
                )
            assert {"IamInstanceProfile", "ImageId", "SecurityGroupIds"} <= set(request), name


def test_azure_knows_every_parameter() -> None:
    template = Path(ray.autoscaler.__file__).parent / "_private/_azure/azure-vm-template.json"
    known = set(json.loads(template.read_text())["parameters"])
    for node_type in load("azure.yaml")["available_node_types"].values():
        assert set(node_type["node_config"]["azure_arm_parameters"]) <= known
