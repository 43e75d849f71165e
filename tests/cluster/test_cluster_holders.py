"""Who holds the places that a job waits for."""

from typing import Any

import pytest
from ray.core.generated.gcs_pb2 import ActorTableData, JobTableData, PlacementGroupTableData
from test_cluster_places import status

from raymodel.cluster import places
from raymodel.cluster.holders import Holder, holders_text, sum_up
from raymodel.cluster.spec import ClusterSpec

OWN, OTHER, NAMELESS, UNKNOWN = b"\x01", b"\x02", b"\x03", b"\x04"
NO_GROUP = b"\xff" * 18


def actor(job: bytes, name: str = "Worker", group: bytes = NO_GROUP, **resources: float) -> Any:
    data = ActorTableData(job_id=job, class_name=name, placement_group_id=group)
    data.required_resources.update(resources)
    return data


def group(job: bytes, *cpus: float, state: int = PlacementGroupTableData.CREATED) -> Any:
    data = PlacementGroupTableData(creator_job_id=job, state=state)
    for amount in cpus:
        data.bundles.add().unit_resources["CPU"] = amount
    return data


def jobs() -> list[Any]:
    other = JobTableData(job_id=OTHER, entrypoint="python -m raymodel run b.yaml")
    other.config.metadata["job_submission_id"] = "b-0123-1"
    return [other, JobTableData(job_id=NAMELESS, entrypoint="python train.py")]


def holders(actors: list[Any], groups: list[Any] = [], *names: str) -> list[str]:  # noqa: B006
    found = sum_up(actors, groups, jobs(), own_job=OWN, names=set(names or ("CPU",)))
    return sorted(map(str, found))


def test_an_app_is_named_with_the_command_that_takes_it_down() -> None:
    replicas = [actor(OTHER, "ServeReplica:raymodel-a:model", CPU=1.0)] * 2
    assert holders(replicas) == [
        "the app of job a (2 CPU; `raymodel stop --serving a` takes it down)"
    ]
    foreign = [actor(OWN, "ServeReplica:shop:front", CPU=1.0)]
    assert holders(foreign) == ["the Serve app shop (1 CPU)"]


def test_a_job_is_named_by_its_id_and_else_by_its_command() -> None:
    workers = [actor(OTHER, CPU=1.0), actor(NAMELESS, CPU=2.0), actor(UNKNOWN, CPU=1.0)]
    assert holders(workers) == [
        "job b-0123-1 (1 CPU)",
        "job of an unknown driver (1 CPU)",
        "job python train.py (2 CPU)",
    ]


def test_the_places_of_a_group_count_once_and_those_of_its_workers_not_again() -> None:
    inside = actor(OTHER, group=b"\x07" * 18, CPU=1.0)
    waiting = group(OTHER, 8.0, state=PlacementGroupTableData.PENDING)
    assert holders([inside, inside], [group(OTHER, 1.0, 1.0), waiting]) == ["job b-0123-1 (2 CPU)"]


def test_who_waits_does_not_name_itself_nor_who_holds_what_it_does_not_need() -> None:
    assert holders([actor(OWN, CPU=4.0), actor(OTHER, memory=9.0)], [group(OWN, 1.0)]) == []
    both = [actor(OTHER, CPU=1.0, GPU=1.0), actor(NAMELESS, CPU=1.0)]
    assert holders(both, [], "GPU") == ["job b-0123-1 (1 GPU)"]


def test_many_are_told_by_the_largest() -> None:
    text = holders_text(Holder(f"j{i}", False, {"CPU": float(i)}) for i in range(1, 8))
    assert text.startswith("held by job j7 (7 CPU), job j6 (6 CPU)")
    assert text.endswith("and 3 more")
    assert holders_text([]) == ""


@pytest.mark.parametrize(
    ("free", "autoscaler", "app", "is_so"),
    [
        (1.0, False, "raymodel-a", True),
        (2.0, False, "raymodel-a", False),  # there is room
        (1.0, True, "raymodel-a", False),  # a node may come, and the app stays up
        (1.0, False, "raymodel-b", False),  # another's is not ours to take down
    ],
)
def test_an_app_makes_room_only_for_its_own_job_that_lacks_it(
    free: float, autoscaler: bool, app: str, is_so: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places, "ask_status", lambda: status((1, 2, free), autoscaler=autoscaler))
    monkeypatch.setattr(places, "find_holders", lambda worker: [Holder(app, True, {"CPU": 1.0})])
    assert places.holds_the_places("a", ClusterSpec(workers=2)) is is_so


def test_a_wait_says_who_holds_the_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "ask_status", lambda: status((1, 2, 1)))
    monkeypatch.setattr(places, "find_holders", lambda worker: [Holder("b-1", False, {"CPU": 1.0})])
    assert str(places.find_lack(ClusterSpec(workers=2))) == (
        "2 workers of 1 CPU; free places: 1 on 1 node; held by job b-1 (1 CPU)"
    )
    assert places.find_lack(ClusterSpec(workers=1)) is None
