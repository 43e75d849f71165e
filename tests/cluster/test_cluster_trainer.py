"""Where Ray's trainer is changed. Each test fails when Ray does it in another place."""

from types import SimpleNamespace

import pytest
from ray.train import ScalingConfig
from ray.train.v2.api import data_parallel_trainer
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from raymodel.cluster.trainer import ReplicaTrainer, variables_of_workers

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


def test_the_variables_of_workers_are_those_that_ray_train_gives(monkeypatch):
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
    trainer = ReplicaTrainer(lambda: None, replica_workers=1, scaling_config=SCALING)
    with pytest.raises(Asked) as asked:
        trainer._initialize_and_run_controller(scaling_policy=None)
    assert asked.value.args[0] == {"env_vars": variables_of_workers()}
    assert variables_of_workers()["RAY_TRAIN_ENABLE_PRINT_PATCH"] == "0"
