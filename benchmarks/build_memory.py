"""What a worker's memory is when a model is built, loaded and exported, in bytes per parameter.

`python benchmarks/build_memory.py [--zero 1 3] [--folder DIR]`

A Llama of 134 M parameters in bf16, two gloo processes that are new for each line. The peak is the
kernel's high-water mark of resident memory, less what was resident when the work began; beside it
is what stays. DeepSpeed keeps 12 bytes of fp32 state for each parameter that a rank owns (a weight
and two moments; the moments come with the first update) and 2 for each weight that it holds.
"""

import argparse
import tempfile
import warnings
from pathlib import Path

import torch
import torch.distributed as dist

from raymodel.modality.base import ModelFields
from raymodel.modality.text import TextProcessor
from raymodel.model.build import build_model
from raymodel.model.export import save_model
from raymodel.model.initial import InitialWeights
from raymodel.model.spec import ModelSpec
from raymodel.storage.uri import Location
from raymodel.tasks import get_task
from raymodel.testing.distributed import run_distributed
from raymodel.testing.memory import Growth, measure_memory
from raymodel.testing.tiny import train_tiny_tokenizer
from raymodel.train.checkpoint.export import TrainedWeights
from raymodel.train.checkpoint.fragments import FragmentReader
from raymodel.train.checkpoint.index import load_index
from raymodel.train.checkpoint.resume import resume
from raymodel.train.checkpoint.saver import Saver
from raymodel.train.checkpoint.state import TrainState, checkpoint_location
from raymodel.train.network import Network
from raymodel.train.plan import plan_batch
from raymodel.train.spec import PretrainSpec
from raymodel.train.step.engine import Engine, build_engine, join_group

WORLD_SIZE, VOCAB, ROWS, TOKENS = 2, 32_000, 2, 16
SHAPE = {
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "tie_word_embeddings": False,
}
NEEDED = ModelFields(
    at_least={"vocab_size": VOCAB, "max_position_embeddings": TOKENS},
    given={"pad_token_id": 1, "eos_token_id": 0, "bos_token_id": None},
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zero", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--folder", default=None)
    arguments = parser.parse_args()
    parameters = sum(p.numel() for p in outline().plain.parameters())
    print(f"{parameters:,} parameters; bytes of each, on the worker that takes most")
    print("| ZeRO | work | peak | stays |")
    print("|---|---|---|---|")
    for zero in arguments.zero:
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            run = Location.parse(folder)
            for name, work in {"build": build, "load": load, "export": export}.items():
                ranks = run_distributed(work, WORLD_SIZE, run, zero, init=False, timeout_s=600.0)
                peak = max(growth.peak_bytes for growth in ranks) / parameters
                kept = max(growth.kept_bytes for growth in ranks) / parameters
                print(f"| {zero} | {name} | {peak:.1f} | {kept:.1f} |", flush=True)


def outline() -> Network:
    spec, task = ModelSpec(architecture="llama", config=SHAPE), get_task("causal_lm")()
    plain, module = (build_model(spec, task, NEEDED) for _ in range(2))
    first = InitialWeights(plain, 0)
    return Network(module=module, weights=first, plain=plain, first=first)


def start() -> None:
    warnings.simplefilter("ignore")  # of the libraries about each other
    join_group(use_gpu=False)
    dist.barrier()  # the first use of gloo takes memory of its own


def new_engine(zero: int) -> Engine:
    spec = PretrainSpec.model_validate(
        {
            "model": {"preset": "llama-tiny"},  # not built: the network comes from here
            "global_batch": ROWS,
            "duration": "100 steps",
            "parallel": {"zero": zero},
        }
    )
    batch = plan_batch(ROWS, None, dist.get_world_size())
    network = outline()
    return build_engine(network.module, get_task("causal_lm")(), spec, batch, network.weights)


def build(rank: int, world_size: int, run: Location, zero: int) -> Growth:
    start()
    with measure_memory() as growth:
        engine = new_engine(zero)
    ids = torch.zeros(ROWS // world_size, TOKENS, dtype=torch.int64)
    targets = torch.tensor(float(ROWS * (TOKENS - 1)))
    engine.forward_backward({"input_ids": ids, "labels": ids}, targets)
    engine.update(1e-4)
    saver = Saver(
        run,
        engine,
        rank=rank,
        world_size=world_size,
        token="one",
        keep=1,
        keep_best=False,
        wait=True,
        before_commit=lambda: None,
        on_event=lambda event: None,
    )
    saver.save(TrainState(step=1))
    saver.close()
    dist.barrier()
    return growth


def load(rank: int, world_size: int, run: Location, zero: int) -> Growth:
    """Building and loading, as a worker that starts again does it."""
    start()
    with measure_memory() as growth:
        engine = new_engine(zero)
        state = resume(run, engine, rank, world_size, lambda torn: None)
    assert state.step == 1, "the checkpoint was found"
    dist.barrier()
    return growth


def export(rank: int, world_size: int, run: Location, zero: int) -> Growth:
    """On one rank, and without an engine, so that nothing else is measured."""
    if rank > 0:
        return Growth()
    network, location = outline(), checkpoint_location(run, 1)
    processor = TextProcessor(train_tiny_tokenizer(["some text"]))
    with measure_memory() as growth, tempfile.TemporaryDirectory() as folder:
        weights = TrainedWeights(network, FragmentReader(location, load_index(location)))
        save_model(network.plain, weights, processor, Path(folder), torch.bfloat16, {})
    return growth


if __name__ == "__main__":
    main()
