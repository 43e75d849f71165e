"""Every layout begins with the same weights, and no rank holds more of them than it keeps."""

import gc

import pytest
import torch
import torch.distributed as dist
from tiny_engines import VOCAB, Case, join_tiny_group, train_steps
from tiny_networks import large_outline, network_of

from raymodel.tasks import get_task
from raymodel.testing.distributed import run_distributed
from raymodel.testing.memory import measure_memory
from raymodel.testing.tiny import outline_tiny_llama
from raymodel.train import zero
from raymodel.train.engine import DTYPES, build_engine, give_weights
from raymodel.train.plan import plan_batch

MODELS = {
    "untied": ({}, None),
    "tied": ({"tie_word_embeddings": True}, None),
    "lora": ({}, {"rank": 3}),
}
PRECISIONS = ("fp32", "bf16")


def engine_from_outline(case: Case, fields, adapter):
    network = network_of(outline_tiny_llama(vocab_size=VOCAB, **fields), adapter)
    spec = case.spec()
    batch = plan_batch(spec.global_batch, None, dist.get_world_size())
    give_weights(network.module, network.weights, spec, batch)
    return network, build_engine(network.module, get_task("causal_lm")(), spec, batch)


def first_weights_and_losses(rank, world_size):
    """Names of trained weights that are not those of the outline, and losses of two steps."""
    join_tiny_group()
    wrong, losses, elements = [], {}, {}
    for stage in range(4):
        for name, (fields, adapter) in MODELS.items():
            for precision in PRECISIONS:
                case = Case(stage, precision)
                network, engine = engine_from_outline(case, fields, adapter)
                held = 0
                for part in zero.owned_slices(engine.deepspeed):
                    first = network.weights.read(part.name).to(DTYPES[precision]).float()
                    run = first.view(-1)[part.start : part.start + part.length]
                    own = zero.state_tensors(engine.deepspeed, part)["weight"]
                    held += part.length
                    if not torch.equal(own, run):
                        wrong.append((case, name, part.name))
                # Rounded to bf16, they would turn by other angles than those of the exported model.
                buffers = dict(engine.deepspeed.module.named_buffers())
                (angles,) = (b for n, b in buffers.items() if n.endswith("rotary_emb.inv_freq"))
                if not torch.equal(angles, network.first.read("model.rotary_emb.inv_freq")):
                    wrong.append((case, name, "inv_freq"))
                elements[name, stage, precision] = held
                losses[name, stage, precision] = train_steps(engine, range(2))
                engine.close()
                del engine, network
                gc.collect()
    return wrong, losses, elements


@pytest.fixture(scope="module", params=[1, 2])
def ranks(request):
    return run_distributed(first_weights_and_losses, request.param, init=False)


def test_each_layout_begins_with_the_weights_of_the_outline(ranks):
    for wrong, _, elements in ranks:
        assert not wrong
        assert all(elements.values())
    for key in ranks[0][2]:
        owned = sum(elements[key] for _, _, elements in ranks)
        assert owned == sum(elements[key[0], 1, key[2]] for _, _, elements in ranks), key


def test_sharded_as_they_are_made_they_train_as_replicated_ones_do(ranks):
    _, losses, _ = ranks[0]
    for name in MODELS:
        for precision in PRECISIONS:
            whole, *others = (losses[name, stage, precision] for stage in range(4))
            for other in others:
                # test_train_loop.py says where these tolerances come from.
                tolerance = {"fp32": 2e-6, "bf16": 2e-4}[precision]
                assert other == pytest.approx(whole, abs=tolerance), (name, precision)


def memory_of_weights(rank, world_size, stage):
    join_tiny_group()
    network, spec = network_of(large_outline()), Case(stage, "bf16").spec()
    total = sum(parameter.numel() for parameter in network.module.parameters())
    batch = plan_batch(spec.global_batch, None, world_size)
    dist.barrier()
    with measure_memory() as growth:
        give_weights(network.module, network.weights, spec, batch)
    dist.barrier()
    return growth.peak_bytes / (2 * total), growth.kept_bytes / (2 * total)


def test_under_zero_3_no_rank_ever_holds_the_model():
    """In units of the whole model in bf16, on each of four ranks."""
    for peak, kept in run_distributed(memory_of_weights, 4, 3, init=False):
        assert 0.2 < kept < 0.35, "a quarter of the weights"
        assert peak < 0.6, "and the largest parameter, in fp32 and in bf16"


def test_where_each_rank_holds_the_model_it_holds_it_once():
    for peak, kept in run_distributed(memory_of_weights, 2, 1, init=False):
        assert 0.95 < kept < 1.1
        assert peak < 1.35
