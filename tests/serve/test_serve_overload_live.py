"""More requests than one real Ray Serve has places for, and one that leaves."""

import time
from contextlib import ExitStack

import httpx
import pytest
from local_ray import local_ray

from raymodel.cluster.spec import ClusterSpec
from raymodel.observe.story import Story
from raymodel.serve.spec import ServeSpec
from raymodel.storage.uri import Location
from raymodel.testing.distributed import free_port
from raymodel.testing.tiny import build_tiny_llama

BODY = {"model": "tiny", "prompt": "x", "max_tokens": 400, "temperature": 0}
LONG = BODY | {"max_tokens": 8000, "stream": True}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_who_would_wait_is_refused_and_who_leaves_makes_room(tokenizer, tmp_path):
    model = build_tiny_llama(vocab_size=len(tokenizer), max_positions=8192, seed=10)
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    spec = ServeSpec(
        port=free_port(), engine="transformers", batch=2, queue=30, max_wait="1ms", max_tokens=8000
    )
    with local_ray(4):
        from raymodel.serve.run import run_serve

        folder = Location.parse(str(tmp_path))
        arguments = {"job_name": "tiny", "cluster": ClusterSpec(), "story": Story()}
        with run_serve(spec, folder, **arguments) as served:
            url = f"{served.url}/v1/completions"

            def post():
                return httpx.post(url, json=BODY, timeout=100)

            assert post().status_code == 200  # how long answers take
            reading = []  # an iterator that nobody holds would close its stream
            with ExitStack() as streams:
                for _ in range(2):
                    asked = httpx.stream("POST", url, json=LONG, timeout=100)
                    reading.append(streams.enter_context(asked).iter_lines())
                    next(reading[-1])
                assert served.health()["active"] == 2
                for refused in [post() for _ in range(3)]:
                    assert refused.status_code == 503
                    assert int(refused.headers["retry-after"]) >= 1
                    assert "serve.max_wait" in refused.json()["error"]["message"]
            deadline_s = time.monotonic() + 20
            while served.health()["active"]:
                assert time.monotonic() < deadline_s, "the slot of who has left stays taken"
                time.sleep(0.05)
            assert post().status_code == 200
