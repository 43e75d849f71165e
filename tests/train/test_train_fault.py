"""The policy of failures: what is retried, when, and what the user reads."""

import json
import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

from raymodel.errors import (
    CheckpointError,
    HangError,
    NonFiniteLossError,
    OutOfMemoryError,
    PreemptedError,
    SpecError,
    StorageUnavailableError,
    TrainingError,
)
from raymodel.model.shape import ModelShape
from raymodel.observe.records import read_records
from raymodel.observe.text import gib_text
from raymodel.storage.uri import Location
from raymodel.train.fault.keeper import FailureKeeper, cause_of
from raymodel.train.fault.policy import (
    Failure,
    backoff_s,
    classify,
    decide,
    is_out_of_memory,
    lost_ranks,
    memory_record,
    out_of_memory_error,
    proven,
)
from raymodel.train.forecast.memory import Setup, plan_memory
from raymodel.train.spec import FaultSpec
from raymodel.train.work import FAILURES_FILE

BUDGET = FaultSpec(retries=2, preemption_retries=1)


class ActorDiedError(Exception):
    """Stands for Ray's, which is known by its name."""

    preempted = False


# What Ray 2.60 says of a worker that was killed; the kernel's OOM killer is only a guess of it.
KILLED = """The actor died unexpectedly before finishing this task.
\tclass_name: RayTrainWorker
\tpid: 4711
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit \
detail: Worker unexpectedly exits with a connection error code 2. End of file. There are some \
potential root causes. (1) The process is killed by SIGKILL by OOM killer due to high memory usage.
"""


def test_a_storage_that_failed_is_the_cause_and_not_the_connections_that_broke_then() -> None:
    broken = RuntimeError("Connection closed by peer")
    storage = StorageUnavailableError("reading shard x failed 6 times, at last with: curl: reset")
    failure = classify([broken, storage])
    assert (failure.kind, failure.cause) == ("infrastructure", str(storage))
    assert pickle.loads(pickle.dumps(storage)).args == storage.args


def test_an_error_of_the_user_decides_over_the_broken_collectives_of_the_others() -> None:
    bad = NonFiniteLossError("the loss is nan")
    failure = classify([RuntimeError("Connection closed by peer"), bad])
    assert (failure.kind, failure.error) == ("user", bad)
    assert not decide(failure, Counter(user=1), BUDGET).is_retried


def test_a_killed_worker_is_infrastructure_and_told_in_one_line() -> None:
    broken = RuntimeError("[pair.cc:537] Read error [127.0.0.1]: Connection reset by peer")
    seen = {0: broken, 1: ActorDiedError(KILLED)}
    failure = classify(list(seen.values()), lost=lost_ranks(seen, 2))
    assert failure.kind == "infrastructure"
    assert failure.cause == "worker 1 died or was cut off from the others"


def test_a_death_is_told_by_the_silence_when_the_others_are_faster() -> None:
    broken = RuntimeError("[pair.cc:537] Read error [127.0.0.1]: Connection reset by peer")
    assert lost_ranks({0: broken, 2: broken}, 3) == [1]
    assert classify([broken], lost=[1]).cause == "worker 1 died or was cut off from the others"


def test_an_error_of_the_code_keeps_its_own_words() -> None:
    failure = classify([KeyError("labels")], lost=[1])
    assert failure.cause == "KeyError: 'labels'"


BROKEN = RuntimeError("[pair.cc:537] Read error [127.0.0.1]: Connection reset by peer")


class DistBackendError(RuntimeError):
    """As torch's."""


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("user", SpecError("the base has 512 positions")),
        ("user", CheckpointError("written for another model")),
        ("user", NonFiniteLossError("the loss is nan")),
        ("program", ValueError("Cannot handle batch sizes > 1 if no padding token is defined.")),
        ("program", TypeError("forward() got an unexpected keyword argument")),
        ("program", KeyError("labels")),
        ("program", IndexError("index out of range in self")),
        ("program", AttributeError("'Config' object has no attribute 'num_labels'")),
        ("program", NotImplementedError("whole rows")),
        ("program", AssertionError("the feed gave step 3, not 2")),
        ("program", ImportError("flash_attn")),
        ("program", ZeroDivisionError("division by zero")),
        ("program", RecursionError("maximum recursion depth exceeded")),
        ("program", UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")),
        ("program", json.JSONDecodeError("Expecting value", "", 0)),
        ("infrastructure", OSError(28, "No space left on device")),
        ("infrastructure", FileNotFoundError(2, "No such file")),
        ("infrastructure", ConnectionResetError("reset")),
        ("infrastructure", TimeoutError("timed out")),
        ("infrastructure", DistBackendError("NCCL error: remote process exited")),
        ("infrastructure", RuntimeError("Connection closed by peer")),
        ("infrastructure", RuntimeError("CUDA error: unspecified launch failure")),
        ("infrastructure", StorageUnavailableError("failed 6 times")),
        ("infrastructure", HangError("no step for 1800 s")),
        ("infrastructure", ActorDiedError(KILLED)),
        ("preemption", PreemptedError("a node goes")),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_the_cause_decides_whether_it_is_tried_again(kind: str, error: Exception) -> None:
    for errors in ([error], [BROKEN, error], [error, BROKEN]):
        failure = classify(errors)
        assert failure.kind == kind
    assert decide(failure, Counter({kind: 1}), BUDGET).is_retried == (
        kind in ("infrastructure", "preemption")
    )


SHAPES = RuntimeError("mat1 and mat2 shapes cannot be multiplied (4x8 and 9x2)")


@pytest.mark.parametrize(
    ("first", "second", "in_a_row", "kind"),
    [
        (SHAPES, SHAPES, 2, "program"),
        (SHAPES, SHAPES, 1, "infrastructure"),  # it got on in between
        (SHAPES, RuntimeError("expected scalar type Long"), 2, "infrastructure"),
        (BROKEN, BROKEN, 2, "infrastructure"),
        (*(RuntimeError("CUDA error: unspecified launch failure"),) * 2, 2, "infrastructure"),
        (*(OSError(28, "No space left on device"),) * 2, 2, "infrastructure"),
    ],
)
def test_torch_saying_the_same_at_the_same_place_is_an_error_of_the_code(
    first: Exception, second: Exception, in_a_row: int, kind: str
) -> None:
    before = classify([first])
    assert before.kind == "infrastructure"
    assert proven(classify([second]), before, in_a_row=in_a_row).kind == kind
    assert proven(classify([second]), None, in_a_row=in_a_row).kind == "infrastructure"


def test_what_torch_says_again_ends_the_run_at_the_second_attempt(tmp_path: Path) -> None:
    run = Location.parse(str(tmp_path))
    work = SimpleNamespace(stage="finetune", run=run, spec=SimpleNamespace(fault=BUDGET))
    keeper = FailureKeeper(work)
    keeper.failed({0: SHAPES})
    with pytest.raises(TrainingError, match=r"shapes cannot be multiplied .* the same input gives"):
        keeper.failed({0: SHAPES})


@pytest.mark.parametrize(
    ("error", "ending", "code"),
    [
        (ValueError("no padding token"), "not tried again. The traceback is in", 1),
        (SpecError("the base has 512 positions"), "the base has 512 positions", 2),
        (RuntimeError("Connection closed by peer"), "run the same command again to go on", 1),
    ],
)
def test_the_exit_code_says_whose_fault_it_was(
    error: Exception, ending: str, code: int, tmp_path: Path
) -> None:
    work = SimpleNamespace(stage="finetune", run=Location.parse(str(tmp_path)))
    final = cause_of(error, work)
    assert ending in str(final)
    assert final.exit_code == code


def test_an_error_of_the_code_ends_the_run_at_once_and_leaves_its_traceback(
    tmp_path: Path,
) -> None:
    run = Location.parse(str(tmp_path))
    work = SimpleNamespace(stage="finetune", run=run, spec=SimpleNamespace(fault=BUDGET))
    trace = "Traceback (most recent call last):\n  File \"collate.py\", line 3\nKeyError: 'label'"
    wrapped = UserExceptionWithTraceback(KeyError("label"), trace)
    with pytest.raises(TrainingError, match="KeyError: 'label'; the same input gives the same"):
        FailureKeeper(work).failed({0: BROKEN, 1: wrapped})
    [record] = read_records(run / FAILURES_FILE)
    assert record["traceback"] == trace
    assert not record["is_retried"]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
        ActorDiedError("1 worker(s) were killed due to the node running low on memory."),
        MemoryError(),
    ],
)
def test_out_of_memory_is_the_users(error: Exception) -> None:
    failure = classify([ConnectionError("peer"), error])
    assert failure.kind == "user"
    assert is_out_of_memory(failure)


def test_a_guess_at_the_oom_killer_is_not_out_of_memory() -> None:
    assert not is_out_of_memory(classify([ActorDiedError(KILLED)]))


def test_a_hang_is_named_though_the_processes_look_killed() -> None:
    failure = classify([ActorDiedError(KILLED)], hang="no step for 1800 s")
    assert (failure.kind, failure.cause) == ("infrastructure", "no step for 1800 s")
    assert isinstance(failure.error, HangError)


def test_a_preemption_has_a_budget_of_its_own() -> None:
    failure = classify([PreemptedError("a node goes; step 8 is saved")])
    assert failure.kind == "preemption"
    first = decide(failure, Counter(preemption=1, infrastructure=9), BUDGET)
    assert (first.is_retried, first.wait_s) == (True, 0.0)
    assert not decide(failure, Counter(preemption=2), BUDGET).is_retried


def test_the_death_of_a_drained_node_is_a_preemption() -> None:
    error = ActorDiedError(KILLED)
    error.preempted = True
    assert classify([error]).kind == "preemption"


def test_infrastructure_is_retried_with_growing_waits_until_the_budget_is_spent() -> None:
    failure = Failure("infrastructure", "x", RuntimeError("x"))
    budget = FaultSpec(retries=3)
    decisions = [
        decide(failure, Counter(infrastructure=n), budget, in_a_row=n) for n in (1, 2, 3, 4)
    ]
    assert [d.is_retried for d in decisions] == [True, True, True, False]
    assert [d.wait_s for d in decisions] == [0.0, 1.0, 2.0, 0.0]
    assert "budget of 3 retries is spent" in decisions[-1].words


def test_a_failure_after_progress_is_retried_at_once() -> None:
    failure = Failure("infrastructure", "x", RuntimeError("x"))
    seen = Counter(infrastructure=9)
    assert decide(failure, seen, FaultSpec(retries=9), in_a_row=1).wait_s == 0.0
    assert decide(failure, seen, FaultSpec(retries=9), in_a_row=3).wait_s == 2.0


def test_backoff_doubles_up_to_a_minute() -> None:
    assert [backoff_s(n) for n in (1, 2, 3, 4, 20)] == [0.0, 1.0, 2.0, 4.0, 60.0]


def test_the_advice_on_memory_says_which_knob_saves_how_much() -> None:
    shape = ModelShape.of(
        "llama",
        {
            "vocab_size": 32_000,
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 16,
            "num_attention_heads": 16,
        },
    )
    setup = Setup(workers=4, global_batch=32, micro_batch=8, on_gpu=True)
    record = memory_record(shape, setup, row_tokens=2048)
    attempt = json.loads(json.dumps({"memory": record}))  # as it comes out of the records
    error = out_of_memory_error(RuntimeError("CUDA out of memory"), attempt)
    assert isinstance(error, OutOfMemoryError)
    text = str(error)

    def peak(**changes: object) -> float:
        return plan_memory(shape, replace(setup, **changes), row_tokens=2048).peak.total

    assert f"a worker needs {gib_text(peak())}: activations" in text
    for words, changes in {
        "micro_batch: 4": {"micro_batch": 4},
        "parallel.zero: 3": {"zero": 3},
        "activation_checkpointing: true": {"activation_checkpointing": True},
        "parallel.tensor: 2": {"tensor": 2},
        "parallel.offload: cpu": {"offload": True},
    }.items():
        assert f"`{words}` saves {gib_text(peak() - peak(**changes))}" in text, words
    assert str(pickle.loads(pickle.dumps(error))) == text


def test_the_advice_does_without_a_formula_for_the_model() -> None:
    assert "lower `micro_batch`" in str(out_of_memory_error(MemoryError(), {"memory": None}))


def test_the_advice_needs_no_attempt() -> None:
    text = str(out_of_memory_error(MemoryError(), None))
    assert "`micro_batch`" in text
    assert "`parallel.zero`" in text
