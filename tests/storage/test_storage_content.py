"""What a folder holds: every tensor counts, no time does, and little is read."""

import os
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from raymodel.storage import content
from raymodel.storage.content import WHOLE_BYTES, content_of
from raymodel.storage.uri import Location

TENSORS = {"embedding": (512, 1024), "layer": (1024, 1024), "bias": (8,), "head": (1024, 3)}


def arrays():
    random = np.random.default_rng(0)
    return {name: random.normal(size=shape).astype("f4") for name, shape in TENSORS.items()}


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "model"
    place.mkdir()
    (place / "config.json").write_text("{}")
    save_file(arrays(), place / "model.safetensors", metadata={"format": "pt"})
    assert (place / "model.safetensors").stat().st_size > WHOLE_BYTES
    return place


def told(folder):
    return content_of(Location.parse(str(folder)))


@pytest.mark.parametrize("trained", TENSORS)
def test_a_tensor_that_was_trained_makes_another_model(folder, trained):
    before = told(folder)
    weights = arrays()
    weights[trained] += 1e-3
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert told(folder) != before
    assert [each[:2] for each in told(folder)] == [each[:2] for each in before]


def test_where_a_copy_lies_and_when_it_was_written_is_nothing(folder, tmp_path):
    copy = tmp_path / "elsewhere" / "other"
    shutil.copytree(folder, copy)
    for file in copy.iterdir():
        os.utime(file, (1, 1))
    (copy / "__pycache__").mkdir()
    (copy / "__pycache__" / "x.pyc").write_text("x")
    (copy / ".gitattributes").write_text("x")
    assert told(copy) == told(folder)


def test_a_small_file_is_read_whole(folder):
    before = told(folder)
    (folder / "config.json").write_text("[]")
    assert told(folder) != before


@pytest.mark.parametrize("name", ["model.safetensors", "weights.bin"])
def test_a_large_file_that_is_no_safetensors_is_told_by_blocks_of_it(tmp_path, name):
    data = bytearray(np.random.default_rng(0).bytes(2 * WHOLE_BYTES))
    (tmp_path / name).write_bytes(data)
    before = told(tmp_path)
    data[-1] ^= 1
    (tmp_path / name).write_bytes(data)
    assert told(tmp_path) != before


def test_little_is_read_of_a_large_file_of_many_tensors(tmp_path, monkeypatch):
    many = {f"expert.{i}": np.full((256, 4), i, "f4") for i in range(9_000)}
    save_file(many, tmp_path / "model.safetensors")
    read, whole = [], Location.read_range

    def count(place, start, length):
        read.append(length)
        return whole(place, start, length)

    monkeypatch.setattr(Location, "read_range", count)
    told(tmp_path)
    header = read[1]
    assert sum(read) - 2 * header <= WHOLE_BYTES + 16
    assert len(read) <= content._MOST_BLOCKS + 3
