"""Output tokens per second of the serving engines, beside `model.generate` one after the other.

    python benchmarks/serve_engines.py [--model FOLDER] [--clients 16] [--tokens 64] [--rounds 3]

All sides answer the same prompts greedily with equally many tokens, in one run: in each round they
take turns, so that what else the machine does meets all of them, and the medians of the rounds are
divided. Each round has prompts of its own, as an engine remembers those that it has read. Once all
clients ask at the same time, once one asks alone; `generate`, which takes one after the other, is
given four of them at most, as its rate does not depend on how many there are. An engine and
`generate` use as many threads; `generate` and the engine `transformers` compute in the dtype that
serving takes.
The tokens that are equal to those of `generate` are counted too: all in fp32, fewer in bf16, whose
rounding depends on the batch. Without `--model` a Llama of about 30 M parameters with random
weights is used: the speed does not depend on the weights.
"""

from __future__ import annotations

import argparse
import platform
import queue
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from raymodel.modality.text import train_tokenizer
from raymodel.model.load import load_for_use
from raymodel.serve.choice import build_engine
from raymodel.serve.load import serving_dtype
from raymodel.serve.sampling import Sampling
from raymodel.serve.spec import EngineName, EngineWeights

PROMPT_TOKENS = (8, 64)  # shortest and longest prompt
GENERATED = 4  # prompts a round that `generate` answers
ENGINES: list[tuple[str, EngineName, EngineWeights]] = [
    ("openvino, f16", "openvino", "f16"),
    ("openvino, q8_0", "openvino", "q8_0"),
    ("transformers", "transformers", "f16"),
]
Prompts = list[list[int]]
Answerer = Callable[[Prompts], Prompts]


def main() -> None:
    arguments = parse_arguments()
    torch.manual_seed(0)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    model, tokenizer = load(arguments.model, arguments.dtype)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    print(
        f"{millions:.0f} M parameters, {model.dtype}, {torch.get_num_threads()} threads of "
        f"{cpu_name()}; {arguments.clients} clients × {arguments.tokens} tokens, "
        f"medians of {arguments.rounds} rounds"
    )
    sides, closers = build_sides(model, tokenizer, arguments.clients, arguments.tokens)
    try:
        for num_clients in (arguments.clients, 1):
            rounds = [
                draw_prompts(num_clients, model.config.vocab_size, seed=number)
                for number in range(arguments.rounds + 1)
            ]
            report(sides, rounds, arguments.tokens)
    finally:
        for close in closers:
            close()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a Hugging Face folder")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="default: as served")
    parser.add_argument("--clients", type=int, default=16, help="that ask at the same time")
    parser.add_argument("--tokens", type=int, default=64, help="length of each answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of all sides")
    return parser.parse_args()


def load(folder: Path | None, dtype: str | None) -> tuple[PreTrainedModel, Any]:
    if folder is not None:
        model, task = load_for_use(folder, "causal_lm")
        wanted = getattr(torch, dtype) if dtype else serving_dtype(model.config, "cpu")
        return model.to(wanted), task.processor.tokenizer  # type: ignore[attr-defined]
    config = LlamaConfig(
        vocab_size=8192, hidden_size=512, intermediate_size=1408, num_hidden_layers=8,
        num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=2048,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(getattr(torch, dtype or "float32")).eval()
    return model, train_tokenizer(["a b c"], 300)


def draw_prompts(count: int, vocab_size: int, *, seed: int) -> Prompts:
    draw = random.Random(f"{count} {seed}")
    return [
        [draw.randrange(2, vocab_size) for _ in range(draw.randint(*PROMPT_TOKENS))]
        for _ in range(count)
    ]


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def build_sides(
    model: PreTrainedModel, tokenizer: Any, batch: int, num_tokens: int
) -> tuple[dict[str, Answerer], list[Callable[[], None]]]:
    """Name → what answers prompts, `generate` first; and what ends them."""
    # The ends are ordinary ids here, so that all sides write equally much.
    model.generation_config.eos_token_id = None
    sides: dict[str, Answerer] = {"generate": lambda some: generate(model, some, num_tokens)}
    closers = []
    for name, asked, weights in ENGINES:
        engine, _ = build_engine(
            model, tokenizer, batch=batch, queue=batch, asked=asked, weights=weights
        )
        engine._end_tokens = frozenset()
        sides[name] = answerer_of(engine, num_tokens)
        closers.append(engine.close)
    return sides, closers


def generate(model: PreTrainedModel, prompts: Prompts, num_tokens: int) -> Prompts:
    answers = []
    for prompt in prompts[:GENERATED]:
        ids = torch.tensor([prompt])
        out = model.generate(ids, max_new_tokens=num_tokens, do_sample=False, pad_token_id=0)
        answers.append(out[0, len(prompt) :].tolist())
    return answers


def answerer_of(engine: Any, num_tokens: int) -> Answerer:
    sampling = Sampling(max_tokens=num_tokens, temperature=0)

    def answer(prompts: Prompts) -> Prompts:
        finished: queue.Queue[Any] = queue.Queue()

        def deliver(index: int, chunk: Any) -> None:
            if chunk.finish_reason or chunk.error:
                finished.put(chunk.error)

        answers = engine.submit([(prompt, sampling) for prompt in prompts], deliver)
        for _ in prompts:
            if (error := finished.get()) is not None:
                raise error
        return [answer.tokens for answer in answers]

    return answer


def report(sides: dict[str, Answerer], rounds: list[Prompts], num_tokens: int) -> None:
    """Prints a line for each side; the first round warms up, and is what tokens are compared of."""
    first, *others = rounds
    answers = {name: answer(first) for name, answer in sides.items()}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for prompts in others:
        for name, answer in sides.items():
            start_s = time.perf_counter()
            num_answers = len(answer(prompts))
            rates[name].append(num_answers * num_tokens / (time.perf_counter() - start_s))
    medians = {name: statistics.median(each) for name, each in rates.items()}
    for name, rate in medians.items():
        ratio = rate / medians["generate"]
        same = equal_share(answers[name], answers["generate"])
        print(
            f"{len(first):>3} at once  {name:<15} {rate:8.1f} tokens/s  {ratio:6.2f} × generate"
            f"  equal tokens {same:.3f}",
            flush=True,
        )


def equal_share(answers: Prompts, expected: Prompts) -> float:
    pairs = [
        a == b
        for one, two in zip(answers, expected, strict=False)
        for a, b in zip(one, two, strict=True)
    ]
    return sum(pairs) / len(pairs)


if __name__ == "__main__":
    main()
