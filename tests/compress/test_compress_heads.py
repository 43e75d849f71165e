"""Fewer attention heads: those that count stay, and what is left loads anywhere."""

import copy

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM

from raymodel.compress.heads import choose_heads, head_scores, plan_heads
from raymodel.compress.make import make_model
from raymodel.compress.spec import CompressSpec
from raymodel.errors import SpecError
from raymodel.modality.text import TextProcessor
from raymodel.model.export import save_model
from raymodel.model.load import load_model, open_model
from raymodel.storage.uri import Location
from raymodel.tasks import get_task
from raymodel.tasks.spec import task_spec
from raymodel.testing.tiny import (
    ModelWeights,
    build_tiny_bert,
    build_tiny_llama,
    train_tiny_tokenizer,
)

LLM = "causal_lm"
SIZE = 8
IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


class Rows:
    """In the place of a `Calibration`."""

    def rows(self):
        draw = torch.Generator().manual_seed(0)
        for _ in range(3):
            ids = torch.randint(2, 290, (16,), generator=draw).tolist()
            yield {"input_ids": [np.array(ids)], "prompt_length": np.array([1])}


@pytest.fixture(scope="module")
def processor():
    return TextProcessor(train_tiny_tokenizer(["some text to learn merges from"]))


def prune(model, count, processor, tmp_path, task=LLM):
    save_model(model, ModelWeights(model), processor, tmp_path / "whole", torch.float32, {})
    target = Location.parse(str(tmp_path / "made"))
    make_model(
        CompressSpec.model_validate({"prune": {"heads": count}}),
        [Location.parse(str(tmp_path / "whole"))],
        None,
        task_spec({"name": task}),
        target,
        {},
        Rows(),
    )
    return target.local_path


def silenced(model, layer, heads):
    """What these heads say is nothing."""
    columns = torch.cat([torch.arange(head * SIZE, (head + 1) * SIZE) for head in heads])
    model.model.layers[layer].self_attn.o_proj.weight.data[:, columns] = 0.0


def test_what_counts_least_goes_and_the_rest_computes_as_before(processor, tmp_path):
    """Four heads, two of which share keys and values: one of each pair says nothing."""
    model = build_tiny_llama(seed=5, initializer_range=0.3).eval()
    silenced(model, 0, [0, 3])
    silenced(model, 1, [1, 2])
    folder = prune(model, 2, processor, tmp_path)
    made = AutoModelForCausalLM.from_pretrained(folder)
    config = made.config
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (2, 2, 8)
    assert made.model.layers[0].self_attn.q_proj.weight.shape == (16, 32)
    with torch.no_grad():
        assert torch.allclose(made(IDS).logits, model(IDS).logits, atol=1e-5)
    assert made.num_parameters() == model.num_parameters() - 2 * 2 * 16 * 32


def test_whole_groups_go_where_fewer_than_the_groups_stay(processor, tmp_path):
    model = build_tiny_llama(
        seed=5, initializer_range=0.3, hidden_size=48, num_attention_heads=6, num_key_value_heads=3
    ).eval()
    silenced(model, 0, [2, 3])
    silenced(model, 1, [4, 5])
    made = load_model(prune(model, 4, processor, tmp_path), get_task(LLM)())
    assert (made.config.num_attention_heads, made.config.num_key_value_heads) == (4, 2)
    with torch.no_grad():
        assert torch.allclose(made(IDS).logits, model(IDS).logits, atol=1e-5)


def test_what_a_head_counts_is_the_change_of_the_loss_without_it(processor):
    """To first order: the difference quotient of the loss when its output is a little less."""
    model = build_tiny_llama(seed=2, initializer_range=0.3).eval()
    task = get_task(LLM)(processor=processor)
    rows = list(Rows().rows())[:1]
    one = type("One", (), {"rows": lambda self: rows})()
    counts = plan_heads(model.config, 2)
    outputs = {"model.layers.1": "model.layers.1.self_attn.o_proj"}
    scores = head_scores(copy.deepcopy(model), task, outputs, counts, one)["model.layers.1"]

    def loss(model):
        batch = task.collate(rows[0])
        with torch.no_grad():
            return float(task.loss(model, batch)) / task.num_targets(batch)

    for head in range(4):
        less = copy.deepcopy(model)
        columns = slice(head * SIZE, (head + 1) * SIZE)
        less.model.layers[1].self_attn.o_proj.weight.data[:, columns] *= 0.99
        slope = abs(loss(less) - loss(model)) / 0.01
        assert slope == pytest.approx(float(scores[head]), rel=0.1, abs=1e-4)


def test_the_best_of_each_group_stay_in_their_order():
    config = build_tiny_llama(num_attention_heads=8, num_key_value_heads=2, head_dim=4).config
    scores = torch.tensor([1.0, 9.0, 8.0, 0.0, 3.0, 2.0, 5.0, 4.0])
    heads, shared = choose_heads(scores, plan_heads(config, 4))
    assert (heads.tolist(), shared.tolist()) == ([1, 2, 6, 7], [0, 1])
    config.num_key_value_heads = 4  # two heads each: sums of 10, 8, 5 and 9
    heads, shared = choose_heads(scores, plan_heads(config, 6))
    assert (heads.tolist(), shared.tolist()) == ([0, 1, 2, 3, 6, 7], [0, 1, 3])


@pytest.mark.parametrize(
    ("count", "why"),
    [
        (4, "heads is 4, and a layer of the model has 4 heads"),
        (3, "of 4 heads 2 each share keys and values.*give 2"),
    ],
)
def test_counts_that_cannot_stay_are_refused(count, why):
    with pytest.raises(SpecError, match=why):
        plan_heads(build_tiny_llama().config, count)


def test_models_whose_configuration_cannot_say_it_are_refused(processor, tmp_path):
    llama = build_tiny_llama(num_attention_heads=8, num_key_value_heads=1, hidden_size=64)
    with pytest.raises(SpecError, match=r"builds no llama of 5 heads: .*not a multiple"):
        prune(llama, 5, processor, tmp_path / "five")
    with pytest.raises(SpecError, match="decides how large each is in a BertForSequence"):
        prune(build_tiny_bert(), 2, processor, tmp_path, "text_classification")
    config = GPTNeoXConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=4, max_position_embeddings=64, is_decoder=True,
    )  # fmt: skip
    with pytest.raises(SpecError, match=r"compress\.prune\.heads: "):
        prune(GPTNeoXForCausalLM(config), 2, processor, tmp_path / "neox")


def test_it_is_trained_as_any_model(processor, tmp_path):
    folder = prune(build_tiny_llama(seed=5), 2, processor, tmp_path)
    outline, stored = open_model(Location.parse(str(folder)), get_task(LLM)())
    assert stored.missing == ()
    assert outline.config.num_attention_heads == 2
