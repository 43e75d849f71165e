"""One real Ray Serve whose replica is killed and which is told to end, with requests under way."""

import json
import os
import signal
import threading
import time

import httpx
import pytest
from local_ray import local_ray
from replicas import replica_pid

from raymodel.cluster.spec import ClusterSpec
from raymodel.observe.story import Story
from raymodel.serve.spec import ServeSpec
from raymodel.storage.uri import Location
from raymodel.testing.distributed import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
BODY = {"model": "tiny", "prompt": "x", "max_tokens": 4000, "temperature": 0}


@pytest.fixture
def served(tokenizer, tmp_path):
    from raymodel.testing.tiny import build_tiny_llama

    model = build_tiny_llama(vocab_size=len(tokenizer), max_positions=8192, seed=10)
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    # Whatever the machine has to do besides: who waits here is not refused for it.
    spec = ServeSpec(
        port=free_port(), batch=2, queue=30, max_wait="600s", max_tokens=4000, grace="60s"
    )
    with local_ray(4):
        from raymodel.serve.run import run_serve

        yield run_serve(
            spec,
            Location.parse(str(tmp_path)),
            job_name="tiny",
            cluster=ClusterSpec(),
            story=Story(),
        )


class Stream(threading.Thread):
    """A streamed answer, read in a thread."""

    def __init__(self, url, **body):
        super().__init__()
        self.url, self.body = url, BODY | body
        self.events, self.has_begun, self.status = [], threading.Event(), None
        self.start()

    def run(self):
        body = self.body | {"stream": True}
        with httpx.stream("POST", f"{self.url}/v1/completions", json=body, timeout=200) as response:
            self.status = response.status_code
            for line in response.iter_lines():
                if line:
                    self.events.append(line.removeprefix("data: "))
                    self.has_begun.set()
        self.has_begun.set()


class Post(threading.Thread):
    """An answer that comes whole, waited for in a thread."""

    def __init__(self, url):
        super().__init__()
        self.url, self.response, self.took_s = url, None, None
        self.start()

    def run(self):
        started_s = time.monotonic()
        self.response = httpx.post(f"{self.url}/v1/completions", json=BODY, timeout=200)
        self.took_s = time.monotonic() - started_s


def is_refusal(response):
    assert response.status_code == 503, response.text
    assert int(response.headers["retry-after"]) >= 1
    return response.json()["error"]["code"]


def test_a_replica_is_killed_and_then_the_server_told_to_end(served):
    url = served.url
    stream = Stream(url)
    assert stream.has_begun.wait(60)
    posts = [Post(url) for _ in range(4)]
    while served.health()["waiting"] < 3:
        time.sleep(0.05)

    os.kill(replica_pid(), signal.SIGKILL)
    killed_s = time.monotonic()
    stream.join(30)
    [error, done] = stream.events[-2:]
    assert (json.loads(error)["error"]["code"], done) == ("starting", "[DONE]")
    for post in posts:
        post.join(30)
        assert is_refusal(post.response) == "starting"
    told_s = time.monotonic() - killed_s
    health = httpx.get(f"{url}/health", timeout=30)
    asked_s = time.monotonic() - killed_s
    assert (health.status_code, health.json()["status"]) == (503, "starting")
    refused = Post(url)
    refused.join(30)
    assert is_refusal(refused.response) == "starting"
    print(f"in flight told after {told_s:.2f} s, health after {asked_s:.2f} s, the next request in "
          f"{refused.took_s:.2f} s")  # fmt: skip
    assert told_s < 5
    assert asked_s - told_s < 3
    assert refused.took_s < 3

    while httpx.get(f"{url}/readyz", timeout=30).status_code != 200:
        assert time.monotonic() - killed_s < 90
        time.sleep(0.2)
    print(f"another answers after {time.monotonic() - killed_s:.2f} s")

    ending(served)


def ending(served):
    """The server is told to end while two streams run and two requests wait."""
    url = served.url
    streams = [Stream(url, max_tokens=1500) for _ in range(2)]
    assert all(stream.has_begun.wait(60) for stream in streams)
    waiting = [Post(url) for _ in range(2)]
    while served.health()["waiting"] < 2:
        time.sleep(0.05)
    stop = threading.Thread(target=served.stop)
    stop.start()
    for post in waiting:
        post.join(30)
        assert is_refusal(post.response) == "draining"
    late = httpx.post(f"{url}/v1/completions", json=BODY, timeout=30)
    assert is_refusal(late) == "draining"
    assert httpx.get(f"{url}/health", timeout=30).json() == {"status": "draining"}
    stop.join(100)
    for stream in streams:
        stream.join(10)
        assert stream.events[-1] == "[DONE]"
        assert json.loads(stream.events[-2])["choices"][0]["finish_reason"] == "length"
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/livez", timeout=30)
