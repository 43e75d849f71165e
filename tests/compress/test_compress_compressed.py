"""Models that write, in the forms that GPUs compute with: the folder, and who reads it."""

import json
import shutil

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from raymodel import cli
from raymodel.compress.make import make_model
from raymodel.compress.spec import CompressSpec
from raymodel.errors import ArtifactError, SpecError
from raymodel.model.compressed_form import FP8, Form, find_form, form_config
from raymodel.model.compressed_linear import CompressedLinear, multiply_out
from raymodel.model.compressed_numbers import multiplied_out, rounded, to_numbers
from raymodel.model.export import save_model
from raymodel.model.load import check_folder, load_for_use, load_model, open_model
from raymodel.observe.slow_paths import forget_slow_paths, slow_paths
from raymodel.serve.load import load_service
from raymodel.serve.spec import ServeSpec
from raymodel.storage.uri import Location
from raymodel.tasks import get_task
from raymodel.tasks.spec import task_spec
from raymodel.testing.tiny import ModelWeights, build_tiny_llama

TASK = "causal_lm"
ALL = ("fp8", "int8", "int4")
IDS = torch.tensor([[5, 6, 7, 8, 9], [10, 11, 12, 13, 14]])


@pytest.fixture(scope="module")
def folders(llama, processor, tmp_path_factory):
    """The whole model, and what it becomes."""
    base = tmp_path_factory.mktemp("models")
    save_model(llama, ModelWeights(llama), processor, base / "whole", torch.float32, {})
    for bits in ALL:
        compress(bits, base / "whole", base / bits)
    return base


def compress(bits, whole, target, rows=None):
    spec = {"quantize": bits, "format": "compressed-tensors"}
    make_model(
        CompressSpec.model_validate(spec),
        [Location.parse(str(whole))],
        None,
        task_spec({"name": TASK}),
        Location.parse(str(target)),
        {"name": "small"},
        rows,
    )


class Rows:
    """In the place of a `Calibration`: rows that meet few of the tokens."""

    def rows(self):
        draw = torch.Generator().manual_seed(0)
        for _ in range(4):
            ids = torch.randint(2, 20, (12,), generator=draw).tolist()
            yield {"input_ids": [np.array(ids)], "prompt_length": np.array([1])}


@torch.no_grad()
def logits_of(model):
    return model(IDS).logits


def off(one, other):
    return float((one - other).norm() / one.norm())


@pytest.mark.parametrize(("bits", "allowed"), [("fp8", 0.12), ("int8", 0.05), ("int4", 0.3)])
def test_transformers_reads_the_same_weights_and_answers_nearly_as_the_whole_model(
    bits, allowed, folders, llama
):
    theirs = AutoModelForCausalLM.from_pretrained(folders / bits, dtype=torch.float32).eval()
    mine, _ = load_for_use(folders / bits, TASK)
    one, other = logits_of(mine), logits_of(theirs)  # which multiplies them out at the first pass
    assert 0 < off(logits_of(llama), one) < allowed
    # Of int8 that package has inputs on a grid of half a number more to each side than vLLM.
    assert off(one, other) < (0.05 if bits == "int8" else 1e-6)
    layers = {n: m for n, m in mine.named_modules() if isinstance(m, CompressedLinear)}
    assert len(layers) == 2 * 7
    for name, layer in layers.items():
        assert torch.equal(layer.fractions(), theirs.get_submodule(name).weight), name


# ---- numbers -------------------------------------------------------------------------------------


def test_four_bits_are_packed_as_the_package_that_defines_the_form_packs_them():
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32

    weight = torch.randn(6, 64, generator=torch.Generator().manual_seed(1))
    form = Form("int4", 32)
    made = to_numbers(weight, form, torch.bfloat16)
    numbers = unpack_from_int32(made["weight_packed"], 4, weight.shape).float()
    assert sorted(set(numbers.flatten().tolist())) == list(range(-8, 8))
    steps = made["weight_scale"].float().repeat_interleave(32, 1)
    assert torch.equal(numbers * steps, multiplied_out(made, form))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", [FP8, Form("int8"), Form("int4", 32)])
def test_a_matrix_comes_back_near_and_zeros_stay_zeros(form, dtype):
    weight = 0.03 * torch.randn(16, 64, generator=torch.Generator().manual_seed(2))
    weight[3] = 0
    made = to_numbers(weight, form, dtype)
    assert made["weight_scale"].dtype == dtype
    back = multiplied_out(made, form)
    assert torch.isfinite(back).all()
    assert (back[3] == 0).all()
    assert off(weight, back) < {"fp8": 0.03, "int8": 0.01, "int4": 0.12}[form.bits]


def test_the_scale_of_a_group_is_that_with_which_the_outputs_change_least():
    draw = torch.Generator().manual_seed(3)
    weight = torch.randn(64, 128, generator=draw)
    inputs = torch.randn(500, 128, generator=draw) * torch.rand(128, generator=draw).pow(3) * 4
    form = Form("int4", 64)

    def error(made):
        return float((inputs @ (made - weight).T).square().mean())

    largest = weight.view(64, 2, 64).abs().amax(2, keepdim=True) / 7.5
    plain = ((weight.view(64, 2, 64) / largest).round().clamp(-8, 7) * largest).view(64, 128)
    alike = multiplied_out(to_numbers(weight, form, torch.float32), form)
    seen = to_numbers(weight, form, torch.float32, inputs.square().mean(0))
    assert error(multiplied_out(seen, form)) < 0.9 * error(alike) < error(plain)


@pytest.mark.parametrize("bits", ["fp8", "int8"])
def test_what_goes_in_is_rounded_token_by_token(bits):
    values = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(4))
    made = rounded(values, bits)
    assert 0 < off(values, made) < 0.04
    alone = rounded(values[1:, 2:] * 100, bits)  # whatever else is there
    assert torch.allclose(alone, made[1:, 2:] * 100, rtol=1e-5)
    assert (rounded(torch.zeros(1, 4), bits) == 0).all()


# ---- the folder ----------------------------------------------------------------------------------


def size_of(folder):
    return (folder / "model.safetensors").stat().st_size


def test_the_folder_is_smaller_and_keeps_what_is_in_no_layer(folders, llama):
    layers = sum(
        m.weight.numel() for n, m in llama.named_modules() if isinstance(m, nn.Linear) and "." in n
    )
    for bits, taken in (("fp8", 1), ("int8", 1), ("int4", 0.5)):
        saved = size_of(folders / "whole") - size_of(folders / bits)
        assert saved > 0.8 * layers * (4 - taken), bits
        config = json.loads((folders / bits / "config.json").read_text())
        assert config["quantization_config"]["ignore"] == ["lm_head"]
        loaded = load_model(folders / bits, get_task(TASK)()).state_dict()
        for name, weight in llama.state_dict().items():
            if "_proj" not in name:
                assert torch.equal(loaded[name], weight), name


def test_numbers_stay_what_they_are_when_the_format_of_a_model_changes(folders):
    for bits in ALL:
        model = load_model(folders / bits, get_task(TASK)())
        before = {n: t.clone() for n, t in model.named_buffers() if "_proj" in n}
        model.to("cpu", torch.bfloat16)
        for name, tensor in model.named_buffers():
            if "_proj" in name:
                assert tensor.dtype == before[name].dtype
                assert (
                    tensor.view(-1).view(torch.uint8).equal(before[name].view(-1).view(torch.uint8))
                )
        assert logits_of(model).dtype == torch.bfloat16


def test_what_was_multiplied_out_serves_every_format_and_whoever_asks(folders):
    model = load_model(folders / "int8", get_task(TASK)())
    layer, values = model.model.layers[0].mlp.up_proj, torch.randn(3, 32)
    with torch.inference_mode():
        first = layer(values)
    assert torch.equal(layer(values.requires_grad_()), first)
    assert layer(values.bfloat16()).dtype == torch.bfloat16
    model.to(torch.bfloat16).float()
    assert torch.equal(layer(values), first), "the scales are as they were"


def test_the_rows_of_training_decide_the_scales_of_four_bits(folders, tmp_path):
    compress("int4", folders / "whole", tmp_path / "seen", Rows())
    assert size_of(tmp_path / "seen") == size_of(folders / "int4")
    one, other = (f / "model.safetensors" for f in (tmp_path / "seen", folders / "int4"))
    assert one.read_bytes() != other.read_bytes()


def test_a_row_that_is_no_whole_groups_is_refused_with_what_is_left(processor, tmp_path):
    model = build_tiny_llama(hidden_size=48, num_attention_heads=3, num_key_value_heads=3)
    save_model(model, ModelWeights(model), processor, tmp_path / "odd", torch.float32, {})
    with pytest.raises(SpecError, match=r"has rows of 48, which are no whole groups.*fp8 or int8"):
        compress("int4", tmp_path / "odd", tmp_path / "made")
    compress("fp8", tmp_path / "odd", tmp_path / "made")


def test_experts_in_one_tensor_are_refused(processor, tmp_path):
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 2}
    model = MixtralForCausalLM(MixtralConfig(vocab_size=300, **sizes, **heads))
    save_model(model, ModelWeights(model), processor, tmp_path / "moe", torch.float32, {})
    with pytest.raises(SpecError, match="holds several layers in one, such as experts"):
        compress("fp8", tmp_path / "moe", tmp_path / "made")
    # Where another writer has made some, transformers knows where their scales go.
    file = tmp_path / "moe" / "config.json"
    said = {"quantization_config": form_config(FP8, ["lm_head"])}
    file.write_text(json.dumps(json.loads(file.read_text()) | said))
    assert check_folder(Location.parse(str(tmp_path / "moe")), get_task(TASK)()) is None


# ---- who takes it --------------------------------------------------------------------------------


def test_what_is_served_is_multiplied_out_once_and_said(folders, llama):
    forget_slow_paths()
    model = load_model(folders / "fp8", get_task(TASK)())
    weight = model.model.layers[1].mlp.up_proj.fractions()
    multiply_out(model)
    assert not any(isinstance(module, CompressedLinear) for module in model.modules())
    assert torch.equal(model.model.layers[1].mlp.up_proj.weight, weight)
    assert off(logits_of(llama), logits_of(model)) < 0.1
    (told,) = slow_paths()
    assert "vLLM, which computes with fp8 on GPUs" in told.why
    multiply_out(llama)  # a model like others
    assert slow_paths() == [told]


@pytest.mark.parametrize("bits", ["fp8", "int4"])
def test_the_fastest_engine_answers_with_the_numbers_of_the_folder(bits, folders):
    service = load_service(folders / bits, TASK, name="small", spec=ServeSpec())
    try:
        assert service.engine.runner.facts()["engine"] == "openvino"
    finally:
        service.close()


def test_it_is_not_trained_compressed_again_nor_exported_in_another_form(folders, tmp_path, capsys):
    small = Location.parse(str(folders / "fp8"))
    with pytest.raises(ArtifactError, match="holds quantised weights"):
        open_model(small, get_task(TASK)())
    with pytest.raises(ArtifactError, match="holds quantised weights"):
        compress("int8", folders / "fp8", tmp_path / "again")
    out = ["--out", str(tmp_path / "m.gguf")]
    assert cli.main(["export", str(folders / "fp8"), "--to", "gguf", *out]) == 2
    assert "holds quantised weights" in " ".join(capsys.readouterr().err.split())
    out = ["--out", str(tmp_path / "copy")]
    assert cli.main(["export", str(folders / "fp8"), "--to", "folder", *out]) == 0
    assert load_model(tmp_path / "copy", get_task(TASK)()) is not None


def test_a_folder_without_its_scales_is_refused(folders, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(folders / "int4", tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    kept = {name: t for name, t in load_file(file).items() if not name.endswith("weight_scale")}
    save_file(kept, file, {"format": "pt"})
    with pytest.raises(ArtifactError, match="lacks 14 weights"):
        check_folder(Location.parse(str(tmp_path / "m")), get_task(TASK)())


def test_a_form_that_a_missing_package_reads_is_refused_in_one_line(folders, tmp_path):
    shutil.copytree(folders / "whole", tmp_path / "m")
    file = tmp_path / "m" / "config.json"
    config = json.loads(file.read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    file.write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match="with a package which is not installed here"):
        load_model(tmp_path / "m", get_task(TASK)())


@pytest.mark.parametrize(
    ("form", "scheme"),
    [(FP8, "FP8_DYNAMIC"), (Form("int8"), "INT8"), (Form("int4", 128), "W4A16")],
)
def test_a_form_is_the_scheme_that_the_package_has_under_that_name(form, scheme):
    from compressed_tensors.quantization import QuantizationConfig, preset_name_to_scheme

    config = form_config(form, ["lm_head"])
    read = QuantizationConfig.model_validate(config)
    wanted = preset_name_to_scheme(scheme, ["Linear"])
    assert read.config_groups["group_0"].model_dump() == wanted.model_dump()
    assert find_form(json.loads(read.model_dump_json())) == form


def test_the_forms_of_other_writers_are_known_where_they_are_these():
    def said(form, **more):
        config = form_config(form, ["lm_head"])
        config["config_groups"]["group_0"]["weights"] |= {"observer": "minmax", "actorder": None}
        return config | {"kv_cache_scheme": None, "global_compression_ratio": None} | more

    for form in (FP8, Form("int8"), Form("int4", 64)):
        assert find_form(said(form)) == form
        assert find_form(said(form, kv_cache_scheme={"num_bits": 8})) is None
        assert find_form(said(form, ignore=["re:.*lm_head"])) is None
        assert find_form(said(form, format="naive-quantized")) is None
    other = said(Form("int4", 64))
    other["config_groups"]["group_0"]["weights"]["actorder"] = "group"
    assert find_form(other) is None
    for no_form in (None, {}, {"quant_method": "gptq"}, said(FP8, config_groups={})):
        assert find_form(no_form) is None
