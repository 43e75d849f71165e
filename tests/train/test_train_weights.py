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
from raymodel.train.plan import plan_batch
from raymodel.train.step import zero
from raymodel.train.step.engine import DTYPES, build_engine, give_weights

MODELS = {
    "untied": ({}, None),
    "tied": ({"tie_word_embeddings": True}, None),
    "lora": ({}, {"rank": 3}),
}
PRECISIONS = ("fp32", "bf16")


def engine_from_outline(case: Case, fields, adapter):
    network = network_of(outline_tiny_llama(vocab_size=VOCAB, **fields), adapter)
    spec = case.spec()
    batch = plan_batch(spec.global_batch, None, dist.get_world_size() // case.tensor)
    task, weights = get_task("causal_lm")(), network.weights
    return network, build_engine(network.module, task, spec, batch, weights)


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


def first_parts(rank, world_size):
    """Names of weights of which a tensor worker does not hold what the outline says."""
    join_tiny_group()
    wrong, seen = [], set()
    for stage, precision in ((0, "fp32"), (1, "bf16"), (3, "bf16")):
        for name in ("untied", "tied"):
            case = Case(stage, precision, tensor=2)
            network, engine = engine_from_outline(case, *MODELS[name])
            for part in zero.owned_slices(engine.deepspeed):
                first = network.weights.read(part.name).to(DTYPES[precision]).float().view(-1)
                places = [part.span.place(index) for index in range(part.length)]
                own = zero.state_tensors(engine.deepspeed, part)["weight"]
                if not torch.equal(own, first[places]):
                    wrong.append((case, name, part.name))
                seen.add((part.name.rpartition(".")[0].rpartition(".")[2], part.is_tensor_part))
            assert all(parameter.is_contiguous() for parameter in engine.deepspeed.parameters())
            engine.close()
            del engine, network
            gc.collect()
    return wrong, seen


def test_workers_that_share_matrices_begin_with_their_parts_of_the_outlines():
    for wrong, seen in run_distributed(first_parts, 2, init=False):
        assert not wrong
        assert {("q_proj", True), ("down_proj", True), ("embed_tokens", False)} <= seen


class Cut(Exception):
    """The model has its weights, and DeepSpeed makes no optimizer for it."""


def memory_of_parts(rank, world_size):
    join_tiny_group()
    from deepspeed.runtime.engine import DeepSpeedEngine

    def stop(engine, model):
        raise Cut

    DeepSpeedEngine._configure_distributed_model = stop
    case = Case(1, "bf16", tensor=world_size)
    network = network_of(large_outline())
    total = sum(parameter.numel() for parameter in network.module.parameters())
    batch = plan_batch(case.spec().global_batch, None, 1)
    task = get_task("causal_lm")()
    dist.barrier()
    with measure_memory() as growth, pytest.raises(Cut):
        build_engine(network.module, task, case.spec(), batch, network.weights)
    dist.barrier()
    return growth.peak_bytes / (2 * total), growth.kept_bytes / (2 * total)


def test_no_worker_that_shares_matrices_ever_holds_the_model():
    """In units of the whole model in bf16, on each of four ranks."""
    for peak, kept in run_distributed(memory_of_parts, 4, init=False):
        assert 0.25 < kept < 0.5, "a quarter of the matrices, and the embedding"
        assert peak < 0.75, "and the largest parameter, in fp32 and in bf16"


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
