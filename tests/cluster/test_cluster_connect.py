"""A Ray on this machine claims what the job needs, and what cannot be reached is named."""

import socket

import pytest
from ray.exceptions import AuthenticationError

from raymodel.cluster.connect import _check_answers, _local_cpus, _not_connected
from raymodel.cluster.spec import ClusterSpec
from raymodel.errors import ClusterError


def test_a_machine_is_not_asked_for_workers_without_end() -> None:
    with pytest.raises(ClusterError, match=r"1000 workers on the \d+ cores"):
        _local_cpus(ClusterSpec(workers=1000), 0)


def test_a_local_ray_leaves_logical_cpus_for_the_data() -> None:
    assert _local_cpus(ClusterSpec(workers=2), 0) >= 3


def test_a_dead_address_is_seen_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        _check_answers(f"ray://127.0.0.1:{port}")  # not the protocol that is looked for
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
        with pytest.raises(ConnectionRefusedError):
            _check_answers(address)
    _check_answers("auto")


def test_a_wrong_token_is_told_apart_from_a_head_that_is_not_there() -> None:
    gone = _not_connected("10.0.0.1:6379", ConnectionRefusedError("refused"))
    assert str(gone).startswith("no Ray answers at '10.0.0.1:6379' (refused)")
    refused = _not_connected("10.0.0.1:6379", AuthenticationError("InvalidAuthToken"))
    assert "token" in str(refused)
    # The head may be back in a minute; the token stays wrong.
    assert (gone.exit_code, refused.exit_code) == (1, 2)


def test_other_versions_on_the_cluster_are_named_on_one_line() -> None:
    error = RuntimeError(
        "Version mismatch: The cluster was started with:\n    Ray: 2.59.0\n    Python: 3.12.1\n"
    )
    words = str(_not_connected("10.0.0.1:6379", error))
    assert "Ray: 2.59.0 Python: 3.12.1" in words
    assert "raymodel submit" in words
    assert "\n" not in words
