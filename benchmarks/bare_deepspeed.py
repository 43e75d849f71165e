"""The yardstick: a plain DeepSpeed loop under torchrun, without raymodel's training.

`torchrun --nproc-per-node 2 benchmarks/bare_deepspeed.py DATA ZERO TENSOR BATCH STEPS`

DATA is a folder with a raymodel dataset artifact; its rows are loaded into memory at the start, so
reading costs the loop nothing. Prints the tokens/s of the faster steps, the upper quartile after
the first ten.
"""

import logging
import os
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("DS_ACCELERATOR", "cpu")
import deepspeed
import deepspeed.ops
import numpy as np
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
import yaml
from transformers import LlamaConfig, LlamaForCausalLM, set_seed

WARM_UP_STEPS = 10


class BareLoop:
    """One worker's model, engine and rows. The process group must exist."""

    def __init__(self, data: Path, zero: int, tensor: int, batch: int) -> None:
        table = pq.read_table(sorted(data.glob("data/train/part-000/0*.parquet"))[0])
        self.tokens = np.stack(table["tokens"].to_numpy()).astype(np.int64)
        self._batch = batch
        replica, replicas = dist.get_rank() // tensor, dist.get_world_size() // tensor
        self._rows = range(batch // replicas * replica, batch // replicas * (replica + 1))
        # Else a tied head returns the logits of this worker's part of the vocabulary.
        sharing = {"autotp_size": tensor, "vocab_parallel_lm_head": False}
        model = build_model(self.tokens.shape[1])
        self._engine, *_ = deepspeed.initialize(
            model=model,
            model_parameters=model.parameters(),
            config={
                "train_micro_batch_size_per_gpu": len(self._rows),
                "gradient_accumulation_steps": 1,
                "gradient_clipping": 1.0,
                "steps_per_print": 10**9,
                "bf16": {"enabled": True},
                "zero_optimization": {"stage": zero},
                **({"tensor_parallel": sharing} if tensor > 1 else {}),
                "optimizer": {
                    "type": "AdamW",
                    "params": {"lr": 1e-3, "torch_adam": True, "fused": True},
                },
            },
        )

    def step(self, number: int) -> float:
        """Trains on one global batch. Returns the seconds it took."""
        started = time.perf_counter()
        first = number * self._batch % (len(self.tokens) - self._batch)
        ids = torch.from_numpy(self.tokens[first + self._rows.start : first + self._rows.stop])
        loss = self._engine(input_ids=ids, labels=ids).loss
        self._engine.backward(loss)
        self._engine.step()
        dist.barrier()
        return time.perf_counter() - started


def build_model(sequence_length: int) -> LlamaForCausalLM:
    presets = Path(__file__).parents[1] / "raymodel/model/presets.yaml"
    preset = yaml.safe_load(presets.read_text())["llama-tiny"]
    fields = preset.get("config", preset)
    fields = {name: value for name, value in fields.items() if name != "architecture"}
    set_seed(0)
    config = LlamaConfig(
        vocab_size=4096, max_position_embeddings=sequence_length, use_cache=False, **fields
    )
    return LlamaForCausalLM(config)


def main() -> None:
    data, zero, tensor, batch, steps = Path(sys.argv[1]), *map(int, sys.argv[2:6])
    torch.set_num_threads(1)
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # no build at first use
    deepspeed.init_distributed("gloo", verbose=False)
    loop = BareLoop(data, zero, tensor, batch)
    times = [loop.step(step) for step in range(steps)]
    if dist.get_rank() == 0:
        rate = batch * loop.tokens.shape[1] / statistics.quantiles(times[WARM_UP_STEPS:], n=4)[0]
        print(f"bare tokens/s {rate:.0f}", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
