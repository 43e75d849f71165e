"""A job that pretrains on images: what `check` and `plan` say of it before it runs."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from raymodel import cli
from raymodel.errors import SpecError
from raymodel.job.check import check_job
from raymodel.job.outline import outline
from raymodel.spec.load import load_job

SIZES = {
    "patch_size": 7,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "decoder_hidden_size": 8,
    "decoder_intermediate_size": 16,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
}
IMAGES = {"path": "images", "format": "class_folders"}


def vit_mae(**config: Any) -> dict[str, Any]:
    return {"architecture": "vit_mae", "config": SIZES | config}


def job_of(**changes: Any) -> dict[str, Any]:
    """With changes by section; None takes one out."""
    job: dict[str, Any] = {
        "name": "tiny",
        "prepare": {"sources": [IMAGES], "image": {"size": 28, "channels": 1}, "holdout": "20%"},
        "pretrain": {
            "objective": "masked_image",
            "model": vit_mae(),
            "global_batch": 8,
            "duration": "4 steps",
            "precision": "fp32",
        },
        "finetune": {
            "task": "image_classification",
            "sources": [IMAGES | {"share": "10%"}],
            "global_batch": 8,
            "duration": "4 steps",
            "precision": "fp32",
        },
        "evaluate": {"metrics": ["accuracy"]},
    }
    for section, change in changes.items():
        job[section] = None if change is None else {**job[section], **change}
    return {section: body for section, body in job.items() if body is not None}


@pytest.fixture(autouse=True)
def _here(ask_here: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(content: dict[str, Any]) -> Any:
    Path("job.yaml").write_text(yaml.safe_dump(content))
    return load_job(Path("job.yaml"), ())


def test_a_job_that_pretrains_on_images_and_tunes_a_classifier_passes():
    loaded = load(job_of())
    check_job(loaded)
    said = dict(outline(loaded.job))
    assert said["prepare"] == "images; images of 28 pixels, 1 channels"
    assert "image_classification from pretrain" in said["finetune"]


def test_the_error_of_painting_is_measured_without_a_fine_tuning():
    metrics = {"metrics": ["reconstruction_error"], "gates": {"reconstruction_error": "< 1"}}
    check_job(load(job_of(finetune=None, evaluate=metrics)))


TOKENS = {"tokenizer": {"vocab_size": 300}, "sequence_length": 16}
LLAMA = {"objective": "causal_lm", "model": {"preset": "llama-tiny"}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (job_of(prepare=TOKENS), r"`image` is for sources of images, and `tokenizer` for those of"),
        (
            job_of(prepare={"image": None, "sequence_length": 16}),
            "rows of text need `tokenizer`, and those of images `image`",
        ),
        (
            job_of(prepare={"image": None, **TOKENS, "sources": [{"path": "texts"}]}),
            "masked_image learns from image, and the rows are of text; give `prepare` an `image`",
        ),
        (
            job_of(pretrain=LLAMA, finetune=None, evaluate=None),
            "causal_lm learns from text, and the rows are of image; give `prepare` a `tokenizer`",
        ),
        (
            job_of(prepare={"sources": [{"path": "a", "fields": {"text": "{a}"}}]}),
            "prepare has no role 'text', it has image",
        ),
        (
            job_of(prepare={"clean": {"steps": ["unicode"]}}),
            "unicode looks at texts, and prepare reads image, none of which is one",
        ),
        (
            job_of(prepare={"clean": {"dedup": {"name": "near", "ngram": 3}}}),
            "`ngram` is of texts; of images say `distance`",
        ),
        (
            job_of(prepare={"clean": {"decontaminate": {"sets": {"quiz": {"path": "a"}}}}}),
            "evaluation sets are texts, and the documents have none; leave it out",
        ),
        (
            job_of(pretrain={"model": vit_mae(patch_size=5)}),
            "patch_size is 5, and images of 28 pixels are no whole number of such patches",
        ),
        (
            job_of(pretrain={"model": vit_mae(image_size=32)}),
            "image_size: 32 is not what prepare.image says, 28; leave it out",
        ),
        (
            job_of(pretrain={"model": {"architecture": "vit", "config": {}}}),
            "a 'vit' model has no decoder that paints",
        ),
        (
            job_of(finetune={"model": vit_mae(),
                             "task": {"name": "image_classification",
                                      "image": {"size": 28, "channels": 1}}}),
            "transformers builds no vit_mae model as AutoModelForImageClassification",
        ),
        (
            job_of(pretrain={"objective": {"name": "masked_image", "augment": {"cutmix": 0.5}}}),
            "only images with one label each are mixed; leave it out",
        ),
        (
            job_of(finetune={"sources": [IMAGES | {"share": 0}]}),
            "share",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_the_fix(content, words):
    with pytest.raises(SpecError) as caught:
        check_job(load(content))
    assert words in " ".join(str(caught.value).split())


def test_the_plan_counts_both_models_on_the_meta_device(capsys):
    load(job_of())
    assert cli.main(["plan", "job.yaml"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "cannot be planned" not in out
    assert out.count("an image, forward and backward; counted on the meta device") == 2
    assert out.count("activations") == 2
