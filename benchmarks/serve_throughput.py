"""Tokens per second of the serving engine, beside `model.generate` one request after the other.

    python benchmarks/serve_throughput.py [--model FOLDER] [--requests 16] [--tokens 64]

All requests arrive at once. Both sides are greedy, in the same dtype, in one process; the tokens
are compared, and the share that is equal is printed (1.0 in fp32). Without `--model` a Llama of
about 30 M parameters with random weights is used: the speed does not depend on the weights.
"""

from __future__ import annotations

import argparse
import queue
import random
import time
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from raymodel.serve.engine import Engine
from raymodel.serve.load import load_service
from raymodel.serve.sampling import Sampling
from raymodel.serve.spec import ServeSpec
from raymodel.testing.tiny import train_tiny_tokenizer

PROMPT_TOKENS = (8, 64)  # shortest and longest prompt


def main() -> None:
    arguments = parse_arguments()
    torch.manual_seed(0)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    model, tokenizer = load(arguments.model, getattr(torch, arguments.dtype))
    model.generation_config.eos_token_id = None  # every answer has the same length
    draw = random.Random(0)
    prompts = [
        [draw.randrange(2, model.config.vocab_size) for _ in range(draw.randint(*PROMPT_TOKENS))]
        for _ in range(arguments.requests)
    ]
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"{millions:.0f} M parameters, {model.dtype}, {torch.get_num_threads()} threads")
    sequential, generate_s = run_generate(model, prompts, arguments.tokens)
    batched, engine_s = run_engine(model, tokenizer, prompts, arguments.tokens, arguments.batch)
    total = arguments.requests * arguments.tokens
    same = sum(
        a == b
        for one, two in zip(sequential, batched, strict=True)
        for a, b in zip(one, two, strict=True)
    )
    print(f"generate, one by one   {total / generate_s:8.1f} tokens/s")
    print(f"engine, batch of {arguments.batch:<4}  {total / engine_s:8.1f} tokens/s")
    print(f"ratio {generate_s / engine_s:.2f}, equal tokens {same / total:.3f}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a Hugging Face folder")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64, help="length of each answer")
    parser.add_argument("--batch", type=int, default=16, help="slots of the engine")
    parser.add_argument("--threads", type=int, help="threads of torch")
    return parser.parse_args()


def load(folder: Path | None, dtype: torch.dtype) -> tuple[PreTrainedModel, object]:
    if folder is not None:
        service = load_service(folder, "causal_lm", name="model", spec=ServeSpec())
        service.close()
        return service.model.to(dtype), service.task.processor.tokenizer
    config = LlamaConfig(
        vocab_size=8192, hidden_size=512, intermediate_size=1408, num_hidden_layers=8,
        num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=2048,
    )  # fmt: skip
    return LlamaForCausalLM(config).to(dtype).eval(), train_tiny_tokenizer(["a b c"])


def run_generate(
    model: PreTrainedModel, prompts: list[list[int]], num_tokens: int
) -> tuple[list[list[int]], float]:
    """Answers and seconds."""

    def answer(prompt: list[int]) -> list[int]:
        ids = torch.tensor([prompt], device=model.device)
        out = model.generate(ids, max_new_tokens=num_tokens, do_sample=False, pad_token_id=0)
        return out[0, len(prompt) :].tolist()

    answer(prompts[0])  # warm up
    start_s = time.perf_counter()
    return [answer(prompt) for prompt in prompts], time.perf_counter() - start_s


def run_engine(
    model: PreTrainedModel, tokenizer: object, prompts: list[list[int]], num_tokens: int, batch: int
) -> tuple[list[list[int]], float]:
    """Answers and seconds."""
    engine = Engine(model, tokenizer, batch=batch, queue=len(prompts))  # type: ignore[arg-type]
    # The tokenizer's end token is an ordinary id here, so that both sides write equally much.
    engine._end_tokens = frozenset()
    finished: queue.Queue[int] = queue.Queue()
    sampling = Sampling(max_tokens=num_tokens, temperature=0)

    def deliver(index: int, chunk: object) -> None:
        if chunk.finish_reason:  # type: ignore[attr-defined]
            finished.put(index)

    def answer(some: list[list[int]]) -> list[list[int]]:
        answers = engine.submit([(prompt, sampling) for prompt in some], deliver)
        for _ in some:
            finished.get()
        return [answer.tokens for answer in answers]

    answer(prompts[:1])  # warm up
    start_s = time.perf_counter()
    tokens = answer(prompts)
    seconds = time.perf_counter() - start_s
    engine.close()
    return tokens, seconds


if __name__ == "__main__":
    main()
