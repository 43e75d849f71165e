"""Compressing on a real Ray: made, measured on the rows of before, timed, and judged by gates."""

import pyarrow as pa
import pytest
import torch
from local_ray import Silent, local_ray

from raymodel.cluster.spec import ClusterSpec
from raymodel.compress.origin import (
    Rows,
    models_by_role,
    other_examples,
    resolve_models,
    rows_of,
)
from raymodel.compress.spec import CompressSpec
from raymodel.errors import ArtifactError
from raymodel.evaluate.cost import Costs
from raymodel.evaluate.spec import EvaluateSpec
from raymodel.modality.text import TextProcessor
from raymodel.model.export import save_model
from raymodel.model.load import load_for_use
from raymodel.storage.artifact import open_artifact
from raymodel.storage.execution import Execution
from raymodel.storage.manifest import commit_manifest
from raymodel.storage.registry import Run
from raymodel.storage.uri import Location
from raymodel.tasks import get_task
from raymodel.testing.held_out import save_held_out
from raymodel.testing.tiny import ModelWeights, build_tiny_llama, train_tiny_tokenizer

WORDS = ["add the numbers", "give the text back", "stop"]
MEASURES = EvaluateSpec(metrics=["perplexity"], gates={"perplexity": "< 1000"})


@pytest.fixture(scope="module")
def cluster():
    with local_ray(2) as ray:
        yield ray


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    """Two runs, `one` and `two`, whose models were tuned on the same examples."""
    storage = Location.parse(str(tmp_path_factory.mktemp("runs")))
    tokenizer = train_tiny_tokenizer([" ".join(WORDS)])
    processor, task = TextProcessor(tokenizer), get_task("causal_lm")()
    ids = [[*tokenizer(text)["input_ids"], 0] for text in WORDS]
    rows = [{"input_ids": each, "prompt_length": 1} for each in ids]
    table = pa.Table.from_pylist(rows, schema=task.schema())
    examples = save_held_out(
        Run(storage / "one").execution("examples", "e" * 16),
        table,
        "e" * 16,
        "examples",
        splits=("train", "holdout"),
    )
    processor.save(examples.location / "data/processor")
    for seed, name in enumerate(("one", "two")):
        commit(storage / name, build_tiny_llama(seed=seed), processor, f"{seed}" * 16)
    return storage


def commit(run, model, processor, fingerprint):
    folder = Run(run).execution("finetune", fingerprint)
    target = folder.local_path / "model"
    save_model(model, ModelWeights(model), processor, target, torch.float32, {})
    commit_manifest(
        folder,
        job_name=run.name,
        stage="finetune",
        fingerprint=fingerprint,
        parents={"examples": "e" * 16},
        content={"task": "causal_lm", "task_spec": {"name": "causal_lm"}},
    )
    Run(run).set_latest("finetune", fingerprint)


def compress(spec, storage, folder, measures=MEASURES, story=None):
    from raymodel.compress.run import run_compress

    spec = CompressSpec.model_validate(spec)
    models = resolve_models(spec.named, storage, folder)
    rows = rows_of(models[0])
    execution = Execution(
        job_name="made",
        stage="compress",
        fingerprint="f" * 16,
        location=Location.parse(str(folder)),
        seed=0,
        cluster=ClusterSpec(),
        inputs={**models_by_role(models), "examples": rows.examples},
    )
    return run_compress(spec, measures, execution, story or Silent(), rows.data)


def test_a_merged_model_stands_beside_each_that_it_was_made_of(cluster, storage, tmp_path):
    story = Silent()
    spec = {"merge": {"models": ["one/finetune", "two/finetune"]}}
    content = compress(spec, storage, tmp_path, story=story)
    assert content["passed"]
    assert content["promoted"] == "compress/" + "f" * 16
    one, two = (
        content["parts"][f"{n}/finetune {str(i) * 16}"] for i, n in enumerate(("one", "two"))
    )
    assert content["base_metrics"] == one
    assert len({each["perplexity"] for each in (one, two, content["metrics"])}) == 3
    costs = Costs.of(content["costs"])
    assert costs.before.size_bytes == pytest.approx(costs.after.size_bytes, rel=0.01)
    assert costs.after.latency_ms > 0
    assert set(costs.after.rows_per_s) == {"16", "32"}
    assert all(low <= high for low, high in costs.faster.values())
    assert "thread" in costs.machine
    report = (tmp_path / "report/report.md").read_text()
    assert "| two/finetune 1111111111111111 |" in report
    assert "| size | " in report
    card = (tmp_path / "model/README.md").read_text()
    assert "Quality, before → after, of 3 held-out rows" in card
    assert "| Perplexity | " in card
    assert "| Latency of one row | " in card
    assert "size " in story.lines[-1]

    # A second attempt makes, measures and times nothing again.
    (tmp_path / "model/model.safetensors").unlink()
    assert compress(spec, storage, tmp_path) == content


def test_a_model_of_fewer_layers_is_smaller_and_is_used_by_the_one_loader(
    cluster, storage, tmp_path
):
    measures = EvaluateSpec(metrics=["perplexity"], gates={"perplexity": "< 1"})
    content = compress({"model": "one/finetune", "prune": {"keep": 1}}, storage, tmp_path, measures)
    costs = Costs.of(content["costs"])
    assert costs.after.size_bytes < 0.8 * costs.before.size_bytes
    assert not content["passed"]
    assert content["promoted"] is None
    model, task = load_for_use(tmp_path / "model", content["task"])
    assert (model.config.num_hidden_layers, task.name) == (1, "causal_lm")


def test_numbers_of_four_bits_are_measured_timed_and_judged_as_the_engine_has_them(
    cluster, storage, tmp_path
):
    spec = {"model": "one/finetune", "quantize": "int4", "calibration_rows": 2}
    content = compress(spec, storage, tmp_path)
    assert content["method"] == "weights in int4"
    assert content["passed"]
    costs = Costs.of(content["costs"])
    assert costs.what == "an answer of 32 tokens by OpenVINO (weights in f16 and q4_1)"
    assert costs.after.size_bytes == (tmp_path / "model/model.gguf").stat().st_size
    before, after = content["base_metrics"]["perplexity"], content["metrics"]["perplexity"]
    assert before != after
    assert after == pytest.approx(before, rel=0.2)
    card = (tmp_path / "model/README.md").read_text()
    assert "| Perplexity | " in card
    assert "an answer of 32 tokens by OpenVINO" in card


def test_numbers_that_gpus_compute_with_are_measured_as_a_gpu_rounds_and_say_so_on_the_card(
    cluster, storage, tmp_path
):
    measures = EvaluateSpec(metrics=["perplexity"], gates={"perplexity": "< 1"})
    content = compress({"model": "one/finetune", "quantize": "fp8"}, storage, tmp_path, measures)
    assert not content["passed"]
    costs = Costs.of(content["costs"])
    assert costs.what.startswith("a forward pass with the weights multiplied out, which a GPU")
    assert costs.after.size_bytes < 0.7 * costs.before.size_bytes
    before, after = content["base_metrics"]["perplexity"], content["metrics"]["perplexity"]
    assert before != after
    assert after == pytest.approx(before, rel=0.05)
    card = (tmp_path / "model/README.md").read_text()
    assert "- Method: weights and inputs in fp8" in card
    assert "- Scales: one for each output" in card


def test_the_rows_of_another_run_are_those_that_its_model_was_tuned_on(storage, tmp_path):
    (two,) = resolve_models(["two/finetune"], storage, tmp_path)
    assert rows_of(two) == Rows(open_artifact(storage / "one/examples" / ("e" * 16)), ())


def test_a_model_that_may_have_seen_the_measured_rows_is_told_of(storage, tmp_path):
    other = Run(storage / "three").execution("finetune", "3" * 16)
    commit_manifest(
        other,
        job_name="three",
        stage="finetune",
        fingerprint="3" * 16,
        parents={"examples": "f" * 16},
        content={},
    )
    one, two = resolve_models(["one/finetune", "two/finetune"], storage, tmp_path)
    assert other_examples([one, two]) == []
    (note,) = other_examples([one, two, open_artifact(other)])
    assert note.startswith("three/finetune was tuned on other examples than the first model")


def test_a_model_is_merged_once_and_is_one_of_a_run(storage, tmp_path):
    with pytest.raises(ArtifactError, match="which is named before; name each model once"):
        resolve_models(["one/finetune", "one/finetune"], storage, tmp_path)
    folder = tmp_path / "plain"
    build_tiny_llama().save_pretrained(folder)
    with pytest.raises(ArtifactError, match="no run here has made"):
        resolve_models([str(folder)], storage, tmp_path)
