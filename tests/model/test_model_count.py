"""The arithmetic agrees with the models that transformers builds, parameter for parameter."""

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from raymodel.errors import SpecError
from raymodel.model.build import build_config
from raymodel.model.count import count_model
from raymodel.model.presets import load_presets
from raymodel.testing.tiny import build_tiny_llama

AUTO = {"causal_lm": "AutoModelForCausalLM", "classification": "AutoModelForSequenceClassification"}
# From the model pages and papers that presets.yaml names, with their own vocabularies.
PUBLISHED = {
    "llama-160m": (32_000, 162_417_408),
    "llama-1b": (128_256, 1_235_814_400),
    "llama-3-8b": (128_256, 8_030_261_248),
    "qwen3-0.6b": (151_936, 596_049_920),
}
FIELDS = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 40,
}


def build_empty(architecture, fields, head, num_labels=5):
    extra = {"num_labels": num_labels} if head == "classification" else {"is_decoder": True}
    if architecture != "bert":
        extra.pop("is_decoder", None)
    config = build_config(architecture, fields | extra)
    with torch.device("meta"):
        return getattr(transformers, AUTO[head]).from_config(config)


@pytest.mark.parametrize("preset", sorted(load_presets()))
@pytest.mark.parametrize("head", ["causal_lm", "classification"])
def test_every_preset_builds_and_is_counted_to_the_last_parameter(preset, head):
    architecture, fields = load_presets()[preset].values()
    fields = fields | {"vocab_size": 4096, "max_position_embeddings": 256}
    model = build_empty(architecture, fields, head)
    count = count_model(architecture, fields, head=head, num_labels=5)
    assert count.parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("preset", sorted(PUBLISHED))
def test_presets_have_the_published_size(preset):
    architecture, fields = load_presets()[preset].values()
    vocab_size, parameters = PUBLISHED[preset]
    assert count_model(architecture, fields | {"vocab_size": vocab_size}).parameters == parameters


@pytest.mark.parametrize(
    ("architecture", "extra"),
    [
        ("llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 2}),
        ("llama", {"head_dim": 16, "tie_word_embeddings": True}),
        ("mistral", {"num_key_value_heads": 1}),
        ("qwen2", {"num_key_value_heads": 2}),
        ("qwen3", {"num_key_value_heads": 2}),
        ("qwen3", {"num_key_value_heads": 2, "attention_bias": True}),
    ],
)
def test_biases_head_sizes_and_norms_are_counted(architecture, extra):
    model = build_empty(architecture, FIELDS | extra, "causal_lm")
    count = count_model(architecture, FIELDS | extra)
    assert count.parameters == sum(p.numel() for p in model.parameters())


def test_forward_flops_are_those_that_torch_counts():
    model = build_tiny_llama(num_key_value_heads=2)
    model.set_attn_implementation("eager")  # torch has no count for the fused kernel of the CPU
    fields = model.config.to_dict()
    rows, length = 2, 64
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(rows, length, dtype=torch.long), use_cache=False)
    counted = count_model("llama", fields).forward_flops_per_token(length) * rows * length
    # The products that rotate positions are matrices to torch, and 0.1 % here.
    assert counter.get_total_flops() == pytest.approx(counted, rel=0.005)


def test_training_costs_six_flops_a_weight_and_twelve_a_position():
    count = count_model("llama", FIELDS)
    short, long = count.train_flops_per_token(1), count.train_flops_per_token(101)
    assert long - short == 12 * 2 * 32 * 100  # layers x (heads x head size) x tokens
    assert short - 12 * 2 * 32 == 6 * count.multiplied


def test_an_architecture_without_a_formula_is_refused():
    with pytest.raises(SpecError, match="'gpt2' cannot be counted"):
        count_model("gpt2", {})
