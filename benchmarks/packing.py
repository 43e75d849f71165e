"""Training steps of a small Llama on this CPU: what it costs that documents do not see each other,
and what it saves that examples share a row.

Two pairs, each side by side in one process, in turns: rows of documents kept apart and the same
rows without a mask; examples of many lengths end to end and the same examples padded. The median of
the ratios of neighbouring steps is told, and the quarter and three quarters beside it, since a busy
machine disturbs both of a pair alike. For comparison: the same rows under a mask, as transformers
makes it of positions that begin anew.

`python benchmarks/packing.py`
"""

import time
from collections.abc import Callable
from statistics import quantiles
from types import SimpleNamespace

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from raymodel.model.attention import keep_documents_apart
from raymodel.tasks import make_task
from raymodel.tasks.documents import BOUNDS
from raymodel.tasks.spec.language import CausalLMSpec

SIZES = {
    "vocab_size": 1024, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 2,
    "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 2048,
}  # fmt: skip
TOKENS_OF_A_STEP, MEAN_DOCUMENT, PAIRS = 2048, 300, 15
EXAMPLES, MEAN_EXAMPLE = 32, 60

Batch = dict[str, torch.Tensor]


def build(*, keeps_apart: bool) -> LlamaForCausalLM:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES))
    if keeps_apart:
        keep_documents_apart(model, "sdpa")
    return model


def tasks() -> tuple[CausalLMSpec, CausalLMSpec]:
    """That which keeps documents apart, and that which does not."""
    reads = SimpleNamespace(padding=0)
    llama = SimpleNamespace(model_type="llama")
    specs = CausalLMSpec(), CausalLMSpec(cross_documents=True)
    return tuple(make_task(spec, processor=reads).for_model(llama) for spec in specs)


def packed_rows(tokens: int) -> dict[str, object]:
    """Rows of documents whose lengths are as unequal as those of texts."""
    draw = np.random.default_rng(0)
    rows = TOKENS_OF_A_STEP // tokens
    starts = np.cumsum(8 + draw.exponential(MEAN_DOCUMENT, size=rows * tokens // 8).astype(int))
    return {
        "tokens": draw.integers(SIZES["vocab_size"], size=(rows, tokens)),
        "length": np.full(rows, tokens),
        "document_starts": [starts[starts // tokens == i] % tokens for i in range(rows)],
    }


def examples() -> dict[str, object]:
    draw = np.random.default_rng(0)
    lengths = 8 + draw.exponential(MEAN_EXAMPLE, size=EXAMPLES).astype(int)
    ids = [draw.integers(SIZES["vocab_size"], size=length) for length in lengths]
    return {"input_ids": ids, "prompt_length": lengths // 2}


def step_s(task: object, model: LlamaForCausalLM, batch: Batch) -> float:
    started = time.perf_counter()
    task.loss(model, batch).backward()
    spent = time.perf_counter() - started
    model.zero_grad()
    return spent


def compare(one: Callable[[], float], other: Callable[[], float]) -> str:
    one(), other()  # the first steps do not count
    low, middle, high = quantiles([one() / other() for _ in range(PAIRS)], n=4)
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    torch.set_num_threads(1)
    apart, crossing = tasks()
    keeping, plain = build(keeps_apart=True), build(keeps_apart=False)
    for tokens in (256, 1024, 2048):
        rows = packed_rows(tokens)
        split, whole = apart.collate(rows), crossing.collate(rows)
        masked = {name: value for name, value in split.items() if name != BOUNDS}
        unmasked = lambda batch=whole: step_s(crossing, plain, batch)  # noqa: E731
        ratio = compare(lambda batch=split: step_s(apart, keeping, batch), unmasked)
        of_mask = compare(lambda batch=masked: step_s(apart, plain, batch), unmasked)
        count = len(split[BOUNDS]) - 1
        print(f"rows of {tokens} tokens, {count} documents in {TOKENS_OF_A_STEP} tokens: a step is")
        print(f"  {ratio} of one without a mask; with a mask of all by all {of_mask}")
    rows = examples()
    joined, padded = apart.collate(rows), crossing.collate(rows)
    ratio = compare(lambda: step_s(apart, keeping, joined), lambda: step_s(crossing, plain, padded))
    real = sum(map(len, rows["input_ids"]))
    waste = [1 - real / batch["input_ids"].numel() for batch in (joined, padded)]
    print(f"{EXAMPLES} examples of {MEAN_EXAMPLE + 8} tokens: a step end to end is {ratio} of")
    print(f"  one padded; padding is {waste[0]:.1%} of the first and {waste[1]:.1%} of the second")


if __name__ == "__main__":
    main()
