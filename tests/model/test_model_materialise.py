"""Meta to real, one parameter at a time, with what was tied and frozen as before."""

import weakref

import numpy as np
import pytest
import torch

from raymodel.model.initial import InitialWeights
from raymodel.model.materialise import materialise
from raymodel.testing.tiny import build_tiny_llama, outline_tiny_llama


def test_ties_frozen_parameters_and_the_mode_stay():
    model = outline_tiny_llama(tie_word_embeddings=True)
    weights = InitialWeights(model, 0)
    model.model.norm.weight.requires_grad_(False)
    materialise(model, weights, torch.bfloat16)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["model.norm.weight"]
    assert model.training
    assert not any(p.is_meta for p in [*model.parameters(), *model.buffers()])


def test_parameters_are_rounded_and_buffers_are_not():
    model, full = outline_tiny_llama(), build_tiny_llama()
    materialise(model, InitialWeights(model, 0), torch.bfloat16)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, full.get_parameter(name).bfloat16()), name
    assert torch.equal(model.model.rotary_emb.inv_freq, full.model.rotary_emb.inv_freq)


class CountedWeights:
    """Gives zeros, and counts the most that were in memory at once."""

    def __init__(self):
        self.alive = self.most = 0

    def read(self, name):
        content = np.zeros((2, 2), dtype=np.float32)
        self.alive += 1
        self.most = max(self.most, self.alive)
        weakref.finalize(content, self._gone)
        return torch.from_numpy(content)

    def _gone(self):
        self.alive -= 1


@pytest.mark.parametrize(("is_sharded", "most"), [(True, 1), (False, 5)])
def test_what_a_parameter_leaves_is_gone_before_the_next_one_comes(is_sharded, most):
    with torch.device("meta"):
        network = torch.nn.Sequential(*(torch.nn.Linear(2, 2, bias=False) for _ in range(5)))

    def settle(parameter):
        if is_sharded:
            parameter.data = torch.empty(0)

    weights = CountedWeights()
    materialise(network, weights, torch.float32, settle=settle)
    assert weights.most == most
