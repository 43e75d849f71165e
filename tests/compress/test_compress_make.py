"""A model made of others: by hand the same numbers, never all in memory, refused where unlike."""

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, T5Config, T5ForConditionalGeneration

from raymodel.compress.make import make_model
from raymodel.compress.merge import linear, slerp, ties
from raymodel.compress.opened import Opened
from raymodel.compress.prune import kept_layers, pruned
from raymodel.compress.spec import CompressSpec, PruneSpec
from raymodel.errors import ArtifactError, SpecError
from raymodel.modality.text import TextProcessor
from raymodel.model.export import save_model
from raymodel.model.load import load_model
from raymodel.model.tensorfile import TensorFile
from raymodel.storage.uri import Location
from raymodel.tasks import get_task
from raymodel.tasks.spec import task_spec
from raymodel.testing.tiny import (
    ModelWeights,
    build_tiny_bert,
    build_tiny_llama,
    train_tiny_tokenizer,
)

LLM, CLASSES = "causal_lm", "text_classification"
IDS = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture(scope="module")
def processor():
    return TextProcessor(train_tiny_tokenizer(["some text to learn merges from"]))


def save(model, processor, folder, dtype=torch.float32):
    save_model(model, ModelWeights(model), processor, folder, dtype, {})
    return Location.parse(str(folder))


def make(spec, folders, tmp_path, task=LLM, base=None, rows=None):
    target = Location.parse(str(tmp_path / "made"))
    method, of = CompressSpec.model_validate(spec), task_spec({"name": task})
    make_model(method, folders, base, of, target, {"name": "made"}, rows)
    return load_model(target.local_path, get_task(task)())


def merge(tmp_path, folders, task=LLM, base=None, **method):
    names = [f"run{index}/finetune" for index in range(len(folders))]
    spec = {"merge": {"models": names, **({"base": "x"} if base else {}), **method}}
    return make(spec, folders, tmp_path, task, base)


# ---- merging -------------------------------------------------------------------------------------


def test_a_soup_has_the_weighted_mean_of_each_weight(tmp_path, processor):
    models = [build_tiny_llama(seed=seed) for seed in range(3)]
    folders = [save(model, processor, tmp_path / str(i)) for i, model in enumerate(models)]
    merged = merge(tmp_path, folders, weights=[1.0, 1.0, 2.0]).state_dict()
    states = [model.state_dict() for model in models]
    for name, weight in merged.items():
        wanted = sum(s[name] * w for s, w in zip(states, (0.25, 0.25, 0.5), strict=True))
        assert torch.allclose(weight, wanted, atol=1e-7), name


def test_the_soup_of_a_model_with_itself_is_that_model(tmp_path, processor):
    model = build_tiny_bert()
    folders = [save(model, processor, tmp_path / name) for name in ("a", "b")]
    for method in ("linear", "slerp"):
        merged = merge(tmp_path / method, folders, CLASSES, method=method)
        for name, weight in merged.state_dict().items():
            assert torch.equal(weight, model.state_dict()[name]), name


def test_memory_holds_one_weight_of_each_model_at_a_time(tmp_path, processor, monkeypatch):
    folders = [save(build_tiny_llama(seed=s), processor, tmp_path / str(s)) for s in range(2)]
    read, reads = TensorFile.read, []

    def watched(self, name):
        reads.append(name)
        return read(self, name)

    monkeypatch.setattr(TensorFile, "read", watched)
    merge(tmp_path, folders)
    assert reads[::2] == reads[1::2], "each weight of both models, then the next"
    assert len(set(reads)) == len(reads) // 2, "each is read once"


def test_a_soup_keeps_the_format_of_its_first_model_and_rounds_once(tmp_path, processor):
    models = [build_tiny_llama(seed=seed).bfloat16() for seed in range(2)]
    folders = [
        save(model, processor, tmp_path / str(i), torch.bfloat16) for i, model in enumerate(models)
    ]
    merged = merge(tmp_path, folders).state_dict()
    one, other = (model.state_dict() for model in models)
    for name, weight in merged.items():
        assert weight.dtype == torch.bfloat16
        assert torch.equal(weight, ((one[name].float() + other[name].float()) / 2).bfloat16())


def test_slerp_keeps_the_length_that_a_mean_loses():
    one, other = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0])
    assert torch.allclose(slerp(one, other, 0.5), torch.full((2,), 3 / 2**0.5))
    assert torch.allclose(slerp(one, other, 0.0), one)
    assert torch.allclose(slerp(one, other, 1.0), other)
    assert torch.equal(slerp(one, 2 * one, 0.5), linear((one, 2 * one), (0.5, 0.5)))
    assert torch.equal(slerp(one, torch.zeros(2), 0.5), one / 2)


def test_ties_keeps_the_largest_changes_and_those_whose_sign_most_agree_on():
    base = torch.tensor([1.0, 1.0, 1.0, 1.0])
    #  agreed by both; disputed, won by the larger; too small to be kept; one model's alone
    tensors = [
        base + torch.tensor([0.4, 0.9, 0.01, 0.0]),
        base + torch.tensor([0.2, -0.5, 0.02, 0.3]),
    ]
    merged = ties(base, tensors, (0.5, 0.5), density=0.75, scale=1.0)
    trimmed = [torch.tensor([0.4, 0.9, 0.01, 0.0]), torch.tensor([0.2, -0.5, 0.0, 0.3])]
    assert torch.allclose(merged - base, torch.tensor([0.3, 0.9, 0.01, 0.3])), trimmed
    doubled = ties(base, tensors, (0.5, 0.5), density=0.75, scale=2.0)
    assert torch.allclose(doubled - base, 2 * (merged - base))


def test_ties_of_a_model_with_its_base_averages_the_head_that_the_base_lacks(tmp_path, processor):
    tuned = [build_tiny_bert(seed=seed) for seed in range(2)]
    folders = [save(model, processor, tmp_path / str(i)) for i, model in enumerate(tuned)]
    base = build_tiny_bert(seed=9).bert
    base.save_pretrained(tmp_path / "base")
    where = Location.parse(str(tmp_path / "base"))
    merged = merge(tmp_path, folders, CLASSES, where, method="ties", density=1.0).state_dict()
    head = "classifier.weight"
    wanted = (tuned[0].state_dict()[head] + tuned[1].state_dict()[head]) / 2
    assert torch.allclose(merged[head], wanted)
    inside = "bert.encoder.layer.0.output.dense.weight"
    assert not torch.allclose(merged[inside], tuned[0].state_dict()[inside])


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"intermediate_size": 48}, r"the weight model\.layers\.0\.mlp\.gate_proj\.weight is 64 ×"),
        ({"num_hidden_layers": 1}, r"the weight model\.layers\.1\.\S+ is .* not there in the sec"),
        ({"rms_norm_eps": 1e-3}, r"rms_norm_eps of config\.json is 1e-06 in the first and 0\.001"),
    ],
)
def test_models_that_are_not_alike_are_refused_with_the_first_difference(
    tmp_path, processor, other, said
):
    folders = [
        save(build_tiny_llama(), processor, tmp_path / "a"),
        save(build_tiny_llama(**other), processor, tmp_path / "b"),
    ]
    with pytest.raises(ArtifactError, match=said):
        merge(tmp_path, folders)
    assert not (tmp_path / "made").exists()


def test_models_that_read_with_other_tokenizers_are_refused(tmp_path, processor):
    other = TextProcessor(train_tiny_tokenizer(["quite another text, with words of its own"]))
    folders = [
        save(build_tiny_llama(), processor, tmp_path / "a"),
        save(build_tiny_llama(seed=1), other, tmp_path / "b"),
    ]
    with pytest.raises(ArtifactError, match=r"read with different tokenizer\.json files"):
        merge(tmp_path, folders)


def test_a_base_that_is_another_models_is_refused(tmp_path, processor):
    folders = [save(build_tiny_llama(seed=s), processor, tmp_path / str(s)) for s in range(2)]
    base = save(build_tiny_llama(intermediate_size=48), processor, tmp_path / "base")
    with pytest.raises(ArtifactError, match=r"is not what the models were tuned from: its weight"):
        merge(tmp_path, folders, base=base, method="ties")


# ---- pruning -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ({"keep": 6}, [0, 2, 4, 7, 9, 11]),
        ({"keep": 2}, [0, 11]),
        ({"keep": 1}, [0]),
        ({"drop": [3, 9, 10]}, [0, 1, 2, 4, 5, 6, 7, 8, 11]),
    ],
)
def test_the_layers_that_stay_are_the_ends_and_those_evenly_between(said, kept):
    assert kept_layers(PruneSpec.model_validate(said), 12) == kept


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"keep": 4}, "keep is 4, and the model has 4 layers"),
        ({"drop": [4]}, "names the layer 4, and the model has 4, counted from 0"),
        ({"drop": [0, 1, 2, 3]}, "names all 4 layers"),
    ],
)
def test_layers_that_a_model_has_not_are_refused(said, why):
    with pytest.raises(SpecError, match=why):
        kept_layers(PruneSpec.model_validate(said), 4)


def test_a_model_of_fewer_layers_computes_as_the_whole_one_without_them(tmp_path, processor):
    model = build_tiny_llama(num_hidden_layers=4).eval()
    folder = save(model, processor, tmp_path / "whole")
    made = make({"prune": {"drop": [1, 2]}}, [folder], tmp_path)
    assert made.config.num_hidden_layers == 2
    del model.model.layers[1:3]
    for index, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = index
    model.config.num_hidden_layers = 2
    assert torch.equal(made(IDS, use_cache=False).logits, model(IDS, use_cache=False).logits)


def test_what_each_layer_is_goes_with_it(tmp_path, processor):
    kinds = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]
    config = Qwen2Config(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        layer_types=kinds,
        use_sliding_window=True,
        sliding_window=2,
    )
    folder = save(Qwen2ForCausalLM(config), processor, tmp_path / "whole")
    made = make({"prune": {"drop": [0, 2]}}, [folder], tmp_path)
    assert made.config.layer_types == ["sliding_attention"] * 2


def test_an_encoder_keeps_its_embeddings_and_its_head(tmp_path, processor):
    model = build_tiny_bert()
    folder = save(model, processor, tmp_path / "whole")
    made = make({"prune": {"drop": [0]}}, [folder], tmp_path, CLASSES)
    old, new = model.state_dict(), made.state_dict()
    layers = {name: old[name.replace("layer.0.", "layer.1.")] for name in new if "layer.0." in name}
    assert layers
    for name, weight in new.items():
        assert torch.equal(weight, layers[name] if name in layers else old[name]), name


def test_the_smallest_weights_of_each_matrix_in_the_layers_become_zero(tmp_path, processor):
    model = build_tiny_llama()
    folder = save(model, processor, tmp_path / "whole")
    made = make({"prune": {"magnitude": "30%"}}, [folder], tmp_path).state_dict()
    for name, old in model.state_dict().items():
        new = made[name]
        if ".layers." not in name or old.dim() != 2:
            assert torch.equal(new, old), name
            continue
        assert int((new == 0).sum()) == round(0.3 * old.numel()), name
        assert torch.equal(new[new != 0], old[new != 0])
        assert old[new == 0].abs().max() <= old[new != 0].abs().min()


def test_two_of_four_neighbours_in_a_row_stay(tmp_path, processor):
    model = build_tiny_llama()
    folder = save(model, processor, tmp_path / "whole")
    made = make({"prune": {"pattern": "2:4"}}, [folder], tmp_path).state_dict()
    name = "model.layers.1.mlp.down_proj.weight"
    old, new = (state[name].reshape(-1, 4) for state in (model.state_dict(), made))
    assert torch.equal((new != 0).sum(1), torch.full((len(new),), 2))
    assert torch.equal(new.abs().sum(1), old.abs().topk(2).values.sum(1))


def test_a_model_of_two_stacks_is_refused_with_the_way_that_is_left():
    sizes = {"d_model": 8, "d_ff": 8, "d_kv": 4, "num_heads": 2, "vocab_size": 16}
    with torch.device("meta"):
        model = T5ForConditionalGeneration(T5Config(num_layers=2, **sizes))
    opened = Opened(model, ModelWeights(model), torch.float32)
    with pytest.raises(SpecError, match=r"is not one stack of layers.*`magnitude` and `pattern`"):
        pruned(opened, PruneSpec(keep=1), get_task("seq2seq_lm")())
