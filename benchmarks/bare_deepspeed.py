"""The yardstick: a plain DeepSpeed loop under torchrun, without raymodel's training.

`torchrun --nproc-per-node 2 benchmarks/bare_deepspeed.py DATA ZERO TENSOR BATCH RECORD_STEPS`

DATA is a folder with a raymodel dataset artifact; its rows are loaded into memory at the start, so
reading costs the loop nothing. Prints step, Unix time and loss after each RECORD_STEPS steps, and
goes on until it is ended.
"""

import itertools
import logging
import os
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


def main() -> None:
    data, zero, tensor, batch, record_steps = sys.argv[1], *map(int, sys.argv[2:6])
    torch.set_num_threads(1)
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # no build at first use
    deepspeed.init_distributed("gloo", verbose=False)
    replica, replicas = dist.get_rank() // tensor, dist.get_world_size() // tensor

    table = pq.read_table(sorted(Path(data).glob("data/train/part-000/0*.parquet"))[0])
    tokens = np.stack(table["tokens"].to_numpy()).astype(np.int64)
    presets = Path(__file__).parents[1] / "raymodel/model/presets.yaml"
    preset = yaml.safe_load(presets.read_text())["llama-tiny"]
    fields = preset.get("config", preset)
    fields = {name: value for name, value in fields.items() if name != "architecture"}
    set_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=4096, max_position_embeddings=tokens.shape[1], use_cache=False, **fields
        )
    )
    worker_batch = batch // replicas
    # Else a tied head returns the logits of this worker's part of the vocabulary.
    sharing = {"autotp_size": tensor, "vocab_parallel_lm_head": False}
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=model.parameters(),
        config={
            "train_micro_batch_size_per_gpu": worker_batch,
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
    for step in itertools.count(1):
        first = (step * batch + replica * worker_batch) % (len(tokens) - batch)
        ids = torch.from_numpy(tokens[first : first + worker_batch])
        loss = engine(input_ids=ids, labels=ids).loss
        engine.backward(loss)
        engine.step()
        if step % record_steps == 0 and dist.get_rank() == 0:
            print(f"step {step} at {time.time():.3f} loss {float(loss):.3f}", flush=True)


if __name__ == "__main__":
    main()
