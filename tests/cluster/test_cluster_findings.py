"""What the doctor makes of what it saw."""

from dataclasses import replace

import pytest

from raymodel.cluster.findings import (
    exit_code,
    judge_clock,
    judge_disks,
    judge_reduce,
    judge_shared_memory,
    judge_storage,
    judge_versions,
    no_places,
    node_failed,
)
from raymodel.cluster.probe import NodeFacts, ReduceTrial, StorageTrial

FACTS = NodeFacts(
    versions={"ray": "2.60.0", "torch": "2.13.0"},
    disks={"/tmp/ray": (50 * 2**30, 100 * 2**30)},
    shared_memory_bytes=2**30,
)
REDUCE = ReduceTrial(
    num_workers=4, num_nodes=2, backend="nccl", num_bytes=10**9, seconds=0.1, is_right=True
)


def test_equal_versions_are_one_good_line_each() -> None:
    findings = judge_versions({"driver": FACTS, "a": FACTS})
    assert [(f.check, f.verdict, f.seen) for f in findings] == [
        ("version of ray", "ok", "2.60.0"),
        ("version of torch", "ok", "2.13.0"),
    ]


def test_a_version_that_differs_fails_and_names_the_nodes() -> None:
    other = replace(FACTS, versions=FACTS.versions | {"torch": "2.11.0"})
    finding = judge_versions({"driver": FACTS, "a": FACTS, "b": other})[1]
    assert finding.verdict == "fails"
    assert finding.seen == "2.13.0 on driver, a; 2.11.0 on b"
    assert finding.fix.startswith("install torch 2.13.0 on every node")


def test_a_package_that_is_absent_fails_even_when_it_is_absent_everywhere() -> None:
    without = replace(FACTS, versions=FACTS.versions | {"torch": "absent"})
    for facts in ({"driver": FACTS, "a": without}, {"driver": without, "a": without}):
        finding = judge_versions(facts)[1]
        assert finding.verdict == "fails"
        assert finding.fix == "install torch on every node, the same version on all"


@pytest.mark.parametrize(
    ("free", "verdict"), [(0.5, "ok"), (0.09, "note"), (0.051, "note"), (0.04, "fails")]
)
def test_a_disk_is_judged_by_how_full_it_is(free: float, verdict: str) -> None:
    total = 10**12
    (finding,) = judge_disks("a", replace(FACTS, disks={"/x": (int(free * total), total)}))
    assert finding.verdict == verdict
    assert bool(finding.fix) == (verdict != "ok")


def test_shared_memory_smaller_than_the_object_store_is_noted() -> None:
    assert judge_shared_memory("a", FACTS, 2**29)[0].verdict == "ok"
    (finding,) = judge_shared_memory("a", FACTS, 2**31)
    assert finding.verdict == "note"
    assert "--shm-size" in finding.fix
    assert judge_shared_memory("a", replace(FACTS, shared_memory_bytes=None), 2**31) == []


@pytest.mark.parametrize(
    ("offset_s", "bound_s", "verdict"),
    [(0.2, 0.01, "ok"), (-3.0, 0.1, "note"), (3.0, 2.5, "ok"), (-1000.0, 0.1, "fails")],
)
def test_a_clock_is_judged_by_what_it_is_off_at_least(
    offset_s: float, bound_s: float, verdict: str
) -> None:
    assert judge_clock("a", offset_s, bound_s).verdict == verdict


def test_storage_must_be_written_and_shared() -> None:
    good = StorageTrial(write_bytes_per_s=120e6, read_bytes_per_s=450e6)
    finding = judge_storage("a", good, "s3://b/runs")
    assert (finding.verdict, finding.seen) == ("ok", "s3://b/runs: writes 120 MB/s, reads 450 MB/s")
    assert judge_storage("a", StorageTrial(error="denied"), "s3://b").verdict == "fails"
    alone = judge_storage("a", replace(good, sees_others=False), "/runs")
    assert alone.verdict == "fails"
    assert "a folder that all nodes mount" in alone.fix


def test_a_reduction_is_judged_by_its_sum_and_its_speed() -> None:
    good = judge_reduce(REDUCE)
    assert good.verdict == "ok"
    assert "15.00 GB/s bus bandwidth" in good.seen  # 2 · 3/4 · 1 GB / 0.1 s
    assert judge_reduce(replace(REDUCE, seconds=20.0)).verdict == "note"
    assert judge_reduce(replace(REDUCE, is_right=False)).verdict == "fails"


def test_only_what_fails_a_job_makes_the_exit_code_1() -> None:
    note = judge_clock("a", 10.0, 0.1)
    assert exit_code([note]) == 0
    assert exit_code([note, node_failed("a", "ModuleNotFoundError: raymodel")]) == 1


def test_workers_without_places_are_a_finding_with_its_fix() -> None:
    finding = no_places("3 workers are asked for, places for 2; lower cluster.workers")
    assert (finding.seen, finding.fix) == (
        "3 workers are asked for, places for 2",
        "lower cluster.workers",
    )
