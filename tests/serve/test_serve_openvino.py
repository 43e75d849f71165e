"""OpenVINO GenAI as an engine: which models, how much memory, and what happens when it fails."""

import asyncio
import copy
import importlib.util
import json
import os
import signal

import httpx
import pytest
import torch
from engines import Listener, generate, greedy, random_prompts, steps_when
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from raymodel.errors import ArtifactError, ClusterError, SpecError
from raymodel.modality.text import train_tokenizer
from raymodel.model import gguf
from raymodel.model.gguf_tokenizer import GgufTokenizer
from raymodel.model.openvino import find_precision
from raymodel.observe.slow_paths import slow_paths
from raymodel.serve import openvino_runner
from raymodel.serve.app import build_app
from raymodel.serve.choice import build_engine, find_obstacle
from raymodel.serve.generation import GenerationService
from raymodel.serve.load import load_service
from raymodel.serve.memory import available_memory_bytes
from raymodel.serve.openvino_runner import _plan_blocks
from raymodel.serve.spec import ServeSpec
from raymodel.testing.tiny import build_tiny_llama, round_weights

FIELDS = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    "initializer_range": 0.2, "eos_token_id": 0, "bos_token_id": None,
}  # fmt: skip
FAMILIES = {
    "llama": (LlamaForCausalLM, LlamaConfig(**FIELDS)),
    "llama, heads of another size": (LlamaForCausalLM, LlamaConfig(**FIELDS, head_dim=32)),
    "qwen2, tied": (Qwen2ForCausalLM, Qwen2Config(**FIELDS, tie_word_embeddings=True)),
    "qwen3": (Qwen3ForCausalLM, Qwen3Config(**FIELDS, head_dim=32)),
}


def build(name):
    kind, config = FAMILIES[name]
    torch.manual_seed(1)
    model = kind(config)
    for weight in model.parameters():
        if weight.ndim == 1:  # norms and biases, which are all equal at first
            weight.data += 0.3 * torch.randn_like(weight)
    model.generation_config.eos_token_id = None
    return round_weights(model).eval()


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_says_the_tokens_of_generate(name, tokenizer):
    """Rotary layout, head sizes, biases, norms and ties: a mistake in any changes the tokens."""
    model = build(name)
    engine = build_engine(model, tokenizer, batch=4, queue=8, asked="openvino").engine
    listener, prompts = Listener(), random_prompts(4, seed=3, longest=100)
    answers = engine.submit([(prompt, greedy(30)) for prompt in prompts], listener)
    listener.wait(4)
    engine.close()
    for answer, prompt in zip(answers, prompts, strict=True):
        expected = generate(model, prompt, 30)
        end = expected.index(0) + 1 if 0 in expected else 30
        assert answer.tokens == expected[:end]


def test_a_model_that_is_another_one_in_openvino_is_not_computed_there(
    tokenizer, monkeypatch, slow_paths_are_taken
):
    monkeypatch.setattr(gguf, "_paired", lambda rows, heads: rows)
    told = "in OpenVINO the model says something else than in transformers"
    with pytest.raises(ArtifactError, match=told):
        build_engine(build("llama"), tokenizer, batch=1, queue=1, asked="openvino")
    choice = build_engine(build("llama"), tokenizer, batch=1, queue=1, asked="auto")
    choice.engine.close()
    assert choice.engine.runner.name == "transformers"
    assert choice.reason.startswith(f"openvino cannot: {told}")
    assert [path.what for path in slow_paths()] == ["answers without openvino"]


def test_a_model_with_which_openvino_does_not_start_is_computed_in_torch(
    tokenizer, monkeypatch, slow_paths_are_taken
):
    monkeypatch.setattr(GgufTokenizer, "add_to", lambda self, writer: None)
    with pytest.raises(ArtifactError, match=r"^OpenVINO does not start with it: "):
        build_engine(build("llama"), tokenizer, batch=1, queue=1, asked="openvino")
    choice = build_engine(build("llama"), tokenizer, batch=1, queue=1, asked="auto")
    choice.engine.close()
    assert choice.engine.runner.name == "transformers"
    assert [path.what for path in slow_paths()] == ["answers without openvino"]


def test_a_tokenizer_of_single_bytes_is_none_for_openvino():
    """As a few short texts give; it ended in `map::at` there."""
    bare = train_tokenizer(["0? 1?"], 262)
    model = build_tiny_llama(vocab_size=len(bare)).eval()
    assert "it has no merges" in find_obstacle(model, bare)


def test_a_model_without_an_end_goes_on_to_the_length(tokenizer):
    model = build("llama")
    endless = copy.deepcopy(tokenizer)
    endless.eos_token = model.config.eos_token_id = model.generation_config.eos_token_id = None
    engine = build_engine(model, endless, batch=2, queue=2, asked="openvino").engine
    listener = Listener()
    try:
        engine.submit([([5, 6, 7], greedy(40))], listener)
        _, last = listener.wait()[0]
        assert (last.finish_reason, last.num_tokens) == ("length", 40)
    finally:
        engine.close()


def test_weights_in_eight_bits_are_still_the_model(tokenizer):
    choice = build_engine(
        build("llama"), tokenizer, batch=2, queue=2, asked="openvino", weights="q8_0"
    )
    assert choice.engine.runner.facts()["weights"] == "q8_0"
    choice.engine.close()


def test_prompts_that_share_a_beginning_and_outgrow_the_cache_get_their_answers(
    tokenizer, monkeypatch
):
    """Four answers of 160 tokens in room for eight blocks: some wait, and begin again."""
    model = build("llama")
    monkeypatch.setattr(openvino_runner, "_plan_blocks", lambda *_: 8)
    engine = build_engine(model, tokenizer, batch=4, queue=8, asked="openvino").engine
    assert engine.context_tokens == 256
    beginning = random_prompts(1, seed=5, longest=1)[0] * 60
    prompts = [[*beginning, token] for token in (5, 6, 7, 8)]
    listener = Listener()
    answers = engine.submit([(prompt, greedy(100)) for prompt in prompts], listener)
    listener.wait(4)
    engine.close()
    for answer, prompt in zip(answers, prompts, strict=True):
        expected = generate(model, prompt, 100)
        end = expected.index(0) + 1 if 0 in expected else 100
        assert answer.tokens == expected[:end]


def test_auto_takes_openvino_and_says_why(llama, tokenizer, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    engine, reason = build_engine(llama, tokenizer, batch=2, queue=2)
    facts = engine.runner.facts()
    engine.close()
    assert (facts["engine"], facts["dtype"], facts["weights"]) == ("openvino", "float32", "f16")
    assert facts["cache_tokens"] >= 2 * 512
    assert "fastest" in reason


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "positions are scaled"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, r"not scale rotary"),
        ({"hidden_act": "gelu"}, "its activation is gelu"),
        ({"model_type": "mistral"}, "not of a family that is written"),
    ],
)
def test_auto_leaves_other_models_to_transformers_and_says_why(change, why, llama, tokenizer,
                                                               monkeypatch):  # fmt: skip
    for name, value in change.items():
        monkeypatch.setattr(llama.config, name, value)
    assert why in find_obstacle(llama, tokenizer)
    with pytest.raises(SpecError, match=r"is openvino, and .*set serve\.engine: auto"):
        build_engine(llama, tokenizer, batch=1, queue=1, asked="openvino")
    with pytest.raises(SpecError, match=r"serve\.weights is q8_0"):
        build_engine(llama, tokenizer, batch=1, queue=1, weights="q8_0")


def test_without_the_package_transformers_answers_and_it_is_told(
    llama, tokenizer, monkeypatch, slow_paths_are_taken
):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    engine, reason = build_engine(llama, tokenizer, batch=1, queue=1)
    engine.close()
    assert engine.runner.name == "transformers"
    assert "openvino-genai is not installed" in reason
    assert [path.what for path in slow_paths()] == ["answers without openvino"]


def test_bfloat16_on_one_thread_is_computed_in_float32(llama, monkeypatch):
    """In bf16 the library divides by zero there and ends its process."""
    model = build("llama").bfloat16()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert find_precision(model.dtype) == "bfloat16"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert find_precision(model.dtype) == "float32"
    assert "one thread" in slow_paths()[0].why


def test_the_cache_holds_all_answers_or_what_the_memory_has():
    assert _plan_blocks(4 * 512, 10**6, 512) == 64 + 4
    assert _plan_blocks(4 * 512, 1000, 512) == 1000 // 32
    with pytest.raises(ClusterError, match="holds keys and values of 31 tokens"):
        _plan_blocks(4 * 512, 31, 512)


def test_memory_is_that_of_the_machine_and_of_the_container(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable:  8000 kB\n")
    assert available_memory_bytes(meminfo, tmp_path) == 8000 * 1024
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory_bytes(meminfo, tmp_path) == 8000 * 1024
    (tmp_path / "memory.max").write_text("5000\n")
    assert available_memory_bytes(meminfo, tmp_path) == 4000


def test_when_its_process_ends_requests_fail_and_the_engine_is_not_healthy(llama, tokenizer):
    engine = build_engine(llama, tokenizer, batch=1, queue=2, asked="openvino").engine
    listener = Listener()
    with steps_when(engine, lambda: False):
        engine.submit([([5, 6], greedy(500))], listener)
        os.kill(engine.runner.first._process.pid, signal.SIGKILL)
    _, chunk = listener.wait()[0]
    assert "has ended with -9" in str(chunk.error)
    assert not engine.is_healthy
    engine.close()


def test_a_served_folder_keeps_no_second_copy_of_the_weights(llama, tokenizer, tmp_path):
    llama.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    spec = ServeSpec(engine="openvino", batch=2)
    service = load_service(tmp_path, "causal_lm", name="tiny", spec=spec)
    told = service.health()
    first = ask(service, "/v1/completions", prompt="def", temperature=0).json()
    scored = ask(service, "/v1/completions", prompt="def", temperature=0, logprobs=1)
    service.close()
    assert scored.json()["choices"][0]["text"] == first["choices"][0]["text"]
    assert service.model.device.type == "meta"
    assert (told["device"], told["dtype"], told["engine"]) == ("cpu", "float32", "openvino")
    assert told["engine_reason"] == "serve.engine is openvino"


# ---- over HTTP -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def services(llama, causal_lm):
    def build_service(engine):
        spec = ServeSpec(engine=engine, batch=2, queue=4, max_tokens=60)
        return GenerationService(llama, causal_lm, name="tiny", spec=spec)

    both = [build_service("openvino"), build_service("transformers")]
    yield both
    for service in both:
        service.close()


def ask(service, path, **body):
    async def run():
        transport = httpx.ASGITransport(build_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post(path, json={"model": "tiny", "max_tokens": 40} | body)

    return asyncio.run(run())


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": ["def read", "naïve café", "user: hi"], "temperature": 0},
        {"prompt": "def read", "temperature": 0, "max_tokens": 3},
        {"prompt": "user: hi", "temperature": 0, "stop": ["e", "r"]},
        {"prompt": "def read", "top_p": 1e-6, "seed": -(10**30)},
        {"messages": [{"role": "user", "content": "def read_file"}], "temperature": 0},
        {"prompt": [5] * 512, "temperature": 0},
        {"prompt": ["def read", "user: hi"], "n": 2, "temperature": 0},
    ],
)
def test_clients_cannot_tell_the_engines_apart(body, services):
    """Text, where it ends and why, what it is counted as, and what is refused."""
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    ours, theirs = (ask(service, path, **body) for service in services)
    assert ours.status_code == theirs.status_code
    told, expected = ours.json(), theirs.json()
    assert told.get("error") == expected.get("error")
    assert told.get("choices") == expected.get("choices")
    assert told.get("usage") == expected.get("usage")


def test_a_stream_comes_in_pieces_and_says_the_same(services):
    """Where they are parted is no promise: a stream that is behind gets several in one event."""
    body = {"prompt": "def read", "temperature": 0, "stream": True, "max_tokens": 40}
    texts = []
    for service in services:
        lines = ask(service, "/v1/completions", **body).text.split("\n\n")
        chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
        texts.append("".join(chunk["choices"][0]["text"] for chunk in chunks))
        assert lines[-2] == "data: [DONE]"
        assert len(chunks) > 1
    assert texts[0] == texts[1]
    assert texts[0]


def test_a_seed_gives_the_same_answer_again_and_none_another(services):
    def texts(**body):
        return [
            ask(services[0], "/v1/completions", prompt="def", **body).json()["choices"][0]["text"]
            for _ in range(2)
        ]

    first, second = texts(seed=7, temperature=1.5)
    assert first == second
    assert texts(seed=8, temperature=1.5)[0] != first
    assert len(set(texts(temperature=2.0))) == 2
