"""Sources on the Hugging Face Hub are read there, and give what the same files on a disk give."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import huggingface_hub.utils._http as hub_client
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from local_ray import Silent, local_ray
from reading import read_source, texts

from raymodel.cluster.spec import ClusterSpec
from raymodel.data.prepare import Recipe, prepare_dataset
from raymodel.data.run import run_prepare
from raymodel.data.sources import pinned, resolve_source, sources_identity
from raymodel.data.spec import PrepareSpec, SourceSpec, TokenizerSpec
from raymodel.data.step import Step
from raymodel.errors import MissingSourceError
from raymodel.storage import retry
from raymodel.storage.execution import Execution
from raymodel.storage.uri import Location
from raymodel.testing.hub import Hub, hub
from raymodel.testing.s3 import Fault

DATA = "owner/data"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(hub_client.time, "sleep", lambda seconds: None)  # between its own tries
    with hub() as made:
        yield made


def parquet(*values: str) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": list(values)}), sink, row_group_size=2)
    return bytes(sink.getvalue())


def source(path: str, **fields: str) -> SourceSpec:
    return SourceSpec(path=f"hf://datasets/{DATA}{path}", **fields)


@pytest.mark.parametrize("path", ["", "@main", "/data", "/data/train-*.parquet", "/**/*.parquet"])
def test_parquet_is_read_whatever_way_it_is_named(server: Hub, path: str) -> None:
    parts = {f"data/train-{i}.parquet": parquet(f"{i} a", f"{i} b", f"{i} c") for i in range(4)}
    server.push(DATA, parts | {"README.md": b"# about", ".gitattributes": b"*"})
    records, _ = read_source(source(path, format="parquet"))
    assert texts(records) == [f"{i} {name}" for i in range(4) for name in "abc"]


def test_a_source_is_what_its_commit_holds(server: Hub) -> None:
    spec = source("/x.jsonl", format="jsonl")
    first = server.push(DATA, {"x.jsonl": b'{"text": "old"}\n'})
    found, named = resolve_source(spec), sources_identity([spec])
    assert named["sources"][0]["path"] == f"hf://datasets/{DATA}@{first}/x.jsonl"
    assert sources_identity([source(f"@{first}/x.jsonl", format="jsonl")]) == named
    server.push(DATA, {"x.jsonl": b'{"text": "new"}\n'})
    assert (found.root / "x.jsonl").read_bytes() == b'{"text": "old"}\n'
    assert sources_identity([spec]) != named
    server.push("owner/other", {"x.jsonl": b'{"text": "old"}\n'})
    other = SourceSpec(path="hf://datasets/owner/other/x.jsonl", format="jsonl")
    assert sources_identity([other]) != named


def test_what_a_data_set_does_not_have_is_told(server: Hub) -> None:
    server.push(DATA, {"x.jsonl": b'{"text": "old"}\n'})
    with pytest.raises(MissingSourceError, match=r"@[0-9a-f]{40}/y\.jsonl does not exist"):
        resolve_source(source("/y.jsonl", format="jsonl"))


def test_a_hub_that_fails_gives_what_a_disk_gives(
    server: Hub, recipe: Recipe, corpus: Path, tmp_path: Path, execute: Callable[[Step], None]
) -> None:
    files = {str(p.relative_to(corpus)): p.read_bytes() for p in corpus.rglob("*") if p.is_file()}
    server.push(DATA, files)
    for fault in (
        Fault(does="refuse", status=500, every=5),
        Fault(does="refuse", status=429, every=7),
        Fault(does="reset", every=11),
        Fault(does="cut", where="resolve", every=4),
    ):
        server.fail(fault)
    places = [Path(each.path).name for each in recipe.sources]
    there = replace(
        recipe,
        sources=tuple(
            each.model_copy(update={"path": f"hf://datasets/{DATA}/{name}"})
            for each, name in zip(recipe.sources, places, strict=True)
        ),
    )
    made = {}
    for name, one in {"here": recipe, "there": there}.items():
        place = Location.parse(str(tmp_path / name))
        content = prepare_dataset(one, place, execute, lambda text: None)
        shards = {e.name: (place / e.name).read_bytes() for e in place.walk()}
        made[name] = {k: v for k, v in shards.items() if k.endswith(".parquet")}
        made[name]["counts"] = json.dumps([content["read"], content["tokens"]]).encode()
    assert made["there"] == made["here"]
    assert len(made["here"]) > 3


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_workers_of_ray_read_the_commit_with_the_token_of_their_environment(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = server.push(DATA, {f"{i}.parquet": parquet(f"{i} a b c", f"{i} d") for i in range(6)})
    server.tokens[DATA] = "hf_right"
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    with local_ray(2):
        spec = PrepareSpec(
            sources=(pinned(source("/*.parquet", format="parquet")),),
            tokenizer=TokenizerSpec(vocab_size=264),
            sequence_length=8,
            holdout=0,
        )
        server.push(DATA, {"0.parquet": parquet("moved")})
        place = Location.parse(str(tmp_path / "out"))
        execution = Execution(
            job_name="test",
            stage="prepare",
            fingerprint="f" * 16,
            location=place,
            seed=7,
            cluster=ClusterSpec(),
        )
        server.fail(Fault(does="reset", every=5))
        content = run_prepare(spec, execution, Story())
    assert content["read"] == 12
    assert commit in json.dumps(content)
    text = "".join(p.read_text("utf-8", "ignore") for p in tmp_path.rglob("*") if p.is_file())
    assert "hf_right" not in text


class Story(Silent):
    def progress_line(self, line: str, *, is_last: bool = False) -> None:
        """Nobody looks."""

    def end_progress(self) -> None:
        """Nobody looks."""
