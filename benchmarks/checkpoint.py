"""What a checkpoint costs: the stall of training, its bytes, and loading at other world sizes.

`python benchmarks/checkpoint.py [--zero 1] [--rounds 3] [--folder DIR]`

A Llama of 120 M parameters (1.4 GB of optimizer state) trains in two gloo processes. Each round
saves once while the loop waits and once beside it, in turn, and times what each stops training
for. Then fresh processes at other world sizes load the last of them and a checkpoint that as many
processes wrote, in turn.
"""

import argparse
import resource
import statistics
import tempfile
import time
import warnings

import torch
import torch.distributed as dist
from transformers import LlamaConfig, LlamaForCausalLM

from raymodel.storage.uri import Location
from raymodel.tasks import get_task
from raymodel.testing.distributed import run_distributed
from raymodel.train.checkpoint.resume import resume
from raymodel.train.checkpoint.saver import Saver
from raymodel.train.checkpoint.state import TrainState, checkpoint_location
from raymodel.train.plan import plan_batch
from raymodel.train.spec import PretrainSpec
from raymodel.train.step.engine import Engine, build_engine, join_group

WORLD_SIZE, OTHERS = 2, (1, 3)
ROWS, TOKENS = 4, 64  # a global batch: training is only there to be stopped
WARM_UP_STEPS = 2
LOADS = 7  # of each, after one that is not counted: a load takes a second, and is noisy


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zero", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        run = Location.parse(folder)
        zero, rounds = arguments.zero, arguments.rounds
        saved = run_distributed(
            save_in_turn, WORLD_SIZE, run, zero, rounds, init=False, timeout_s=900.0
        )[0]
        report_saving(saved, run, rounds)
        for world_size in OTHERS:
            own = run / f"written-by-{world_size}"
            run_distributed(save_once, world_size, own, zero, init=False, timeout_s=900.0)
            compare_loading(world_size, own, run, zero, LOADS)


def compare_loading(world_size: int, own: Location, other: Location, zero: int, n: int) -> None:
    """A checkpoint of the same world size beside one of another."""
    ranks = run_distributed(
        load_in_turn, world_size, own, other, zero, n, init=False, timeout_s=900.0
    )
    same_s, other_s = (statistics.median(times) for times in ranks[0][0])
    grown = max(more for _, more in ranks)
    print(
        f"load at world size {world_size}: {same_s:.2f} s when {world_size} wrote it, "
        f"{other_s:.2f} s when {WORLD_SIZE} did ({other_s / same_s:.2f} ×); a rank's peak memory "
        f"grew by {grown / 2**20:.0f} MiB",
        flush=True,
    )


def report_saving(saved: dict[str, list[float]], run: Location, rounds: int) -> None:
    median = {name: statistics.median(values) for name, values in saved.items()}
    print(
        f"stall: {median['sync']:.3f} s in the loop, {median['async']:.4f} s beside it "
        f"(1/{median['sync'] / max(median['async'], 1e-6):.0f}); a step is {median['step']:.2f} s, "
        f"and {median['step_beside']:.2f} s while a checkpoint is written"
    )
    last = checkpoint_location(run, WARM_UP_STEPS + 2 * rounds)
    size = sum(entry.bytes for entry in last.walk())
    per_parameter = size / median["parameters"]
    print(
        f"bytes: {size:,} for {median['parameters']:,.0f} parameters, {per_parameter:.3f} each "
        f"({per_parameter / 12 - 1:+.2%} on 12)",
        flush=True,
    )


def build(zero: int) -> Engine:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=TOKENS,
        tie_word_embeddings=True,
    )
    spec = PretrainSpec.model_validate(
        {
            "model": {"preset": "llama-tiny"},  # not built: the module comes from here
            "global_batch": ROWS,
            "duration": "100 steps",
            "parallel": {"zero": zero},
        }
    )
    batch = plan_batch(ROWS, None, dist.get_world_size())
    return build_engine(LlamaForCausalLM(config), get_task("causal_lm")(), spec, batch)


def train_step(engine: Engine, saver: Saver) -> tuple[float, float]:
    """Seconds of a step, and of it those that it waited for a copy."""
    started = time.perf_counter()
    rows = ROWS // dist.get_world_size()
    ids = torch.randint(0, 8192, (rows, TOKENS))
    engine.forward_backward(
        {"input_ids": ids, "labels": ids}, torch.tensor(float(ROWS * (TOKENS - 1)))
    )
    waited_from = time.perf_counter()
    saver.wait_for_copy()
    waited = time.perf_counter() - waited_from
    engine.update(1e-4)
    return time.perf_counter() - started, waited


def save_in_turn(rank: int, world_size: int, run: Location, zero: int, rounds: int):
    quiet()
    join_group(use_gpu=False)
    engine = build(zero)
    savers = {
        name: Saver(
            run,
            engine,
            rank=rank,
            world_size=world_size,
            token=name,
            keep=1,
            keep_best=False,
            wait=name == "sync",
            before_commit=lambda: None,
            on_event=lambda event: None,
        )
        for name in ("sync", "async")
    }
    times: dict[str, list[float]] = {"sync": [], "async": [], "step": [], "step_beside": []}
    # What is timed is warm: the buffers of both savers are there after a first save.
    for _ in range(WARM_UP_STEPS):
        train_step(engine, savers["sync"])
    for name, saver in savers.items():
        saver.save(TrainState(step=0 if name == "sync" else 1))
        saver.close()
    step = WARM_UP_STEPS
    for _ in range(rounds):
        for name, saver in savers.items():
            times["step"].append(train_step(engine, saver)[0])
            step += 1
            dist.barrier()
            started = time.perf_counter()
            saver.save(TrainState(step=step))
            stall = time.perf_counter() - started
            seconds, waited = train_step(engine, saver)
            if name == "async":
                times["step_beside"].append(seconds)
            times[name].append(stall + waited)
            saver.close()
            dist.barrier()
    times["parameters"] = [float(sum(p.numel() for p in engine.deepspeed.module.parameters()))]
    return times


def save_once(rank: int, world_size: int, run: Location, zero: int) -> None:
    quiet()
    join_group(use_gpu=False)
    engine = build(zero)
    saver = Saver(
        run,
        engine,
        rank=rank,
        world_size=world_size,
        token="once",
        keep=1,
        keep_best=False,
        wait=True,
        before_commit=lambda: None,
        on_event=lambda event: None,
    )
    for _ in range(WARM_UP_STEPS + 1):
        train_step(engine, saver)
    saver.save(TrainState(step=WARM_UP_STEPS + 1))
    saver.close()
    dist.barrier()


def quiet() -> None:
    """The libraries' warnings about each other."""
    warnings.simplefilter("ignore")


def load_in_turn(
    rank: int, world_size: int, own: Location, other: Location, zero: int, rounds: int
) -> tuple[tuple[list[float], list[float]], int]:
    """Seconds of each load of both, and by how many bytes the peak memory of this rank grew.

    The first load of each is not counted: it finds its file in the system's cache or does not,
    and the first of all touches the memory of the moments. Which of the two goes first changes
    from round to round.
    """
    quiet()
    join_group(use_gpu=False)
    engine = build(zero)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for at in (0, 1) if number % 2 else (1, 0):
            dist.barrier()
            started = time.perf_counter()
            state = resume((own, other)[at], engine, rank, world_size, lambda torn: None)
            dist.barrier()
            times[at].append(time.perf_counter() - started)
            assert state.step > WARM_UP_STEPS, "the checkpoint was found"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return (times[0][1:], times[1][1:]), grown


if __name__ == "__main__":
    main()
