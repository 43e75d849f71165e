"""Models that write, in fewer bits: one GGUF file, which all that uses a model takes."""

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from raymodel import cli
from raymodel.compress.calibrate import mean_squares
from raymodel.compress.make import make_model
from raymodel.compress.spec import CompressSpec
from raymodel.errors import ArtifactError, SpecError
from raymodel.model.export import save_model
from raymodel.model.gguf_file import GgufWeights
from raymodel.model.load import check_folder, load_for_use, load_model, open_model
from raymodel.model.q4 import to_q4_1
from raymodel.serve.choice import build_engine
from raymodel.serve.load import load_service
from raymodel.serve.spec import ServeSpec
from raymodel.storage.model_files import GGUF_FILE
from raymodel.storage.uri import Location
from raymodel.tasks import get_task
from raymodel.tasks.spec import task_spec
from raymodel.testing.tiny import ModelWeights

TASK = "causal_lm"
Q4_1 = gguf.GGMLQuantizationType.Q4_1


class Rows:
    """In the place of a `Calibration`."""

    def __init__(self, count=4):
        draw = torch.Generator().manual_seed(0)
        self._rows = [torch.randint(2, 290, (12,), generator=draw).tolist() for _ in range(count)]

    def rows(self):
        for ids in self._rows:
            yield {"input_ids": [np.array(ids)], "prompt_length": np.array([1])}


@pytest.fixture(scope="module")
def folders(llama, processor, tmp_path_factory):
    """The whole model, and what it becomes in 8 and 4 bits."""
    base = tmp_path_factory.mktemp("models")
    save_model(llama, ModelWeights(llama), processor, base / "whole", torch.float32, {})
    for bits in ("int8", "int4"):
        compress(bits, base / "whole", base / bits)
    return base


def compress(bits, whole, target):
    make_model(
        CompressSpec.model_validate({"quantize": bits}),
        [Location.parse(str(whole))],
        None,
        task_spec({"name": TASK}),
        Location.parse(str(target)),
        {"name": "small"},
        Rows() if bits == "int4" else None,
    )


# ---- blocks of four bits -------------------------------------------------------------------------


def made_of(weight, importance=None):
    return torch.from_numpy(gguf.quants.dequantize(to_q4_1(weight, importance), Q4_1))


def test_numbers_that_four_bits_can_say_come_back_as_they_were():
    draw = torch.Generator().manual_seed(1)
    weight = torch.randint(0, 16, (8, 64), generator=draw) * 0.25 - 1.5
    weight[:, 0], weight[:, 32], weight[:, 1], weight[:, 33] = -1.5, -1.5, 2.25, 2.25
    assert torch.equal(made_of(weight), weight)
    assert torch.equal(made_of(torch.zeros(2, 32)), torch.zeros(2, 32))
    for one_sign in (0.7, -0.7):
        full = torch.full((2, 32), one_sign)
        assert torch.allclose(made_of(full), full, atol=1e-3)


def test_zero_is_a_number_of_each_block_so_that_every_reader_has_the_same_weights():
    """OpenVINO makes a whole number of steps of the least value, whatever it is."""
    weight = torch.randn(16, 64, generator=torch.Generator().manual_seed(1)) + 0.3
    blocks = torch.from_numpy(to_q4_1(weight)).reshape(-1, 20)
    step, least = blocks[:, :4].contiguous().view(torch.float16).float().unbind(1)
    zero = -least / step
    assert torch.allclose(zero, zero.round(), atol=0.01)
    assert ((zero.round() >= 0) & (zero.round() <= 15)).all()


def test_a_step_is_that_with_which_the_outputs_change_least():
    draw = torch.Generator().manual_seed(2)
    weight = torch.randn(64, 96, generator=draw)
    inputs = torch.randn(500, 96, generator=draw) * torch.rand(96, generator=draw).pow(3) * 4
    plain = torch.from_numpy(
        gguf.quants.dequantize(gguf.quants.quantize(weight.numpy(), Q4_1), Q4_1)
    )

    def error(made):
        return float((inputs @ (made - weight).T).square().mean())

    seen = made_of(weight, inputs.square().mean(0))
    assert error(seen) < 0.8 * error(made_of(weight)) < error(plain)


def test_an_input_that_was_never_met_leaves_its_weights_near_what_they_were():
    weight = torch.randn(4, 32, generator=torch.Generator().manual_seed(3))
    importance = torch.ones(32)
    importance[:16] = 0.0
    step = (weight.amax(1) - weight.amin(1)) / 15
    assert ((made_of(weight, importance) - weight).abs() <= 2 * step[:, None]).all()


def test_what_a_layer_is_given_is_measured_row_by_row(llama, processor):
    task = get_task(TASK)(processor=processor)
    found = mean_squares(llama, task, Rows(3))
    ids = torch.tensor([row["input_ids"][0].tolist() for row in Rows(3).rows()])
    layer = llama.model.layers[0]
    given = layer.input_layernorm(llama.model.embed_tokens(ids)).flatten(0, 1)
    name = "model.layers.0.self_attn.v_proj.weight"
    assert torch.allclose(found[name], given.square().mean(0), rtol=1e-4)
    assert len(found) == 2 * 7 + 1
    assert not any(module._forward_pre_hooks for module in llama.modules()), "none is left"


# ---- the folder ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "allowed"), [("int8", 0.05), ("int4", 0.3)])
def test_it_computes_nearly_as_the_whole_model_and_is_smaller(bits, allowed, folders, llama):
    loaded, _ = load_for_use(folders / bits, TASK)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        one, other = llama(ids).logits, loaded(ids).logits
    assert 0 < float((one - other).norm() / one.norm()) < allowed
    assert loaded.dtype == torch.float32
    assert not list((folders / bits).glob("*.safetensors"))
    weights = sum(p.numel() for p in llama.parameters())
    assert (folders / bits / GGUF_FILE).stat().st_size < weights * (2 if bits == "int8" else 1.7)


def test_each_program_reads_the_same_numbers(folders, llama):
    mine = load_model(folders / "int4", get_task(TASK)()).state_dict()
    theirs = AutoModelForCausalLM.from_pretrained(folders / "int4", gguf_file=GGUF_FILE)
    for name, weight in theirs.state_dict().items():
        assert torch.equal(mine[name], weight), name
    kinds = {
        t.name: t.tensor_type.name for t in gguf.GGUFReader(folders / "int4" / GGUF_FILE).tensors
    }
    assert kinds["blk.0.attn_q.weight"] == "Q4_1"
    assert kinds["token_embd.weight"] == kinds["output.weight"] == "Q8_0"


def test_the_rows_of_training_decide_the_numbers(folders, llama, tmp_path):
    """Calibrated numbers give a smaller change of the outputs than those of the writer alone."""
    out = tmp_path / "plain.gguf"
    assert (
        cli.main(
            ["export", str(folders / "whole"), "--to", "gguf", "--type", "q4_1", "--out", str(out)]
        )
        == 0
    )
    assert out.read_bytes() != (folders / "int4" / GGUF_FILE).read_bytes()


def test_the_engine_is_given_the_file_and_says_the_tokens_of_its_numbers(folders):
    service = load_service(folders / "int4", TASK, name="small", spec=ServeSpec())
    try:
        facts = service.engine.runner.facts()
        assert (facts["engine"], facts["weights"]) == ("openvino", "q4_1")
    finally:
        service.close()


def test_weights_in_another_type_than_the_files_are_refused(folders, processor):
    model, _ = load_for_use(folders / "int4", TASK)
    with pytest.raises(SpecError, match="the model's are in q4_1 already"):
        build_engine(model, processor.tokenizer, batch=1, queue=1, weights="q8_0")


def test_it_is_exported_as_it_is_and_in_no_other_type(folders, tmp_path, capsys):
    out = tmp_path / "m.gguf"
    assert cli.main(["export", str(folders / "int4"), "--to", "gguf", "--out", str(out)]) == 0
    assert out.read_bytes() == (folders / "int4" / GGUF_FILE).read_bytes()
    other = ["--type", "f16", "--out", str(tmp_path / "other.gguf")]
    assert cli.main(["export", str(folders / "int4"), "--to", "gguf", *other]) == 2
    assert "holds weights in q4_1; export the model" in " ".join(capsys.readouterr().err.split())
    assert (
        cli.main(["export", str(folders / "int4"), "--to", "folder", "--out", str(tmp_path / "f")])
        == 0
    )
    assert load_model(tmp_path / "f", get_task(TASK)()) is not None


def test_it_is_not_trained_nor_compressed_again(folders, tmp_path):
    small = Location.parse(str(folders / "int4"))
    with pytest.raises(ArtifactError, match="holds quantised weights"):
        open_model(small, get_task(TASK)())
    with pytest.raises(ArtifactError, match="holds quantised weights"):
        compress("int8", folders / "int4", tmp_path / "again")


def test_a_family_that_gguf_has_no_place_for_is_refused(folders, processor, tmp_path):
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=300, n_embd=32, n_layer=1, n_head=2, n_positions=64)
    model = GPT2LMHeadModel(config)
    save_model(model, ModelWeights(model), processor, tmp_path / "gpt2", torch.float32, {})
    with pytest.raises(
        SpecError, match=r"compress\.quantize: .*GPT2LMHeadModel is not of a family"
    ):
        compress("int4", tmp_path / "gpt2", tmp_path / "made")


@pytest.mark.parametrize(
    ("break_it", "why"),
    [
        (lambda data: data[:-1000], "is cut short"),
        (lambda data: data[:500], "is no whole GGUF file"),
        (lambda data: b"GGUG" + data[4:], "is no whole GGUF file: it begins with"),
        (
            lambda data: data.replace(b"blk.1.ffn_up.weight", b"blk.7.ffn_up.weight"),
            "lacks 1 weights",
        ),
        (lambda data: None, f"has no {GGUF_FILE}"),
    ],
)
def test_a_damaged_file_is_refused_with_what_is_wrong(break_it, why, folders, tmp_path):
    import shutil

    shutil.copytree(folders / "int4", tmp_path / "m")
    file = tmp_path / "m" / GGUF_FILE
    data = break_it(file.read_bytes())
    file.unlink()
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(ArtifactError, match=why):
        check_folder(Location.parse(str(tmp_path / "m")), get_task(TASK)())


def test_what_a_file_says_besides_the_weights_is_passed_over(folders, llama):
    outline = check_folder(Location.parse(str(folders / "int8")), get_task(TASK)())
    weights = GgufWeights(Location.parse(str(folders / "int8")), outline)
    name = "model.layers.0.self_attn.k_proj.weight"
    assert torch.allclose(weights.read(name), llama.state_dict()[name], atol=0.02)
    assert name in weights
    assert "model.rotary_emb.inv_freq" not in weights
