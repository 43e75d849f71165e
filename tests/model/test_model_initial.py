"""The first weights: drawn by transformers' rules, as a function of seed and name alone."""

import pytest
import torch
import transformers
from torch import nn

from raymodel.errors import SpecError
from raymodel.model.initial import InitialWeights
from raymodel.model.materialise import materialise
from raymodel.testing.tiny import outline_tiny_llama

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 200,
    "pad_token_id": 0,
    "max_position_embeddings": 64,
}
ARCHITECTURES = ["llama", "qwen3", "gemma2", "gpt2", "gpt_neox", "opt", "mixtral", "bert"]


def config_of(architecture):
    default = transformers.AutoConfig.for_model(architecture)
    known = {*default.to_dict(), *default.attribute_map}
    fields = {name: value for name, value in SIZES.items() if name in known}
    return transformers.AutoConfig.for_model(architecture, **fields)


def outline(architecture):
    with torch.device("meta"):
        return transformers.AutoModelForCausalLM.from_config(
            config_of(architecture), dtype=torch.float32
        )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_weights_have_the_distribution_that_transformers_gives_them(architecture):
    model = outline(architecture)
    drawn = materialise(model, InitialWeights(model, 0), torch.float32)
    expected = transformers.AutoModelForCausalLM.from_config(
        config_of(architecture), dtype=torch.float32
    )
    found = dict(drawn.named_parameters())
    for name, weight in expected.named_parameters():
        # 64 draws at least: their deviation is within 1/sqrt(2·64) = 9 % of the true one, four
        # of which is never exceeded.
        torch.testing.assert_close(found[name].std(), weight.std(), rtol=0.36, atol=1e-6)
        torch.testing.assert_close(found[name].mean(), weight.mean(), rtol=0.1, atol=0.02)
    buffers = dict(drawn.named_buffers())
    for name, buffer in expected.named_buffers():
        assert torch.equal(buffers[name], buffer), name


def test_what_an_ancestor_draws_is_drawn_by_it():
    # GPT-2 makes the last matrix of each block smaller, by the number of such matrices.
    weights = InitialWeights(outline("gpt2"), 0)
    last = weights.read("transformer.h.0.mlp.c_proj.weight").std()
    other = weights.read("transformer.h.0.mlp.c_fc.weight").std()
    torch.testing.assert_close(last / other, torch.tensor(6**-0.5), rtol=0.1, atol=0)


def test_padding_stays_zero():
    assert bool((InitialWeights(outline("bert"), 0).read(WORDS)[0] == 0).all())


WORDS = "bert.embeddings.word_embeddings.weight"


def test_the_order_in_which_weights_are_asked_for_does_not_matter():
    model = outline_tiny_llama()
    names = [name for name, _ in model.named_parameters()]
    forwards, backwards = InitialWeights(model, 3), InitialWeights(model, 3)
    first = {name: forwards.read(name) for name in names}
    assert all(torch.equal(backwards.read(name), first[name]) for name in reversed(names))
    assert torch.equal(forwards.read(names[0]), first[names[0]])  # and again


def test_layers_of_one_shape_get_different_weights_and_other_seeds_too():
    model = outline_tiny_llama()
    one, two = InitialWeights(model, 1), InitialWeights(model, 2)
    name = "model.layers.{}.self_attn.q_proj.weight".format
    assert not torch.equal(one.read(name(0)), one.read(name(1)))
    assert not torch.equal(one.read(name(0)), two.read(name(0)))


def test_tied_weights_are_drawn_as_what_they_are_tied_to():
    weights = InitialWeights(outline_tiny_llama(tie_word_embeddings=True), 1)
    assert torch.equal(weights.read("lm_head.weight"), weights.read("model.embed_tokens.weight"))


class Unruly(transformers.PreTrainedModel):
    config_class = transformers.LlamaConfig

    def __init__(self, config):
        super().__init__(config)
        self.gain = nn.Parameter(torch.ones(3))
        self.post_init()


def test_a_weight_without_a_rule_is_an_error_and_not_chance():
    with torch.device("meta"):
        model = Unruly(transformers.LlamaConfig())
    with pytest.raises(SpecError, match=r"gain.*Unruly"):
        InitialWeights(model, 0).read("gain")


def test_a_weight_that_is_computed_from_others_is_drawn_by_the_rule_of_the_weight():
    config = transformers.Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        conv_dim=[8], conv_kernel=[10], conv_stride=[5], num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.Wav2Vec2Model(config)
    names = [name for name, _ in model.named_parameters()]
    first, again = InitialWeights(model, 3), InitialWeights(model, 3)
    drawn = {name: first.read(name) for name in names}
    assert all(torch.equal(again.read(name), drawn[name]) for name in reversed(names))
    made = materialise(model, InitialWeights(model, 3), torch.float32)
    weight = made.encoder.pos_conv_embed.conv.weight
    # Wav2Vec2PreTrainedModel._init_weights: 2 / sqrt(kernel * channels).
    assert float(weight.detach().std()) == pytest.approx(2 / (16 * 32) ** 0.5, rel=0.1)
