"""`n`: several answers to one prompt, whole and in events, of either engine."""

import json

import openai
import pytest
from asked import call, check_error, complete, events
from fastapi.testclient import TestClient

from raymodel.serve.app import build_app
from raymodel.serve.generation import GenerationService
from raymodel.serve.spec import ServeSpec

SEEDED = {"temperature": 1.5, "seed": 3, "max_tokens": 8}


@pytest.fixture(scope="module", params=["transformers", "openvino"])
def service(request, llama, causal_lm):
    if request.param == "openvino":
        pytest.importorskip("openvino_genai")
    spec = ServeSpec(engine=request.param, batch=3, queue=6, max_tokens=40)
    service = GenerationService(llama, causal_lm, name="tiny", spec=spec)
    yield service
    service.close()


def texts_of(response):
    assert response.status_code == 200, response.text
    choices = response.json()["choices"]
    assert [choice["index"] for choice in choices] == list(range(len(choices)))
    return [choice["text"] for choice in choices]


def test_each_answer_is_the_one_that_its_own_seed_gives_alone(service):
    several = complete(service, n=3, **SEEDED)
    alone = [complete(service, **SEEDED | {"seed": 3 + index}) for index in range(3)]
    assert texts_of(several) == [texts_of(each)[0] for each in alone]
    assert len(set(texts_of(several))) == 3
    told, one = several.json()["usage"], alone[0].json()["usage"]
    assert told["prompt_tokens"] == one["prompt_tokens"], "a prompt is read once"
    written = sum(each.json()["usage"]["completion_tokens"] for each in alone)
    assert told["completion_tokens"] == written
    assert told["total_tokens"] == told["prompt_tokens"] + written


def test_without_a_seed_they_differ_and_greedy_ones_are_alike(service):
    assert len(set(texts_of(complete(service, n=3, temperature=2, max_tokens=12)))) == 3
    greedy = texts_of(complete(service, n=2))
    assert greedy == texts_of(complete(service)) * 2


def test_the_answers_to_one_prompt_stand_behind_one_another(service):
    prompts = ["def read", "user: hi"]
    several = complete(service, prompt=prompts, n=2, best_of=2, echo=True, **SEEDED)
    alone = [complete(service, prompt=each, n=2, echo=True, **SEEDED) for each in prompts]
    assert texts_of(several) == [text for each in alone for text in texts_of(each)]
    assert [text.startswith("def read") for text in texts_of(several)] == [True] * 2 + [False] * 2


def test_openais_client_gets_them_whole_and_in_pieces(service):
    asked = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], **SEEDED, "n": 3}
    with TestClient(build_app(service)) as http:
        client = openai.OpenAI(api_key="none", base_url="http://testserver/v1", http_client=http)
        whole = client.chat.completions.create(**asked)
        options = {"stream_options": {"include_usage": True}}
        texts, roles, reasons, used = [""] * 3, [0] * 3, [None] * 3, None
        for chunk in client.chat.completions.create(**asked, **options, stream=True):
            used = chunk.usage or used
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content
                roles[choice.index] += choice.delta.role == "assistant"
                reasons[choice.index] = choice.finish_reason or reasons[choice.index]
    assert texts == [choice.message.content for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert roles == [1] * 3
    assert used == whole.usage


def test_they_are_admitted_all_or_none(generation):
    """Two run and two wait; more never find a place at once."""
    assert len(texts_of(complete(generation, n=4))) == 4
    check_error(complete(generation, n=5), 400, "makes 5 answers", "at most 4", param="n")
    response = complete(generation, prompt=["a", "b"], n=3)
    check_error(response, 400, "of 2 prompts", "makes 6 answers", param="n")
    stream = complete(generation, n=4, stream=True, max_tokens=3)
    indices = {json.loads(each)["choices"][0]["index"] for each in events(stream)[:-1]}
    assert indices == {0, 1, 2, 3}


def test_their_log_probabilities_are_their_own(generation):
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], **SEEDED, "n": 2}
    response = call(generation, "POST", "/v1/chat/completions", json=chat | {"logprobs": True})
    for choice in response.json()["choices"]:
        spelt = b"".join(bytes(each["bytes"]) for each in choice["logprobs"]["content"])
        assert spelt.decode(errors="replace").startswith(choice["message"]["content"][:4])
