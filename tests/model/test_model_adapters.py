"""Adapters start as no change, train alone, and merge into a plain model; decay groups."""

import copy

import pytest
import torch
import transformers

from raymodel.errors import SpecError
from raymodel.model.adapters import (
    AdaptedWeights,
    adapted_layers,
    attach_adapter,
    is_update,
    plain_name,
    weight_update,
)
from raymodel.model.groups import parameter_groups
from raymodel.model.initial import InitialWeights
from raymodel.model.materialise import materialise
from raymodel.model.spec import AdapterSpec
from raymodel.tasks import get_task
from raymodel.testing.tiny import (
    ModelWeights,
    build_tiny_bert,
    build_tiny_llama,
    outline_tiny_bert,
    outline_tiny_llama,
)

IDS = torch.tensor([[5, 6, 7, 8]])


def outline_adapted(plain, task="causal_lm", **fields):
    adapter = AdapterSpec(lora=fields)
    return attach_adapter(copy.deepcopy(plain), adapter, get_task(task)())


def attach(plain, task="causal_lm", seed=0, **fields):
    """The adapted model as training starts with it, in evaluation mode."""
    network = outline_adapted(plain, task, **fields)
    weights = AdaptedWeights(network, InitialWeights(plain, 0), seed)
    return materialise(network, weights, torch.float32).eval()


def trained_names(model):
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def train_a_little(model):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def test_a_fresh_adapter_changes_nothing_and_only_it_trains():
    before = build_tiny_llama().eval()(IDS).logits
    adapted = attach(outline_tiny_llama(), rank=4)
    assert torch.equal(adapted(IDS).logits, before)
    names = trained_names(adapted)
    assert len(names) == 2 * 7 * 2  # layers x linear layers x (A, B)
    assert all(is_update(name) for name in names)


def gpt2():
    """Its linear layers are kept transposed."""
    config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=100)
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)


CASES = {
    "llama": (outline_tiny_llama, "causal_lm", {}),
    "embeddings": (outline_tiny_llama, "causal_lm", {"target": ["embed_tokens", "v_proj"]}),
    "gpt2": (gpt2, "causal_lm", {}),
    "classifier": (outline_tiny_bert, "text_classification", {}),
}


@pytest.mark.parametrize("case", CASES)
def test_merged_one_by_one_the_weights_are_those_that_peft_merges(case):
    build, task, fields = CASES[case]
    plain = build()
    adapted = attach(plain, task, rank=4, dropout=0.5, **fields)
    train_a_little(adapted)
    logits = adapted(IDS).logits
    names = {plain_name(n): n for n, _ in adapted.named_parameters() if ".original_module" not in n}
    weights, outline = ModelWeights(adapted), outline_adapted(plain, task, rank=4, **fields)
    layers = adapted_layers(outline)
    merged = {}
    for name in plain.state_dict():
        merged[name] = weights.read(names[name]).clone() if name in names else None
        if name in layers:
            merged[name] += weight_update(outline, layers[name], weights)
    expected = adapted.merge_and_unload()
    assert layers
    for name, weight in expected.named_parameters():
        assert torch.equal(merged[name], weight), name
    torch.testing.assert_close(expected(IDS).logits, logits)
    assert all(parameter.is_meta for parameter in outline.parameters())


def test_the_seed_decides_the_adapter():
    one, same, other = (
        dict(attach(outline_tiny_llama(), seed=s).named_parameters()) for s in (1, 1, 2)
    )
    names = [name for name in one if "lora_A" in name]
    assert all(torch.equal(one[name], same[name]) for name in names)
    assert not any(torch.equal(one[name], other[name]) for name in names)
    assert not torch.equal(one[names[0]], one[names[7]])  # the same matrix of another layer


def test_a_classification_head_is_trained_too_from_where_the_plain_model_has_it():
    adapted = attach(outline_tiny_bert(), "text_classification", rank=2)
    (head,) = (n for n in trained_names(adapted) if "classifier" in n and n.endswith("weight"))
    assert not is_update(head)
    assert torch.equal(adapted.get_parameter(head), build_tiny_bert().classifier.weight)


def test_a_target_that_fits_no_module_is_answered_with_those_there_are():
    with pytest.raises(SpecError, match=r"'q_prj'.*q_proj"):
        attach(outline_tiny_llama(), target=["q_prj"])


def test_a_target_with_tied_weights_is_refused():
    plain = outline_tiny_llama(tie_word_embeddings=True)
    with pytest.raises(SpecError, match=r"embed_tokens\.weight is tied"):
        attach(plain, target=["embed_tokens", "q_proj"])


def test_matrices_and_embeddings_decay_and_vectors_do_not():
    matrices, vectors = parameter_groups(build_tiny_bert(), 0.1)
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert all(parameter.ndim == 2 for parameter in matrices["params"])
    assert all(parameter.ndim == 1 for parameter in vectors["params"])
    model = build_tiny_bert()
    assert len(matrices["params"]) + len(vectors["params"]) == len(list(model.parameters()))


def test_tied_weights_come_once_and_frozen_ones_not_at_all():
    model = build_tiny_llama(tie_word_embeddings=True)
    model.model.norm.weight.requires_grad_(False)
    chosen = [p for group in parameter_groups(model, 0.1) for p in group["params"]]
    assert sum(p is model.lm_head.weight for p in chosen) == 1
    assert not any(p is model.model.norm.weight for p in chosen)
    assert len(parameter_groups(attach(outline_tiny_llama()), 0.1)) == 1  # no vectors: no group


def outline_head(auto_class, **config):
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, **config}
    with torch.device("meta"):
        return auto_class.from_config(transformers.BertConfig(num_attention_heads=4, **small))


@pytest.mark.parametrize(
    ("task", "auto_class", "head"),
    [
        ("token_classification", transformers.AutoModelForTokenClassification, "classifier"),
        ("question_answering", transformers.AutoModelForQuestionAnswering, "qa_outputs"),
        ("text_classification", transformers.AutoModelForSequenceClassification, "classifier"),
    ],
)
def test_a_head_is_trained_in_full_and_never_beside_an_update(task, auto_class, head):
    adapted = outline_adapted(outline_head(auto_class), task, rank=2)
    whole = [plain_name(name) for name in trained_names(adapted) if not is_update(name)]
    assert whole == [f"{head}.weight", f"{head}.bias"]
    assert f"{head}.weight" not in adapted_layers(adapted)
    assert "bert.encoder.layer.0.attention.self.query.weight" in adapted_layers(adapted)
    with pytest.raises(SpecError, match=rf"'{head}'.*{head} is trained in full.*leave it out"):
        outline_adapted(outline_head(auto_class), task, rank=2, target=["query", head])
