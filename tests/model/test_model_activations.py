"""The arithmetic of activations agrees with what autograd saves."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from raymodel.model.activations import count_activations
from raymodel.model.build import build_config
from raymodel.model.shape import ModelShape
from raymodel.tasks.loss import cross_entropy_sum, next_token_loss

ROWS, TOKENS = 2, 128
FIELDS = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": TOKENS,
}
TYPES = {2: torch.bfloat16, 4: torch.float32}


def saved_bytes(model, compute_loss):
    """Bytes of all distinct storages that autograd saves, parameters and buffers left out."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    storages = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        compute_loss()
    return sum(storage.nbytes() for storage in storages.values())


def predicted(shape, number_bytes, attention="sdpa"):
    kept = count_activations(
        shape, number_bytes=number_bytes, attention=attention, context=TOKENS, on_gpu=False
    )
    return kept.layers + kept.ends + kept.logits


@pytest.mark.parametrize("number_bytes", [2, 4])
@pytest.mark.parametrize(
    ("architecture", "attention", "extra"),
    [
        ("llama", "sdpa", {}),
        ("llama", "sdpa", {"num_key_value_heads": 2}),
        ("llama", "eager", {"num_key_value_heads": 2}),
        ("qwen2", "sdpa", {"num_key_value_heads": 2}),
        ("qwen3", "sdpa", {"num_key_value_heads": 2, "head_dim": 32}),
    ],
)
def test_a_decoder_keeps_what_the_plan_says(architecture, attention, extra, number_bytes):
    config = build_config(architecture, FIELDS | extra)
    model = AutoModelForCausalLM.from_config(config, dtype=TYPES[number_bytes]).train()
    model.set_attn_implementation(attention)
    ids = torch.randint(0, 512, (ROWS, TOKENS))
    kept = saved_bytes(
        model, lambda: next_token_loss(model(input_ids=ids, use_cache=False).logits, ids)
    )
    shape = ModelShape(architecture=architecture, config=FIELDS | extra)
    # The angles of the rotary embedding, shared by all rows, are all that is left out.
    assert predicted(shape, number_bytes, attention) == pytest.approx(
        kept / (ROWS * TOKENS), rel=0.01
    )


@pytest.mark.parametrize(
    ("attention", "dropout"), [("sdpa", 0.0), ("sdpa", 0.1), ("eager", 0.0), ("eager", 0.1)]
)
def test_an_encoder_keeps_what_the_plan_says(attention, dropout):
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    config = build_config("bert", FIELDS | rates)
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.bfloat16).train()
    model.set_attn_implementation(attention)
    ids = torch.randint(0, 512, (ROWS, TOKENS))
    kept = saved_bytes(
        model,
        lambda: cross_entropy_sum(
            model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits,
            torch.zeros(ROWS, dtype=torch.long),
        ),
    )
    shape = ModelShape(architecture="bert", config=FIELDS | rates, head="classification")
    assert predicted(shape, 2, attention) == pytest.approx(kept / (ROWS * TOKENS), rel=0.05)
