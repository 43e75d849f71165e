"""Fingerprints: what a stage reads decides its name, and not how the job file names that."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raymodel.job.spec import Job
from raymodel.job.stages import Stages
from raymodel.storage.artifact import Artifact, open_artifact
from raymodel.storage.manifest import commit_manifest
from raymodel.storage.registry import Run
from raymodel.storage.uri import Location

SOURCE = {"path": "corpus.txt"}
PREPARE = {"sources": [SOURCE], "tokenizer": {"vocab_size": 300}, "sequence_length": 16}
MODEL = {"preset": "llama-tiny"}
TRAINING = {"global_batch": 8, "duration": "2 steps"}
EXAMPLES = {"task": "causal_lm", "sources": [SOURCE | {"fields": {"prompt": "a", "response": "b"}}]}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A storage with the results of two runs, whose folders are known by several names."""
    monkeypatch.chdir(tmp_path)
    Path("corpus.txt").write_text("def read(line): return line\n")
    for run, mark in {"own": "a" * 16, "other": "b" * 16}.items():
        prepared = make(run, "prepare", mark, {"data/x": "x"})
        model = make(run, "pretrain", mark[::-1], {"model/config.json": "{}"})
        assert (prepared.stage, model.stage) == ("prepare", "pretrain")
        Run(Location.parse("runs") / run).set_best(model)
    shutil.copytree(".", "elsewhere/copy")
    for name, text in {"one": "{}", "same": "{}", "another": '{"a": 1}'}.items():
        Path(name).mkdir()
        (Path(name) / "tokenizer.json").write_text(text)
        (Path(name) / "config.json").write_text("{}")
        Path(f"{name}.jinja").write_text(f"{{{{ messages }}}}{text}")
    return tmp_path


def make(run: str, stage: str, mark: str, files: dict[str, str]) -> Artifact:
    place = Run(Location.parse("runs") / run).execution(stage, mark)
    for name, text in files.items():
        (place / name).write_text(text)
    content = {
        "splits": {},
        "sequence_length": 16,
        "processor": {
            "modality": "text",
            "sha256": "0",
            "vocab_size": 300,
            "folder": "data/processor",
        },
    }
    commit_manifest(place, job_name=run, stage=stage, fingerprint=mark, parents={}, content=content)
    Run(Location.parse("runs") / run).set_latest(stage, mark)
    return open_artifact(place)


def newest(stage: str, run: str = "own") -> Artifact:
    found = Run(Location.parse("runs") / run).latest(stage)
    assert found is not None
    return found


def stages(**sections: Any) -> Stages:
    job = {"name": "own", "storage": "runs", **sections}
    return Stages(Job.model_validate(job), Path.cwd())


def pretrain(data: Any) -> str:
    spec = {"model": MODEL, "data": data} | TRAINING
    found = stages(prepare=PREPARE, pretrain=spec)
    return found.pretrain(found.data(newest("prepare"))).fingerprint(0)


def go_on(base: str | None) -> str:
    found = stages(pretrain={"base": base, "data": "own/prepare"} | TRAINING)
    return found.pretrain(found.data(None), found.pretrain_base()).fingerprint(0)


def finetuning(base: str | None) -> Stages:
    sections = {"prepare": PREPARE, "pretrain": {"model": MODEL} | TRAINING}
    return stages(**sections, finetune=EXAMPLES | TRAINING | {"base": base})


def examples(base: str | None) -> str:
    found = finetuning(base)
    return found.examples(found.base(newest("pretrain"))).fingerprint(0)


def finetune(base: str | None) -> str:
    found = finetuning(base)
    return found.finetune(found.base(newest("pretrain")), newest("prepare")).fingerprint(0)


def evaluate(base: str | None) -> str:
    tuned = EXAMPLES | TRAINING | {"base": base or "own/pretrain"}
    found = stages(finetune=tuned, evaluate={"metrics": ["perplexity"]})
    of_base, model = found.base(None), newest("pretrain", "other")
    stage = found.evaluate(model, base=of_base, examples=newest("prepare"), data=())
    return stage.fingerprint(0)


def serve(model: str | None) -> str:
    sections = {"prepare": PREPARE, "pretrain": {"model": MODEL} | TRAINING}
    found = stages(**sections, serve={"model": model})
    served = found.served(newest("pretrain"))
    assert served is not None
    return found.serve(served).fingerprint(0)


def serve_with(draft: str) -> str:
    spec = {"model": "other/best", "draft": {"model": draft}}
    found = stages(prepare=PREPARE, pretrain={"model": MODEL} | TRAINING, serve=spec)
    served = found.served(None)
    assert served is not None
    return found.serve(served).fingerprint(0)


def of_sources(path: str) -> str:
    return stages(prepare=PREPARE | {"sources": [{"path": path}]}).prepare().fingerprint(0)


def labelled(path: str) -> str:
    sources = {"sources": [EXAMPLES["sources"][0] | {"path": path}]}
    found = stages(finetune=EXAMPLES | TRAINING | {"base": "one"} | sources)
    return found.examples(found.base(None)).fingerprint(0)


def conversations(template: str) -> str:
    found = of_template(template)
    return found.examples(found.base(None)).fingerprint(0)


def tuned_on_conversations(template: str) -> str:
    """Of the same examples, in which the template is already."""
    found = of_template(template)
    return found.finetune(found.base(None), newest("prepare")).fingerprint(0)


def of_template(path: str) -> Stages:
    task = {"task": {"name": "chat", "chat_template": path}, "sources": [SOURCE], "base": "one"}
    return stages(finetune=TRAINING | task)


def prepare(load: str) -> str:
    return stages(prepare=PREPARE | {"tokenizer": {"load": load}}).prepare().fingerprint(0)


def fresh_examples(load: str) -> str:
    fresh = {"model": MODEL, "tokenizer": {"load": load}, "base": None}
    found = stages(finetune=EXAMPLES | TRAINING | fresh)
    return found.examples(found.base(None)).fingerprint(0)


def taught(teacher: str) -> Stages:
    sections = {"distill": {"teacher": teacher}, "base": "own/pretrain"}
    evaluate = {"evaluate": {"metrics": ["perplexity"]}}
    return stages(finetune=EXAMPLES | TRAINING | sections, **evaluate)


def finetune_beside(teacher: str) -> str:
    found = taught(teacher)
    told = found.teacher(found.job.finetune)
    return found.finetune(found.base(None), newest("prepare"), told).fingerprint(0)


def evaluate_beside(teacher: str) -> str:
    found = taught(teacher)
    stage = found.evaluate(
        newest("pretrain", "other"),
        base=found.base(None),
        examples=newest("prepare"),
        data=(),
        teacher=found.newest_teacher(),
    )
    assert "base" not in stage.inputs, "a model is held to its teacher alone"
    return stage.fingerprint(0)


def pretrain_beside(teacher: str) -> str:
    spec = {"model": MODEL, "data": "own/prepare", "distill": {"teacher": teacher}} | TRAINING
    found = stages(pretrain=spec)
    return found.pretrain(found.data(None), found.teacher(found.job.pretrain)).fingerprint(0)


def student_of(teacher: str) -> str:
    """Begins as a part of it, and reads with its tokenizer."""
    distill = {"distill": {"teacher": teacher, "student": {"layers": 2}}}
    found = stages(finetune=EXAMPLES | TRAINING | distill)
    base = found.base(None)
    assert base is not None
    return found.examples(found.reader(base)).fingerprint(0)


def fresh_beside(teacher: str) -> str:
    """A fresh model, whose examples are read with its teacher's tokenizer."""
    found = stages(finetune=EXAMPLES | TRAINING | {"model": MODEL, "distill": {"teacher": teacher}})
    assert found.base(None) is None
    return found.examples(found.reader(None)).fingerprint(0)


OWN_MODEL = (
    None,
    "own/pretrain",
    "own/best",
    f"runs/own/pretrain/{'a' * 16}",
    f"./runs/own/../own/pretrain/{'a' * 16}/",
    f"runs/own/pretrain/{'a' * 16}/model",
    f"runs/own/pretrain/{'a' * 16}/model/",
)
OWN_DATA = (
    None,
    "own/prepare",
    f"runs/own/prepare/{'a' * 16}",
    [{"path": "own/prepare"}],
    [{"path": f"runs/own/prepare/{'a' * 16}", "weight": 1.0}],
)
SOURCE_NAMES = ("corpus.txt", "./corpus.txt", "elsewhere/../corpus.txt")
MIXED = [{"path": "own/prepare", "weight": 2.0}, {"path": "other/prepare"}]
MIXED_FOLDERS = [
    {"path": f"runs/own/prepare/{'a' * 16}", "weight": 2.0},
    {"path": f"runs/other/prepare/{'b' * 16}", "weight": 1.0},
]


@pytest.mark.parametrize(
    ("fingerprint", "names", "others"),
    [
        (
            pretrain,
            OWN_DATA,
            ["other/prepare", [{"path": "own/prepare", "weight": 2.0}], MIXED],
        ),
        (pretrain, (MIXED, MIXED_FOLDERS), [MIXED[::-1], [{"path": "own/prepare"}]]),
        (examples, OWN_MODEL, ["other/pretrain", "one"]),
        (finetune, OWN_MODEL, ["other/pretrain", "one"]),
        (finetune, ("one", "./one", "another/../one"), ["another"]),
        (go_on, OWN_MODEL[1:], ["other/pretrain", "one"]),
        (go_on, ("one", "same", "./one"), ["another"]),
        (evaluate, OWN_MODEL, ["other/pretrain"]),
        (serve, OWN_MODEL, ["other/best", "one"]),
        (serve_with, OWN_MODEL[1:], ["other/best", "one"]),
        (prepare, ("one", "same", "./one"), ["another"]),
        (fresh_examples, ("one", "same"), ["another"]),
        (examples, ("one", "same"), ["another"]),
        (finetune, ("one", "same"), ["another"]),
        (serve, ("one", "same"), ["another"]),
        (of_sources, SOURCE_NAMES, ["elsewhere/copy/corpus.txt", "*.txt"]),
        (labelled, SOURCE_NAMES, ["elsewhere/copy/corpus.txt", "*.txt"]),
        (of_sources, ("*.txt", "./*.txt", "elsewhere/../*.txt"), ["corpus.txt"]),
        (conversations, ("one.jinja", "./one.jinja", "same.jinja"), ["another.jinja", "chatml"]),
        *(
            (fingerprint, names, others)
            for fingerprint in (
                *(finetune_beside, evaluate_beside, pretrain_beside, student_of, fresh_beside),
            )
            for names, others in (
                (OWN_MODEL[1:], ["other/pretrain", "one"]),
                (("one", "same", "./one"), ["another"]),
            )
        ),
        (tuned_on_conversations, ("one.jinja", "same.jinja", "another.jinja"), ["chatml"]),
    ],
)
def test_equal_inputs_by_other_names_make_the_same_stage(
    fingerprint: Callable[[Any], str], names: tuple[Any, ...], others: list[Any]
) -> None:
    marks = {json.dumps(name): fingerprint(name) for name in names}
    assert len(set(marks.values())) == 1, marks
    told = {json.dumps(name): fingerprint(name) for name in others}
    assert len({*told.values(), *marks.values()}) == 1 + len(others), told


def test_a_tokenizer_that_changed_in_its_place_makes_other_rows() -> None:
    before = prepare("one"), fresh_examples("one")
    shutil.copy("another/tokenizer.json", "one/tokenizer.json")
    after = prepare("one"), fresh_examples("one")
    assert all(old != new for old, new in zip(before, after, strict=True))


@pytest.mark.parametrize("stage", [examples, finetune, go_on, serve])
def test_weights_that_were_trained_on_under_the_same_name_are_another_base(
    stage: Callable[[str], str],
) -> None:
    place = Location.parse("one/model.safetensors")
    place.write_bytes(b"weights of one training")
    before = stage("one")
    written = Path("one/model.safetensors").stat()
    place.write_bytes(b"weights of yet another!")
    os.utime("one/model.safetensors", ns=(written.st_atime_ns, written.st_mtime_ns))
    assert stage("one") != before
    place.write_bytes(b"weights of one training")
    assert stage("one") == before, "its time is nothing"


def test_a_source_below_the_jobs_folder_is_named_from_there() -> None:
    whole = of_sources(str(Path("corpus.txt").resolve()))
    assert whole == of_sources("corpus.txt")


def test_what_is_learnt_from_a_teacher_is_in_the_name_and_without_one_nothing_is() -> None:
    def mark(**distill: Any) -> str:
        sections = {"distill": {"teacher": "one", **distill}, "base": "own/pretrain"}
        found = stages(finetune=EXAMPLES | TRAINING | sections)
        told = found.teacher(found.job.finetune)
        return found.finetune(found.base(None), newest("prepare"), told).fingerprint(0)

    marks = [mark(), mark(temperature=3.0), mark(weight=0.9), finetune("own/pretrain")]
    assert len({*marks}) == 4
    plain = stages(finetune=EXAMPLES | TRAINING | {"base": "own/pretrain"})
    stage = plain.finetune(plain.base(None), newest("prepare"))
    assert not {"distill", "teacher"} & stage.identity.keys()
