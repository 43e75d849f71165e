"""What a job may say of `compress`, and what decides its result."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from raymodel.compress.spec import CompressSpec
from raymodel.job.check import check_job
from raymodel.job.outline import outline
from raymodel.job.spec import Job
from raymodel.spec.load import load_job

MODELS = ["a/finetune", "b/finetune"]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({}, "give one of `merge`, `prune` and `quantize`"),
        ({"merge": {"models": MODELS}, "prune": {"keep": 2}}, "method is a job of its own"),
        ({"merge": {"models": MODELS}, "model": "a/finetune"}, "leave `model` out"),
        ({"merge": {"models": MODELS[:1]}}, "at least 2 items"),
        ({"merge": {"models": MODELS[:1] * 2}}, "is given twice"),
        ({"merge": {"models": MODELS, "weights": [1.0]}}, "1 weights of 2 models"),
        ({"merge": {"models": [*MODELS, "c/best"], "method": "slerp"}}, "here are 3; use two"),
        ({"merge": {"models": MODELS, "method": "ties"}}, "ties needs `base`"),
        ({"merge": {"models": MODELS, "density": "50%"}}, "density belong to ties, not to linear"),
        ({"prune": {}}, "give one of `keep`, `drop`, `heads`, `magnitude` and `pattern`"),
        ({"prune": {"keep": 2, "drop": [1]}}, "this has `keep` and `drop`"),
        ({"prune": {"magnitude": "100%"}}, "less than 1"),
        (
            {"quantize": "int8", "calibration_rows": 8},
            "belongs to `quantize: int4` and `prune.heads`",
        ),
        ({"quantize": "fp8", "format": "gguf"}, "a GGUF file has no numbers in fp8"),
        ({"prune": {"keep": 2}, "format": "gguf"}, "format belongs to `quantize`"),
    ],
)
def test_what_makes_no_sense_is_refused_with_what_would(said: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        CompressSpec.model_validate(said)


def identity(**merge: Any) -> Any:
    return CompressSpec.model_validate({"merge": {"models": MODELS, **merge}}).identity()


def test_names_of_models_decide_nothing_and_weights_only_by_their_ratio() -> None:
    assert identity() == identity(models=["c/best", "d/best"]) == identity(weights=[3.0, 3.0])
    assert identity() != identity(weights=[1.0, 2.0])
    assert identity() != identity(method="slerp")


def test_what_came_later_is_not_in_the_names_of_what_was_there_before() -> None:
    def identity(**said: Any) -> Any:
        return CompressSpec.model_validate(said).identity()

    assert identity(quantize="int8") == {"quantize": "int8"}
    assert "heads" not in identity(prune={"keep": 2})["prune"]
    assert identity(quantize="int4") != identity(quantize="int4", calibration_rows=8)
    gpu = "compressed-tensors"
    assert identity(quantize="int8", format="gguf") == identity(quantize="int8")
    assert identity(quantize="int8", format=gpu) != identity(quantize="int8")
    assert identity(quantize="fp8", format=gpu) == identity(quantize="fp8") == {"quantize": "fp8"}


def test_the_method_says_what_is_rounded() -> None:
    def method(**said: Any) -> str:
        return CompressSpec.model_validate(said).method

    gpu = "compressed-tensors"
    assert method(quantize="int4") == "weights in int4"
    assert method(quantize="fp8").startswith("weights and inputs in fp8, each to the nearest")
    assert method(quantize="int8", format=gpu).startswith("weights and inputs in int8, each")
    assert method(quantize="int4", format=gpu).startswith("weights in int4, each to the nearest")


def job(**sections: Any) -> Job:
    return Job.model_validate({"name": "j", **sections})


def test_the_jobs_in_the_documentation_are_jobs(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs/compress.md").read_text()
    names = []
    for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        (tmp_path / "job.yaml").write_text(block)
        loaded = load_job(tmp_path / "job.yaml")
        check_job(loaded)
        names.append(loaded.job.name)
    assert names == [
        "soup",
        "shallow",
        "shallow-tuned",
        "student",
        "quick",
        "small",
        "small-chat",
        "gpu-chat",
    ]


EVALUATE = {"metrics": ["accuracy"]}


def test_a_job_may_consist_of_a_merge_of_other_runs() -> None:
    merge = {"merge": {"models": MODELS}}
    made = job(evaluate=EVALUATE, compress=merge, serve={})
    assert not made.trains
    said = dict(outline(made))
    assert said["compress"] == "linear merge of 2 models of a/finetune, b/finetune"


@pytest.mark.parametrize(
    ("sections", "why"),
    [
        ({"compress": {"prune": {"keep": 2}}, "evaluate": EVALUATE}, "compress has no model"),
        ({"compress": {"prune": {"keep": 2}, "model": "a/best"}}, "compress has no measures"),
        ({"evaluate": EVALUATE}, "evaluate has no model"),
    ],
)
def test_what_a_compressed_model_needs_is_asked_for(sections: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        job(**sections)
