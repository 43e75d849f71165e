"""Evaluation on a real Ray: both models in workers of their own, resumed from work files."""

import json
import subprocess
import sys

import pyarrow as pa
import pytest
import torch
from local_ray import Silent, local_ray

from raymodel.cluster.spec import ClusterSpec
from raymodel.data.mixture import mixture_of
from raymodel.errors import ArtifactError
from raymodel.evaluate.cost import Costs
from raymodel.evaluate.spec import EvaluateSpec
from raymodel.modality.text import TextProcessor
from raymodel.model.export import save_model
from raymodel.storage.artifact import open_artifact
from raymodel.storage.execution import Execution
from raymodel.storage.manifest import commit_manifest
from raymodel.storage.uri import Location
from raymodel.tasks import get_task
from raymodel.testing.held_out import save_held_out
from raymodel.testing.tiny import ModelWeights, build_tiny_llama, train_tiny_tokenizer

SPEC = EvaluateSpec(
    metrics=["perplexity", "bits_per_byte", "bleu", "chrf"],
    generate_rows=4,
    max_new_tokens=8,
    gates={"perplexity": "< 5"},
)
EXAMPLES = [("one", "add the numbers"), ("two", "give the text back"), ("three", "stop")]


@pytest.fixture(scope="module")
def cluster():
    with local_ray(2) as ray:
        yield ray


def commit(folder, stage, fingerprint, content):
    commit_manifest(
        folder, job_name="t", stage=stage, fingerprint=fingerprint, parents={}, content=content
    )
    return open_artifact(folder)


def example_table(task, tokenizer):
    rows = []
    for code, text in EXAMPLES:
        prompt, answer = (tokenizer(part)["input_ids"] for part in (code, text))
        rows.append({"input_ids": [*prompt, *answer, 0], "prompt_length": len(prompt)})
    return pa.Table.from_pylist(rows, schema=task.schema())


def packed_table(tokenizer):
    tokens = (tokenizer(" ".join(text for _, text in EXAMPLES))["input_ids"] * 9)[:48]
    return pa.table(
        {
            "tokens": pa.FixedSizeListArray.from_arrays(pa.array(tokens, pa.int32()), 16),
            "document_starts": pa.array([[0]] * 3, pa.list_(pa.int32())),
            "length": pa.array([16, 16, 10], pa.int32()),
        }
    )


def learn(model, task, table):
    from raymodel.data.columns import columns_of

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    batch = task.collate(columns_of(table))
    for _ in range(60):
        optimizer.zero_grad()
        (task.loss(model, batch) / task.num_targets(batch)).backward()
        optimizer.step()


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = Location.parse(str(tmp_path_factory.mktemp("run")))
    tokenizer = train_tiny_tokenizer([" ".join(text for _, text in EXAMPLES)])
    processor = TextProcessor(tokenizer)
    task = get_task("causal_lm")(processor=processor)
    table = example_table(task, tokenizer)
    artifacts = {
        "examples": save_held_out(root / "examples", table, "e" * 16),
        "data": save_held_out(root / "data", packed_table(tokenizer), "d" * 16),
    }
    model = build_tiny_llama()
    for role, stage in (("base", "pretrain"), ("model", "finetune")):
        if role == "model":
            learn(model, task, table)
        folder = root / role
        weights = ModelWeights(model)
        save_model(model, weights, processor, folder.local_path / "model", torch.float32, {})
        artifacts[role] = commit(folder, stage, role.ljust(16, "0"), {})
    # A base is asked with what the rows were written with: its own may lack a chat template.
    processor.save(root / "examples/data/processor")
    (root / "base/model/tokenizer.json").local_path.unlink()
    return artifacts


def data_of(inputs):
    return mixture_of(inputs["data"])


def execution(inputs, folder):
    return Execution(
        job_name="t",
        stage="evaluate",
        fingerprint="f" * 16,
        location=Location.parse(str(folder)),
        seed=0,
        cluster=ClusterSpec(),
        inputs=inputs,
    )


def test_a_student_stands_beside_its_teacher_in_quality_size_and_time(cluster, inputs, tmp_path):
    """In the place of its base; by the rows' own tokenizer, which the folder of a teacher that was
    made elsewhere may lack parts of."""
    from raymodel.evaluate.run import run_evaluate

    beside = {role: inputs[role] for role in ("model", "base", "examples")}
    teacher = inputs["base"].location / "model"
    content = run_evaluate(SPEC, execution(beside, tmp_path), Silent(), (), teacher)
    assert content["compared_with"] == "teacher"
    assert content["base_metrics"]["perplexity"] > content["metrics"]["perplexity"]
    costs = Costs.of(content["costs"])
    assert costs.before.size_bytes == costs.after.size_bytes
    report = (tmp_path / "report/report.md").read_text()
    assert "| measure | teacher | model |" in report
    assert "| size | " in report
    assert "| latency of one row | " in report
    again = run_evaluate(SPEC, execution(beside, tmp_path), Silent(), (), teacher)
    assert again["costs"] == content["costs"], "nothing is timed again"


def test_the_tuned_model_passes_its_gate_and_the_base_stands_beside_it(cluster, inputs, tmp_path):
    from raymodel.evaluate.run import run_evaluate

    story = Silent()
    content = run_evaluate(SPEC, execution(inputs, tmp_path), story, data_of(inputs))
    tuned, base = content["metrics"], content["base_metrics"]
    assert tuned["perplexity"] < 2 < 100 < base["perplexity"]
    assert tuned["chrf"] > 90 > base["chrf"]
    assert set(tuned) == {*SPEC.metrics, "text_perplexity", "text_bits_per_byte"}
    assert content["passed"]
    assert content["promoted"] == "finetune/model" + "0" * 11
    assert content["rows"] == {"examples": 3, "data": 3}
    assert "add the numbers" in (tmp_path / "report/report.md").read_text()
    assert "perplexity" in story.lines[-1]

    # A second attempt takes what is there: the work file decides, no model is loaded again.
    work = Location.parse(str(tmp_path)) / "work/base.json"
    work.write_json(work.read_json() | {"metrics": {"perplexity": 123.0}})
    again = run_evaluate(SPEC, execution(inputs, tmp_path), story, data_of(inputs))
    assert again["base_metrics"] == {"perplexity": 123.0}
    assert again["metrics"] == tuned


def test_any_number_of_workers_finds_the_same(cluster, inputs, tmp_path, monkeypatch):
    from raymodel.evaluate.run import run_evaluate

    found = []
    for count in (1, 3):
        monkeypatch.setattr("raymodel.evaluate.run.num_parts", lambda *of, count=count: count)
        place = execution(inputs, tmp_path / str(count))
        found.append(run_evaluate(SPEC, place, Silent(), data_of(inputs)))
    assert found[1]["metrics"] == pytest.approx(found[0]["metrics"], rel=1e-6)
    reports = [(tmp_path / str(count) / "report/metrics.json").read_text() for count in (1, 3)]
    one, three = (json.loads(report)["samples"] for report in reports)
    assert one == three
    assert len(one) == 3


def test_a_gate_that_is_not_met_promotes_nothing(cluster, inputs, tmp_path):
    from raymodel.evaluate.run import run_evaluate

    spec = EvaluateSpec(metrics=["perplexity"], gates={"text_perplexity": "< 1"})
    content = run_evaluate(spec, execution(inputs, tmp_path), Silent(), data_of(inputs))
    assert not content["passed"]
    assert content["promoted"] is None


def test_a_broken_model_is_one_clear_error_and_not_rays(cluster, inputs, tmp_path):
    from raymodel.evaluate.run import run_evaluate

    folder = Location.parse(str(tmp_path / "broken"))
    source = inputs["model"].location / "model"
    for entry in source.walk():
        (folder / "model" / entry.name).upload(source.local_path / entry.name)
    weights = folder / "model/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    broken = commit(folder, "finetune", "b" * 16, {})
    with pytest.raises(ArtifactError, match="not a whole safetensors file") as caught:
        run_evaluate(
            SPEC, execution(inputs | {"model": broken}, tmp_path), Silent(), data_of(inputs)
        )
    assert "ray::" not in str(caught.value)


def test_the_driver_of_an_evaluation_loads_no_torch():
    code = "import sys, raymodel.evaluate.run; print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "False", result.stderr


def test_without_held_out_rows_the_fix_is_named(inputs, tmp_path):
    from raymodel.evaluate.run import run_evaluate

    only_model = {"model": inputs["model"]}
    with pytest.raises(ArtifactError, match="`holdout` above 0"):
        run_evaluate(SPEC, execution(only_model, tmp_path), Silent(), ())
