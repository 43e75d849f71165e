"""A language model served over HTTP, beside llama.cpp's server on the same GGUF file.

    python benchmarks/serve_vs_llama_cpp.py --server PATH/llama-server --model FOLDER
        [--clients 16] [--tokens 64] [--rounds 5] [--threads N] [--type f16]

The folder is copied without the tokens that end an answer and exported as GGUF in `--type`; ours
serves it behind Ray Serve, theirs with as many slots as there are clients and as many threads. In
each round both answer the same prompts greedily, all clients at once, one server after the other,
and then the same from one client; what a prompt has in common with another is kept by neither, as
each is drawn by itself. Printed are medians of the rounds: output tokens per second, time to the
first token (p50, p95 over all rounds), and their ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from http_clients import Reply, Server, ask_at_once, quantile
from serve_engines import cpu_name, draw_prompts
from serve_http import PATH, local_ray, serving, write_endless
from transformers import AutoConfig

from raymodel.serve.spec import ServeSpec
from raymodel.testing.distributed import free_port

START_S = 60
PROMPT_AND_ANSWER = 512  # tokens of a slot of theirs


def main() -> None:
    arguments = parse_arguments()
    print(
        f"{arguments.threads} threads of {cpu_name()}; {arguments.clients} clients × "
        f"{arguments.tokens} tokens, GGUF {arguments.type}, medians of {arguments.rounds} rounds"
    )
    with tempfile.TemporaryDirectory() as place, local_ray():
        folder, gguf = Path(place) / "model", Path(place) / "model.gguf"
        write_endless(arguments.model, folder)
        export(folder, gguf, arguments.type)
        spec = ServeSpec(port=free_port(), batch=arguments.clients, weights=arguments.type)
        with (
            serving(folder, spec, arguments.threads) as served,
            their_server(arguments, gguf) as url,
        ):
            told = served.health()
            print(f"ours by {told['engine']} in {told['weights']}")
            sides = {
                "raymodel": (served.url, {"model": served.name}),
                "llama.cpp": (url, {"model": "model", "ignore_eos": True}),  # its default of one
            }
            vocab = AutoConfig.from_pretrained(folder).vocab_size
            for clients in (arguments.clients, 1):
                report(clients, measure(sides, clients, vocab, arguments))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", type=Path, required=True, help="llama.cpp's llama-server")
    parser.add_argument("--model", type=Path, required=True, help="a Hugging Face folder")
    parser.add_argument("--type", default="f16", choices=["f16", "q8_0"], help="of the matrices")
    parser.add_argument("--clients", type=int, default=16, help="that ask at the same time")
    parser.add_argument("--tokens", type=int, default=64, help="length of each answer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of either server")
    return parser.parse_args()


def export(folder: Path, gguf: Path, type: str) -> None:
    words = ["export", str(folder), "--to", "gguf", "--type", type, "--out", str(gguf)]
    subprocess.run([sys.executable, "-m", "raymodel", *words], check=True, capture_output=True)


@contextlib.contextmanager
def their_server(arguments: argparse.Namespace, gguf: Path) -> Iterator[str]:
    """Its address, once it answers."""
    port, slots = free_port(), arguments.clients
    threads = str(arguments.threads)
    process = subprocess.Popen(
        [
            arguments.server, "--model", gguf, "--port", str(port), "--host", "127.0.0.1",
            "--threads", threads, "--threads-batch", threads, "--parallel", str(slots),
            "--ctx-size", str(slots * PROMPT_AND_ANSWER), "--no-webui",
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        url, end_s = f"http://127.0.0.1:{port}", time.monotonic() + START_S
        while not is_ready(url):
            assert process.poll() is None, f"llama-server ended with {process.returncode}"
            assert time.monotonic() < end_s, "llama-server does not start"
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait()


def is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False


def measure(
    sides: dict[str, tuple[str, dict[str, Any]]],
    clients: int,
    vocab: int,
    arguments: argparse.Namespace,
) -> dict[str, tuple[float, list[float]]]:
    """By side its median of tokens per second, and the seconds to every first token."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    first_s: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(arguments.rounds + 1):
        prompts = draw_prompts(clients, vocab, seed=number)
        for name, (url, own) in sides.items():
            bodies = [body(prompt, arguments.tokens) | own for prompt in prompts]
            start_s = time.perf_counter()
            replies = asyncio.run(ask_at_once(Server(url), PATH, bodies))
            took_s = time.perf_counter() - start_s
            check(replies, arguments.tokens)
            if number:  # the first round warms up
                rates[name].append(clients * arguments.tokens / took_s)
                first_s[name] += [reply.first_s for reply in replies]
    return {name: (statistics.median(rates[name]), first_s[name]) for name in sides}


def body(prompt: list[int], tokens: int) -> dict[str, Any]:
    return {
        "prompt": prompt, "temperature": 0, "max_tokens": tokens, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip


def check(replies: list[Reply], tokens: int) -> None:
    """That all are whole answers of the full length."""
    for reply in replies:
        assert reply.is_whole, (reply.status, reply.body[-300:])
        assert reply.num_tokens == tokens, reply.num_tokens


def report(clients: int, found: dict[str, tuple[float, list[float]]]) -> None:
    p50, p95 = (
        {name: quantile(first_s, share) for name, (_, first_s) in found.items()}
        for share in (0.5, 0.95)
    )
    for name, (rate, _) in found.items():
        print(
            f"{clients:>3} clients  {name:>9} {rate:7.1f} tokens/s, first token p50 "
            f"{p50[name]:.3f} s, p95 {p95[name]:.3f} s"
        )
    ours, theirs = "raymodel", "llama.cpp"
    print(
        f"             raymodel ÷ llama.cpp: tokens/s {found[ours][0] / found[theirs][0]:.2f}, "
        f"first token p50 {p50[ours] / p50[theirs]:.2f}, p95 {p95[ours] / p95[theirs]:.2f}"
        + (" asked 1.0 at most" if clients > 1 else ""),
        flush=True,
    )


if __name__ == "__main__":
    main()
