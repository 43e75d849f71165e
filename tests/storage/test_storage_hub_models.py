"""Models on a Hub of this machine: which files are read, and copies that are whole or none."""

import json
import random
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub.utils._http as hub_client
import pytest

from raymodel.errors import ArtifactError, LocationError, StorageError, StorageUnavailableError
from raymodel.storage import hub_model, retry
from raymodel.storage.content import content_of
from raymodel.storage.hub import locate_on_hub
from raymodel.storage.hub_model import files_of, size_text
from raymodel.storage.local import local_folder, near
from raymodel.testing.hub import Hub, hub
from raymodel.testing.s3 import Fault

MODEL = "owner/model"
URI = f"hf://{MODEL}"
WEIGHTS = random.Random(0).randbytes(300_000)
SMALL = {
    "config.json": b"{}",
    "tokenizer.json": b"{ }",
    "tokenizer.model": b"pieces",
    "merges.txt": b"a b",
    "chat_template.jinja": b"{{ messages }}",
    "additional_chat_templates/tool_use.jinja": b"{{ tools }}",
    "preprocessor_config.json": b"{  }",
    "1_Pooling/config.json": b"{   }",
}
"""Each of another content: what is the same is fetched once."""
OTHERS = {
    "README.md": b"# about",
    "modeling_own.py": b"import os",
    "pytorch_model.bin": b"pickle",
    "consolidated.safetensors": b"again",
    "model.fp16.safetensors": b"half",
    "model.Q4_K_M.gguf": b"GGUF",
    "onnx/model.onnx": b"onnx",
    "onnx/config.json": b"{}",
    "checkpoint-500/model.safetensors": b"old",
    "checkpoint-500/config.json": b"{}",
    "tf_model.h5": b"tf",
}
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
SHARDED = {name: name.encode() for name in SHARDS}
INDEX = {
    "model.safetensors.index.json": json.dumps(
        {"weight_map": {"a": SHARDS[0], "b": SHARDS[1], "c": SHARDS[1]}}
    ).encode()
}


@pytest.fixture(autouse=True)
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(retry, "TRIES", 3)
    monkeypatch.setattr(hub_client.time, "sleep", lambda seconds: None)  # between its own tries
    hub_model._files_of.cache_clear()
    with hub() as made:
        yield made


def push(server: Hub, *more: dict[str, bytes], branch: str = "main") -> str:
    files = {name: content for each in more for name, content in each.items()}
    return server.push(MODEL, SMALL | OTHERS | files, branch, "model")


ONE = {"model.safetensors": WEIGHTS}


@pytest.mark.parametrize(
    ("weights", "read"),
    [
        (ONE, {*ONE}),
        (SHARDED | INDEX, {*SHARDS, *INDEX}),
        # As a folder's, whose one file is read where it has both.
        (ONE | SHARDED | INDEX, {*ONE, *INDEX}),
        ({"model.gguf": b"GGUF"}, {"model.gguf"}),
        ({}, set()),
    ],
    ids=["one", "shards", "both", "gguf", "pickled"],
)
def test_of_a_repository_those_files_are_listed_and_fetched_that_are_read(
    server: Hub, weights: dict[str, bytes], read: set[str]
) -> None:
    push(server, weights)
    place = locate_on_hub(URI)
    assert {entry.name for entry in place.walk()} == {*SMALL, *read}
    assert {e.name for e in place.list() if e.is_dir} == {"1_Pooling", "additional_chat_templates"}
    server.requests.clear()
    with local_folder(place, without=".safetensors") as small:
        assert (small / "tokenizer.json").read_bytes() == SMALL["tokenizer.json"]
        assert not (small / "model.safetensors").exists()
    folder = near(place).local_path
    fetched = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert fetched == {*SMALL, *read}
    assert sorted(server.contents()) == sorted(fetched), "each once"
    assert all((folder / name).read_bytes() == weights[name] for name in read)


def test_a_model_may_lie_in_a_folder_of_its_repository(server: Hub) -> None:
    push(server, ONE)
    place = locate_on_hub(f"{URI}/checkpoint-500")
    assert (near(place) / "model.safetensors").read_bytes() == b"old"
    assert size_text(place.uri) == "0.0 MB in 2 files"


def test_what_was_fetched_needs_no_network(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    push(server, ONE)
    place = locate_on_hub(URI)
    folder = near(place)
    hub_model._files_of.cache_clear()  # as in another process
    server.requests.clear()
    server.fail(Fault(does="refuse", status=500))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert near(place) == folder
    assert content_of(place)
    assert server.requests == []


def test_who_wants_the_same_model_at_a_time_waits_for_one_copy(
    server: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    push(server, ONE)
    place = locate_on_hub(URI)
    files_of(place.uri)
    server.requests.clear()
    server.fail(Fault(does="wait", where="GET .*model.safetensors", wait_s=0.3))
    with ThreadPoolExecutor(4) as pool:
        found = {*pool.map(lambda _: near(place), range(4))}
    assert (found.pop() / "model.safetensors").read_bytes() == WEIGHTS
    assert server.contents().count("model.safetensors") == 1
    assert "0.3 MB in 9 files" in capsys.readouterr().err


@pytest.mark.parametrize(
    "fault",
    [
        Fault(does="cut", where="GET .*safetensors", times=2),
        Fault(does="reset", where="resolve", every=3, times=2),
        Fault(does="refuse", status=503, where="resolve", every=2, times=2),
        Fault(does="refuse", status=429, where="tree|HEAD", times=2),
    ],
    ids=lambda fault: f"{fault.does}-{fault.status}",
)
def test_fetching_outlasts_a_fault(server: Hub, fault: Fault) -> None:
    push(server, ONE)
    server.fail(fault)
    folder = near(locate_on_hub(URI))
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert fault.hits, "it did go wrong"


def test_half_a_file_is_no_file(server: Hub) -> None:
    push(server, ONE)
    place = locate_on_hub(URI)
    server.fail(Fault(does="cut", where="GET .*safetensors"))
    with pytest.raises(StorageUnavailableError, match=r"fetching model.safetensors of .* 3 times"):
        near(place)
    cache = Path(hub_model.hub_cache_folder())
    assert not [p for p in cache.rglob("*") if p.is_file() and p.stat().st_size > 1000]
    server.faults.clear()
    file = near(place).local_path / "model.safetensors"
    file.resolve().write_bytes(WEIGHTS[:1000])  # as of a disk that lost its last writes
    assert (near(place) / "model.safetensors").read_bytes() == WEIGHTS


def test_room_on_the_disk_is_looked_at_before(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    push(server, ONE)
    place = locate_on_hub(URI)
    files_of(place.uri)
    server.requests.clear()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=299_999))
    with pytest.raises(StorageError, match=r"0\.00 GB are to be fetched.*set HF_HOME to a folder"):
        near(place)
    assert server.requests == []
    near(place, weights=False)


def test_a_branch_that_moves_is_another_model_where_what_is_read_differs(server: Hub) -> None:
    first = push(server, ONE)
    old = locate_on_hub(URI)
    push(server, ONE, {"README.md": b"# more"})
    same = locate_on_hub(URI)
    second = push(server, {"model.safetensors": WEIGHTS[::-1]})
    new = locate_on_hub(URI)
    assert old.uri == f"{URI}@{first}"
    assert new.uri == f"{URI}@{second}"
    assert content_of(old) == content_of(same) != content_of(new)
    assert (near(old) / "model.safetensors").read_bytes() == WEIGHTS
    assert (near(new) / "model.safetensors").read_bytes() == WEIGHTS[::-1]


@pytest.mark.parametrize(
    ("token", "is_gated", "why"),
    [
        (None, False, "it does not exist or is private, and there is no token"),
        ("hf_wrong", False, "the token is wrong, or may not read this"),
        ("hf_right", True, "its owner asks who reads it to accept conditions on its page"),
    ],
)
def test_a_model_that_may_not_be_read_is_told_at_once_and_no_token_is_shown(
    server: Hub,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    token: str | None,
    is_gated: bool,
    why: str,
) -> None:
    commit = push(server, ONE)
    server.tokens[MODEL] = "hf_right"
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    if is_gated:
        server.gated.add(MODEL)
    else:
        with pytest.raises(StorageError, match=why):
            files_of(f"{URI}@{commit}")
        monkeypatch.setenv("HF_TOKEN", "hf_right")
        files_of(f"{URI}@{commit}")
        monkeypatch.setenv("HF_TOKEN", token or "")
    for ask in (lambda: locate_on_hub(URI), lambda: near(locate_on_hub(f"{URI}@{commit}"))):
        with pytest.raises(StorageError, match=why) as told:
            ask()
        assert "Set HF_TOKEN" in str(told.value)
        assert "hf_wrong" not in str(told.value) + caplog.text
        assert "hf_right" not in str(told.value) + caplog.text


def test_what_is_no_model_there_is_told(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.push("owner/data", SMALL)
    server.tokens["owner/other"] = "hf_right"
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    with pytest.raises(LocationError, match="the Hugging Face Hub has no model 'owner/data'"):
        locate_on_hub("hf://owner/data")
    with pytest.raises(LocationError, match="names no model of the Hugging Face Hub; write hf://O"):
        locate_on_hub("hf://datasets/owner/data")
    push(server, {"model.safetensors.index.json": b"[]"})
    with pytest.raises(ArtifactError, match="has no weight_map"):
        files_of(locate_on_hub(URI).uri)
    with pytest.raises(ArtifactError, match="holds no file of a model; check the path"):
        near(locate_on_hub(f"{URI}/no/such"))
