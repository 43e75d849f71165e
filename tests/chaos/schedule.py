"""The faults that a schedule draws from. Each one leaves a run that must get to its end alone."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from command import DEADLINE_S, Command

from raymodel.train.checkpoint.state import FOLDER, checkpoint_location, committed_steps

Fault = Callable[[Command, random.Random], None]


def kill_worker(command: Command, draw: random.Random) -> None:
    attempt = [event for event in command.records("events") if event["event"] == "attempt"][-1]
    try:
        os.kill(draw.choice(attempt["pids"]), signal.SIGKILL)
    except ProcessLookupError:  # the attempt ended by itself since; its successor will be met
        time.sleep(1.0)
        kill_worker(command, draw)


def lose_node(command: Command, draw: random.Random) -> None:
    command.nodes.kill(draw.choice(command.nodes.names))
    command.nodes.add()


def take_node_away_with_notice(command: Command, draw: random.Random) -> None:
    name = draw.choice(command.nodes.names)
    command.nodes.add()
    command.nodes.drain(name, 8)
    time.sleep(8)
    command.nodes.kill(name)


def interrupt_command(command: Command, draw: random.Random) -> None:
    assert command.end(signal.SIGTERM) == 130, command.output[-4000:]
    command.start()


def kill_command(command: Command, draw: random.Random) -> None:
    command.end(signal.SIGKILL)
    command.start()


def cut_newest_checkpoint(command: Command, draw: random.Random) -> None:
    """And a worker dies, so that it would be needed."""
    path = _file_of_newest_checkpoint(command, draw)
    os.truncate(path, path.stat().st_size // 2)
    kill_worker(command, draw)


def flip_a_byte_of_the_newest_checkpoint(command: Command, draw: random.Random) -> None:
    _flip(_file_of_newest_checkpoint(command, draw), draw)
    kill_worker(command, draw)


def flip_a_byte_of_a_shard(command: Command, draw: random.Random) -> None:
    """The run ends and names the shard; once that is mended, the same command goes on."""
    assert command.end(signal.SIGTERM) == 130, command.output[-4000:]
    # The run takes its data over from the unbroken one, which is done with it.
    shards = command.folder.glob("runs/*/prepare/*/data/train/part-000/0*.parquet")
    path = draw.choice(sorted(shards))
    with _replaced(path) as copy:
        path.write_bytes(copy.read_bytes())
        _flip(path, draw)
        command.start()
        assert command.process.wait(DEADLINE_S) == 2, command.output[-4000:]
        assert str(path) in command.output[-4000:]
        path.unlink()
    command.start()


def refuse_checkpoints_for_a_while(command: Command, draw: random.Random) -> None:
    """A file stands where their folder was: making one fails, for root too."""
    with _replaced(command.run.local_path / FOLDER) as checkpoints:
        path = command.run.local_path / FOLDER
        path.touch()
        time.sleep(3)
        path.unlink()
        assert checkpoints.is_dir()


KINDS: tuple[Fault, ...] = (
    kill_worker,
    lose_node,
    take_node_away_with_notice,
    interrupt_command,
    kill_command,
    cut_newest_checkpoint,
    flip_a_byte_of_the_newest_checkpoint,
    flip_a_byte_of_a_shard,
    refuse_checkpoints_for_a_while,
)


def draw_schedule(draw: random.Random, count: int, steps_between: int) -> list[tuple[int, Fault]]:
    """(step, fault) in order; each kind once before any comes again."""
    kinds: list[Any] = []
    while len(kinds) < count:
        kinds += draw.sample(KINDS, len(KINDS))
    steps = [(i + 1) * steps_between + draw.randrange(steps_between // 2) for i in range(count)]
    return list(zip(steps, kinds[:count], strict=True))


@contextmanager
def _replaced(path: Path) -> Iterator[Path]:
    """Puts something out of the way, and back at the end."""
    aside = path.with_name(f".aside-{path.name}")
    path.rename(aside)
    yield aside
    aside.rename(path)


def _file_of_newest_checkpoint(command: Command, draw: random.Random) -> Path:
    folder = checkpoint_location(command.run, committed_steps(command.run)[-1]).local_path
    return draw.choice(sorted(folder.glob("*.safetensors")))


def _flip(path: Path, draw: random.Random) -> None:
    """One bit, in the middle half, where data lies and not the description of it."""
    size = path.stat().st_size
    with open(path, "r+b") as stream:
        stream.seek(at := draw.randrange(size // 4, size * 3 // 4))
        (byte,) = stream.read(1)
        stream.seek(at)
        stream.write(bytes([byte ^ 0x40]))
