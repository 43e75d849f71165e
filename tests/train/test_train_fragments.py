"""Checkpoint files as readers see them: the bytes they fetch, and the damage they find."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from raymodel.errors import CheckpointError, DamagedCheckpointError
from raymodel.storage.uri import Location
from raymodel.testing.s3 import s3_bucket
from raymodel.train.checkpoint.fragments import (
    BLOCK,
    FLOAT_BYTES,
    Fragment,
    FragmentReader,
    checksums,
    tensor_offsets,
)
from raymodel.train.checkpoint.index import INDEX, Index, load_index, rank_file, save_index
from raymodel.train.checkpoint.span import Span
from raymodel.train.checkpoint.state import checkpoint_location, find_checkpoint

BLOCK_BYTES = BLOCK * FLOAT_BYTES
SIZE = 5 * BLOCK + 77
CUTS = [0, 3 * BLOCK + 11, 3 * BLOCK + 12, SIZE]  # the second fragment has one element
WEIGHT = torch.randn(SIZE, generator=torch.Generator().manual_seed(0))
RANDOM = torch.arange(100, dtype=torch.uint8)
SPANS = [Span.of(start, stop - start) for start, stop in pairwise(CUTS)]
ROWS, COLUMNS = 1000, 320
# The columns of a matrix in two uneven parts, and a run after it.
BLOCKS = [
    Span(0, ROWS * 128, run=128, stride=COLUMNS),
    Span(128, ROWS * 192, run=192, stride=COLUMNS),
    Span.of(ROWS * COLUMNS, SIZE - ROWS * COLUMNS),
]


def elements(span: Span) -> torch.Tensor:
    return WEIGHT[[span.place(index) for index in range(span.length)]]


def write_checkpoint(
    location: Location, folder: Path, step: int = 7, spans: list[Span] = SPANS
) -> Index:
    """One parameter of three fragments, each in the file of another rank."""
    folder.mkdir(parents=True, exist_ok=True)
    fragments, files, rng = [], {}, {}
    for rank, span in enumerate(spans):
        path = folder / rank_file(rank)
        run = elements(span)
        save_file({"w": run, "rng:cpu": RANDOM + rank}, path)
        offsets = tensor_offsets(path)
        places = {"weight": (offsets["w"], checksums(run.numpy()))}
        fragments.append(Fragment(path.name, span, places).to_json())
        files[path.name] = path.stat().st_size
        crc = checksums((RANDOM + rank).numpy())[0]
        rng[path.name] = {"cpu": [offsets["rng:cpu"], len(RANDOM), crc]}
        (location / path.name).upload(path)
    index = Index(
        step=step,
        world_size=3,
        state={"step": step},
        counters={"global_steps": step},
        updates=step,
        moments=[],
        versions={},
        files=files,
        parameters={"w": {"shape": [SIZE], "fragments": fragments}},
        rng=rng,
    )
    save_index(location, index)
    return index


@pytest.fixture(params=["disk", "bucket"])
def location(request, tmp_path):
    """A checkpoint on a disk, and the same on S3."""
    if request.param == "disk":
        yield Location.parse(str(tmp_path / "checkpoint"))
    else:
        with s3_bucket() as bucket:
            yield bucket / "checkpoint"


@pytest.fixture
def index(location, tmp_path):
    return write_checkpoint(location, tmp_path / "written")


@pytest.fixture
def fetched(monkeypatch):
    """What readers fetch: (file, first byte, bytes)."""
    reads, open_input = [], Location.open_input

    class Counting:
        def __init__(self, name, stream):
            self._name, self._stream = name, stream

        def read_at(self, size, offset):
            reads.append((self._name, offset, size))
            return self._stream.read_at(size, offset)

        def close(self):
            self._stream.close()

    def counted(self, **options):
        return Counting(self.name, open_input(self, **options))

    monkeypatch.setattr(Location, "open_input", counted)
    return reads


def read(location, index, start, stop):
    out = torch.empty(stop - start)
    reader = FragmentReader(location, index)
    reader.read("w", "weight", start, out)
    reader.close()
    return out


def flip(location, file, byte):
    content = bytearray((location / file).read_bytes())
    content[byte] ^= 1
    (location / file).write_bytes(bytes(content))


def test_any_run_of_a_parameter_is_found_whatever_the_fragments(location, index):
    index = load_index(location)
    edges = [*CUTS, 1, BLOCK - 1, BLOCK, BLOCK + 1, 4 * BLOCK, SIZE - 1]
    for start in edges:
        for stop in edges:
            if start < stop:
                assert torch.equal(read(location, index, start, stop), WEIGHT[start:stop])


def test_a_reader_fetches_the_blocks_that_it_needs_and_no_others(location, index, fetched):
    read(location, index, BLOCK + 5, BLOCK + 6)
    assert [size for _, _, size in fetched] == [BLOCK_BYTES]
    fetched.clear()
    start, stop = BLOCK // 2, 3 * BLOCK + 20  # of all three fragments
    read(location, index, start, stop)
    assert [file for file, _, _ in fetched] == [rank_file(rank) for rank in range(3)]
    needed = (stop - start) * FLOAT_BYTES
    assert needed <= sum(size for _, _, size in fetched) <= needed + 2 * BLOCK_BYTES


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        (BLOCKS, Span.of(0, SIZE)),
        (BLOCKS, Span.of(COLUMNS * 300 + 100, COLUMNS * 400)),
        (BLOCKS, Span(64, ROWS * 64, run=64, stride=COLUMNS)),
        (BLOCKS, Span(100, ROWS * 100, run=100, stride=COLUMNS).cut(1234, 56789)),
        (SPANS, Span(128, ROWS * 192, run=192, stride=COLUMNS)),
        (SPANS, Span(128, ROWS * 192, run=192, stride=COLUMNS).cut(150_001, 150_003)),
    ],
)
def test_the_columns_of_a_matrix_are_found_whatever_the_fragments(
    location, tmp_path, written, wanted
):
    index = write_checkpoint(location, tmp_path / "columns", spans=written)
    reader, out = FragmentReader(location, index), torch.empty(wanted.length)
    reader.read_span("w", "weight", wanted, out)
    assert torch.equal(out, elements(wanted))


def test_a_run_of_a_matrix_takes_the_blocks_around_its_rows_from_each_part(
    location, tmp_path, fetched
):
    index = write_checkpoint(location, tmp_path / "columns", spans=BLOCKS)
    reader, wanted = FragmentReader(location, index), Span.of(COLUMNS * 10, COLUMNS * 5)
    reader.read_span("w", "weight", wanted, torch.empty(wanted.length))
    assert sorted(file for file, _, _ in fetched) == [rank_file(0), rank_file(1)]
    assert all(size <= BLOCK_BYTES for _, _, size in fetched)


def test_a_file_that_is_not_needed_is_not_opened(location, index):
    for rank in (0, 1):
        (location / rank_file(rank)).delete_file()
    start = CUTS[2] + 3
    assert torch.equal(read(location, index, start, SIZE), WEIGHT[start:])


def test_random_states_come_back_and_are_absent_for_other_ranks(location, index):
    reader = FragmentReader(location, load_index(location))
    assert torch.equal(reader.rng(2)["cpu"], RANDOM + 2)
    assert reader.rng(3) == {}


@pytest.mark.parametrize("elements", [(0, SIZE), (BLOCK + 1, BLOCK + 2)], ids=["all", "one"])
def test_a_flipped_bit_is_found_also_by_who_reads_a_part(location, index, elements):
    offset = index.parameters["w"]["fragments"][0][3]["weight"][0]
    flip(location, rank_file(0), offset + BLOCK_BYTES + 100)
    with pytest.raises(DamagedCheckpointError, match=r"rank-00000\.safetensors: weight of w"):
        read(location, load_index(location), *elements)


def test_a_flipped_bit_in_a_random_state_is_found(location, index):
    flip(location, rank_file(1), index.rng[rank_file(1)]["cpu"][0])
    with pytest.raises(DamagedCheckpointError, match="random state of cpu"):
        FragmentReader(location, load_index(location)).rng(1)


def test_a_parameter_that_is_not_there_is_another_model(location, index):
    reader = FragmentReader(location, index)
    with pytest.raises(CheckpointError, match="no parameter 'v'"):
        reader.read("v", "weight", 0, torch.empty(1))
    with pytest.raises(CheckpointError, match="no exp_avg for 'w'"):
        reader.read("w", "exp_avg", 0, torch.empty(1))
    with pytest.raises(CheckpointError, match="holds 10 of the 15 elements"):
        reader.read("w", "weight", SIZE - 10, torch.empty(15))


def test_a_damaged_index_is_found(location, index):
    whole = (location / INDEX).read_bytes()
    (location / INDEX).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedCheckpointError, match="cut short"):
        load_index(location)
    (location / INDEX).write_bytes(whole.replace(b'"updates":7', b'"updates":8'))
    with pytest.raises(DamagedCheckpointError, match="changed after it was written"):
        load_index(location)


def test_a_file_that_is_short_or_missing_is_found_by_its_size(location, index):
    file = location / rank_file(2)
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(DamagedCheckpointError, match=f"{len(content) - 1} bytes where"):
        load_index(location)
    file.delete_file()
    with pytest.raises(DamagedCheckpointError, match="has no bytes"):
        load_index(location)


def test_the_newest_whole_checkpoint_is_found_and_each_torn_one_told(tmp_path):
    run, torn = Location.parse(str(tmp_path / "run")), []
    for step in (1, 2, 3, 4):
        write_checkpoint(checkpoint_location(run, step), tmp_path / "written", step)
    (checkpoint_location(run, 4) / INDEX).delete_file()  # never committed
    (checkpoint_location(run, 3) / rank_file(0)).write_bytes(b"")
    (run / "checkpoints" / "lost+found" / "x").write_bytes(b"not ours")
    assert find_checkpoint(run, torn.append).step == 2
    assert len(torn) == 1
    assert "step-00000003" in str(torn[0])


def test_a_checkpoint_of_another_version_is_refused_and_not_passed_over(tmp_path):
    run = Location.parse(str(tmp_path / "run"))
    for step in (1, 2):
        write_checkpoint(checkpoint_location(run, step), tmp_path / "written", step)
    index = load_index(checkpoint_location(run, 2))
    save_index(checkpoint_location(run, 2), Index(**vars(index) | {"format_version": 99}))
    with pytest.raises(CheckpointError, match="format_version 99") as caught:
        find_checkpoint(run)
    assert not isinstance(caught.value, DamagedCheckpointError)
