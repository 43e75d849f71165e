"""One real Ray Serve, asked by the official client; and what is checked before it starts."""

import socket
import threading
from types import SimpleNamespace

import pytest
from local_ray import local_ray

from raymodel.cluster.spec import ClusterSpec
from raymodel.errors import ArtifactError, PortError, RaymodelError, SpecError
from raymodel.model.purpose import find_task
from raymodel.observe.story import Story
from raymodel.serve.load import serving_dtype
from raymodel.serve.port import check_port, wait_for_port
from raymodel.serve.spec import ServeSpec
from raymodel.storage.uri import Location
from raymodel.testing.distributed import free_port
from raymodel.testing.http import listening


@pytest.fixture(scope="module")
def folder(llama, tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    llama.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return Location.parse(str(path))


@pytest.fixture
def taken_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_port_is_waited_for_until_its_server_has_let_go(taken_port):
    assert not wait_for_port("127.0.0.1", taken_port, 0.2)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        threading.Timer(0.3, server.close).start()
        assert wait_for_port("127.0.0.1", server.getsockname()[1], 10.0)


def test_a_taken_port_is_an_error_with_the_fix(taken_port):
    with pytest.raises(PortError, match=rf"port {taken_port} .* is taken.*serve\.port"):
        check_port("127.0.0.1", taken_port)
    check_port("127.0.0.1", free_port())


def test_an_address_of_another_machine_is_an_error_with_the_fix():
    with pytest.raises(PortError, match=r"192\.0\.2\.1.*serve\.host"):
        check_port("192.0.2.1", free_port())


def test_the_task_is_found_from_the_architecture(folder, bert, tmp_path):
    assert find_task(folder) == "causal_lm"
    bert.save_pretrained(tmp_path)
    assert find_task(Location.parse(str(tmp_path))) == "text_classification"


def test_a_folder_that_is_no_servable_model_is_an_error(tmp_path):
    with pytest.raises(ArtifactError, match=r"config\.json does not exist"):
        find_task(Location.parse(str(tmp_path)))
    (tmp_path / "config.json").write_text('{"architectures": ["WhisperForAudio"]}')
    with pytest.raises(ArtifactError, match="WhisperForAudio"):
        find_task(Location.parse(str(tmp_path)))


def test_a_model_is_served_in_the_dtype_it_was_saved_in_where_that_is_fast(llama, monkeypatch):
    import torch

    from raymodel.model import kernels

    config = type("Config", (), {"dtype": torch.bfloat16})
    for is_fast, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(kernels, "has_fast_bf16", lambda device, fast=is_fast: fast)
        assert serving_dtype(config, "cpu") == expected
    config.dtype = torch.float16
    assert serving_dtype(config, "cpu") == torch.float32


@pytest.fixture(scope="module")
def ray():
    with local_ray(4) as ray:
        yield ray


def test_a_missing_token_and_a_taken_port_stop_before_anything_starts(
    ray, folder, taken_port, monkeypatch
):
    from ray import serve

    from raymodel.serve.run import run_serve

    arguments = {"job_name": "tiny", "cluster": ClusterSpec(), "story": Story()}
    monkeypatch.delenv("NO_TOKEN", raising=False)
    with pytest.raises(SpecError, match="NO_TOKEN"):
        run_serve(ServeSpec(token_env="NO_TOKEN"), folder, **arguments)
    with pytest.raises(PortError, match=str(taken_port)):
        run_serve(ServeSpec(port=taken_port), folder, **arguments)
    assert not serve.status().proxies


def test_a_served_model_answers_the_official_client(ray, folder, llama, tokenizer, monkeypatch):
    import openai

    from raymodel.cluster.holders import find_holders
    from raymodel.serve.run import run_serve

    monkeypatch.setenv("TINY_TOKEN", "secret")
    port = free_port()
    spec = ServeSpec(port=port, token_env="TINY_TOKEN", max_tokens=20)
    arguments = {"job_name": "tiny", "cluster": ClusterSpec(), "story": Story()}
    with run_serve(spec, folder, **arguments) as served:
        assert served.url == f"http://127.0.0.1:{port}"
        assert "secret" not in repr(served)
        health = served.health()
        assert (health["status"], health["dtype"]) == ("ok", "float32")
        ids = tokenizer("def read", return_tensors="pt")["input_ids"]
        expected = tokenizer.decode(
            llama.generate(ids, max_new_tokens=20, do_sample=False, pad_token_id=1)[
                0, ids.shape[1] :
            ],
            skip_special_tokens=True,
        )
        assert served.ask({"prompt": "def read"}) == expected
        client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="secret", max_retries=0)
        _ask_with(client, expected)
        stranger = openai.OpenAI(base_url=f"{served.url}/v1", api_key="wrong", max_retries=0)
        with pytest.raises(openai.AuthenticationError):
            stranger.models.list()
        (holder,) = find_holders({"CPU": 1.0})
        assert str(holder).startswith("the app of job tiny (1 CPU; `raymodel stop --serving tiny`")
        with pytest.raises(PortError, match=f"127.0.0.1:{port}"):
            run_serve(ServeSpec(port=free_port()), folder, **arguments | {"job_name": "other"})
    check_port("127.0.0.1", port)


def _ask_with(client, expected):
    import openai

    assert [model.id for model in client.models.list()] == ["tiny"]
    completion = client.completions.create(model="tiny", prompt="def read", temperature=0)
    assert completion.choices[0].text == expected
    messages = [{"role": "user", "content": "hi"}]
    whole = client.chat.completions.create(model="tiny", messages=messages, temperature=0)
    stream = client.chat.completions.create(
        model="tiny",
        messages=messages,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    *chunks, last = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")
    assert last.choices == []
    assert last.usage == whole.usage
    # For these torch computes beside OpenVINO, with the model of the folder once more.
    asked = {"model": "tiny", "prompt": "def read", "temperature": 0, "max_tokens": 20}
    scored = client.completions.create(**asked, logprobs=2, echo=True).choices[0]
    assert scored.text == "def read" + expected
    assert scored.logprobs.token_logprobs[0] is None
    form = {"structured_outputs": {"regex": "(yes|no)!"}}
    assert client.completions.create(**asked, extra_body=form).choices[0].text in ("yes!", "no!")
    events = list(client.responses.create(model="tiny", input="hi", temperature=0, stream=True))
    assert events[0].type == "response.created"
    assert events[-1].response.output_text == whole.choices[0].message.content
    with pytest.raises(openai.NotFoundError, match="tiny"):
        client.completions.create(model="other", prompt="x")
    with pytest.raises(openai.BadRequestError, match=r"2000 tokens.*at most 511"):
        client.completions.create(model="tiny", prompt=[5] * 2000)


def test_the_command_comes_again_when_it_is_told_to():
    from http.server import BaseHTTPRequestHandler

    from raymodel.serve.run import Served

    statuses = [503, 503, 200, 500]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status = statuses.pop(0)
            self.send_response(status)
            if status == 503:
                self.send_header("Retry-After", "0")
            self.end_headers()
            self.wfile.write(b'{"status": "ok"}')

        def log_message(self, *args):
            pass

    with listening(Handler) as url:
        served = Served(
            url=url,
            name="tiny",
            task="causal_lm",
            app_name="tiny",
            keep=True,
            token=None,
            spec=ServeSpec(timeout="60s"),
            started_serve=False,
        )
        assert served.health() == {"status": "ok"}
        with pytest.raises(RaymodelError, match="answered 500"):
            served.health()


def test_a_controller_that_ends_before_it_answers_has_ended(monkeypatch):
    from ray.exceptions import ActorDiedError

    from raymodel.serve import run

    class Controller:
        graceful_shutdown = SimpleNamespace(remote=lambda wait: "its answer")

    places = iter([Controller])

    def get_actor(name, namespace):
        for controller in places:
            return controller
        raise ValueError(f"no actor {name}")

    def get(answer):
        raise ActorDiedError

    monkeypatch.setattr(run, "ray", SimpleNamespace(get_actor=get_actor, get=get))
    run._end_controller()
    assert next(places, None) is None
