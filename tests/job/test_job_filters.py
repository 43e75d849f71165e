"""`serve.filters` in a job file: what is refused before anything starts, and what its stage is."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from raymodel.errors import SpecError
from raymodel.job.check import check_job
from raymodel.job.forecast_text import _resources
from raymodel.job.preflight import look_at_inputs
from raymodel.job.spec import Job
from raymodel.job.stages import Stages
from raymodel.spec.load import load_job
from raymodel.testing.tiny import build_tiny_bert, train_tiny_tokenizer

WORDS = {"name": "words", "file": "blocked.txt"}
TOXIC = {"name": "classifier", "model": "judge", "label": "toxic"}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("blocked.txt").write_text("bad\n坏蛋\n")
    for name, labels in {"served": ("no", "yes"), "judge": ("fine", "toxic")}.items():
        tokenizer = train_tiny_tokenizer(["a text"], vocab_size=262)
        build_tiny_bert(labels, vocab_size=len(tokenizer)).save_pretrained(name)
        tokenizer.save_pretrained(name)
    return tmp_path


def content(*filters: Any) -> dict[str, Any]:
    sections = {"filters": list(filters)} if filters else {}
    return {"name": "own", "storage": "runs", "serve": {"model": "served", **sections}}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (WORDS | {"file": "none.txt"}, "serve.filters.1: the list 'none.txt' cannot be read"),
        (WORDS | {"files": "blocked.txt"}, "files"),
        ({"name": "pii", "regions": ["XX"]}, "serve.filters.1: 'XX' is no country"),
        ({"name": "pii", "regions": ["us"]}, "regions"),
        ({"name": "pii", "kinds": ["email", "emial"]}, "emial"),
        (TOXIC | {"model": "s3://"}, "serve.filters.1.model"),
        ("pi", "did you mean 'pii'"),
    ],
)
def test_filters_that_cannot_be_made_are_refused_by_check(wrong: Any, message: str) -> None:
    Path("job.yaml").write_text(yaml.safe_dump(content("pii", wrong)))
    with pytest.raises(SpecError) as caught:
        check_job(load_job("job.yaml"))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        (TOXIC, None),
        (TOXIC | {"label": "toxi"}, "'judge' does not tell; did you mean 'toxic'"),
        (TOXIC | {"model": "nowhere"}, "nowhere"),
    ],
)
def test_a_classifier_is_looked_at_before_anything_starts(
    here: Path, ask_here: list[Any], judge: Any, message: str | None
) -> None:
    found = look_at_inputs(Job.model_validate(content(WORDS, judge)), here).findings
    assert bool(found) == (message is not None)
    assert all(message and message in finding.message for finding in found)
    assert len({finding.message for finding in found}) == len(found)


def test_an_application_is_another_where_its_filters_are_and_without_any_it_is_as_ever(
    here: Path,
) -> None:
    def stage(*filters: Any) -> Any:
        found = Stages(Job.model_validate(content(*filters)), here)
        served = found.served(None)
        assert served is not None
        return found.serve(served)

    plain = stage()
    assert not {"filters", "classifiers"} & plain.identity.keys()
    marks = [plain.fingerprint(0), stage(WORDS).fingerprint(0), stage(WORDS, "pii").fingerprint(0)]
    Path("blocked.txt").rename("same.txt")
    assert stage(WORDS | {"file": "same.txt"}).fingerprint(0) == marks[1]
    Path("blocked.txt").write_text("bad\n")
    marks += [stage(WORDS).fingerprint(0), stage(TOXIC).fingerprint(0)]
    assert len(set(marks)) == len(marks)


def test_a_plan_tells_the_models_that_each_replica_has_beside_its_own() -> None:
    class Plan:
        job, fleet = Job.model_validate(content("pii", TOXIC)), None

    (told,) = (text for stage, text in _resources(Plan()) if stage == "serve")  # type: ignore[arg-type]
    assert "each with the 1 classifier of its filters" in told
