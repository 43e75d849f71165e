"""Adapters start as no change, train alone, and merge into a plain model; decay groups."""

import pytest
import torch

from raymodel.errors import SpecError
from raymodel.model.adapters import attach_adapter, merge_adapter, trainable_names
from raymodel.model.groups import parameter_groups
from raymodel.model.spec import AdapterSpec
from raymodel.tasks import get_task
from raymodel.testing.tiny import build_tiny_bert, build_tiny_llama

IDS = torch.tensor([[5, 6, 7, 8]])


def lora(**fields):
    return AdapterSpec(lora=fields)


def attach(model, task="causal_lm", seed=0, **fields):
    return attach_adapter(model, lora(**fields), get_task(task)(), seed=seed)


def train_a_little(model):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


def test_a_fresh_adapter_changes_nothing_and_only_it_trains():
    model = build_tiny_llama().eval()
    before = model(IDS).logits
    adapted = attach(model, rank=4)
    torch.testing.assert_close(adapted(IDS).logits, before)
    names = trainable_names(adapted)
    assert len(names) == 2 * 7 * 2  # layers x linear layers x (A, B)
    assert all("lora_" in name for name in names)


def test_the_merged_model_gives_the_logits_of_the_adapted_one():
    adapted = attach(build_tiny_llama().eval(), rank=4)
    train_a_little(adapted)
    expected = adapted(IDS).logits
    merged = merge_adapter(adapted)
    assert type(merged).__name__ == "LlamaForCausalLM"
    assert not any("lora" in name for name, _ in merged.named_parameters())
    torch.testing.assert_close(merged(IDS).logits, expected)
    untouched = build_tiny_llama().eval()
    assert (untouched(IDS).logits - expected).abs().max() > 0.1


def test_a_bf16_model_is_merged_in_fp32():
    adapted = attach(build_tiny_llama().bfloat16(), rank=4)
    train_a_little(adapted)
    base = adapted.get_base_model().model.layers[0].self_attn.q_proj
    update = base.get_delta_weight("default").float()
    expected = base.base_layer.weight.float() + update
    merged = merge_adapter(adapted)
    torch.testing.assert_close(merged.model.layers[0].self_attn.q_proj.weight, expected)


def test_the_seed_decides_the_adapter():
    one, same, other = (
        dict(attach(build_tiny_llama(), seed=s).named_parameters()) for s in (1, 1, 2)
    )
    name = next(name for name in one if "lora_A" in name)
    assert torch.equal(one[name], same[name])
    assert not torch.equal(one[name], other[name])


def test_a_classification_head_is_trained_and_merged_too():
    adapted = attach(build_tiny_bert().eval(), "text_classification", rank=2)
    assert any("classifier" in name for name in trainable_names(adapted))
    train_a_little(adapted)
    expected = adapted(IDS).logits
    torch.testing.assert_close(merge_adapter(adapted)(IDS).logits, expected)


def test_a_target_that_fits_no_module_is_answered_with_those_there_are():
    with pytest.raises(SpecError, match=r"'q_prj'.*q_proj"):
        attach(build_tiny_llama(), target=["q_prj"])


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
    assert len(parameter_groups(attach(build_tiny_llama()), 0.1)) == 1  # no vectors: no group
