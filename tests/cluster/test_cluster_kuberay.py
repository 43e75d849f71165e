"""The manifests pass KubeRay's own schemas, strictly, and hold what the README promises."""

import gzip
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from cluster_files import CLUSTER, crd_folder, load, ray_versions

MANIFESTS = ("ray-cluster", "ray-job", "ray-service")


@pytest.fixture(params=MANIFESTS)
def manifest(request: pytest.FixtureRequest) -> dict[str, Any]:
    return load(f"kuberay/{request.param}.yaml")


def cluster_spec(manifest: dict[str, Any]) -> dict[str, Any]:
    """The RayCluster in a manifest of any kind."""
    spec = manifest["spec"]
    return dict(spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec)


def pods(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    cluster = cluster_spec(manifest)
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        yield group["template"]["spec"]


# ---- the schemas ---------------------------------------------------------------------------------


def check_manifest(manifest: dict[str, Any]) -> None:
    """Raises jsonschema's ValidationError where the API server would refuse the manifest."""
    definition = load_definition(manifest["kind"])
    group, _, name = manifest["apiVersion"].partition("/")
    assert (group, manifest["kind"]) == (definition["group"], definition["names"]["kind"])
    (version,) = [each for each in definition["versions"] if each["name"] == name]
    jsonschema.validate(manifest, strict(version["schema"]["openAPIV3Schema"]))


@cache
def load_definition(kind: str) -> dict[str, Any]:
    with gzip.open(crd_folder() / f"ray.io_{kind.lower()}s.yaml.gz") as stream:
        # Megabytes of YAML, for which the loader in Python takes seconds.
        return dict(yaml.load(stream, yaml.CSafeLoader)["spec"])


def strict(schema: Any) -> Any:
    """A schema of a CRD as JSON Schema that refuses a field it does not name.

    `kubectl apply` refuses such a field as well (`--validate=strict`).
    """
    if not isinstance(schema, dict):
        return schema
    closed = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes")}
    for key in ("properties", "patternProperties"):
        if key in closed:
            closed[key] = {name: strict(each) for name, each in closed[key].items()}
    for key in ("items", "additionalProperties"):
        if key in closed:
            closed[key] = strict(closed[key])
    is_open = schema.get("x-kubernetes-preserve-unknown-fields")
    # A bare object, such as `metadata`, is described elsewhere.
    if "properties" in closed and not is_open:
        closed.setdefault("additionalProperties", False)
    return closed


@pytest.fixture
def _schemas() -> None:
    if not crd_folder().is_dir():
        pytest.skip(f"no KubeRay schemas in {crd_folder()}; set RAYMODEL_KUBERAY_CRD")


@pytest.mark.usefixtures("_schemas")
def test_kuberay_accepts_the_manifest(manifest: dict[str, Any]) -> None:
    check_manifest(manifest)


@pytest.mark.usefixtures("_schemas")
@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("backofLimit",), 3, "backofLimit"),
        (("backoffLimit",), "three", "'three' is not of type 'integer'"),
        (("rayClusterSpec", "authOptions", "mode"), "tokens", "'tokens' is not one of"),
        (("rayClusterSpec", "workerGroupSpecs", 0, "groupName"), None, "None is not of type"),
    ],
)
def test_a_wrong_manifest_is_refused(path: tuple[Any, ...], value: Any, words: str) -> None:
    manifest = load("kuberay/ray-job.yaml")
    where = manifest["spec"]
    for key in path[:-1]:
        where = where[key]
    where[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError, match=words):
        check_manifest(manifest)


# ---- what they say -------------------------------------------------------------------------------


def test_the_cluster_asks_for_a_token_and_scales_itself(manifest: dict[str, Any]) -> None:
    cluster = cluster_spec(manifest)
    assert cluster["rayVersion"] in ray_versions()
    assert cluster["authOptions"] == {"mode": "token", "secretName": "raymodel-token"}
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["version"] == "v2"
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}


def test_workers_start_from_zero_except_to_serve(manifest: dict[str, Any]) -> None:
    smallest = {
        group["groupName"]: group["minReplicas"]
        for group in cluster_spec(manifest)["workerGroupSpecs"]
    }
    serves = manifest["kind"] == "RayService"
    assert {name for name, least in smallest.items() if least} == ({"server"} if serves else set())


def test_every_container_has_its_resources_and_gpus_their_toleration(
    manifest: dict[str, Any],
) -> None:
    for pod in pods(manifest):
        (container,) = pod["containers"]
        resources = container["resources"]
        assert resources["requests"] == resources["limits"]
        assert {"cpu", "memory"} <= set(resources["limits"])
        has_gpu = "nvidia.com/gpu" in resources["limits"]
        tolerated = {each["key"] for each in pod.get("tolerations", [])}
        assert ("nvidia.com/gpu" in tolerated) == has_gpu
        assert container["image"] == f"raymodel:{'cuda' if has_gpu else 'cpu'}"


def test_every_pod_reaches_the_storage(manifest: dict[str, Any]) -> None:
    claim = load("kuberay/storage.yaml")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for pod in pods(manifest):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        (storage,) = [m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "storage"]
        assert storage["mountPath"] == "/storage"
        named = volumes["storage"]["persistentVolumeClaim"]["claimName"]
        assert named == claim["metadata"]["name"]


def test_spot_nodes_come_first_and_only_they_ask_for_spot() -> None:
    for name in ("ray-cluster", "ray-job"):
        groups = cluster_spec(load(f"kuberay/{name}.yaml"))["workerGroupSpecs"]
        spot, other = (
            next(group for group in groups if group["groupName"] == name)
            for name in ("trainer-spot", "trainer-on-demand")
        )
        assert spot["priority"] > other.get("priority", 0)
        assert "affinity" in spot["template"]["spec"]
        assert "affinity" not in other["template"]["spec"]


def test_a_lost_head_starts_the_same_command_again_on_storage_that_stays() -> None:
    spec = load("kuberay/ray-job.yaml")["spec"]
    assert spec["backoffLimit"] >= 1
    command = spec["entrypoint"].split()
    assert command[:4] == ["python", "-m", "raymodel", "run"]
    from raymodel.cli import build_parser

    arguments = build_parser().parse_args(command[3:])
    assert arguments.overrides == ["storage=/storage/runs"]
    head = next(pods({"spec": spec}))
    mounts = {m["mountPath"]: m["name"] for m in head["containers"][0]["volumeMounts"]}
    assert mounts[str(Path(arguments.job).parent)] == "job"
    assert head["volumes"][0] == {"name": "job", "configMap": {"name": "raymodel-job"}}


def test_the_served_application_is_built_from_the_same_job_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from importlib import import_module

    from ray.serve.schema import ServeDeploySchema

    from raymodel.errors import ArtifactError

    text = load("kuberay/ray-service.yaml")["spec"]["serveConfigV2"]
    config = ServeDeploySchema.model_validate(yaml.safe_load(text))
    (application,) = config.applications
    module, _, name = application.import_path.partition(":")
    build = getattr(import_module(module), name)

    job = tmp_path / "job.yaml"
    job.write_text((CLUSTER.parent / "jobs/quickstart.yaml").read_text())
    arguments = dict(application.args) | {"job": str(job)}
    arguments["set"] = [each.replace("/storage/runs", str(tmp_path)) for each in arguments["set"]]
    monkeypatch.setenv("RAYMODEL_TOKEN", "t")
    with pytest.raises(ArtifactError, match="quickstart has no promoted model; run the job"):
        build(arguments)
