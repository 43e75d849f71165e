"""A served language model over HTTP and Ray Serve, beside its engine alone and `generate`.

    python benchmarks/serve_http.py --model FOLDER [--parts rates,join,overload] [--seconds 60]
        [--clients 16] [--tokens 64] [--rounds 3] [--threads N] [--queue 64]

`rates`: all sides answer the same prompts greedily with equally many tokens; in each round they
take turns, and the medians of the rounds are divided. Over HTTP the answers are streamed, and the
time to the first token is measured in the same rounds. `join`: the longest gap between two pieces
of streams that run while a long prompt is read, beside the longest before. `overload`: for so many
seconds requests come at twice the rate that was sustained, at random times; how many were answered
with which status, how long those took that were taken, beside one that is asked alone, and the
memory of the replica's processes.

The model of the folder is copied without the tokens that end an answer, so that all are equally
long. Without `--model` a Llama of about 30 M parameters with random weights is used. Classifiers
and embeddings are measured by `serve_http_encoders.py`.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import itertools
import json
import logging
import os
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import ray
import torch
from http_clients import Reply, Server, arrive, ask_at_once, keep_asking, quantile
from serve_engines import answerer_of, cpu_name, draw_prompts, generate, load

from raymodel.cluster.holders import app_name_of
from raymodel.cluster.spec import ClusterSpec
from raymodel.model.load import load_for_use
from raymodel.observe.story import Story
from raymodel.serve.choice import build_engine
from raymodel.serve.load import serving_dtype
from raymodel.serve.run import Served, run_serve
from raymodel.serve.spec import ServeSpec
from raymodel.storage.uri import Location
from raymodel.testing.distributed import free_port

PATH = "/v1/completions"
PARTS = ("rates", "join", "overload")
RUNNING = 4  # streams that a long prompt meets
LONG_TOKENS = 4000
SETTLE_S, AFTER_S = 3.0, 0.5  # before it comes, and after it was read
ALONE = 5  # requests that are asked alone
JOB = "bench"


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    print(
        f"{arguments.threads} threads of {cpu_name()}; {arguments.clients} clients × "
        f"{arguments.tokens} tokens, medians of {arguments.rounds} rounds"
    )
    spec = ServeSpec(
        port=free_port(), batch=arguments.clients, queue=arguments.queue, max_tokens=1024
    )
    with tempfile.TemporaryDirectory() as folder, local_ray():
        write_endless(arguments.model, Path(folder))
        with serving(Path(folder), spec, arguments.threads) as served:
            told = served.health()
            print(f"served by {told['engine']} in {told['dtype']} ({told['engine_reason']})")
            bench = Bench(arguments, Path(folder), served)
            for part in arguments.parts:
                getattr(bench, part)()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a Hugging Face folder")
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS))
    parser.add_argument("--clients", type=int, default=16, help="that ask at the same time")
    parser.add_argument("--tokens", type=int, default=64, help="length of each answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60, help="of the overload")
    parser.add_argument("--queue", type=int, default=64, help="serve.queue")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of all sides")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no such parts: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return arguments


# ---- the server ----------------------------------------------------------------------------------


def write_endless(source: Path | None, target: Path) -> None:
    """A copy of a model that no token ends."""
    model, tokenizer = load(source, None)
    model.config.eos_token_id = model.generation_config.eos_token_id = None
    tokenizer.eos_token = None
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


@contextlib.contextmanager
def local_ray() -> Iterator[None]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        ray.init(
            address="local", num_cpus=4, include_dashboard=False, _temp_dir=folder,
            object_store_memory=200_000_000, log_to_driver=False, logging_level=logging.WARNING,
        )  # fmt: skip
        try:
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def serving(folder: Path, spec: ServeSpec, threads: int) -> Iterator[Served]:
    cluster = ClusterSpec(threads_per_worker=threads)
    model = Location.parse(str(folder))
    with run_serve(spec, model, job_name=JOB, cluster=cluster, story=Story()) as served:
        yield served


def replica_bytes() -> int:
    """Resident memory of the replica's processes."""
    found = [
        process
        for process in psutil.process_iter(["cmdline"])
        if f"ServeReplica:{app_name_of(JOB)}:model" in " ".join(process.info["cmdline"] or ())
    ]
    assert found, "there is no replica"
    processes = itertools.chain.from_iterable([p, *p.children(recursive=True)] for p in found)
    return sum(process.memory_info().rss for process in processes)


# ---- what is measured ----------------------------------------------------------------------------


class Bench:
    """A served model, and the parts of the measurement."""

    def __init__(self, arguments: argparse.Namespace, folder: Path, served: Served) -> None:
        self.arguments, self.folder, self.served = arguments, folder, served
        self.server = Server(served.url)
        self.vocab = json.loads((folder / "config.json").read_text())["vocab_size"]
        self.rate: float | None = None
        """Tokens per second that were sustained, once they were measured."""

    def body(self, prompt: list[int], tokens: int | None = None) -> dict[str, Any]:
        return {
            "model": self.served.name, "prompt": prompt, "temperature": 0,
            "max_tokens": tokens or self.arguments.tokens, "stream": True,
            "stream_options": {"include_usage": True},
        }  # fmt: skip

    def ask(self, prompts: list[list[int]]) -> list[Reply]:
        """All at once; whole answers of the full length."""
        replies = asyncio.run(ask_at_once(self.server, PATH, map(self.body, prompts)))
        for reply in replies:
            assert reply.is_whole, (reply.status, reply.body[-300:])
            assert reply.num_tokens == self.arguments.tokens, reply.num_tokens
        return replies

    # ---- rates and first tokens ------------------------------------------------------------------

    def rates(self) -> None:
        model, task = load_for_use(self.folder, "causal_lm")
        model.to(serving_dtype(model.config, "cpu"))  # type: ignore[arg-type]
        engine, _ = build_engine(
            model, task.processor.tokenizer, batch=self.arguments.clients, queue=64
        )
        own = answerer_of(engine, self.arguments.tokens)
        replies: list[Reply] = []
        sides = {
            "generate": lambda some: generate(model, some, self.arguments.tokens),
            "engine": own,
            "http": lambda some: replies.extend(self.ask(some)) or some,
        }
        try:
            for clients in (self.arguments.clients, 1):
                replies.clear()
                medians = self._take_turns(sides, clients)
                first_s = [reply.first_s for reply in replies[clients:]]  # the first round warms up
                self._report(clients, medians, first_s)
                if clients > 1:
                    self.rate = medians["http"]
        finally:
            engine.close()

    def _take_turns(self, sides: dict[str, Any], clients: int) -> dict[str, float]:
        """Tokens per second of each side."""
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(self.arguments.rounds + 1):
            prompts = draw_prompts(clients, self.vocab, seed=number)
            for name, answer in sides.items():
                start_s = time.perf_counter()
                num_answers = len(answer(prompts))
                took_s = time.perf_counter() - start_s
                if number:
                    rates[name].append(num_answers * self.arguments.tokens / took_s)
        return {name: statistics.median(each) for name, each in rates.items()}

    def _report(self, clients: int, medians: dict[str, float], first_s: list[float]) -> None:
        http = medians["http"]
        alone, single = http / medians["engine"], http / medians["generate"]
        asked = ("asked 0.9", "asked 18") if clients > 1 else ("", "asked 2.5")
        print(
            f"{clients:>3} clients  {http:7.1f} tokens/s over HTTP, engine "
            f"{medians['engine']:.1f}, generate {medians['generate']:.1f}: "
            f"÷ engine {alone:.2f} {asked[0]}, ÷ generate {single:.1f} {asked[1]}"
        )
        print(
            f"             first token p50 {quantile(first_s, 0.5):.2f} s, p95 "
            f"{quantile(first_s, 0.95):.2f} s",
            flush=True,
        )

    # ---- a long prompt that joins ----------------------------------------------------------------

    def join(self) -> None:
        context = self.served.health()["context_tokens"]
        num_long = min(LONG_TOKENS, context - 1)
        before, while_read, read_s = zip(
            *(asyncio.run(self._join(num_long, seed)) for seed in range(self.arguments.rounds)),
            strict=True,
        )
        print(
            f"a prompt of {num_long:,} tokens joins {RUNNING} streams: longest gap of theirs "
            f"{statistics.median(while_read):.2f} s (worst round {max(while_read):.2f}) asked 0.5, "
            f"before {statistics.median(before):.2f}; it is read in "
            f"{statistics.median(read_s):.1f} s",
            flush=True,
        )

    async def _join(self, num_long: int, seed: int) -> tuple[float, float, float]:
        """The longest gap before and while it is read, and how long that takes."""
        seen = [Reply() for _ in range(RUNNING)]
        streams = [
            asyncio.ensure_future(self.server.ask(PATH, self.body(prompt, 1024), reply))
            for prompt, reply in zip(
                draw_prompts(RUNNING, self.vocab, seed=seed), seen, strict=True
            )
        ]
        await asyncio.sleep(SETTLE_S)
        draw = random.Random(f"long {seed}")
        prompt = [draw.randrange(2, self.vocab) for _ in range(num_long)]
        long = await self.server.ask(PATH, self.body(prompt, 1))
        assert long.is_whole, (long.status, long.body[-300:])
        await asyncio.sleep(AFTER_S)
        has_ended = [stream.done() for stream in streams]
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)
        assert not any(has_ended), "a stream ended before the long prompt was read"
        begun_s = max(reply.event_s[0] for reply in seen)
        before = max(reply.longest_gap_s(begun_s, long.asked_s) for reply in seen)
        meanwhile = max(reply.longest_gap_s(long.asked_s, long.ended_s) for reply in seen)
        return before, meanwhile, long.took_s

    # ---- overload --------------------------------------------------------------------------------

    def overload(self) -> None:
        if self.rate is None:
            self.rate = self._sustained()
        alone = [self.ask(draw_prompts(1, self.vocab, seed=100 + n))[0] for n in range(ALONE)]
        alone_s = statistics.median(reply.took_s for reply in alone)
        per_s = 2 * self.rate / self.arguments.tokens
        draw = random.Random(0)
        gaps = iter(lambda: draw.expovariate(per_s), None)
        at_s = list(itertools.takewhile(self.arguments.seconds.__gt__, itertools.accumulate(gaps)))
        began_bytes = replica_bytes()
        replies = asyncio.run(arrive(self.server, PATH, self._nth, at_s))
        ended_bytes = replica_bytes()
        kept = [reply for reply in replies if reply.status == 200]
        broken = sum(not reply.is_whole for reply in kept)
        counts = collections.Counter(reply.status for reply in replies)
        unsaid = sum(reply.status == 503 and reply.retry_after is None for reply in replies)
        p50, p99 = (quantile([reply.took_s for reply in kept], share) for share in (0.5, 0.99))
        print(
            f"{self.arguments.seconds:g} s at {per_s:.1f} requests/s, twice what is sustained: "
            f"statuses {dict(counts)} asked 200 and 503 alone; {broken} of the 200 broken, "
            f"{unsaid} of the 503 without Retry-After\n"
            f"             of those taken p50 {p50:.1f} s, p99 {p99:.1f} s; one alone "
            f"{alone_s:.1f} s: p99 ÷ alone {p99 / alone_s:.1f} asked 3\n"
            f"             memory of the replica {began_bytes / 2**20:,.0f} → "
            f"{ended_bytes / 2**20:,.0f} MiB",
            flush=True,
        )

    def _sustained(self) -> float:
        """Tokens per second of clients that ask again and again."""
        replies = asyncio.run(
            keep_asking(self.server, PATH, self._nth, self.arguments.clients, 10.0)
        )
        start_s = min(reply.asked_s for reply in replies)
        end_s = max(reply.ended_s for reply in replies)
        return sum(reply.num_tokens for reply in replies) / (end_s - start_s)

    def _nth(self, number: int) -> dict[str, Any]:
        return self.body(draw_prompts(1, self.vocab, seed=10_000 + number)[0])


if __name__ == "__main__":
    main()
