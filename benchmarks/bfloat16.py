"""Training steps of a small Llama on this CPU: fp32, bf16 as PyTorch computes it, and as we do.

One core, the three one after the other in one process. On a CPU with instructions for bf16 the last
two are the same.

`python benchmarks/bfloat16.py`
"""

import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from raymodel.model.bfloat16 import has_fast_bf16, speed_up_bf16

SIZES = {
    "vocab_size": 1024, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 4,
}  # fmt: skip
ROWS, TOKENS, SECONDS = 2, 128, 5.0


def tokens_per_s(dtype: torch.dtype) -> float:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES)).to(dtype)
    input_ids = torch.randint(SIZES["vocab_size"], (ROWS, TOKENS))
    steps, started = -1, 0.0  # the first step does not count
    while steps < 1 or time.monotonic() - started < SECONDS:
        if steps == 0:
            started = time.monotonic()
        model(input_ids=input_ids, labels=input_ids, use_cache=False).loss.backward()
        steps += 1
    return steps * ROWS * TOKENS / (time.monotonic() - started)


def main() -> None:
    torch.set_num_threads(1)
    plain = tokens_per_s(torch.float32)
    before = tokens_per_s(torch.bfloat16)
    speed_up_bf16()
    after = tokens_per_s(torch.bfloat16)
    print(f"this CPU has instructions for bf16: {has_fast_bf16()}")
    print(f"fp32 {plain:.0f} tokens/s; bf16 {before:.0f}, {before / plain:.3f} of it; ", end="")
    print(f"with products in fp32 {after:.0f}, {after / plain:.2f} of it")


if __name__ == "__main__":
    main()
