"""Fresh models: the same on every rank, and clear about fields that do not exist."""

import pytest
import torch

from raymodel.errors import SpecError
from raymodel.modality.base import ModelFields
from raymodel.model.build import build_model
from raymodel.model.initial import InitialWeights
from raymodel.model.materialise import materialise
from raymodel.model.presets import load_presets, resolve_model
from raymodel.model.spec import ModelSpec
from raymodel.tasks import get_task
from raymodel.testing.distributed import run_distributed
from raymodel.testing.tiny import build_tiny_llama


def build(spec, *, vocab_size=300, dtype=torch.float32, seed=0, task="causal_lm"):
    needed = ModelFields(
        at_least={"vocab_size": vocab_size, "max_position_embeddings": 64},
        given={"pad_token_id": 1, "eos_token_id": 0, "bos_token_id": None},
    )
    model = build_model(spec, get_task(task)(), needed)
    return materialise(model, InitialWeights(model, seed), dtype)


def weight_sum(rank, world_size):
    torch.rand(rank + 1)  # ranks may have drawn different numbers before
    model = build_tiny_llama(seed=5)
    return [parameter.double().sum().item() for parameter in model.parameters()]


def test_every_rank_builds_the_same_weights():
    first, second = run_distributed(weight_sum, 2)
    assert first == second


def test_the_seed_decides_the_weights_and_the_callers_random_numbers_go_on():
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one, same, other = (build_tiny_llama(seed=s).lm_head.weight for s in (5, 5, 6))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(before, torch.random.get_rng_state())


def test_bf16_rounds_the_fp32_weights_and_leaves_the_rotary_frequencies():
    spec = ModelSpec(preset="llama-tiny")
    half, full = build(spec, dtype=torch.bfloat16), build(spec)
    assert half.dtype == torch.bfloat16
    for a, b in zip(half.parameters(), full.parameters(), strict=True):
        assert torch.equal(a, b.bfloat16())
    assert half.model.rotary_emb.inv_freq.dtype == torch.float32
    assert half.lm_head.weight is half.model.embed_tokens.weight


def test_the_tokenizer_decides_vocabulary_and_special_tokens():
    config = build(ModelSpec(preset="llama-tiny"), vocab_size=307).config
    assert (config.vocab_size, config.max_position_embeddings) == (307, 64)
    assert (config.pad_token_id, config.eos_token_id, config.bos_token_id) == (1, 0, None)


@pytest.mark.parametrize(
    ("spec", "rule"),
    [
        ({"preset": "lama-tiny"}, "did you mean 'llama-tiny'"),
        ({"architecture": "lama"}, "no architecture 'lama'.*did you mean 'llama'"),
        ({"preset": "llama-tiny", "config": {"hiden_size": 8}}, "did you mean 'hidden_size'"),
        ({"preset": "llama-tiny", "config": {"hidden_size": "x"}}, "hidden_size"),
        ({"preset": "llama-tiny", "config": {"hidden_size": 100}}, "multiple"),
        ({"preset": "llama-tiny", "config": {"vocab_size": 100}}, "100, but the data needs 300"),
        ({"preset": "llama-tiny", "config": {"max_position_embeddings": 8}}, "data needs 64"),
        ({"preset": "bert-tiny"}, "both directions"),
    ],
)
def test_a_model_that_cannot_be_built_says_why(spec, rule):
    with pytest.raises(SpecError, match=rule):
        build(ModelSpec(**spec))


def test_fields_of_the_job_replace_those_of_the_preset():
    spec = ModelSpec(preset="llama-tiny", config={"num_hidden_layers": 2, "vocab_size": 512})
    assert resolve_model(spec)[1]["hidden_size"] == 192
    config = build(spec).config
    assert (config.num_hidden_layers, config.vocab_size) == (2, 512)


def test_what_a_caller_does_to_a_preset_does_not_stay():
    load_presets()["llama-tiny"]["config"]["hidden_size"] = 1
    assert load_presets()["llama-tiny"]["config"]["hidden_size"] == 192
