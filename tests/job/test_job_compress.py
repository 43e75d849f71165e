"""Which model is the best before and after one is compressed; with stages that are complete."""

import io
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from raymodel.compress.origin import Rows
from raymodel.errors import SpecError
from raymodel.job import run as whole
from raymodel.job.pipeline import Pipeline
from raymodel.job.preflight import check_inputs
from raymodel.job.progress import find_progress
from raymodel.job.spec import Job
from raymodel.job.stages import Stage, Stages
from raymodel.observe.story import Story
from raymodel.storage.artifact import Artifact, open_artifact
from raymodel.storage.manifest import commit_manifest
from raymodel.storage.registry import Run
from raymodel.storage.uri import Location

GATE = {"name": "perplexity", "value": 9.0, "condition": "< 5", "passed": False}
COST = {"size_bytes": 4 * 2**20, "latency_ms": 2.0, "rows_per_s": {"16": 100.0, "32": 120.0}}
FASTER = {"1": [0.9, 1.1], "16": [1.1, 1.2], "32": [0.5, 0.6]}
COSTS = {"before": COST, "after": COST, "faster": FASTER, "machine": "m", "what": "an answer"}


def commit(run: Run, stage: Stage, content: dict[str, Any]) -> Artifact:
    mark = stage.fingerprint(0)
    parents = {role: artifact.fingerprint for role, artifact in stage.inputs.items()}
    commit_manifest(
        run.execution(stage.name, mark),
        job_name=run.name,
        stage=stage.name,
        fingerprint=mark,
        parents=parents,
        content=content,
    )
    return open_artifact(run.execution(stage.name, mark))


class Place:
    """A run of which pretraining, evaluation and compressing are complete."""

    def __init__(self, folder: Path, *, meets_gates: bool) -> None:
        storage = Location.parse(str(folder / "runs"))
        self.job = Job.model_validate(
            {
                "name": "j",
                "storage": str(folder / "runs"),
                "pretrain": {
                    "data": "given/prepare",
                    "model": {"preset": "llama-tiny"},
                    "global_batch": 8,
                    "duration": "2 steps",
                    "optimizer": {"learning_rate": 0.01},
                },
                "evaluate": {"metrics": ["perplexity"]},
                "compress": {"prune": {"keep": 1}},
                "serve": {},
            }
        )
        self.run, self.stages = Run(storage / "j"), Stages(self.job, folder)
        processor = {"modality": "text", "sha256": "0"}
        dataset = {
            "splits": {},
            "processor": processor,
            "sequence_length": 8,
        }
        given = Run(storage / "given")
        made = commit(given, Stage(name="prepare", identity={}, inputs={}), dataset)
        given.set_latest("prepare", made.fingerprint)
        data = self.stages.data(None)
        self.model = commit(self.run, self.stages.pretrain(data), {"task": "causal_lm"})
        (self.model.location / "model/config.json").write_text("{}")
        evaluated = self.stages.evaluate(self.model, base=None, examples=None, data=data)
        commit(self.run, evaluated, {"passed": True, "gates": [], "metrics": {}})
        stage = self.stages.compress((self.model,), None, Rows(None, data))
        gates = [] if meets_gates else [GATE]
        told = {"passed": meets_gates, "gates": gates, "costs": COSTS}
        self.compressed = commit(self.run, stage, {"metrics": {"perplexity": 9.0}, **told})
        self.folder = folder

    def go(self, monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[str], list[str]]:
        """What is missed, which models became the best one after the other, and what was served."""
        promoted, served = [], []
        set_best = Run.set_best

        def watched(run: Run, artifact: Artifact) -> None:
            promoted.append(artifact.stage)
            set_best(run, artifact)

        monkeypatch.setattr(Run, "set_best", watched)
        monkeypatch.setattr(
            whole, "_serve", lambda p, model, keep: served.append(model.artifact.stage)
        )
        with ExitStack() as stack:
            p = Pipeline(self.job, self.run, Story(io.StringIO()), stack, None, self.folder)
            missed = whole._run_stages(p, False)
        monkeypatch.setattr(Run, "set_best", set_best)
        assert p.measures["compress"][1] == "size 4.0 MiB → 4.0 MiB"
        return missed, promoted, served


def test_a_compressed_model_that_meets_the_gates_is_the_best_and_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path, meets_gates=True)
    assert place.go(monkeypatch) == ("", ["pretrain", "compress"], ["compress"])
    # A second run sends nobody who follows the best back to the model before.
    assert place.go(monkeypatch) == ("", ["compress"], ["compress"])
    best = place.run.best()
    assert best is not None
    assert best.fingerprint == place.compressed.fingerprint
    found = find_progress(place.job, tmp_path)
    assert [*found.complete] == ["pretrain", "evaluate", "compress"]
    assert found.complete["compress"].fingerprint == place.compressed.fingerprint


def test_one_that_misses_them_leaves_the_best_as_it_was_and_nothing_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path, meets_gates=False)
    missed, promoted, served = place.go(monkeypatch)
    assert missed.startswith("perplexity is 9.0, the gate asks for < 5. `best` stays as it was; ")
    assert "compress less" in missed
    assert (promoted, served) == (["pretrain"], [])


def test_a_model_of_another_run_is_looked_at_before_anything_starts(tmp_path: Path) -> None:
    place = Place(tmp_path, meets_gates=True)
    evaluated = find_progress(place.job, tmp_path).complete["evaluate"]
    place.run.set_latest("evaluate", evaluated.fingerprint)
    job = Job.model_validate(
        {
            "name": "other",
            "storage": place.job.storage,
            "evaluate": {"metrics": ["accuracy"]},
            "compress": {"model": "j/evaluate", "prune": {"keep": 1}},
        }
    )
    with pytest.raises(SpecError, match=r"compress: .* is no model: it is the result of"):
        check_inputs(job, tmp_path, print)
