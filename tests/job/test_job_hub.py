"""A job that names branches of the Hugging Face Hub reads commits."""

import io
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.utils._http as hub_client
import pytest
import yaml

from raymodel import cli
from raymodel.cluster.variables import write_package
from raymodel.data.prepare import Recipe, prepare_dataset
from raymodel.data.rows import RowKind
from raymodel.data.step import complete_item, missing_items
from raymodel.errors import ArtifactError
from raymodel.job import run as whole
from raymodel.job.pins import FILE_NAME, find_moved, pin_job
from raymodel.job.pipeline import Pipeline
from raymodel.job.spec import Job
from raymodel.observe.story import Story
from raymodel.storage import retry
from raymodel.storage.registry import Run
from raymodel.storage.uri import Location
from raymodel.testing.hub import Hub, hub
from raymodel.testing.s3 import Fault

DATA = "hf://datasets/owner/data"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(hub_client.time, "sleep", lambda seconds: None)  # between its own tries
    with hub() as made:
        yield made


def content(path: str = f"{DATA}/*.txt", **changes: Any) -> dict[str, Any]:
    prepare = {
        "sources": [{"path": path}],
        "tokenizer": {"vocab_size": 264},
        "sequence_length": 8,
        "holdout": 0,
    }
    return {"name": "tiny", "storage": "runs", "prepare": prepare | changes}


def files(word: str) -> dict[str, bytes]:
    return {f"{i}.txt": f"{word} {i} and so on and on".encode() for i in range(8)}


def run_of(job: Job) -> Run:
    return Run(Location.parse(job.storage) / job.name)


def test_all_that_names_a_source_names_its_commit(server: Hub) -> None:
    commit = server.push("owner/data", files("a"))
    other = server.push("owner/test", files("b"), branch="v1")
    found = content(
        clean={"decontaminate": {"sets": {"quiz": {"path": "hf://datasets/owner/test@v1"}}}}
    )
    found["pretrain"] = {
        "model": {"preset": "llama-tiny"},
        "global_batch": 2,
        "duration": "2 steps",
        "mixture": {"max_visits_of": {f"{DATA}/*.txt": 3.0}},
    }
    job = Job.model_validate(found)
    pinned = pin_job(job, run_of(job))
    place = f"{DATA}@{commit}/*.txt"
    assert pinned.commits == {f"{DATA}@main": commit, "hf://datasets/owner/test@v1": other}
    assert pinned.job.prepare is not None
    assert pinned.job.pretrain is not None
    assert pinned.job.prepare.sources[0].path == place
    assert pinned.job.prepare.clean.decontaminate is not None
    assert pinned.job.prepare.clean.decontaminate.sets["quiz"].path.endswith(other)
    assert pinned.job.pretrain.mixture.max_visits_of == {place: 3.0}
    again = pin_job(pinned.job, run_of(job))
    assert (again.job, again.commits) == (pinned.job, {}), "commits stay"


def test_all_that_names_a_model_names_its_commit(server: Hub) -> None:
    commits = {
        name: server.push(f"owner/{name}", {"config.json": name.encode()}, kind="model")
        for name in ("base", "teacher", "words", "member", "finder", "judge", "older")
    }
    old = server.push("owner/base", {"config.json": b"old"}, "v1", "model")
    labelled = {"path": "a.jsonl", "fields": {"label": "label"}}
    job = Job.model_validate(
        content("a.txt", tokenizer={"load": "hf://owner/words"})
        | {
            "pretrain": {"base": "hf://owner/older", "global_batch": 2, "duration": "2 steps"},
            "finetune": {
                "task": "text_classification",
                "sources": [labelled],
                "base": "hf://owner/base",
                "distill": {"teacher": "hf://owner/teacher"},
                "global_batch": 2,
                "duration": "2 steps",
            },
            "serve": {
                "model": "hf://owner/base@v1",
                "ensemble": ["hf://owner/member/folder"],
                "documents": {"path": "a.txt", "embedder": "hf://owner/finder"},
                "filters": [{"name": "classifier", "model": "hf://owner/judge", "label": "bad"}],
            },
        }
    )
    pinned = pin_job(job, run_of(job))
    at = {name: f"hf://owner/{name}@{commit}" for name, commit in commits.items()}
    made: Any = pinned.job
    assert made.prepare.tokenizer.load == at["words"]
    assert made.pretrain.base == at["older"]
    assert made.finetune.base == at["base"]
    assert made.finetune.distill.teacher == at["teacher"]
    assert made.serve.model == f"hf://owner/base@{old}"
    assert made.serve.ensemble == (f"{at['member']}/folder",)
    assert made.serve.documents.embedder == at["finder"]
    assert made.serve.filters[0].model == at["judge"]
    assert pinned.commits["hf://owner/base@main"] == commits["base"]
    pinned.keep(run_of(job))
    server.push("owner/base", {"config.json": b"new"}, kind="model")
    again = pin_job(job, run_of(job))
    assert again.job == made, "a run stays with what it began with"
    assert len([*find_moved(again)]) == 1


def test_a_run_keeps_its_commits_and_tells_of_newer_ones(server: Hub) -> None:
    old = server.push("owner/data", files("a"))
    job = Job.model_validate(content())
    first = pin_job(job, run_of(job))
    first.keep(run_of(job))
    assert list(find_moved(pin_job(job, run_of(job)))) == []
    new = server.push("owner/data", files("b"))
    second = pin_job(job, run_of(job))
    assert second == pin_job(job, run_of(job))
    assert second.job == first.job
    (note,) = find_moved(second)
    assert f"{DATA}@main has moved to commit {new[:10]}; this run stays with {old[:10]}" in note
    assert f"write {DATA}@{new}" in note
    server.fail(Fault(does="refuse", status=500))
    assert list(find_moved(second)) == [], "who cannot ask goes on with what there is"
    assert pin_job(job, run_of(job)) == second


def test_two_processes_that_begin_a_run_with_other_commits_are_told(server: Hub) -> None:
    server.push("owner/data", files("a"))
    job = Job.model_validate(content())
    one = pin_job(job, run_of(job))
    server.push("owner/data", files("b"))
    other = pin_job(job, run_of(job))
    other.keep(run_of(job))
    with pytest.raises(ArtifactError, match="the branch moved between the two"):
        one.keep(run_of(job))


@pytest.fixture
def broken_off(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands in for Ray: data is prepared for real, and breaks off before a step named here."""
    steps: list[str] = []

    def prepare(spec: Any, execution: Any, story: Any, base_dir: Path) -> dict[str, Any]:
        recipe = Recipe(
            sources=spec.sources, clean=spec.clean, holdout=spec.holdout, seed=execution.seed,
            kind=RowKind(length=spec.sequence_length), processor=spec.tokenizer,
        )  # fmt: skip

        def execute(step: Any) -> None:
            if step.name in steps:
                steps.remove(step.name)
                raise KeyboardInterrupt
            for item in missing_items(step):
                complete_item(step, item)

        return prepare_dataset(recipe, execution.location, execute, story.say, base_dir)

    stand_in = types.ModuleType("raymodel.data.run")
    stand_in.run_prepare = prepare  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    connected = types.SimpleNamespace(started_here=True)
    monkeypatch.setattr(Pipeline, "connect", lambda self: connected)
    monkeypatch.setattr("raymodel.train.fault.places.await_places", lambda *_: None)
    return steps


def test_an_attempt_that_goes_on_reads_what_it_began_with(
    server: Hub, broken_off: list[str], tmp_path: Path
) -> None:
    old = server.push("owner/data", files("old"))
    server.tokens["owner/data"] = "hf_right"
    job = Job.model_validate(content())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", "hf_right")
        broken_off.append("rows")
        with pytest.raises(KeyboardInterrupt):
            whole.run(job, job_path="job.yaml", story=Story(io.StringIO()))
        new = server.push("owner/data", files("new") | {"9.txt": b"one more"})
        said = io.StringIO()
        whole.run(job, job_path="job.yaml", story=Story(said))
        assert "start 2" in said.getvalue()
        assert f"this run stays with {old[:10]}" in " ".join(said.getvalue().split())
        made = run_of(job).latest("prepare")
        assert made is not None
        assert made.content["read"] == 8
        assert old in (made.location / "spec.yaml").read_text()
        text = "".join(p.read_text("utf-8", "ignore") for p in tmp_path.rglob("*") if p.is_file())
        assert old in (run_of(job).location / FILE_NAME).read_text()
        assert "hf_right" not in text
        assert "hf_right" not in said.getvalue()

        again = io.StringIO()
        whole.run(job, job_path="job.yaml", story=Story(again))
        assert "complete, skipped" in again.getvalue()
        other = Job.model_validate(content(f"{DATA}@{new}/*.txt") | {"name": "other"})
        whole.run(other, job_path="job.yaml", story=Story(io.StringIO()))
        fresh = run_of(other).latest("prepare")
        assert fresh is not None
        assert fresh.content["read"] == 9


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        (
            {"HF_HUB_OFFLINE": "1"},
            "HF_HUB_OFFLINE is set. Fetch it elsewhere (hf download",
        ),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "does not answer"),
    ],
)
def test_without_a_network_no_command_starts(
    server: Hub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    environment: dict[str, str],
    told: str,
) -> None:
    job = content(f"{DATA}/*.txt")
    job["prepare"]["sources"].append({"path": f"{DATA}@v1/*.txt"})
    Path("job.yaml").write_text(yaml.safe_dump(job))
    server.push("owner/data", files("a"))
    server.push("owner/data", files("b"), branch="v1")
    assert cli.main(["check", "job.yaml"]) == 0
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    capsys.readouterr()
    for command in ("check", "plan", "run"):
        assert cli.main([command, "job.yaml"]) == 2
        err = capsys.readouterr().err
        assert "prepare.sources.0.path" in err
        assert told in " ".join(err.split())
        assert (err.count("error: "), err.count("hf download")) == (1, 1), "told once"
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("hf://datasets/owner/nothing", "has no data set 'owner/nothing'; check its name"),
        (f"{DATA}@v9/*.txt", "has no revision 'v9'; write a branch, a tag or a commit of it"),
        (f"{DATA}/no/*.txt", "does not exist; it must be a file, folder or glob"),
        ("hf://datasets/owner/closed", "Set HF_TOKEN to one that may read it"),
        ("hf://owner/data", "names no data set of the Hugging Face Hub; write hf://datasets/"),
    ],
)
def test_what_is_not_there_is_told_before_anything_is_written(
    server: Hub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    path: str,
    told: str,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    server.tokens["owner/third"] = "hf_other"
    server.tokens["owner/closed"] = "hf_right"
    server.push("owner/closed", files("a"))
    server.push("owner/data", files("a"))
    if path.endswith("closed"):
        monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    Path("job.yaml").write_text(yaml.safe_dump(content(path)))
    assert cli.main(["run", "job.yaml"]) in (1, 2)
    err = " ".join(capsys.readouterr().err.split())
    assert told in err
    assert "Traceback" not in err
    assert "hf_wrong" not in err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("hf://owner/nothing", "the Hugging Face Hub has no model 'owner/nothing'"),
        ("hf://owner/data", "the Hugging Face Hub has no model 'owner/data'; check its name"),
        ("hf://datasets/owner/data", "names no model of the Hugging Face Hub; write hf://OWNER/"),
        ("hf://owner/gated", "its owner asks who reads it to accept conditions on its page"),
        ("hf://owner/closed", "the token is wrong, or may not read this"),
        ("hf://owner/model@v9", "the model owner/model on the Hugging Face Hub has no revision"),
        ("owner/model", None),
    ],
)
def test_a_model_that_cannot_be_read_is_told_by_check_and_no_token_is(
    server: Hub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    model: str,
    told: str | None,
) -> None:
    server.push("owner/data", files("a"))
    for name in ("model", "gated", "closed"):
        server.push(f"owner/{name}", {"config.json": b"{}"}, kind="model")
    server.gated.add("owner/gated")
    server.tokens |= {"owner/closed": "hf_right", "owner/other": "hf_other"}
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    if model.endswith("closed"):
        monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    job = {"name": "tiny", "storage": "runs", "serve": {"model": model}}
    Path("job.yaml").write_text(yaml.safe_dump(job))
    assert cli.main(["check", "job.yaml"]) == (2 if told else 0)
    err = " ".join(capsys.readouterr().err.split())
    assert (told or "") in err
    assert ("serve.model" in err) == bool(told)
    assert "hf_wrong" not in err
    assert "hf_other" not in err


def test_the_token_that_a_submitted_job_brings_is_there_when_the_hub_is_asked(
    server: Hub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    write_package({"HF_TOKEN": "hf_right"}, tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    server.tokens["owner/closed"] = "hf_right"
    server.push("owner/closed", {"README.md": b"# about"}, kind="model")
    job = {"name": "tiny", "storage": "runs", "serve": {"model": "hf://owner/closed"}}
    Path("job.yaml").write_text(yaml.safe_dump(job))
    assert cli.main(["run", "job.yaml"]) == 2
    assert "has no config.json" in " ".join(capsys.readouterr().err.split())


def test_the_address_of_a_page_is_told_as_what_can_be_read(
    server: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    page = "https://huggingface.co/datasets/owner/data/viewer"
    Path("job.yaml").write_text(yaml.safe_dump(content(page)))
    assert cli.main(["check", "job.yaml"]) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert "or name hf://datasets/owner/data/… as a source" in err
