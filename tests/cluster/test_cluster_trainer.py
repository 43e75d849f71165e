"""Where Ray's trainer is changed. Each test fails when Ray does it in another place."""

from types import SimpleNamespace

import pytest
from ray.train import ScalingConfig
from ray.train.v2._internal.execution.worker_group.worker_group import WorkerGroup
from ray.train.v2.api import data_parallel_trainer
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from raymodel.cluster.trainer import ReplicaTrainer, own_variables, variables_of_workers
from raymodel.heap import ONE_HEAP

SCALING = ScalingConfig(num_workers=2)


@pytest.mark.parametrize(
    ("actor_id", "needless"),
    [(None, {"DatasetsCallback", "PlacementGroupCleanerCallback"}), ("ab", {"DatasetsCallback"})],
    ids=["of a job", "of a trial"],
)
def test_the_trainer_starts_no_process_that_nothing_needs(monkeypatch, actor_id, needless):
    context = SimpleNamespace(get_actor_id=lambda: actor_id)
    monkeypatch.setattr("raymodel.cluster.trainer.ray.get_runtime_context", lambda: context)
    of_ray = DataParallelTrainer(lambda: None, scaling_config=SCALING)
    ours = ReplicaTrainer(lambda: None, replica_workers=1, scaling_config=SCALING)
    names = [
        {type(callback).__name__ for callback in trainer._create_default_callbacks()}
        for trainer in (of_ray, ours)
    ]
    assert names[0] - names[1] == needless


@pytest.fixture
def of_controller(monkeypatch):
    """The environment variables that Ray Train gives its controller."""

    class Asked(Exception):
        pass

    def remote(**options):
        raise Asked(options["runtime_env"])

    ray = data_parallel_trainer.ray
    context = SimpleNamespace(get_node_id=lambda: "a")
    monkeypatch.setattr(ray, "remote", remote)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    monkeypatch.setattr(ray.runtime_context, "get_runtime_context", lambda: context)
    monkeypatch.setenv("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
    monkeypatch.delenv(ONE_HEAP, raising=False)
    trainer = ReplicaTrainer(lambda: None, replica_workers=1, scaling_config=SCALING)
    with pytest.raises(Asked) as asked:
        trainer._initialize_and_run_controller(scaling_policy=None)
    assert set(asked.value.args[0]) == {"env_vars"}
    return asked.value.args[0]["env_vars"]


@pytest.mark.parametrize("on_gpu", [False, True])
def test_the_variables_of_workers_are_those_that_ray_train_gives(
    monkeypatch, of_controller, on_gpu
):
    for name, value in of_controller.items():
        monkeypatch.setenv(name, value)  # as in the controller, which starts the workers
    own = {"env_vars": own_variables(on_gpu=on_gpu)}
    given = WorkerGroup._get_worker_runtime_env(own)["env_vars"]
    assert given == variables_of_workers(on_gpu=on_gpu)
    assert given["RAY_TRAIN_ENABLE_PRINT_PATCH"] == "0"


def test_the_threads_of_a_worker_on_a_cpu_share_one_heap_unless_the_user_says_otherwise(
    monkeypatch,
):
    monkeypatch.delenv(ONE_HEAP, raising=False)
    assert own_variables(on_gpu=False) == {ONE_HEAP: "1"}
    assert own_variables(on_gpu=True) == {}
    monkeypatch.setenv(ONE_HEAP, "4")
    assert own_variables(on_gpu=False) == {ONE_HEAP: "4"}
