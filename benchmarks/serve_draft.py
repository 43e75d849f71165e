"""A served model alone and with a draft (`serve.draft`), side by side on the same prompts.

    python benchmarks/serve_draft.py --model FOLDER (--draft FOLDER | --layers 6 [--steps 150]
        [--save FOLDER]) [--ahead K] [--clients 1,4] [--tokens 96] [--rounds 3] [--temperature T]

Both sides are the engine `transformers` in the dtype that serving takes; beside them stands what
`engine: auto` takes without a draft, where that is another. In each round they take turns, and the
medians of the rounds are divided. The CPU seconds of this process for 1,000 tokens
are told too: they hardly depend on what else the machine does. How often the draft is right
depends on the text: prompts are pieces of Python's own library, which a draft that is made here
does not learn from. Greedy tokens are compared: all are equal in fp32, and fewer in bf16, whose
rounding depends on how many tokens are read at once.

Without `--draft` one is made: layers of the model, evenly taken, which learn from it for some steps
of 8 windows of 128 tokens. That is far less than a training with `finetune.distill` is, so such a
draft says what a step costs, and a student of a job how much is gained.
"""

from __future__ import annotations

import argparse
import os
import queue
import random
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from serve_engines import Prompts, cpu_name, equal_share
from torch.nn import functional as F
from transformers import PreTrainedModel

from raymodel.model.initial import Weights
from raymodel.model.layers import begin_with_layers
from raymodel.model.load import load_for_use, open_model
from raymodel.model.materialise import materialise
from raymodel.model.own import first_weights
from raymodel.serve.capacity import find_draft_tokens
from raymodel.serve.choice import build_engine
from raymodel.serve.draft import DraftModel
from raymodel.serve.load import serving_dtype
from raymodel.serve.sampling import Sampling
from raymodel.storage.uri import Location
from raymodel.tasks import get_task

WINDOW, ROWS = 128, 8
RATE = 5e-4
PROMPT_TOKENS = 64
HELD_OUT = 5  # each fifth file is for prompts


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model, task = load_for_use(arguments.model, "causal_lm")
    tokenizer = task.processor.tokenizer
    learnt, asked = read_texts(tokenizer)
    draft = find_draft(arguments, model, learnt)
    for each in (model, draft):
        each.to(serving_dtype(each.config, "cpu", arguments.dtype))
        each.generation_config.eos_token_id = None  # all answers are equally long
    sizes = [sum(weight.numel() for weight in each.parameters()) for each in (draft, model)]
    beside = DraftModel(draft, find_draft_tokens(arguments.ahead, *sizes), "draft")
    print(
        f"{sizes[1] / 1e6:.0f} M parameters and a draft of {sizes[0] / 1e6:.0f} M that writes "
        f"{beside.tokens} ahead, {model.dtype}, {arguments.threads} threads of {cpu_name()}; "
        f"{arguments.tokens} tokens, medians of {arguments.rounds} rounds"
    )
    for clients in arguments.clients:
        compare(arguments, model, beside, tokenizer, asked, clients)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="a Hugging Face folder")
    made = parser.add_mutually_exclusive_group(required=True)
    made.add_argument("--draft", type=Path, help="another, of the same tokenizer")
    made.add_argument("--layers", type=int, help="makes one of so many layers of the model")
    parser.add_argument("--steps", type=int, default=150, help="that it learns from the model")
    parser.add_argument("--save", type=Path, help="keeps the draft that was made")
    parser.add_argument("--ahead", type=int, help="serve.draft.tokens")
    parser.add_argument("--clients", type=numbers, default=[1, 4], help="that ask at once")
    parser.add_argument("--tokens", type=int, default=96, help="length of each answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of both sides")
    return parser.parse_args()


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


# ---- the draft -----------------------------------------------------------------------------------


def read_texts(tokenizer: Any) -> tuple[list[int], list[list[int]]]:
    """Token ids to learn from, and prompts of other files."""
    files = sorted(Path(os.__file__).parent.glob("*.py"))
    learnt: list[int] = []
    asked = []
    for number, file in enumerate(files):
        ids = tokenizer(file.read_text(encoding="utf-8"))["input_ids"]
        if number % HELD_OUT:
            learnt += ids
        elif len(ids) > 4 * PROMPT_TOKENS:
            start = len(ids) // 2
            asked.append(ids[start : start + PROMPT_TOKENS])
    return learnt, asked


def find_draft(
    arguments: argparse.Namespace, model: PreTrainedModel, learnt: list[int]
) -> PreTrainedModel:
    if arguments.draft is not None:
        draft, _ = load_for_use(arguments.draft, "causal_lm")
        return draft
    draft = begin_draft(arguments.model, arguments.layers)
    teach(draft, model, learnt, arguments.steps)
    if arguments.save is not None:
        draft.save_pretrained(arguments.save)
        _, task = load_for_use(arguments.model, "causal_lm")
        task.processor.tokenizer.save_pretrained(arguments.save)
    return draft


def begin_draft(folder: Path, layers: int) -> PreTrainedModel:
    task = get_task("causal_lm")()
    outline, stored = open_model(Location.parse(str(folder)), task)
    weights: Weights = first_weights(outline, 0, stored)
    outline, weights = begin_with_layers(outline, weights, layers, task)
    return materialise(outline, weights, torch.float32)


def teach(draft: PreTrainedModel, model: PreTrainedModel, learnt: list[int], steps: int) -> None:
    """Has it find probable what the model does (arXiv:1503.02531)."""
    draft.train()
    optimizer = torch.optim.AdamW(draft.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    begun_s = time.monotonic()
    for step, rows in enumerate(windows(learnt, steps)):
        with torch.inference_mode():
            told = model(input_ids=rows).logits.float().log_softmax(-1)
        said = draft(input_ids=rows).logits.float().log_softmax(-1)
        loss = F.kl_div(
            said.flatten(0, 1), told.flatten(0, 1), reduction="batchmean", log_target=True
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(draft.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 25 == 0 or step == steps - 1:
            print(f"draft, step {step + 1}: {loss.item():.2f} nats from the model", flush=True)
    print(f"made in {time.monotonic() - begun_s:.0f} s")
    draft.eval()


def windows(learnt: list[int], steps: int) -> Iterator[torch.Tensor]:
    draw = random.Random(0)
    for _ in range(steps):
        starts = [draw.randrange(len(learnt) - WINDOW) for _ in range(ROWS)]
        yield torch.tensor([learnt[start : start + WINDOW] for start in starts])


# ---- what is measured ----------------------------------------------------------------------------


class Side:
    """An engine, what it took and what it answered."""

    def __init__(self, engine: Any, sampling: Sampling) -> None:
        engine._end_tokens = frozenset()
        self.engine, self._sampling = engine, sampling
        self.rates: list[float] = []
        self.cpu_s: list[float] = []
        self.answers: list[Prompts] = []

    def answer(self, prompts: Prompts) -> None:
        finished: queue.Queue[Any] = queue.Queue()

        def deliver(index: int, chunk: Any) -> None:
            if chunk.finish_reason or chunk.error:
                finished.put(chunk.error)

        begun_s, cpu_s = time.perf_counter(), time.process_time()
        answers = self.engine.submit([(prompt, self._sampling) for prompt in prompts], deliver)
        for _ in prompts:
            if (error := finished.get()) is not None:
                raise error
        num_tokens = sum(len(answer.tokens) for answer in answers)
        self.rates.append(num_tokens / (time.perf_counter() - begun_s))
        self.cpu_s.append(1000 * (time.process_time() - cpu_s) / num_tokens)
        self.answers.append([answer.tokens for answer in answers])


def compare(
    arguments: argparse.Namespace,
    model: PreTrainedModel,
    beside: DraftModel,
    tokenizer: Any,
    asked: Prompts,
    clients: int,
) -> None:
    sampling = Sampling(max_tokens=arguments.tokens, temperature=arguments.temperature)
    given: dict[str, Any] = {"batch": clients, "queue": clients, "asked": "transformers"}
    alone, drafted = (
        Side(build_engine(model, tokenizer, draft=draft, **given).engine, sampling)
        for draft in (None, beside)
    )
    other = Side(build_engine(model, tokenizer, **given | {"asked": "auto"}).engine, sampling)
    sides = [alone, drafted, other]
    if other.engine.runner.name == alone.engine.runner.name:
        sides.pop().engine.close()
    draw = random.Random(clients)
    try:
        for _ in range(arguments.rounds + 1):  # the first warms up
            prompts = draw.sample(asked, clients)
            for side in sides:
                side.answer(prompts)
        told = drafted.engine.runner.facts()["draft"]
    finally:
        for side in sides:
            side.engine.close()
    rates = [statistics.median(side.rates[1:]) for side in (alone, drafted)]
    cpu_s = [statistics.median(side.cpu_s[1:]) for side in (alone, drafted)]
    same = statistics.mean(map(equal_share, drafted.answers, alone.answers))
    right = told["accepted"] / told["drafted"] if told["drafted"] else float("nan")
    print(
        f"{clients:>3} at once  alone {rates[0]:7.1f} tokens/s, with the draft {rates[1]:7.1f}: "
        f"{rates[1] / rates[0]:.2f} ×; CPU s for 1,000 tokens {cpu_s[0]:.1f} and {cpu_s[1]:.1f}: "
        f"{cpu_s[1] / cpu_s[0]:.2f} ×; {right:.0%} of {told['drafted']:,} drafted tokens taken; "
        f"equal tokens {same:.3f}",
        flush=True,
    )
    for side in sides[2:]:
        rate, name = statistics.median(side.rates[1:]), side.engine.runner.name
        print(f"             {name} without a draft {rate:7.1f} tokens/s", flush=True)


if __name__ == "__main__":
    main()
