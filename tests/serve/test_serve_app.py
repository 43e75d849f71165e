"""The application over ASGI: good and bad requests, tokens, limits, time."""

import asyncio
import itertools
import json

import pytest
import torch
from asked import call, check_error, client_of, complete, events, leave_early, post_many
from engines import WAIT_S, first_steps, pace, steps_when, time_from_first_token

from raymodel.serve.app import build_app
from raymodel.serve.generation import GenerationService
from raymodel.serve.spec import ServeSpec
from raymodel.tasks.base import Limits


def test_health_tells_what_runs(generation):
    told = call(generation, "GET", "/health").json()
    assert told["status"] == "ok"
    assert (told["model"], told["dtype"]) == ("tiny", "float32")
    assert told["batching"] == "continuous batching"
    assert told["slow_paths"] == []
    assert told["chat_template"] == "plain"


@pytest.mark.usefixtures("slow_paths_are_taken")
def test_health_tells_what_is_slow_and_why(llama, causal_lm, monkeypatch):
    rope = {**llama.config.rope_parameters, "rope_type": "dynamic"}
    monkeypatch.setattr(llama.config, "rope_parameters", rope)
    slow = GenerationService(llama, causal_lm, name="tiny", spec=ServeSpec(batch=2, queue=2))
    told = call(slow, "GET", "/health").json()
    assert told["batching"] == "one request at a time"
    [path] = told["slow_paths"]
    assert path["what"] == "answers one request at a time"
    assert "rotary scaling 'dynamic'" in path["why"]
    stranger = call(slow, "GET", "/health", app={"token": "secret"}).json()
    assert stranger == {"status": "ok"}
    slow.close()


def test_models_are_listed(generation):
    assert call(generation, "GET", "/v1/models").json()["data"][0]["id"] == "tiny"
    assert call(generation, "GET", "/v1/models/tiny").json()["id"] == "tiny"
    check_error(call(generation, "GET", "/v1/models/other"), 404, "'other'", param="model")


def test_a_completion_is_what_generate_gives(generation, llama, tokenizer):
    told = complete(generation).json()
    ids = tokenizer("def read", return_tensors="pt")["input_ids"]
    expected = llama.generate(ids, max_new_tokens=5, do_sample=False, pad_token_id=1)
    assert told["choices"][0]["text"] == tokenizer.decode(expected[0, ids.shape[1] :])
    assert told["choices"][0]["finish_reason"] == "length"
    assert told["usage"] == {
        "prompt_tokens": ids.shape[1],
        "completion_tokens": 5,
        "total_tokens": ids.shape[1] + 5,
    }


def test_several_prompts_and_token_ids_are_answered_in_order(generation, tokenizer):
    one = complete(generation, prompt="user: hi").json()["choices"][0]["text"]
    two = complete(generation).json()["choices"][0]["text"]
    told = complete(generation, prompt=["user: hi", "def read"]).json()
    assert [choice["text"] for choice in told["choices"]] == [one, two]
    ids = tokenizer("def read")["input_ids"]
    assert complete(generation, prompt=ids).json()["choices"][0]["text"] == two
    assert complete(generation, prompt=[ids]).json()["choices"][0]["text"] == two


def test_an_empty_prompt_is_answered(generation):
    assert complete(generation, prompt="").json()["usage"]["completion_tokens"] == 5


def test_a_stream_holds_the_same_text_and_the_usage(generation, monkeypatch):
    pace(generation, monkeypatch)
    whole = complete(generation, max_tokens=40).json()
    response = complete(
        generation, max_tokens=40, stream=True, stream_options={"include_usage": True}
    )
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, usage, done = events(response)
    assert done == "[DONE]"
    chunks = [json.loads(chunk) for chunk in chunks]
    assert len(chunks) > 5
    assert "".join(c["choices"][0]["text"] for c in chunks) == whole["choices"][0]["text"]
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    assert json.loads(usage)["choices"] == []
    assert json.loads(usage)["usage"] == whole["usage"]


def test_a_chat_without_template_is_the_documented_prompt(generation):
    chat = {
        "model": "tiny",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
        "max_completion_tokens": 7,
        "temperature": 0,
    }
    told = call(generation, "POST", "/v1/chat/completions", json=chat).json()
    same = complete(generation, prompt="user: hi\nassistant:", max_tokens=7, stop="\nuser:").json()
    assert told["choices"][0]["message"]["content"] == same["choices"][0]["text"]
    assert told["choices"][0]["message"]["role"] == "assistant"
    assert told["usage"] == same["usage"]


def test_a_chat_uses_the_template_of_the_model(generation, tokenizer, monkeypatch):
    template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
    monkeypatch.setattr(tokenizer, "chat_template", template, raising=False)
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "temperature": 0}
    chat["max_tokens"] = 7
    told = call(generation, "POST", "/v1/chat/completions", json=chat).json()
    same = complete(generation, prompt="[user]hi[assistant]", max_tokens=7).json()
    assert told["choices"][0]["message"]["content"] == same["choices"][0]["text"]
    refusing = "{{ raise_exception('no system turn') }}"
    monkeypatch.setattr(tokenizer, "chat_template", refusing, raising=False)
    response = call(generation, "POST", "/v1/chat/completions", json=chat)
    check_error(response, 400, "no system turn", param="messages")


def test_what_the_model_would_read_is_told(generation, tokenizer):
    def tokenize(**body):
        return call(generation, "POST", "/tokenize", json={"model": "tiny"} | body)

    told = tokenize(prompt="def read").json()
    ids = tokenizer("def read")["input_ids"]
    assert told == {"count": len(ids), "max_model_len": 512, "tokens": ids}
    messages = [{"role": "user", "content": "hi"}]
    chat = {"model": "tiny", "messages": messages, "max_tokens": 1}
    read = call(generation, "POST", "/v1/chat/completions", json=chat).json()["usage"]
    assert tokenize(messages=messages).json()["count"] == read["prompt_tokens"]
    check_error(tokenize(), 400, "either prompt or messages")
    check_error(tokenize(prompt="a", messages=messages), 400, "either prompt or messages")
    check_error(tokenize(prompt="a" * 20_000), 400, "20,000 characters", param="prompt")


@pytest.mark.parametrize(
    "content", [b"{", b"", b"[1]", b'"text"', b"\xff\xfe", b'{"model": "tiny", "prompt": NaN}']
)
def test_bad_json_is_400(generation, content):
    headers = {"Content-Type": "application/json"}
    response = call(generation, "POST", "/v1/completions", content=content, headers=headers)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"prompt": None}, "prompt", ()),
        ({"prompt": [[]]}, None, None),
        ({"prompt": []}, "prompt", ()),
        ({"prompt": [1, 10**9]}, "prompt", ("1000000000", "0 to")),
        ({"prompt": "\ud800"}, "prompt", ()),
        ({"temperature": 3}, "temperature", ("is 3", "at most 2")),
        ({"temperature": "hot"}, "temperature", ("'hot'",)),
        ({"top_p": 0}, "top_p", ("0",)),
        ({"max_tokens": -1}, "max_tokens", ("-1",)),
        ({"max_tokens": 401}, "max_tokens", ("401", "400")),
        ({"stop": ["a"] * 17}, "stop", ("17 strings", "at most 16")),
        ({"stop": ""}, "stop", ("at least one character",)),
        ({"stop": ["a", 3]}, "stop.1", ("stop.1 is 3", "give a text")),
        ({"n": 0}, "n", ("n is 0", "at least 1")),
        ({"n": 129}, "n", ("n is 129", "at most 128")),
        ({"n": 5}, "n", ("n is 5", "of 1 prompts", "at most 4")),
        ({"n": 2, "best_of": 3}, "best_of", ("best_of is 3", "by n, with logprobs")),
        ({"best_of": 2}, "best_of", ("gives all answers",)),
        ({"best_of": True}, "best_of", ("gives all answers",)),
        ({"echo": 1}, "echo", ("give true or false",)),
        ({"logprobs": 21}, "logprobs", ("is 21", "at most 20")),
        ({"logprobs": True}, "logprobs", ("whole number",)),
        ({"response_format": {"type": "xml"}}, "response_format.type", ("'json_object'",)),
        ({"suffix": "a"}, "suffix", ("does not support it",)),
        ({"top_k": -2}, "top_k", ("is -2", "at least -1")),
        ({"min_p": 1.5}, "min_p", ("1.5", "at most 1")),
        ({"presence_penalty": 2.5}, "presence_penalty", ("2.5", "at most 2")),
        ({"frequency_penalty": "a"}, "frequency_penalty", ("give a number",)),
        ({"repetition_penalty": 0}, "repetition_penalty", ("is 0", "at least 0.01")),
        ({"min_tokens": 6}, "min_tokens", ("min_tokens is 6", "at most 5")),
        ({"stop_token_ids": [3, 300]}, "stop_token_ids", ("id 300", "0 to 299")),
        ({"stop_token_ids": [3, "a"]}, "stop_token_ids.1", ("whole number",)),
        ({"logit_bias": {"300": 1}}, "logit_bias", ("id 300", "0 to 299")),
        ({"logit_bias": {"the": 1}}, "logit_bias", ("'the' is no token id",)),
        ({"logit_bias": {"3": 101}}, "logit_bias.3", ("is 101", "at most 100")),
        ({"max_token": 5}, "max_token", ("no field", "did you mean 'max_tokens'?")),
        ({"guided_json": {}}, "guided_json", ("does not support it",)),
        ({"prompts": "a"}, "prompts", ("did you mean 'prompt'?",)),
        ({"x" * 200: 1}, "x" * 80, ("no field",)),
        ({"\ud800": 1}, None, ("no field",)),
        ({"stream_options": {"usage": True}}, "stream_options.usage", ("include_usage",)),
        ({"prompt": 3}, "prompt", ("prompt is 3: give a text or a list",)),
        ({"prompt": ["a", 3]}, "prompt.1", ("prompt.1 is 3: give a text",)),
        ({"stream": "yes"}, "stream", ("give true or false",)),
        ({"seed": 1.5}, "seed", ("give a whole number",)),
    ],
)
def test_a_bad_field_is_400_with_its_name(generation, body, param, words):
    body = {"model": "tiny", "prompt": "def", "max_tokens": 5} | body
    content = json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    response = call(generation, "POST", "/v1/completions", content=content, headers=headers)
    if words is None:  # an empty list of ids is an empty prompt
        assert response.status_code == 200
        return
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert param is None or error["param"].startswith(param)
    for word in words:
        assert word in error["message"]


def test_fields_that_change_nothing_are_accepted(generation):
    extra = {"user": "me", "metadata": {"a": "b"}, "n": 1, "best_of": 1, "store": False}
    extra["presence_penalty"] = 0.0
    assert complete(generation, **extra).status_code == 200
    assert complete(generation, logprobs=None, tools=None).status_code == 200


def test_tools_and_images_in_a_chat_are_refused(generation):
    def chat(**body):
        body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]} | body
        return call(generation, "POST", "/v1/chat/completions", json=body)

    check_error(chat(tools=[{"type": "function"}]), 400, "missing", param="tools.0.function")
    image = [{"type": "image_url", "image_url": {"url": "x"}}]
    assert chat(messages=[{"role": "user", "content": image}]).status_code == 400
    assert chat(messages=[]).status_code == 400
    assert chat(messages=[{"role": "nobody", "content": "hi"}]).status_code == 400


def test_an_error_is_in_the_words_of_the_client(generation, classification):
    """Whatever is sent, no word of the validator comes back."""
    values = [None, True, 3, 1.5, "a", "\ud800", [], [[]], {}, {"a": 1}, ["a", None], [{"b": []}]]
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}
    bodies = {
        "/v1/completions": {"model": "tiny", "prompt": "a", "max_tokens": 1},
        "/v1/chat/completions": chat | {"max_tokens": 1},
        "/classify": {"model": "tiny", "input": "a"},
        "/predict": {"model": "tiny", "inputs": {"text": "a"}},
    }
    internal = ("Input should", "type=", "pydantic", "constrained", "str]", "TextPart", "function-")
    for path, body in bodies.items():
        service = generation if path.startswith("/v1") else classification
        fields = [*body, "stop", "temperature", "stream_options", "metadata", "tool"]
        for name, value in itertools.product(fields, values):
            content = json.dumps(body | {name: value}).encode()
            headers = {"Content-Type": "application/json"}
            response = call(service, "POST", path, content=content, headers=headers)
            assert response.status_code in (200, 400, 404), (path, name, value)
            if response.status_code != 200:
                error = response.json()["error"]
                assert (error["param"] or name).startswith(name), (path, name, value, error)
                assert not any(word in error["message"] for word in internal), error


def test_turns_of_a_chat_are_told_by_place(generation):
    def refused(*messages):
        body = {"model": "tiny", "max_tokens": 1, "messages": list(messages)}
        return call(generation, "POST", "/v1/chat/completions", json=body)

    user = {"role": "user", "content": "hi"}
    response = refused(user, {"role": "user", "content": None})
    check_error(response, 400, "content is null", "give a text", param="messages.1.content")
    check_error(refused({"role": "user"}), 400, "give a text", param="messages.0.content")
    assert refused(user, {"role": "assistant", "content": None}, user).status_code == 200
    echoed = {"role": "assistant", "content": "a", "refusal": None, "tool_calls": None, "name": "b"}
    assert refused(user, echoed, user).status_code == 200
    response = refused({"role": "user", "contents": "hi"})
    check_error(response, 400, "did you mean 'content'?", param="messages.0.contents")
    response = refused({"role": "usr", "content": "hi"})
    check_error(response, 400, "role is 'usr'", "'user'", param="messages.0.role")
    response = refused({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]})
    assert response.json()["error"]["param"].startswith("messages.0.content.0")


def test_an_unknown_model_or_path_is_404(generation):
    check_error(complete(generation, model="gpt-9"), 404, "'gpt-9'", "'tiny'", param="model")
    check_error(call(generation, "GET", "/v2/nothing"), 404, "/v2/nothing")


def test_another_method_is_405_with_those_that_are_taken(generation):
    response = call(generation, "GET", "/v1/completions")
    check_error(response, 405, "GET /v1/completions", "takes POST")
    assert response.headers["allow"] == "POST"
    response = call(generation, "POST", "/health", app={"token": "secret"})
    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200), ("127.0.0.1", 200), ("127.0.0.5:80", 200), ("[::1]:8000", 200),
        ("LOCALHOST", 200), ("evil.example", 403), ("127.0.0.1.evil.example:8000", 403),
        ("localhost.evil.example", 403), ("", 403), ("10.0.0.1", 403),
    ],
)  # fmt: skip
def test_a_foreign_name_is_refused_where_there_is_no_token(generation, host, status):
    """So that no page on the web can ask what listens on this machine by a name of its own."""
    for path in ("/", "/health", "/v1/models"):
        headers = {"Host": host}
        response = call(generation, "GET", path, app={"host": "127.0.0.1"}, headers=headers)
        assert response.status_code == status, (path, response.text)
        if status == 403:
            check_error(response, 403, "Host", "serve.token_env")
    guarded = {"host": "0.0.0.0", "token": "secret"}
    headers |= {"Authorization": "Bearer secret"}
    response = call(generation, "GET", "/v1/models", app=guarded, headers=headers)
    assert response.status_code == 200


def test_too_long_a_prompt_is_400_naming_limit_and_length(generation):
    response = complete(generation, prompt=[5] * 512)
    check_error(response, 400, "512 tokens", "at most 511", param="prompt")
    response = complete(generation, prompt=[5] * 500, max_tokens=20)
    check_error(response, 400, "500", "20", "512", "at most 12", param="max_tokens")
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "東" * 300}]}
    response = call(generation, "POST", "/v1/chat/completions", json=chat)
    check_error(response, 400, "messages holds", "at most 511", param="messages")
    response = call(
        generation, "POST", "/v1/responses", json={"model": "tiny", "input": "東" * 300}
    )
    check_error(response, 400, "input holds", "at most 511", param="input")
    told = complete(generation, prompt=[5] * 500, max_tokens=None).json()
    assert told["usage"]["completion_tokens"] == 12


def test_a_full_queue_is_503_with_retry_after(generation):
    body = {"model": "tiny", "prompt": "x", "max_tokens": 400, "temperature": 0}

    async def run():
        async with client_of(generation) as client:
            return await post_many(client, generation, body, 8)

    responses = asyncio.run(run())
    statuses = sorted(response.status_code for response in responses)
    assert statuses[:2] == [200, 200]
    assert statuses[-1] == 503
    refused = next(response for response in responses if response.status_code == 503)
    check_error(refused, 503, "queue is full")
    assert int(refused.headers["retry-after"]) >= 1


def test_a_request_that_takes_too_long_is_504_and_frees_its_slot(llama, causal_lm, monkeypatch):
    time_from_first_token(monkeypatch)
    spec = ServeSpec(engine="transformers", batch=1, queue=1, max_tokens=400, timeout="50ms")
    service = GenerationService(llama, causal_lm, name="tiny", spec=spec)
    try:
        with steps_when(service.engine, lambda: False):
            check_error(complete(service, max_tokens=400), 504, "0.05 s", "serve.timeout")
        with steps_when(service.engine, first_steps(20)):
            streamed = events(complete(service, max_tokens=400, stream=True))
        assert streamed[-1] == "[DONE]"
        assert json.loads(streamed[-2])["error"]["code"] == "timeout"
        _wait_until_idle(service)
    finally:
        service.close()


def _wait_until_idle(service):
    async def wait():
        while service.engine.num_active or service.engine.num_waiting:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(wait(), WAIT_S))


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_slot(generation, stream):
    body = {"model": "tiny", "prompt": "x", "max_tokens": 400, "temperature": 0, "stream": stream}
    leave_early(build_app(generation), body, generation)
    assert generation.engine.num_generated < 400


def test_a_token_is_asked_for_and_compared(generation):
    app = {"token": "secret"}
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
        response = call(generation, "GET", "/v1/models", app=app, headers=headers)
        check_error(response, 401, "bearer token")
        assert response.headers["www-authenticate"] == "Bearer"
    good = {"Authorization": "Bearer secret"}
    assert call(generation, "GET", "/v1/models", app=app, headers=good).status_code == 200
    assert call(generation, "GET", "/health", app=app).json() == {"status": "ok"}
    assert call(generation, "GET", "/health", app=app, headers=good).json()["model"] == "tiny"
    bad_json = call(generation, "POST", "/v1/completions", app=app, content=b"{")
    assert bad_json.status_code == 401


def test_the_page_loads_nothing_from_elsewhere(generation):
    response = call(generation, "GET", "/")
    assert response.headers["content-type"].startswith("text/html")
    assert "http://" not in response.text
    assert "https://" not in response.text
    assert "default-src 'none'" in response.headers["content-security-policy"]


def test_a_model_that_fails_is_500_and_health_says_so_when_it_goes_on(generation, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("device lost")

    monkeypatch.setattr(generation.engine.runner.decoder, "prefill", broken)
    for _ in range(3):
        check_error(complete(generation), 500, "RuntimeError")
    assert call(generation, "GET", "/health").status_code == 503


def classify(service, **body):
    return call(service, "POST", "/classify", json={"model": "tiny"} | body)


def test_classification_gives_the_probabilities_of_the_model(classification, bert, tokenizer):
    told = classify(classification, input="def read").json()
    with torch.inference_mode():
        logits = bert(**tokenizer("def read", return_tensors="pt")).logits
    [result] = told["data"]
    assert result["probs"] == pytest.approx(logits.softmax(-1)[0].tolist(), abs=1e-5)
    assert result["label"] == ("no", "maybe", "yes")[int(logits.argmax())]
    assert (result["index"], result["num_classes"]) == (0, 3)


def test_many_texts_are_classified_together_as_alone(classification):
    texts = ["user: hi", "def", "naïve café 東京 and more of it"]
    told = classify(classification, input=texts).json()["data"]
    assert [result["index"] for result in told] == [0, 1, 2]
    for text, result in zip(texts, told, strict=True):
        alone = classify(classification, input=text).json()["data"][0]
        assert result["probs"] == pytest.approx(alone["probs"], abs=1e-5)


def test_bad_requests_to_classify(classification):
    check_error(classify(classification), 400, "input is missing", param="input")
    check_error(classify(classification, input=""), 400, "empty", param="input")
    response = classify(classification, input="東" * 100)
    check_error(response, 400, "at most 64", "tokens", param="input")
    check_error(classify(classification, input=["a"] * 5), 400, "5 inputs", param="input")
    check_error(classify(classification, input="a", model="b"), 404, "'b'", param="model")
    assert call(classification, "POST", "/v1/completions", json={}).status_code == 404


def predict(service, **body):
    content = json.dumps({"model": "tiny"} | body).encode()  # httpx refuses half a surrogate pair
    headers = {"Content-Type": "application/json"}
    return call(service, "POST", "/predict", content=content, headers=headers)


def test_a_prediction_is_what_the_model_says_of_the_values_of_its_roles(
    classification, bert, tokenizer
):
    told = predict(classification, inputs={"text": "def read"}).json()
    encoded = tokenizer("def read", return_tensors="pt")
    with torch.inference_mode():
        logits = bert(**encoded).logits
    [result] = told["data"]
    assert result["probs"] == pytest.approx(logits.softmax(-1)[0].tolist(), abs=1e-5)
    assert result["label"] == ("no", "maybe", "yes")[int(logits.argmax())]
    assert (result["index"], told["model"]) == (0, "tiny")
    num_tokens = encoded["input_ids"].shape[1]
    assert told["usage"] == {
        "prompt_tokens": num_tokens,
        "completion_tokens": 0,
        "total_tokens": num_tokens,
    }


def test_a_batch_of_inputs_is_predicted_in_order_and_as_classify_does(classification):
    texts = ["user: hi", "def", "naïve café 東京 and more of it"]
    told = predict(classification, inputs=[{"text": text} for text in texts]).json()["data"]
    assert [result["index"] for result in told] == [0, 1, 2]
    same = classify(classification, input=texts).json()["data"]
    for text, result, other in zip(texts, told, same, strict=True):
        [alone] = predict(classification, inputs={"text": text}).json()["data"]
        assert result["probs"] == pytest.approx(alone["probs"], abs=1e-5)
        assert result["probs"] == pytest.approx(other["probs"], abs=1e-5)
        assert result["label"] == alone["label"] == other["label"]


@pytest.mark.parametrize(
    ("inputs", "param", "words"),
    [
        ({"txt": "a"}, "inputs", ("['txt']", "is given text")),
        ({"text": "a", "label": "no"}, "inputs", ("['label', 'text']", "is given text")),
        ({}, "inputs", ("[]", "is given text")),
        ([{"text": "a"}, {}], "inputs", ("[]", "is given text")),
        ({"text": 3}, "text", ("text is 3", "give a text")),
        ({"text": None}, "text", ("text is None", "give a text")),
        ({"text": ["a"]}, "text", ("text is ['a']", "give a text")),
        ({"text": "\ud800"}, "text", ("not valid Unicode",)),
        ({"text": ""}, "inputs", ("empty", "at least one character")),
        ([{"text": "a"}, {"text": ""}], "inputs", ("empty", "at least one character")),
        ({"text": "東" * 100}, "inputs", ("at most 64", "tokens")),
        ([{"text": "a"}] * 5, "inputs", ("5 inputs", "at most 4")),
    ],
)
def test_inputs_that_the_model_cannot_be_given_are_400(classification, inputs, param, words):
    check_error(predict(classification, inputs=inputs), 400, *words, param=param)
    assert classification.state()["answered"] == 0  # all or none


@pytest.mark.parametrize("inputs", [[], 5, None, "a", ["a"]])
def test_inputs_of_another_shape_are_400(classification, inputs):
    response = predict(classification, inputs=inputs)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"].startswith("inputs")


def test_a_text_that_comes_whole_is_what_evaluation_measures(translation, t5):
    task, sources = translation.task, ["def read", "user: hi"]
    rows = [task.features({"source": source}, None).features for source in sources]
    columns = {"input_ids": [row["input_ids"] for row in rows]}
    expected = task.predict(t5, columns, Limits(max_new_tokens=5, beams=2))
    told = predict(translation, inputs=[{"source": source} for source in sources]).json()
    assert [each["text"] for each in told["data"]] == [each["text"] for each in expected]
    assert told["usage"]["prompt_tokens"] == sum(len(row["input_ids"]) for row in rows)
    health = call(translation, "GET", "/health").json()
    assert (health["answers"], health["fields"]) == ("text", {"source": "text"})
    check_error(predict(translation, inputs={"source": " "}), 400, "empty source", param="inputs")
    refused = predict(translation, inputs={"target": "a"})
    check_error(refused, 400, "is given source", param="inputs")
    assert "/classify" not in {route.path for route in translation.router().routes}


def test_predict_asks_for_inputs_and_for_this_model(classification):
    check_error(predict(classification), 400, "inputs is missing", param="inputs")
    response = predict(classification, inputs={"text": "a"}, model="b")
    check_error(response, 404, "'b'", param="model")
    response = call(
        classification, "POST", "/predict", app={"token": "secret"}, json={"model": "tiny"}
    )
    check_error(response, 401, "bearer token")


def test_health_tells_what_a_prediction_is_asked_for(classification):
    told = call(classification, "GET", "/health").json()
    assert (told["kind"], told["task"]) == ("prediction", "text_classification")
    assert told["fields"] == {"text": "text"}
    assert (told["answers"], told["labels"]) == ("label", ["no", "maybe", "yes"])
    assert (told["max_input_tokens"], told["answered"]) == (64, 0)
    predict(classification, inputs=[{"text": "a"}, {"text": "b"}])
    assert call(classification, "GET", "/health").json()["answered"] == 2


def test_what_a_service_asks_it_answers(classification, generation):
    path, body = classification.question({"text": "def read"}, "tiny")
    response = call(classification, "POST", path, json=body).json()
    [same] = predict(classification, inputs={"text": "def read"}).json()["data"]
    answer = classification.answer(response)
    assert (answer["label"], answer["probs"]) == (same["label"], pytest.approx(same["probs"]))
    path, body = generation.question({"prompt": "def read"}, "tiny")
    response = call(generation, "POST", path, json=body | {"max_tokens": 5}).json()
    assert generation.answer(response) == {
        "text": complete(generation).json()["choices"][0]["text"]
    }
    check_error(call(generation, "POST", "/predict", json={}), 404)
