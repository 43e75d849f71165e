"""What the C library does with memory that a training step frees. Each case is a process of its
own, with a heap that nothing else has used."""

import os
import platform
import subprocess
import sys

import pytest

from raymodel.heap import ONE_HEAP

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="elsewhere nothing holds")

# Blocks as a step has them: activations of some MiB, a gradient larger than what glibc ever keeps
# by itself, and all gradients in one, larger than a piece of a thread's heap.
STEPS = """
import resource, threading
import numpy as np
from raymodel.heap import give_back_freed_memory, keep_freed_memory
from raymodel.testing.memory import resident_bytes

MIB = 2**20

def made_anew():
    "MiB that the system made for one step, after some that were alike."
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        blocks = [np.ones(size * MIB, np.uint8) for size in (3, 12, 12, 3, 45, 87)]
        del blocks
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return faults * resource.getpagesize() / MIB
"""
IN_THREAD = "made = []; thread = threading.Thread(target=lambda: made.append(made_anew()))"
IN_THREAD += "\nthread.start(); thread.join(); print(made[0])"


def run(script: str, **variables: str) -> float:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    # numpy asks for pages of 2 MiB, which torch does not: nearly none would have to be made.
    environment = kept | {"NUMPY_MADVISE_HUGEPAGE": "0"} | variables
    command = [sys.executable, "-c", STEPS + script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def test_a_step_lives_on_what_the_one_before_it_freed() -> None:
    assert run("keep_freed_memory(); print(made_anew())") < 5
    assert run("print(made_anew())") > 100, "glibc keeps it by itself: what is it told for?"


def test_so_does_one_in_a_thread_where_all_threads_have_one_heap() -> None:
    assert run(f"keep_freed_memory()\n{IN_THREAD}", **{ONE_HEAP: "1"}) < 5
    assert run(f"keep_freed_memory()\n{IN_THREAD}") > 50, "threads share it by themselves"


def test_what_is_kept_can_still_be_given_back() -> None:
    script = """
keep_freed_memory()
before = resident_bytes("VmRSS")
blocks = [np.ones(40 * MIB, np.uint8) for _ in range(3)]
end = bytes(MIB)
del blocks
kept = resident_bytes("VmRSS") - before
give_back_freed_memory()
assert kept > 100 * MIB, kept
print((resident_bytes("VmRSS") - before) / MIB)
"""
    assert run(script) < 20
