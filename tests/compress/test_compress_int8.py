"""A model of 8 bits: near the whole one, a quarter of its layers' bytes, read by the one loader."""

import pickle

import pytest
import torch

from raymodel.compress.make import make_model
from raymodel.compress.rules import why_not_quantised
from raymodel.compress.spec import CompressSpec
from raymodel.errors import ArtifactError
from raymodel.modality.text import TextProcessor
from raymodel.model.compressed_form import INT8
from raymodel.model.compressed_numbers import to_numbers
from raymodel.model.export import save_model
from raymodel.model.int8 import Int8Linear
from raymodel.model.load import load_for_use, load_model, open_model
from raymodel.serve.load import load_service
from raymodel.serve.spec import ServeSpec
from raymodel.storage.uri import Location
from raymodel.tasks import get_task
from raymodel.tasks.spec import task_spec
from raymodel.testing.tiny import (
    ModelWeights,
    build_tiny_bert,
    train_tiny_tokenizer,
)

SPEC = CompressSpec.model_validate({"quantize": "int8"})
IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])


@pytest.fixture(scope="module")
def processor():
    return TextProcessor(train_tiny_tokenizer(["some text to learn merges from"]))


def make(model, processor, tmp_path, task, dtype=torch.float32):
    whole = tmp_path / "whole"
    save_model(model, ModelWeights(model), processor, whole, dtype, {})
    target = Location.parse(str(tmp_path / "int8"))
    make_model(SPEC, [Location.parse(str(whole))], None, task_spec({"name": task}), target, {})
    return target.local_path


def test_it_answers_nearly_as_the_whole_model_does(tmp_path, processor):
    whole, task = build_tiny_bert().eval(), "text_classification"
    for parameter in whole.parameters():  # far from what is drawn, where all answers are alike
        parameter.data *= 5
    folder = make(whole, processor, tmp_path, task)
    loaded, read_by = load_for_use(folder, task)
    assert read_by.name == task
    layers = [module for module in loaded.modules() if isinstance(module, Int8Linear)]
    assert len(layers) == 2 * 6
    with torch.no_grad():
        one, other = whole(IDS).logits, loaded(IDS).logits
    assert other.dtype == torch.float32
    assert float((one - other).norm() / one.norm()) < 0.05
    assert not torch.equal(one, other), "is it computed in 8 bits?"


def test_the_bytes_of_the_layers_are_a_quarter_and_nothing_else_changes(tmp_path, processor):
    whole = build_tiny_bert()
    folder = make(whole, processor, tmp_path, "text_classification")
    loaded = load_model(folder, get_task("text_classification")()).state_dict()
    for name, old in whole.state_dict().items():
        is_layer = ".layer." in name and name.endswith("weight") and old.dim() == 2
        if is_layer:
            assert loaded[name].dtype == torch.int8
            scale = loaded[name.replace("weight", "weight_scale")]
            assert (loaded[name] * scale - old).abs().max() <= scale.max() / 2 + 1e-9
        else:
            assert torch.equal(loaded[name], old), name


@pytest.mark.parametrize("bits", [7, 8])
def test_a_layer_computes_with_whole_numbers_and_rounds_nothing_else(bits, monkeypatch):
    monkeypatch.setattr("raymodel.model.int8.input_bits", lambda: bits)
    torch.manual_seed(0)
    whole, values = torch.nn.Linear(24, 8), torch.randn(3, 5, 24)
    layer = Int8Linear(24, 8, bias=True, device=torch.device("cpu"))
    made = to_numbers(whole.weight.data, INT8, torch.float32)
    layer.weight, layer.weight_scale = made["weight"], made["weight_scale"]
    layer.bias.data = whole.bias.data
    # What goes in, in even steps from its least to its largest, of which one is zero.
    least, most = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    step = (most - least) / (2**bits - 1)
    zero = round(-least / step)
    rounded = ((values / step).round() + zero).clamp(0, 2**bits - 1) - zero
    exact = (rounded * step) @ (layer.weight * layer.weight_scale).T + whole.bias
    assert torch.allclose(layer(values), exact, atol=1e-5)
    assert (layer(values) - whole(values)).abs().max() < 0.1


def test_a_row_of_zeros_stays_one_and_the_ends_of_the_range_are_used():
    weight = torch.tensor([[0.0, 0.0], [-1.27, 0.635]])
    numbers, scale = to_numbers(weight, INT8, torch.float32).values()
    assert numbers.tolist() == [[0, 0], [-127, 64]] or numbers.tolist() == [[0, 0], [-127, 63]]
    assert scale.shape == (2, 1)
    assert torch.isfinite(numbers * scale).all()


def test_bf16_stays_the_format_of_the_rest_and_of_what_is_computed(tmp_path, processor):
    whole = build_tiny_bert().bfloat16()
    folder = make(whole, processor, tmp_path, "text_classification", torch.bfloat16)
    loaded = load_model(folder, get_task("text_classification")())
    assert loaded.dtype == torch.bfloat16
    assert loaded(IDS).logits.dtype == torch.bfloat16


def test_the_scales_stay_exact_when_a_model_is_served_in_bf16(tmp_path, processor):
    folder = make(build_tiny_bert(), processor, tmp_path, "text_classification")
    model = load_model(folder, get_task("text_classification")())
    name = "bert.encoder.layer.0.output.dense.weight_scale"
    scale = model.state_dict()[name].clone()
    model(IDS)  # packs them
    model.to("cpu", torch.bfloat16)
    assert torch.equal(model.state_dict()[name], scale)
    assert model(IDS).logits.dtype == torch.bfloat16


def test_it_is_served_by_what_serves_every_model(tmp_path, processor):
    folder = make(build_tiny_bert(), processor, tmp_path, "text_classification")
    service = load_service(folder, "text_classification", name="small", spec=ServeSpec())
    service.close()


def test_what_nothing_reads_in_eight_bits_is_refused_with_what_is_left():
    assert why_not_quantised(get_task("causal_lm"), "int8") is None
    assert "writes token by token" in why_not_quantised(get_task("seq2seq_lm"), "int8")
    for bits in ("int4", "fp8"):
        assert "set it to int8" in why_not_quantised(get_task("text_classification"), bits)
    why = why_not_quantised(get_task("text_classification"), "int8", "gguf")
    assert "leave `format` out" in why


def test_no_file_holds_a_pickle(tmp_path, processor):
    folder = make(build_tiny_bert(), processor, tmp_path, "text_classification")
    for file in folder.iterdir():
        with pytest.raises(Exception):  # noqa: B017, PT011 (whatever pickle says of no pickle)
            pickle.loads(file.read_bytes())
    assert sorted(file.suffix for file in folder.iterdir() if file.suffix in (".bin", ".pt")) == []


def test_it_is_not_trained_nor_compressed_again(tmp_path, processor):
    folder = Location.parse(
        str(make(build_tiny_bert(), processor, tmp_path, "text_classification"))
    )
    with pytest.raises(ArtifactError, match="holds quantised weights"):
        open_model(folder, get_task("text_classification")())
    with pytest.raises(ArtifactError, match="holds quantised weights"):
        make_model(SPEC, [folder], None, task_spec({"name": "text_classification"}), folder, {})


def test_a_folder_without_its_scales_is_refused(tmp_path, processor):
    from safetensors.torch import load_file, save_file

    folder = make(build_tiny_bert(), processor, tmp_path, "text_classification")
    file = folder / "model.safetensors"
    kept = {name: t for name, t in load_file(file).items() if not name.endswith("weight_scale")}
    save_file(kept, file, {"format": "pt"})
    with pytest.raises(ArtifactError, match="lacks 12 weights"):
        load_model(folder, get_task("text_classification")())
