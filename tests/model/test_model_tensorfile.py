"""safetensors files written and read one tensor at a time, as the library reads and writes them."""

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from raymodel.errors import ArtifactError
from raymodel.model import tensorfile
from raymodel.model.tensorfile import TensorFile, TensorInfo, write_tensors
from raymodel.storage.uri import Location
from raymodel.testing.s3 import s3_bucket

DTYPES = [*tensorfile._CODES]


def example():
    draw = torch.Generator().manual_seed(0)
    tensors = {
        str(dtype): torch.randint(0, 2, (3, 5), generator=draw).to(dtype) for dtype in DTYPES
    }
    return tensors | {"scalar": torch.tensor(2.5), "empty": torch.empty(0, 4), "ä": torch.ones(7)}


def write(path, tensors, dtype=None):
    infos = [TensorInfo(name, dtype or t.dtype, tuple(t.shape)) for name, t in tensors.items()]
    with open(path, "wb") as stream:
        write_tensors(stream, infos, tensors.__getitem__)


def open_file(path):
    return TensorFile(Location.parse(str(path)))


def assert_same(found, expected):
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert torch.equal(found.float(), expected.float())


def test_the_library_reads_what_is_written(tmp_path):
    write(tmp_path / "a.safetensors", example())
    found = load_file(tmp_path / "a.safetensors")
    assert found.keys() == example().keys()
    for name, tensor in example().items():
        assert_same(found[name], tensor)
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("chunk", [7, 2**20])
def test_what_the_library_writes_is_read(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(tensorfile, "CHUNK_BYTES", chunk)
    save_file(example(), tmp_path / "a.safetensors")
    file = open_file(tmp_path / "a.safetensors")
    assert file.tensors.keys() == example().keys()
    for name, tensor in example().items():
        assert_same(file.read(name), tensor)


def test_a_tensor_is_cast_to_the_type_that_was_announced_whatever_its_strides(tmp_path):
    weight = torch.arange(12.0).view(3, 4).T
    write(tmp_path / "a.safetensors", {"w": weight}, torch.bfloat16)
    assert_same(open_file(tmp_path / "a.safetensors").read("w"), weight.bfloat16())


def test_each_tensor_is_asked_for_when_its_turn_has_come(tmp_path):
    sizes = []
    infos = [TensorInfo(name, torch.float32, (1000,)) for name in "abc"]

    def read(name):
        sizes.append(stream.tell())
        return torch.ones(1000)

    with open(tmp_path / "a.safetensors", "wb") as stream:
        write_tensors(stream, infos, read)
    assert [size - sizes[0] for size in sizes] == [0, 4000, 8000]


def test_of_a_bucket_only_the_asked_tensors_are_fetched(tmp_path, monkeypatch):
    save_file({"a": torch.ones(5000), "b": torch.arange(3.0)}, tmp_path / "f.safetensors")
    fetched = []
    open_input = Location.open_input

    class Counting:
        def __init__(self, stream):
            self._stream = stream

        def read(self, size):
            fetched.append(size)
            return self._stream.read(size)

        def __getattr__(self, name):
            return getattr(self._stream, name)

    with s3_bucket() as bucket:
        (bucket / "f.safetensors").upload(tmp_path / "f.safetensors")
        monkeypatch.setattr(Location, "open_input", lambda self: Counting(open_input(self)))
        file = TensorFile(bucket / "f.safetensors")
        assert torch.equal(file.read("b"), torch.arange(3.0))
        file.close()
    assert sum(fetched) < 1000


@pytest.mark.parametrize("kept", [0, 4, 20, -1])
def test_a_file_that_was_cut_short_is_refused(tmp_path, kept):
    path = tmp_path / "a.safetensors"
    save_file(example(), path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ArtifactError, match="not a whole safetensors file"):
        open_file(path)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "a").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a")
    with pytest.raises(ArtifactError, match="not a whole safetensors file"):
        open_file(tmp_path / "a")
