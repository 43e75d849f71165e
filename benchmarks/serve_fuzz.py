"""Requests that schemathesis makes of a server's own `/openapi.json`, to a tiny server of each
kind: none may be answered by a status, a kind of content or a body that is not written there, and
none by a 5xx.

    pip install schemathesis
    python benchmarks/serve_fuzz.py --cases 5000

Half of the requests follow the document, half break it somewhere. Of those that follow it, answers
are made short, so that the model takes little of the time. Prints, of each path, how often it
answered with which status, and every fault of another kind with the request that shows it; ends
with 1 where there is one.
"""

import argparse
import base64
import sys
import time
from collections import Counter
from typing import Any

import torch

from raymodel.serve.gate import Gate
from raymodel.serve.spec import ServeSpec
from raymodel.tasks import get_task
from raymodel.testing.services import NAME, tiny_app, tiny_service
from raymodel.testing.sounds import clip

SERVERS = {
    "generator": ("causal_lm",),
    "tools": ("tools",),
    "documents": ("tools", "embedding"),
    "classifier": ("text_classification",),
    "tagger": ("token_classification",),
    "embedder": ("embedding",),
    "ranker": ("ranking",),
    "speech": ("speech_ctc",),
    "images": ("image_classification",),
}
"""The second model of one finds documents for the first."""
LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
LIMIT_OF = {
    "/v1/completions": "max_tokens",
    "/v1/chat/completions": "max_tokens",
    "/v1/responses": "max_output_tokens",
}
SOUND = clip("abc")
FILES = {
    "audio": base64.b64encode(SOUND).decode(),
    **get_task("image_classification").example_request(),
}
MOST_TOKENS, MOST_ANSWERS = 8, 4
TIMEOUT_S = 120
LEAST_CASES = 4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=5000, help="requests to all, about")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=list(SERVERS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    # Torch, as what is asked here is the server, and half of the fields are torch's in any case.
    spec, faults = ServeSpec(engine="transformers"), 0
    for server in arguments.servers:
        print(server)
        services = [tiny_service(name, spec) for name in SERVERS[server]]
        try:
            cases = arguments.cases // len(arguments.servers)
            faults += fuzz(tiny_app(*services), cases, arguments.seed)
        finally:
            for service in services:
                service.close()
    print(f"{faults} kinds of faults")
    return int(faults > 0)


def fuzz(app: Gate, cases: int, seed: int) -> int:
    """Asks about so many requests; returns how many kinds of faults there were."""
    import schemathesis

    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    operations = [each.ok() for each in schema.get_all_operations()]
    # Paths without a body have little to be asked in more than a few ways.
    asked = [operation for operation in operations if operation.body]
    faults = 0
    for operation in operations:
        share = cases // len(asked) // 2 if operation in asked else LEAST_CASES
        faults += fuzz_path(operation, share, seed)
    return faults


def fuzz_path(operation: Any, cases: int, seed: int) -> int:
    """The same of one path, of both kinds of requests."""
    from schemathesis import GenerationMode

    statuses: Counter[int] = Counter()
    faults: dict[tuple[str, int], str] = {}
    begun_s = time.perf_counter()
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
        ask_all(operation, mode, cases, seed, statuses, faults)
    told = ", ".join(f"{count:,} × {status}" for status, count in sorted(statuses.items()))
    took_s = time.perf_counter() - begun_s
    print(f"{operation.method.upper():5} {operation.path:24} {told} ({took_s:.0f} s)", flush=True)
    for message in faults.values():
        print(f"  {message}")
    return len(faults)


def ask_all(
    operation: Any,
    mode: Any,
    cases: int,
    seed: int,
    statuses: Counter[int],
    faults: dict[tuple[str, int], str],
) -> None:
    import hypothesis
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis.errors import Unsatisfiable
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.core.failures import FailureGroup
    from schemathesis.specs.openapi import checks

    kinds = [
        not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
    ]

    @hypothesis.seed(seed)
    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        shorten(case.body, operation.path)
        if mode is GenerationMode.POSITIVE:
            fill(case.body)
        response = case.call(timeout=TIMEOUT_S)
        statuses[response.status_code] += 1
        try:
            case.validate_response(response, checks=kinds)
        except FailureGroup as group:
            for failure in group.exceptions:
                seen = type(failure).__name__, response.status_code
                faults.setdefault(seen, f"{seen}: {failure} {case.as_curl_command()}")

    try:
        ask()
    except Unsatisfiable:  # nothing of a request without fields can be wrong
        return


def shorten(body: Any, path: str) -> None:
    """Has answers be few and short that the model would write."""
    if not isinstance(body, dict) or body.get("model") != NAME or path not in LIMIT_OF:
        return
    if all(body.get(limit) is None for limit in LIMITS):
        body[LIMIT_OF[path]] = MOST_TOKENS
    for field, most in [*((limit, MOST_TOKENS) for limit in LIMITS), ("n", MOST_ANSWERS)]:
        if isinstance(body.get(field), float | int) and body[field] > most:
            body[field] = most


def fill(body: Any) -> None:
    """Puts a real file where chance has made some bytes, which are none."""
    if not isinstance(body, dict):
        return
    if "file" in body:
        body["file"] = SOUND
    inputs = body.get("inputs")
    for given in inputs if isinstance(inputs, list) else [inputs]:
        for role, data in FILES.items():
            if isinstance(given, dict) and role in given:
                given[role] = data


if __name__ == "__main__":
    sys.exit(main())
