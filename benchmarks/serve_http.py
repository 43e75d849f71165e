"""A served language model over HTTP and Ray Serve, beside its engine alone and `generate`.

    python benchmarks/serve_http.py --model FOLDER [--parts rates,cpu,join,overload]
        [--clients 16] [--tokens 64] [--rounds 3] [--threads N] [--queue 64] [--max-wait 2s]
        [--overload-minutes 1]

`rates`: all sides answer the same prompts greedily with equally many tokens; in each round they
take turns, and the medians of the rounds are divided. Over HTTP the answers are streamed, and the
time to the first token is measured in the same rounds. `cpu`: what the processes between a client
and the engine compute for 1,000 tokens, streamed to so many clients and to one, in CPU seconds,
which hardly depend on what else the machine does, and how many events tell a token; beside it what
the clients here and Ray's other processes compute, which are no part of the way. `join`: the
longest gap between two pieces of streams that run while a long prompt is read, beside the longest
before. `overload`: for so many minutes requests come at twice the rate that was sustained, at
random times; how many were answered with which status, how long those took that were taken, beside
one that is asked alone and beside one of as many as run at once, when nobody waits (what
`serve.max_wait` is measured against), and the memory of the replica's processes from minute to
minute.

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

from raymodel.cluster.connect import OWN_RAY_ENVIRONMENT
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
PARTS = ("rates", "cpu", "join", "overload")
RUNNING = 4  # streams that a long prompt meets
LONG_TOKENS = 4000
SETTLE_S, AFTER_S = 3.0, 0.5  # before it comes, and after it was read
ALONE = 5  # requests that are asked alone
SUSTAINED_S = 10.0
LOOKS = 6  # at the memory, at least
JOB = "bench"


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    print(
        f"{arguments.threads} threads of {cpu_name()}; {arguments.clients} clients × "
        f"{arguments.tokens} tokens, medians of {arguments.rounds} rounds"
    )
    spec = ServeSpec(
        port=free_port(), batch=arguments.clients, queue=arguments.queue, max_tokens=1024,
        max_wait=arguments.max_wait,
    )  # fmt: skip
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
    parser.add_argument("--overload-minutes", type=float, default=1, help="of twice the load")
    parser.add_argument("--queue", type=int, default=64, help="serve.queue")
    parser.add_argument("--max-wait", help="serve.max_wait")
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
    for name, value in OWN_RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
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


def find_actors(name: str) -> list[psutil.Process]:
    """The processes of actors of this Ray whose name begins so."""
    own = {process.pid for process in psutil.Process().children(recursive=True)}
    found = [
        process
        for process in psutil.process_iter(["cmdline"])
        if process.pid in own and f"ray::{name}" in " ".join(process.info["cmdline"] or ())
    ]
    assert found, f"there is no {name}"
    return found


def replica_name(deployment: str) -> str:
    return f"ServeReplica:{app_name_of(JOB)}:{deployment}"


def replica_bytes() -> int:
    """Resident memory of the replica's processes."""
    found = find_actors(replica_name("model"))
    processes = itertools.chain.from_iterable([p, *p.children(recursive=True)] for p in found)
    return sum(process.memory_info().rss for process in processes)


def cpu_seconds() -> dict[str, float]:
    """What processes have computed: those that a token passes, the engine's own, which is another
    one where it is OpenVINO, this one, which has the clients, and all others of Ray together."""
    replicas = find_actors(replica_name("model"))
    own = {
        "engine": [child for replica in replicas for child in replica.children(recursive=True)],
        "replica": replicas,
        "gate": find_actors(replica_name("gate")),
        "proxy": find_actors("ProxyActor"),
    }
    told = {process.pid for processes in own.values() for process in processes}
    children = psutil.Process().children(recursive=True)
    own["Ray"] = [process for process in children if process.pid not in told]
    own["clients"] = [psutil.Process()]
    return {name: sum(map(computed_s, processes)) for name, processes in own.items()}


def computed_s(process: psutil.Process) -> float:
    try:
        return sum(process.cpu_times()[:2])
    except psutil.NoSuchProcess:  # it has ended meanwhile
        return 0.0


# ---- what is measured ----------------------------------------------------------------------------


class Bench:
    """A served model, and the parts of the measurement."""

    def __init__(self, arguments: argparse.Namespace, folder: Path, served: Served) -> None:
        self.arguments, self.folder, self.served = arguments, folder, served
        self.server = Server(served.url)
        self.vocab = json.loads((folder / "config.json").read_text())["vocab_size"]

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

    # ---- what tokens cost on their way -----------------------------------------------------------

    def cpu(self) -> None:
        for clients in (self.arguments.clients, 1):
            self.ask(draw_prompts(clients, self.vocab, seed=200))
            before, num_tokens, num_events = cpu_seconds(), 0, 0
            for number in range(self.arguments.rounds):
                replies = self.ask(draw_prompts(clients, self.vocab, seed=201 + number))
                num_tokens += sum(reply.num_tokens for reply in replies)
                num_events += sum(reply.body.count(b"data: ") for reply in replies)
            spent = {name: s - before[name] for name, s in cpu_seconds().items()}
            told = {name: 1000 * s / num_tokens for name, s in spent.items()}
            between = sum(told[name] for name in ("replica", "gate", "proxy"))
            parts = ", ".join(f"{name} {s:.2f}" for name, s in told.items())
            print(
                f"{clients:>3} clients  {between:.2f} CPU s for 1,000 tokens beside the engine "
                f"({parts}); {num_events / num_tokens:.2f} events a token",
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
        """Who runs at once are as many as ask in the measurement of what is sustained."""
        seconds = 60 * self.arguments.overload_minutes
        cache_bytes = self.served.health().get("cache_bytes", 0)
        rate, together_s = self._sustained()
        alone = [self.ask(draw_prompts(1, self.vocab, seed=100 + n))[0] for n in range(ALONE)]
        alone_s = statistics.median(reply.took_s for reply in alone)
        per_s = 2 * rate / self.arguments.tokens
        draw = random.Random(0)
        gaps = iter(lambda: draw.expovariate(per_s), None)
        at_s = list(itertools.takewhile(seconds.__gt__, itertools.accumulate(gaps)))
        replies, seen_bytes = asyncio.run(self._arrive(at_s, min(60.0, seconds / LOOKS)))
        kept = [reply for reply in replies if reply.status == 200]
        broken = sum(not reply.is_whole for reply in kept)
        counts = collections.Counter(reply.status for reply in replies)
        unsaid = sum(reply.status == 503 and reply.retry_after is None for reply in replies)
        p50, p99 = (quantile([reply.took_s for reply in kept], share) for share in (0.5, 0.99))
        done = sum(reply.num_tokens for reply in kept if reply.is_whole)
        took_s = max(reply.ended_s for reply in kept) - replies[0].asked_s
        print(
            f"{seconds:g} s at {per_s:.1f} requests/s, twice what is sustained: "
            f"statuses {dict(counts)} asked 200 and 503 alone; {broken} of the 200 broken, "
            f"{unsaid} of the 503 without Retry-After; {done / took_s:.0f} tokens/s, sustained "
            f"{rate:.0f}\n"
            f"             of those taken p50 {p50:.1f} s, p99 {p99:.1f} s; one of "
            f"{self.arguments.clients} at once {together_s:.1f} s, one alone {alone_s:.1f} s: p99 "
            f"÷ at once {p99 / together_s:.1f} asked 3, ÷ alone {p99 / alone_s:.1f}\n"
            "             memory of the replica "
            f"{' → '.join(f'{each / 2**20:,.0f}' for each in seen_bytes)} MiB, in which keys and "
            f"values of what was asked before may stay, of up to {cache_bytes / 2**20:,.0f} MiB",
            flush=True,
        )

    async def _arrive(self, at_s: list[float], every_s: float) -> tuple[list[Reply], list[int]]:
        """The replies, and the replica's memory again and again, at first before they are asked."""
        seen_bytes = [replica_bytes()]

        async def look() -> None:
            while True:
                await asyncio.sleep(every_s)
                seen_bytes.append(await asyncio.to_thread(replica_bytes))

        looking = asyncio.ensure_future(look())
        replies = await arrive(self.server, PATH, self._nth, at_s)
        looking.cancel()
        return replies, seen_bytes

    def _sustained(self) -> tuple[float, float]:
        """Of clients that ask again and again: tokens per second, and seconds of an answer."""
        asking = keep_asking(self.server, PATH, self._nth, self.arguments.clients, SUSTAINED_S)
        replies = asyncio.run(asking)
        start_s = min(reply.asked_s for reply in replies)
        end_s = max(reply.ended_s for reply in replies)
        rate = sum(reply.num_tokens for reply in replies) / (end_s - start_s)
        return rate, statistics.median(reply.took_s for reply in replies)

    def _nth(self, number: int) -> dict[str, Any]:
        return self.body(draw_prompts(1, self.vocab, seed=10_000 + number)[0])


if __name__ == "__main__":
    main()
