"""What a cluster can never give is refused before anything starts."""

import pytest

from raymodel.cluster.connect import _local_cpus, check_fits
from raymodel.cluster.spec import ClusterSpec, ElasticSpec
from raymodel.errors import ClusterError


def test_workers_must_fit() -> None:
    check_fits(ClusterSpec(workers=3), {"CPU": 3})
    with pytest.raises(ClusterError, match=r"3 workers need 3 CPUs, the cluster can give 2; lower"):
        check_fits(ClusterSpec(workers=3), {"CPU": 2})


def test_gpus_must_fit() -> None:
    with pytest.raises(ClusterError, match=r"2 workers need 2 GPUs, the cluster can give 0"):
        check_fits(ClusterSpec(workers=2, gpus_per_worker=1), {"CPU": 64})


def test_an_elastic_job_is_judged_by_its_smallest_size() -> None:
    check_fits(ClusterSpec(workers=ElasticSpec(min=1, max=100)), {"CPU": 1})


def test_a_machine_is_not_asked_for_workers_without_end() -> None:
    with pytest.raises(ClusterError, match=r"1000 workers on the \d+ cores"):
        _local_cpus(ClusterSpec(workers=1000), 0)


def test_a_local_ray_leaves_logical_cpus_for_the_data() -> None:
    assert _local_cpus(ClusterSpec(workers=2), 0) >= 3
