"""`raymodel export`: what leaves the house is the model, and bad input gets one clear error."""

import errno
import importlib.util
import json
from pathlib import Path

import gguf
import onnxruntime
import openvino
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from raymodel import cli
from raymodel.model.gguf import GGUF_TYPES
from raymodel.serve import export, trial
from raymodel.serve.export import FORMATS
from raymodel.storage.artifact import open_artifact
from raymodel.storage.manifest import commit_manifest
from raymodel.storage.registry import Run
from raymodel.storage.uri import Location

FINGERPRINT = "0123456789abcdef"


@pytest.fixture
def folder(llama, tokenizer, tmp_path):
    llama.save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def run(llama, tokenizer, tmp_path):
    """A run whose promoted model is the tiny one; gives the storage."""
    found = Run(Location.parse(str(tmp_path / "runs" / "chat")))
    execution = found.execution("pretrain", FINGERPRINT)
    llama.save_pretrained(execution.local_path / "model")
    tokenizer.save_pretrained(execution.local_path / "model")
    commit_manifest(
        execution,
        job_name="chat",
        stage="pretrain",
        fingerprint=FINGERPRINT,
        parents={},
        content={"task": "causal_lm"},
    )
    found.set_latest("pretrain", FINGERPRINT)
    found.set_best(open_artifact(execution))
    return tmp_path / "runs"


def run_export(*arguments):
    return cli.main(["export", *map(str, arguments)])


def test_the_command_offers_what_is_written(capsys):
    with pytest.raises(SystemExit):
        run_export("--help")
    told = " ".join(capsys.readouterr().out.split())
    assert f"--to {{{','.join(FORMATS)}}}" in told
    assert f"--type {{{','.join(GGUF_TYPES)}}}" in told


@pytest.mark.parametrize("reference", ["chat", "chat/best", "chat/pretrain", "runs/chat"])
def test_the_best_model_of_a_run_becomes_one_file(reference, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_export(reference, "--to", "gguf", "--storage", run) == 0
    reader = gguf.GGUFReader(tmp_path / "chat.gguf")
    assert reader.fields["general.name"].contents() == "chat"
    assert "blk.1.ffn_up.weight" in [tensor.name for tensor in reader.tensors]
    assert "wrote chat.gguf, 0." in capsys.readouterr().out


def test_types_make_the_file_smaller(folder, tmp_path):
    sizes = {}
    for kind in ("f32", "f16", "q8_0"):
        assert run_export(folder, "--to", "gguf", "--type", kind, "--out", tmp_path / kind) == 0
        reader = gguf.GGUFReader(tmp_path / kind)
        sizes[kind] = sum(int(tensor.n_bytes) for tensor in reader.tensors)
    assert sizes["f32"] > 1.9 * sizes["f16"] > 1.7 * 1.8 * sizes["q8_0"]


def test_a_folder_loads_in_transformers_with_the_same_weights(run, llama, tmp_path):
    out = tmp_path / "out"
    assert run_export("chat", "--to", "folder", "--out", out, "--storage", run) == 0
    loaded = AutoModelForCausalLM.from_pretrained(out).state_dict()
    assert all(loaded[name].equal(weight) for name, weight in llama.state_dict().items())
    assert AutoTokenizer.from_pretrained(out).eos_token_id == 0


def refuse(capsys, *arguments, code=2):
    assert run_export(*arguments) == code
    told = capsys.readouterr().err
    assert "Traceback" not in told
    return " ".join(told.split())


def test_bad_requests_get_one_clear_error(folder, tmp_path, capsys):
    out = tmp_path / "there.gguf"
    out.write_text("mine")
    told = refuse(capsys, folder, "--to", "gguf", "--out", out)
    assert "there.gguf exists already and is left as it is; give another: --out" in told
    assert out.read_text() == "mine"
    told = refuse(capsys, folder, "--to", "folder", "--type", "q8_0", "--out", tmp_path / "new")
    assert "--type q8_0 is of gguf; a folder keeps the model's own" in told
    told = refuse(capsys, folder, "--to", "gguf", "--out", tmp_path / "no" / "m.gguf")
    assert "is no folder; make it" in told
    told = refuse(capsys, tmp_path / "nothing", "--to", "gguf")
    assert "is no model" in told


def test_a_model_without_a_part_is_not_exported(folder, tmp_path, capsys):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    for to in FORMATS:
        told = refuse(capsys, folder, "--to", to, "--out", tmp_path / "new")
        assert "lacks 9 weights of a LlamaForCausalLM" in told
    assert not (tmp_path / "new").exists()


def test_a_folder_without_tokenizer_is_refused_as_gguf(folder, tmp_path, capsys):
    for file in folder.glob("token*"):
        file.unlink()
    told = refuse(capsys, folder, "--to", "gguf", "--out", tmp_path / "m.gguf")
    assert "holds no tokenizer that can be loaded" in told


def test_a_classifier_is_refused_as_gguf_and_exported_as_a_folder(
    bert, tokenizer, tmp_path, capsys
):
    bert.save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    told = refuse(capsys, tmp_path / "bert", "--to", "gguf", "--out", tmp_path / "m.gguf")
    assert "a BertForSequenceClassification is not of a family that is written" in told
    assert run_export(tmp_path / "bert", "--to", "folder", "--out", tmp_path / "copy") == 0


def test_a_copy_that_finds_the_disk_full_leaves_nothing(folder, tmp_path, capsys, monkeypatch):
    def full(source, target: Path):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(export, "copy_to_disk", full)
    told = refuse(capsys, folder, "--to", "folder", "--out", tmp_path / "copy", code=1)
    assert "copy cannot be written: No space left on device; free some space" in told
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


GRAPHS = {"onnx": "model.onnx", "openvino": "openvino_model.xml"}


def run_graph(to, folder, inputs):
    """What the format's own runtime computes, without raymodel."""
    if to == "onnx":
        session = onnxruntime.InferenceSession(folder / GRAPHS[to])
        return session.run(["logits"], dict(inputs))[0]
    exactly = {"INFERENCE_PRECISION_HINT": "f32"}  # by default bf16, where a CPU has it
    compiled = openvino.Core().compile_model(folder / GRAPHS[to], "CPU", exactly)
    return compiled(dict(inputs))["logits"]


@pytest.mark.parametrize("to", GRAPHS)
def test_a_classifier_becomes_a_graph_that_computes_the_same(to, bert, tokenizer, tmp_path, capsys):
    bert.save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    out = tmp_path / "out"
    assert run_export(tmp_path / "bert", "--to", to, "--out", out) == 0
    assert "wrote" in capsys.readouterr().out
    texts = ["the cat", "a dog and the cat and a dog", "cat"]
    reader = AutoTokenizer.from_pretrained(out)
    reader.pad_token = reader.pad_token or reader.eos_token
    batch = reader(texts, padding=True, return_tensors="np", return_token_type_ids=False)
    with torch.no_grad():
        right = bert.eval()(**{name: torch.from_numpy(each) for name, each in batch.items()})
    assert run_graph(to, out, batch) == pytest.approx(right.logits.numpy(), abs=1e-4)


@pytest.mark.parametrize("to", GRAPHS)
def test_a_model_that_writes_is_no_graph(to, folder, tmp_path, capsys):
    told = refuse(capsys, folder, "--to", to, "--out", tmp_path / "out")
    assert "writes token by token" in told
    assert "--to gguf" in told
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


@pytest.mark.parametrize("to", GRAPHS)
def test_a_graph_that_computes_something_else_is_not_written(
    to, bert, tokenizer, tmp_path, capsys, monkeypatch
):
    bert.save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    monkeypatch.setattr(trial, "_MOST_ERROR", {"float32": -1.0})
    told = refuse(capsys, tmp_path / "bert", "--to", to, "--out", tmp_path / "out")
    assert "does not compute what it computes in torch" in told
    assert [path.name for path in tmp_path.iterdir()] == ["bert"]


def test_a_graph_without_its_library_says_how_to_get_it(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    told = refuse(capsys, folder, "--to", "onnx", "--out", tmp_path / "out")
    assert "needs onnx, onnxscript, onnxruntime" in told
    assert "pip install 'raymodel[onnx]'" in told
