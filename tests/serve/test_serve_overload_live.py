"""More requests than one real Ray Serve has places for, and one that leaves."""

import time
from concurrent.futures import ThreadPoolExecutor

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


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_who_would_wait_is_refused_and_who_leaves_makes_room(tokenizer, tmp_path):
    model = build_tiny_llama(vocab_size=len(tokenizer), max_positions=8192, seed=10)
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    spec = ServeSpec(port=free_port(), batch=2, queue=30, max_wait="1ms", max_tokens=8000)
    with local_ray(4):
        from raymodel.serve.run import run_serve

        folder = Location.parse(str(tmp_path))
        arguments = {"job_name": "tiny", "cluster": ClusterSpec(), "story": Story()}
        with run_serve(spec, folder, **arguments) as served:
            url = f"{served.url}/v1/completions"

            def post(number):
                return httpx.post(url, json=BODY, timeout=100)

            assert post(0).status_code == 200  # how long answers take
            with ThreadPoolExecutor(10) as pool:
                replies = list(pool.map(post, range(10)))
            assert sorted(each.status_code for each in replies) == [200] * 2 + [503] * 8
            for refused in replies:
                if refused.status_code == 503:
                    assert int(refused.headers["retry-after"]) >= 1
                    assert "serve.max_wait" in refused.json()["error"]["message"]

            long = BODY | {"max_tokens": 8000, "stream": True}
            with httpx.stream("POST", url, json=long, timeout=100) as response:
                next(response.iter_lines())
                assert served.health()["active"] == 1
            deadline_s = time.monotonic() + 20
            while served.health()["active"]:
                assert time.monotonic() < deadline_s, "the slot of who has left stays taken"
                time.sleep(0.05)
            assert post(0).status_code == 200
