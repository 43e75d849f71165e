"""Our own exceptions come out of Ray's wrappers, with our own words alone."""

import pytest
import ray
from ray.data._internal.util import _annotate_exception_with_retry_context
from ray.exceptions import RayTaskError, UserCodeException

from raymodel.cluster.ray_errors import find_own, unwrap
from raymodel.errors import RaymodelError, ShardError

WORDS = "shard 3 is cut short;\nrestore it"


def with_advice() -> ShardError:
    error = _annotate_exception_with_retry_context(
        ShardError(WORDS),
        description="apply UDF transform",
        attempts=1,
        max_attempts=1,
        total_backoff_s=0.0,
        exception_str="",
    )
    assert isinstance(error, ShardError)
    assert "retried_map_errors" in str(error), "Ray adds its advice; else this module can go"
    return error


def wrapped() -> BaseException:
    outer = UserCodeException("in a task")
    outer.__cause__ = with_advice()
    return RayTaskError("task", "its traceback", outer).as_instanceof_cause()


@pytest.mark.parametrize("take_out", [unwrap, find_own])
def test_the_advice_of_ray_data_is_left_out(take_out) -> None:
    error = take_out(with_advice())
    assert isinstance(error, ShardError)
    assert str(error) == WORDS


def test_our_own_exception_is_found_below_those_of_ray() -> None:
    assert str(find_own(wrapped())) == WORDS
    assert find_own(ray.exceptions.ActorDiedError()) is None
    assert find_own(None) is None


def test_what_is_not_ours_stays_as_it_is() -> None:
    error = RuntimeError("a\nFailed to x after 1/1 attempts (total backoff 0.0s).")
    assert unwrap(error) is error
    assert not isinstance(unwrap(error), RaymodelError)
