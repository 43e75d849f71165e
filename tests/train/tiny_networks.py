"""Outlines of tiny models as a run builds them, and a large one to measure memory on."""

import copy

from raymodel.model.adapters import AdaptedWeights, attach_adapter
from raymodel.model.initial import InitialWeights
from raymodel.model.spec import AdapterSpec
from raymodel.tasks import get_task
from raymodel.testing.tiny import outline_tiny_llama
from raymodel.train.network import Network


def network_of(plain, adapter=None, task="causal_lm") -> Network:
    first = InitialWeights(plain, 0)
    module = copy.deepcopy(plain)
    if adapter is None:
        return Network(module=module, weights=first, plain=plain, first=first)
    module = attach_adapter(module, AdapterSpec(lora=adapter), get_task(task)())
    weights = AdaptedWeights(module, first, seed=0)
    return Network(module=module, weights=weights, plain=plain, first=first)


def large_outline():
    """58 M parameters in many pieces: none has more than a twelfth of them."""
    return outline_tiny_llama(
        vocab_size=8000,
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=8,
        num_key_value_heads=8,
    )
