"""`/v1/responses` with OpenAI's client: texts and turns in, a text out, whole and in events."""

import json

import openai
import pytest
from asked import call, check_error, complete, events
from engines import first_steps, pace, steps_when, time_from_first_token
from fastapi.testclient import TestClient

from raymodel.serve.app import build_app
from raymodel.serve.generation import GenerationService
from raymodel.serve.spec import ServeSpec

NAMES = [
    "response.created", "response.in_progress", "response.output_item.added",
    "response.content_part.added", "response.output_text.delta", "response.output_text.done",
    "response.content_part.done", "response.output_item.done", "response.incomplete",
]  # fmt: skip


@pytest.fixture
def client(generation):
    with TestClient(build_app(generation)) as http:
        yield openai.OpenAI(api_key="none", base_url="http://testserver/v1", http_client=http)


def asked(**fields):
    return {"model": "tiny", "input": "hi", "temperature": 0, "max_output_tokens": 20} | fields


def respond(service, **fields):
    return call(service, "POST", "/v1/responses", json=asked(**fields))


def test_a_text_is_answered_as_a_chat_is(client):
    told = client.responses.create(**asked(metadata={"a": "b"}))
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "temperature": 0}
    same = client.chat.completions.create(**chat, max_tokens=20)
    assert told.output_text == same.choices[0].message.content
    assert (told.status, told.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert told.usage.input_tokens == same.usage.prompt_tokens
    assert (told.usage.output_tokens, told.usage.total_tokens) == (20, same.usage.total_tokens)
    assert (told.output[0].role, told.output[0].status) == ("assistant", "incomplete")
    assert (told.metadata, told.object, told.max_output_tokens) == ({"a": "b"}, "response", 20)


def test_an_answer_that_ends_by_itself_is_completed(client, generation):
    text = client.responses.create(**asked()).output_text
    stop = text[len(text) // 2]
    told = client.responses.create(**asked(), extra_body={"stop": stop})
    assert (told.status, told.incomplete_details) == ("completed", None)
    assert told.output_text == text.partition(stop)[0]
    assert told.completed_at >= told.created_at


def test_turns_and_earlier_answers_are_read_as_a_chats(client):
    first = client.responses.create(**asked(max_output_tokens=3))
    turns = [
        {"role": "user", "content": "hi"},
        *first.to_dict()["output"],
        {"role": "user", "content": [{"type": "input_text", "text": "go "},
                                     {"type": "input_text", "text": "on"}]},
    ]  # fmt: skip
    told = client.responses.create(**asked(input=turns, instructions="be brief"))
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "go on"},
    ]
    same = client.chat.completions.create(
        model="tiny", messages=messages, temperature=0, max_tokens=20
    )
    assert told.output_text == same.choices[0].message.content
    assert told.usage.input_tokens == same.usage.prompt_tokens
    developer = [{"role": "developer", "content": "be brief"}, *turns]
    assert client.responses.create(**asked(input=developer)).output_text == told.output_text


def test_a_stream_has_the_events_of_a_response(client, generation, monkeypatch):
    pace(generation, monkeypatch)
    whole = client.responses.create(**asked())
    came = list(client.responses.create(**asked(), stream=True))
    names = [each.type for each in came]
    assert list(dict.fromkeys(names)) == NAMES
    assert [each.sequence_number for each in came] == list(range(len(came)))
    assert names.count("response.output_text.delta") > 3
    deltas = [each.delta for each in came if each.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text
    last = came[-1].response
    assert last.output_text == whole.output_text == came[-4].text
    assert (last.id, last.usage, last.status) == (came[0].response.id, whole.usage, whole.status)
    assert came[0].response.status == "in_progress"
    stop = {"extra_body": {"stop": whole.output_text[-1]}}  # the client waits for `completed`
    with client.responses.stream(**asked(), **stop) as stream:
        assert whole.output_text.startswith(stream.get_final_response().output_text)


def test_logprobs_are_told_where_they_are_included(client):
    include = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    told = client.responses.create(**asked(**include)).output[0].content[0].logprobs
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "temperature": 0}
    same = client.chat.completions.create(**chat, max_tokens=20, logprobs=True, top_logprobs=2)
    same = same.choices[0].logprobs.content
    assert [each.logprob for each in told] == [each.logprob for each in same]
    assert [each.bytes for each in told] == [each.bytes for each in same]
    streamed = []
    for each in client.responses.create(**asked(**include), stream=True):
        if each.type == "response.output_text.delta":
            streamed += each.logprobs
    assert [each.logprob for each in streamed] == [each.logprob for each in told]
    assert len(streamed[0].top_logprobs) == 2


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id", ("keeps no answers",)),
        ({"store": True}, "store", ("keeps no answers", "leave store out")),
        ({"conversation": {"id": "conv_1"}}, "conversation", ("whole conversation as input",)),
        ({"background": True}, "background", ("keeps no answers",)),
        ({"tools": [{"type": "web_search"}]}, "tools", ("/v1/chat/completions takes",)),
        ({"reasoning": {"effort": "high"}}, "reasoning", ("does not support it",)),
        ({"truncation": "auto"}, "truncation", ("does not support it",)),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format", ("beside",)),
        ({"text": {"format": {"type": "json"}}}, "text.format.type", ("'text'",)),
        ({"include": ["file_search_call.results"]}, "include", ("is not told here",)),
        ({"top_logprobs": 2}, "top_logprobs", ("include",)),
        ({"input": []}, "input", ("at least 1",)),
        ({"input": [{"role": "user"}]}, "input.0.content", ("is missing",)),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, None, ()),
        ({"input": [{"type": "function_call_output"}]}, None, ()),
        ({"max_token": 5}, "max_token", ("no field", "max_output_tokens")),
        ({"max_output_tokens": 401}, "max_output_tokens", ("401", "400")),
        ({"model": "gpt-9"}, "model", ()),
    ],
)
def test_what_is_not_done_is_refused_with_its_field(generation, fields, param, words):
    response = respond(generation, **fields)
    assert response.status_code == (404 if "model" in fields else 400), response.text
    error = response.json()["error"]
    assert param is None or error["param"] == param
    for word in words:
        assert word in error["message"]


def test_values_that_change_nothing_are_taken(generation):
    plain = respond(generation).json()["output"][0]["content"]
    nothing = {
        "store": False, "background": False, "tools": [], "tool_choice": "auto", "user": "me",
        "truncation": "disabled", "text": {"format": {"type": "text"}}, "service_tier": "auto",
        "include": ["reasoning.encrypted_content"], "previous_response_id": None,
        "parallel_tool_calls": True, "top_k": 0, "prompt_cache_key": "a",
    }  # fmt: skip
    assert respond(generation, **nothing).json()["output"][0]["content"] == plain
    assert respond(generation, stop=[]).json()["output"][0]["content"] == plain


def test_an_answer_that_fails_on_the_way_ends_with_an_event(llama, causal_lm, monkeypatch):
    time_from_first_token(monkeypatch)
    spec = ServeSpec(engine="transformers", batch=1, queue=1, max_tokens=400, timeout="50ms")
    service = GenerationService(llama, causal_lm, name="tiny", spec=spec)
    with steps_when(service.engine, first_steps(20)):
        came = events(respond(service, stream=True, max_output_tokens=400))
    service.close()
    name, data = came[-1].split("\ndata: ")
    response = json.loads(data)["response"]
    assert name == "event: response.failed"
    assert (response["status"], response["error"]["code"]) == ("failed", "server_error")
    assert "0.05 s" in response["error"]["message"]


def test_its_template_refuses_turns_by_the_name_of_the_field(generation, tokenizer, monkeypatch):
    refusing = "{{ raise_exception('no system turn') }}"
    monkeypatch.setattr(tokenizer, "chat_template", refusing, raising=False)
    check_error(respond(generation), 400, "no system turn", param="input")
    assert complete(generation).status_code == 200
