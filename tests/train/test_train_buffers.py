"""Buffers of a model in checkpoints of any layout, and in the model that is exported."""

import json

import pytest
import torch
from tiny_engines import Case, engine_of, join_tiny_group, save_now, train_steps
from tiny_images import (
    Images,
    buffers_of,
    build_net,
    build_resnet,
    image_engine,
    image_spec,
    outline_resnet,
    rows_of,
    train_images,
)
from tiny_networks import network_of
from torch import nn
from transformers import AutoModelForImageClassification

from raymodel.errors import CheckpointError, DamagedCheckpointError
from raymodel.model.export import save_model
from raymodel.storage.uri import Location
from raymodel.testing.distributed import run_distributed
from raymodel.testing.tiny import train_tiny_tokenizer
from raymodel.train.checkpoint.buffers import persistent_buffers
from raymodel.train.checkpoint.export import TrainedWeights
from raymodel.train.checkpoint.fragments import FragmentReader
from raymodel.train.checkpoint.index import load_index, rank_file, rank_index
from raymodel.train.checkpoint.resume import load_checkpoint
from raymodel.train.checkpoint.state import checkpoint_location

STEP, END = 3, 5
# As in test_train_batch_norm.py: other layouts add in another order.
CURVE_TOLERANCE = 2e-5


class Odd(nn.Module):
    """A network around a `Net`, with buffers in other formats and shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.net = build_net()
        self.register_buffer("flags", torch.tensor([True, False, True]))
        self.register_buffer("scale", torch.tensor(1.5, dtype=torch.bfloat16))
        self.register_buffer("nothing", torch.empty(0, 3))
        self.register_buffer("absent", None)
        self.register_buffer("derived", torch.arange(4.0), persistent=False)
        self.twin = self.net.norm

    def forward(self, pixel_values):
        return self.net(pixel_values=pixel_values)


def build_odd(is_blank=False):
    """Two of them: as the run that is saved has it, and as one that is to be filled."""
    odd = Odd()
    if is_blank:
        for buffer in odd.buffers():
            buffer.zero_()
    return odd


# ---- saved and loaded ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Location.parse(str(tmp_path_factory.mktemp("runs") / "run"))


def save_one(rank, world_size, run):
    """The buffers at a checkpoint, those that a rewind brings back, and what training does then."""
    join_tiny_group()
    with image_engine(image_spec(1), build_odd()) as engine:
        train_images(engine, range(STEP))
        save_now(run, engine, STEP)
        saved = buffers_of(engine)
        first = train_images(engine, range(STEP, END))
        later = buffers_of(engine)
        load(engine, run, rank, world_size)
        went_back = buffers_of(engine)
        again = train_images(engine, range(STEP, END))
    return {"saved": saved, "later": later, "back": went_back, "losses": (first, again)}


def load(engine, run, rank, world_size):
    index = load_index(checkpoint_location(run, STEP))
    load_checkpoint(run, index, engine, rank, world_size)


def load_one(rank, world_size, run, zero):
    join_tiny_group()
    with image_engine(image_spec(zero), build_odd(is_blank=True)) as engine:
        load(engine, run, rank, world_size)
        return buffers_of(engine), train_images(engine, range(STEP, END))


@pytest.fixture(scope="module")
def saved(run):
    """Of two workers at ZeRO 1."""
    return run_distributed(save_one, 2, run, init=False)


def assert_equal(buffers, expected):
    assert buffers.keys() == expected.keys()
    for name, buffer in buffers.items():
        assert buffer.dtype == expected[name].dtype, name
        assert torch.equal(buffer, expected[name]), name


def test_a_rewind_goes_back_to_the_buffers_too(saved):
    for rank in saved:
        assert_equal(rank["saved"], saved[0]["saved"])
        assert_equal(rank["back"], rank["saved"])
        assert rank["losses"][0] == rank["losses"][1]
        changed = {n for n, b in rank["later"].items() if not torch.equal(b, rank["saved"][n])}
        assert changed == {n for n in rank["saved"] if "running" in n or "tracked" in n}


@pytest.mark.parametrize(("world_size", "zero"), [(1, 2), (3, 3)])
def test_buffers_load_bit_for_bit_at_another_layout(saved, run, world_size, zero):
    for buffers, losses in run_distributed(load_one, world_size, run, zero, init=False):
        assert_equal(buffers, saved[0]["saved"])
        assert losses == pytest.approx(saved[0]["losses"][0], rel=CURVE_TOLERANCE)


def test_buffers_are_written_once_and_those_that_are_derived_never(saved, run):
    folder = checkpoint_location(run, STEP)
    index = load_index(folder)
    assert {place["file"] for place in index.buffers.values()} == {rank_file(0)}
    assert {n.rpartition(".")[2] for n in index.buffers} == {
        "running_mean",
        "running_var",
        "num_batches_tracked",
        "flags",
        "scale",
        "nothing",
    }
    assert "buffers" not in json.loads((folder / rank_index(1)).read_bytes())


# ---- without buffers -----------------------------------------------------------------------------


def save_without(rank, world_size, run):
    join_tiny_group()
    with engine_of(Case(1)) as engine:
        train_steps(engine, range(STEP))
        save_now(run, engine, STEP)
        losses = train_steps(engine, range(STEP, END))
    with engine_of(Case(1), perturbed=True) as engine:
        load(engine, run, rank, world_size)
        return losses, train_steps(engine, range(STEP, END))


def test_a_model_without_buffers_has_the_files_that_it_had_before(tmp_path):
    run = Location.parse(str(tmp_path / "run"))
    for losses, again in run_distributed(save_without, 2, run, init=False):
        assert losses == again
    folder = checkpoint_location(run, STEP)
    for name in ("checkpoint.json", rank_index(0), rank_index(1)):
        assert "buffers" not in json.loads((folder / name).read_bytes()), name
    assert load_index(folder).buffers == {}


# ---- refused -------------------------------------------------------------------------------------


def error_of(rank, world_size, run, kind):
    """Of an engine that the checkpoint does not fit; the loss that the engine gave before and
    gives afterwards."""
    join_tiny_group()
    module = build_odd()
    if kind == "missing":
        module.register_buffer("missing", torch.zeros(2))
    if kind == "shape":
        module.register_buffer("flags", torch.tensor([True]))
    with image_engine(image_spec(1), module) as engine:
        before = float(engine.forward(rows_of(0)))
        try:
            load(engine, run, rank, world_size)
        except CheckpointError as error:
            return error, before, float(engine.forward(rows_of(0)))
    return None


REFUSALS = {
    "missing": r"has no buffer 'missing'; it was written for another model, or before",
    "shape": r"flags has shape \[3\] in the checkpoint and \[1\] in the model",
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_checkpoint_without_a_buffer_or_of_another_shape_is_refused(saved, run, kind):
    for error, before, after in run_distributed(error_of, 2, run, kind, init=False):
        assert not isinstance(error, DamagedCheckpointError)
        with pytest.raises(CheckpointError, match=REFUSALS[kind]):
            raise error
        assert before == after, "nothing of it was loaded"


def test_a_damaged_buffer_is_seen(saved, run, tmp_path):
    folder, copied = checkpoint_location(run, STEP), Location.parse(str(tmp_path))
    index = load_index(folder)
    content = bytearray((folder / rank_file(0)).read_bytes())
    content[index.buffers["net.norm.running_var"]["offset"]] ^= 1
    (copied / rank_file(0)).write_bytes(content)
    reader = FragmentReader(copied, index)
    reader.buffer("net.norm.running_mean")
    with pytest.raises(DamagedCheckpointError, match=r"the buffer net\.norm\.running_var"):
        reader.buffer("net.norm.running_var")


# ---- exported ------------------------------------------------------------------------------------


def save_resnet(rank, world_size, run, precision):
    join_tiny_group()
    with image_engine(image_spec(3, precision), build_resnet()) as engine:
        train_images(engine, range(STEP))
        save_now(run, engine, STEP)
        return buffers_of(engine), float(engine.forward(rows_of(9)))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_exported_model_has_the_trained_buffers(tmp_path, precision):
    run = Location.parse(str(tmp_path / "run"))
    buffers, loss = run_distributed(save_resnet, 2, run, precision, init=False)[0]
    folder = checkpoint_location(run, STEP)
    network = network_of(outline_resnet())
    weights = TrainedWeights(network, FragmentReader(folder, load_index(folder)))
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    tokenizer = train_tiny_tokenizer(["some text"])
    save_model(network.plain, weights, tokenizer, tmp_path / "model", dtype, {})
    loaded, found = AutoModelForImageClassification.from_pretrained(
        tmp_path / "model", dtype=torch.float32, output_loading_info=True
    )
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    assert_equal(persistent_buffers(loaded), buffers)
    with torch.no_grad():
        mine = float(Images().loss(loaded.eval(), rows_of(9)))
    # In bf16 the engine rounds activations too.
    assert mine == pytest.approx(loss, rel=1e-5 if precision == "fp32" else 0.05)


def test_a_checkpoint_without_the_buffers_of_the_model_is_not_exported(saved, run):
    folder = checkpoint_location(run, STEP)
    reader = FragmentReader(folder, load_index(folder))
    network = network_of(outline_resnet())
    with pytest.raises(CheckpointError, match=r"has no buffer 'resnet\."):
        TrainedWeights(network, reader)
