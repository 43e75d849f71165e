"""The same through real Ray Data: same bytes, same batches, same digest, same errors."""

import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ["RAY_AUTH_MODE"] = "disabled"  # a Ray of this test alone; set before ray is imported

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from copies import copy_of, folder_of
from local_ray import local_ray

from raymodel.cluster.spec import ClusterSpec
from raymodel.data import stream
from raymodel.data.blocks import to_block
from raymodel.data.dedup.drops import NEAR
from raymodel.data.feed import DirectFeed
from raymodel.data.order import DataDigest, local_sum
from raymodel.data.plan import PAUSE_S, REST_S
from raymodel.data.run import _Items, _shares, run_examples, run_prepare
from raymodel.data.shard import Dataset, dataset_of
from raymodel.data.shard_format import shard_location
from raymodel.data.spec import CleanSpec, PrepareSpec, SourceSpec, TokenizerSpec
from raymodel.data.step import OfResults
from raymodel.data.stream import Pace, RayFeed, start_helpers, start_readers
from raymodel.errors import ShardError, SourceError
from raymodel.storage.execution import Execution
from raymodel.storage.uri import Location
from raymodel.testing.memory import resident_bytes

GLOBAL_BATCH, SEED = 10, 7


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with local_ray(4):
        yield


class Silent:
    """A story that keeps the lines of progress."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def say(self, text: str) -> None:
        pass

    def progress_line(self, line: str, *, is_last: bool = False) -> None:
        self.shown.append(line)

    def end_progress(self) -> None:
        pass

    def waiting(self, what: str) -> AbstractContextManager[None]:
        return nullcontext()


def execution_at(place: Path) -> Execution:
    return Execution(
        job_name="test",
        stage="prepare",
        fingerprint="f" * 16,
        location=Location.parse(str(place)),
        seed=SEED,
        cluster=ClusterSpec(),
    )


@dataclass(frozen=True)
class Wide(OfResults):
    """Takes much memory for a moment, and leaves things in all of it."""

    work: Location
    name: str = "wide"
    num_items: int = 1
    loads_model: bool = False
    left: list[bytes] = field(default_factory=list)

    def run(self, item: int) -> dict[str, Any]:
        self.left.extend([bytes(4096) for _ in range(50_000)][::100])
        return {}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="elsewhere nothing holds")
def test_a_process_gives_back_what_an_item_took(tmp_path: Path) -> None:
    step = Wide(Location.parse(str(tmp_path)))
    before = resident_bytes("VmRSS")
    _Items(step, [0])({"id": np.array([0])})
    assert len(step.left) == 500
    assert resident_bytes("VmRSS") - before < 50_000_000


@pytest.mark.parametrize("num_items", [2, 3, 71, 10_000])
@pytest.mark.parametrize("num_workers", [1, 2, 64])
def test_each_item_is_in_one_task_and_the_last_ones_are_short(num_items, num_workers):
    shares = _shares(num_items, num_workers)
    assert [item for share in shares for item in share] == list(range(num_items))
    sizes = [len(share) for share in shares]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] <= 8
    assert sizes[-1] == 1
    assert len(shares) >= min(num_items, 4 * num_workers)


def prepare_spec(corpus: Path) -> PrepareSpec:
    return PrepareSpec(
        sources=(SourceSpec(path=str(corpus)),),
        tokenizer=TokenizerSpec(vocab_size=300),
        sequence_length=16,
        holdout=0.1,
    )


def shards_of(place: Path) -> dict[str, bytes]:
    files = sorted(path for path in place.rglob("*") if path.is_file())
    return {str(path.relative_to(place)): path.read_bytes() for path in files}


def test_the_shards_do_not_depend_on_the_parallelism(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raymodel.data.plan.MIN_PARTITION_BYTES", 4000)
    # The list lies where the job runs; what a worker needs of it goes with the step.
    (tmp_path / "list.txt").write_text("workers workers\nseed any")
    monkeypatch.chdir(tmp_path)
    steps = ["unicode", {"name": "words", "words_file": "list.txt"}, "pii"]
    other = SourceSpec(path=str(corpus / "b/010.txt"))
    clean = CleanSpec(
        dedup={"name": "near", "ngram": 3}, decontaminate={"sets": {"b": other}}, steps=steps
    )
    spec = prepare_spec(corpus).model_copy(update={"clean": clean})
    limits = ray.data.DataContext.get_current().execution_options
    for name, cpus in {"one": 1, "four": 4}.items():
        monkeypatch.setattr(limits, "resource_limits", limits.resource_limits.copy(cpu=cpus))
        content = run_prepare(spec, execution_at(tmp_path / name), Silent())
        assert content["left_out"]["words: a word of the list"] == 10
        assert content["left_out"][NEAR] > 0
        assert content["decontaminated"]["b"]["found"] == 1
    one, four = (shards_of(tmp_path / name) for name in ("one", "four"))
    assert one == four
    assert "data/train/part-000/0000000.parquet" in one


def test_an_error_in_a_task_keeps_its_class_and_message(corpus: Path, tmp_path: Path) -> None:
    spec = PrepareSpec(
        sources=(SourceSpec(path=str(corpus / "a"), fields={"text": "{body}"}),),
        tokenizer=TokenizerSpec(vocab_size=300),
        sequence_length=16,
    )
    with pytest.raises(SourceError, match="without the field 'body'"):
        run_prepare(spec, execution_at(tmp_path / "out"), Silent())


def test_progress_is_shown_as_items_end(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raymodel.data.plan.MIN_PARTITION_BYTES", 10_000)
    monkeypatch.setattr("raymodel.data.run.SHOW_AFTER_S", 0.0)
    spec = prepare_spec(corpus)
    story = Silent()
    run_prepare(spec, execution_at(tmp_path / "out"), story)
    for doing in ("reading", "making rows"):
        lines = [line for line in story.shown if line.startswith(f"prepare   {doing} ")]
        files = [int(line.split(f"{doing} ")[1].split(" of ")[0]) for line in lines]
        assert len(files) > 2
        assert files == sorted(files)
        assert f"{doing} 150 of 150 files · " in lines[-1]
        assert all(line.endswith(" left") for line in lines[:-1])


def feeds_of(
    dataset: Dataset,
    world_size: int,
    start: int,
    end: int,
    on_bad_shard: str = "stop",
    *,
    with_partners: bool = False,
) -> list[RayFeed]:
    order = dataset.order(SEED, GLOBAL_BATCH, with_partners=with_partners)
    return [
        RayFeed(dataset, order, start, end, rank, world_size, on_bad_shard)
        for rank in range(world_size)
    ]


@pytest.mark.parametrize(("world_size", "with_partners"), [(1, False), (2, True), (3, False)])
def test_any_number_of_workers_reads_the_same_global_batches(
    dataset: Dataset, world_size: int, with_partners: bool
) -> None:
    start, end = 3, 45
    order = dataset.order(SEED, GLOBAL_BATCH, with_partners=with_partners)
    expected = list(DirectFeed(dataset, order, start, end, 0, 1))
    digest, alone = DataDigest(), DataDigest()
    feeds = feeds_of(dataset, world_size, start, end, with_partners=with_partners)
    for whole, *parts in zip(expected, *feeds, strict=True):
        assert {part.step for part in parts} == {whole.step}
        rows = [row for part in parts for row in part.table.to_pylist()]
        assert rows == whole.table.to_pylist()
        digest.update(whole.step, sum(local_sum(p.positions, p.row_ids) for p in parts))
        alone.update(whole.step, local_sum(whole.positions, whole.row_ids))
    assert digest.hex == alone.hex


def test_a_mixture_of_artifacts_is_streamed_as_it_is_read_directly(dataset: Dataset) -> None:
    """Its second part lies elsewhere, and comes twice as often as its own weight says."""
    one, two = dataset.parts
    elsewhere = copy_of(dataset, "elsewhere").parts[1]
    mixed = replace(dataset, parts=(one, replace(elsewhere, weight=2 * two.weight)))
    direct = list(DirectFeed(mixed, mixed.order(SEED, GLOBAL_BATCH), 5, 40, 0, 1))
    feeds = feeds_of(mixed, 2, 5, 40)
    for whole, *parts in zip(direct, *feeds, strict=True):
        row_ids = [row for part in parts for row in part.row_ids.tolist()]
        assert row_ids == whole.row_ids.tolist()
        assert [row for part in parts for row in part.table.to_pylist()] == whole.table.to_pylist()


@ray.remote
class Occupant:
    def ready(self) -> bool:
        return True


def test_reading_goes_on_where_training_has_claimed_every_cpu(dataset: Dataset) -> None:
    occupant = Occupant.options(num_cpus=4).remote()
    assert ray.get(occupant.ready.remote())
    try:
        (feed,) = feeds_of(dataset, 1, 0, 12)
        assert len(list(feed)) == 12
    finally:
        ray.kill(occupant)


def test_a_run_without_steps_left_gives_none(dataset: Dataset) -> None:
    (feed,) = feeds_of(dataset, 1, 9, 9)
    assert list(feed) == []


def test_a_step_whose_rows_are_all_there_does_not_wait_for_the_next_block(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = dataset.order(SEED, GLOBAL_BATCH)
    first, second = DirectFeed(dataset, order, 4, 6, 0, 1)
    never, gave_up = threading.Event(), threading.Event()

    def blocks(stream: object) -> Iterator[pa.Table]:
        both = to_block([first, second])
        yield both.slice(0, GLOBAL_BATCH - 3)  # a block may end within a step
        yield both.slice(GLOBAL_BATCH - 3, 3)
        if not never.wait(60):
            gave_up.set()
        yield both.slice(GLOBAL_BATCH)

    monkeypatch.setattr(stream, "_blocks", blocks)
    (feed,) = feeds_of(dataset, 1, 4, 6)
    steps = iter(feed)
    assert next(steps).table == first.table
    assert not gave_up.is_set()
    never.set()
    assert next(steps).table == second.table
    assert list(steps) == []


def test_a_feed_that_nobody_reads_can_be_closed(dataset: Dataset) -> None:
    (feed,) = feeds_of(dataset, 1, 0, 60)
    feed.close()
    assert "data-feed" not in [thread.name for thread in threading.enumerate()]


@pytest.fixture
def rounds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """When each round of a stream's scheduling ended."""
    ended: list[float] = []
    rest = Pace.on_execution_step

    def counted(self: Pace, executor: object) -> None:
        ended.append(time.monotonic())
        rest(self, executor)

    monkeypatch.setattr(Pace, "on_execution_step", counted)
    return ended


def test_a_slow_reader_is_not_disturbed_by_the_stream(
    dataset: Dataset, rounds: list[float]
) -> None:
    """Ray Data's loop shares the process with training; without a rest it goes round for ever."""
    (feed,) = feeds_of(dataset, 1, 0, 60)
    steps = iter(feed)
    next(steps)
    began = time.monotonic()
    for _ in zip(range(30), steps, strict=False):
        time.sleep(0.02)
    elapsed = time.monotonic() - began
    while_training = [at for at in rounds if began <= at <= began + elapsed]
    assert len(while_training) <= elapsed / PAUSE_S + 2


@pytest.mark.slow
def test_reading_rests_until_rows_are_asked_for(
    dataset: Dataset, tmp_path: Path, rounds: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would take the CPUs of the training beside it, for hours of rows to come."""
    num_steps, chunk, read = 4096, 128, tmp_path / "read"
    read_blocks = stream.read_blocks

    def counted(*args: Any, **options: Any) -> Iterator[pa.Table]:
        for block in read_blocks(*args, **options):
            with read.open("a") as lines:
                lines.write(f"{len(block)}\n")
            yield block

    def count() -> int:
        return len(read.read_text().splitlines())

    monkeypatch.setattr(stream, "read_blocks", counted)
    chunk_bytes = int(chunk * GLOBAL_BATCH * dataset.row_bytes)
    monkeypatch.setattr(stream, "CHUNK_BYTES", chunk_bytes)
    monkeypatch.setattr(stream, "READ_AHEAD_BYTES", 2 * chunk_bytes)
    (feed,) = feeds_of(dataset, 1, 0, num_steps)
    steps = iter(feed)
    assert next(steps).step == 0
    before = 0
    while (now := count()) > before:
        time.sleep(2 * REST_S)
        before = now
    assert before <= num_steps // chunk // 2, f"{before} chunks were read ahead"
    rounds.clear()
    time.sleep(4 * REST_S)
    assert 0 < len(rounds) <= 5
    assert [rows.step for rows in steps] == list(range(1, num_steps))
    assert count() == num_steps // chunk


@pytest.fixture
def corrupt(dataset: Dataset) -> Dataset:
    """A copy, under a new path that no process has read before, with a bit flipped."""
    moved = copy_of(dataset, "corrupt")
    shard = shard_location(moved.parts[0].folder, 0).local_path
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 1
    shard.write_bytes(data)
    return moved


def test_a_corrupt_shard_reaches_the_trainer_by_name(corrupt: Dataset) -> None:
    (feed,) = feeds_of(corrupt, 1, 0, 60)
    with pytest.raises(ShardError, match=r"corrupt/data/train.*0000000\.parquet") as caught:
        list(feed)
    assert type(caught.value) is ShardError
    assert "retried_map_errors" not in str(caught.value), "advice about settings of Ray Data"


def test_skipping_a_corrupt_shard_is_counted_as_in_the_direct_feed(corrupt: Dataset) -> None:
    order = corrupt.order(SEED, GLOBAL_BATCH)
    direct = list(DirectFeed(corrupt, order, 0, 60, 0, 1, on_bad_shard="skip"))
    (feed,) = feeds_of(corrupt, 1, 0, 60, "skip")
    streamed = list(feed)
    assert [rows.row_ids.tolist() for rows in streamed] == [r.row_ids.tolist() for r in direct]
    assert [rows.skipped for rows in streamed] == [rows.skipped for rows in direct]
    assert sum(rows.skipped for rows in streamed) > 0


def test_the_actors_that_ray_data_has_once_can_be_started_before_a_worker_needs_them() -> None:
    """Where that matters, with nodes that go when they are idle: test_cluster_autoscaling.py."""
    names = "datasets_stats_actor", "_dataset_stats_actor"
    ray.kill(ray.get_actor(*names))
    start_helpers()
    ray.get_actor(*names)


def test_a_process_that_was_started_for_it_reads(dataset: Dataset) -> None:
    """The worker is an actor with variables of its own, as those of Ray Train are."""
    node, variables = ray.get_runtime_context().get_node_id(), {"OF_THE_WORKERS": "1"}
    start_readers([node], variables)

    @ray.remote(num_cpus=0, runtime_env={"env_vars": variables})
    class Worker:
        def read(self) -> set[int]:
            read_blocks = stream.read_blocks

            def with_process(*args: Any, **options: Any) -> Iterator[pa.Table]:
                for block in read_blocks(*args, **options):
                    process = np.full(len(block), os.getpid())
                    yield block.append_column("process", pa.array(process))

            stream.read_blocks = with_process  # in the actor's process
            feed = RayFeed(dataset, dataset.order(SEED, GLOBAL_BATCH), 0, 12, 0, 1)
            return {pid for rows in feed for pid in rows.table["process"].to_pylist()}

    worker = Worker.remote()
    ray.get(worker.__ray_ready__.remote())
    before = set(psutil.pids())
    assert ray.get(worker.read.remote()) <= before, "a process was started for it"
    ray.kill(worker)


def test_loading_a_dataset_again_finds_its_rows(dataset: Dataset) -> None:
    place = folder_of(dataset)
    content = (place / "data/dataset.json").read_json()
    assert dataset_of(place, content, "train") == dataset


# ---- examples that the base reads ----------------------------------------------------------------


def test_the_base_reads_the_examples_on_any_number_of_actors_with_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raymodel.testing.tiny import build_tiny_llama, train_tiny_tokenizer
    from raymodel.train.spec import FinetuneSpec

    monkeypatch.setattr("raymodel.data.references.READ_BY_BASE_ROWS", 5)
    pairs = [{"q": f"{i}?", "good": f"{i} is {i}", "bad": f"no {i}"} for i in range(30)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    base = tmp_path / "base"
    build_tiny_llama(seed=1).save_pretrained(base)
    train_tiny_tokenizer([str(pairs)]).save_pretrained(base)
    fields = {"prompt": "{q}", "chosen": "{good}", "rejected": "{bad}"}
    source = {"path": str(tmp_path / "pairs.jsonl"), "format": "jsonl", "fields": fields}
    spec = FinetuneSpec.model_validate(
        {
            "task": "preference",
            "precision": "fp32",
            "sources": [source],
            "holdout": "20%",
            "global_batch": 8,
            "duration": "1 epoch",
        }
    )
    for workers in (1, 2):  # each is a process that imports transformers
        execution = replace(
            execution_at(tmp_path / str(workers)), cluster=ClusterSpec(workers=workers)
        )
        run_examples(spec, execution, Silent(), Location.parse(str(base)))
    one, two = (shards_of(tmp_path / str(workers)) for workers in (1, 2))
    assert one == two
    table = pq.read_table(tmp_path / "1/data/train/part-000/0000000.parquet")
    assert min(table["chosen_reference"].to_pylist()) < max(table["chosen_reference"].to_pylist())
    assert max(table["chosen_reference"].to_pylist()) < 0
