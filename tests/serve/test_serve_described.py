"""`/openapi.json` tells what is answered, and no more."""

import asyncio
from contextlib import closing

import httpx
import jsonschema
import pytest
from asked import call, check_error, complete, rules_of

from raymodel.serve.app import build_app
from raymodel.serve.spec import ServeSpec
from raymodel.testing.services import GENERATORS, SERVICES, tiny_app, tiny_service
from raymodel.testing.sounds import clip

REFUSED = {"400", "401", "403", "404", "408", "413", "429", "500", "503", "504"}


def described(service):
    return call(service, "GET", "/openapi.json").json()


def request_of(told, path):
    body = told["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    return told["components"]["schemas"][body["$ref"].rpartition("/")[2]]


@pytest.mark.parametrize("kind", ["generation", "classification"])
def test_each_path_names_the_refusals_that_it_can_meet_and_its_errors_have_one_shape(kind, request):
    told = described(request.getfixturevalue(kind))
    for path, operations in told["paths"].items():
        for method, operation in operations.items():
            statuses = {status for status in operation["responses"] if status[0] != "2"}
            if method == "post":
                assert statuses == REFUSED, path
            for status in statuses - {"503"}:
                content = operation["responses"][status]["content"]["application/json"]
                assert content["schema"]["$ref"].endswith("/ErrorResponse")
    assert set(told["paths"]["/v1/models"]["get"]["responses"]) == {"200"} | REFUSED - {
        "400",
        "404",
    }
    assert "404" in told["paths"]["/v1/models/{name}"]["get"]["responses"]
    assert {"bearer": []} in told["paths"]["/v1/models"]["get"]["security"]


@pytest.mark.parametrize("path", ["/health", "/livez", "/readyz", "/metrics", "/"])
def test_what_the_gate_answers_is_described_and_answered_so(path, generation):
    told = described(generation)["paths"][path]["get"]["responses"]
    response = call(generation, "GET", path)
    kind = response.headers["content-type"].partition(";")[0]
    assert kind in told[str(response.status_code)]["content"]
    refused = call(generation, "DELETE", path)
    assert refused.status_code == 405
    assert refused.headers["allow"] == "GET, HEAD"


def test_streams_are_described(generation):
    told = described(generation)["paths"]
    for path in ("/v1/completions", "/v1/chat/completions", "/v1/responses"):
        content = told[path]["post"]["responses"]["200"]["content"]
        assert set(content) == {"application/json", "text/event-stream"}
        assert content["text/event-stream"] == {}, "of one event, or of all? nobody agrees"
    streamed = complete(generation, stream=True)
    assert streamed.headers["content-type"].startswith("text/event-stream")


def test_fields_say_what_this_server_takes(generation, classification):
    fields = request_of(described(generation), "/v1/completions")["properties"]
    assert fields["model"]["enum"] == ["tiny"]
    assert fields["guided_json"]["enum"] == [None]
    assert fields["skip_special_tokens"]["enum"] == [None, True]
    inputs = request_of(described(classification), "/predict")["properties"]["inputs"]
    one, several = inputs["anyOf"]
    assert several["items"] == one
    assert one["required"] == ["text"]
    assert one["properties"]["text"] == {"type": "string"}
    assert one["additionalProperties"] is False


def test_a_number_without_a_fraction_is_an_integer_as_in_json_schema(generation):
    body = (
        b'{"model": "tiny", "prompt": "def", "max_tokens": 3.0, "top_k": 2e1, "temperature": 1.0}'
    )
    headers = {"Content-Type": "application/json"}
    response = call(generation, "POST", "/v1/completions", content=body, headers=headers)
    assert response.status_code == 200, response.text
    check_error(complete(generation, max_tokens=2.5), 400, "whole number", param="max_tokens")
    check_error(complete(generation, max_tokens=1e300), 400, "whole number", param="max_tokens")


def test_turns_say_what_each_role_has_to_bring(generation):
    kinds = described(generation)["components"]["schemas"]["Message"]["anyOf"]
    needed = {
        role: kind.get("required", [])
        for kind in kinds
        for role in kind["properties"]["role"]["enum"]
    }
    for role, fields in needed.items():
        chat = {"model": "tiny", "messages": [{"role": role}], "max_tokens": 2}
        response = call(generation, "POST", "/v1/chat/completions", json=chat)
        assert (response.status_code == 200) == (fields == []), (role, response.text)
        if fields:
            assert response.json()["error"]["param"] == f"messages.0.{fields[0]}"


# ---- each answer of each kind of server ----------------------------------------------------------

TURNS = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3, "temperature": 0}
TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "parameters": {
            "type": "object",
            "properties": {"far": {"type": "boolean"}},
            "required": ["far"],
            "additionalProperties": False,
        },
    },
}
LOGPROBS = {"include": ["message.output_text.logprobs"], "top_logprobs": 1}
GENERATED = [
    ("/v1/completions", {"prompt": ["def", "a"], "max_tokens": 2, "n": 2}),
    ("/v1/completions", {"prompt": "def", "max_tokens": 0, "logprobs": 1, "echo": True}),
    ("/v1/completions", {"prompt": "def", "max_tokens": 2, "stream": True}),
    ("/v1/chat/completions", TURNS),
    ("/v1/chat/completions", TURNS | {"logprobs": True, "top_logprobs": 1}),
    ("/v1/chat/completions", TURNS | {"stream": True}),
    ("/v1/responses", {"input": "hello", "max_output_tokens": 2}),
    (
        "/v1/responses",
        {"input": "hello", "max_output_tokens": 2, "metadata": {"a": "b"}} | LOGPROBS,
    ),
    ("/v1/responses", {"input": "hello", "max_output_tokens": 2, "stream": True}),
    ("/tokenize", {"prompt": "hello"}),
]
CALLED = TURNS | {"tools": [TOOL], "tool_choice": "required", "max_tokens": 200}
EMBEDDED = [
    ("/v1/embeddings", {"input": ["a", "b"]}),
    ("/v1/embeddings", {"input": "a", "encoding_format": "base64"}),
    ("/embed", {"inputs": "a"}),
]
PAIR = {"query": "a", "documents": ["b", {"text": "c"}]}
SCORED = {"text_1": "a", "text_2": ["b", "c"]}
ANSWERED = {
    "causal_lm": GENERATED,
    "tools": [*GENERATED, ("/v1/chat/completions", CALLED)],
    "text_classification": [("/classify", {"input": ["a", "b"]})],
    "multi_label_classification": [("/classify", {"input": "a"})],
    "embedding": EMBEDDED,
    "ranking": [
        ("/rerank", PAIR),
        ("/v1/rerank", PAIR | {"return_documents": False}),
        ("/v2/rerank", PAIR | {"top_n": 1}),
        ("/score", SCORED),
        ("/v1/score", SCORED),
    ],
}
SOUND = [{"response_format": "json"}, {"response_format": "text", "stream": "false"}]


class Described:
    """An application that is held to its own document."""

    def __init__(self, client, told):
        self._client, self._told = client, told
        self.seen = set()

    async def ask(self, method, path, expected=200, route=None, **kwargs):
        response = await self._client.request(method, path, **kwargs)
        assert response.status_code == expected, response.text
        self.check(method, route or path, response)
        return response

    def check(self, method, route, response):
        described = self._told["paths"][route][method.lower()]["responses"]
        contents = described[str(response.status_code)]["content"]
        kind = response.headers["content-type"].partition(";")[0]
        assert kind in contents, (route, kind)
        self.seen.add((route, response.status_code, kind))
        if kind == "application/json":
            schema = contents[kind]["schema"] | {"components": self._told["components"]}
            jsonschema.Draft202012Validator(schema).validate(response.json())


def ask_all(app, asked, sounds=()):
    """Asks, and for all paths of the document; returns the document."""

    async def run():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            told = (await client.get("/openapi.json")).json()
            described = Described(client, told)
            answers = []
            for path, body in asked:
                model = {} if path == "/embed" else {"model": "tiny"}
                answers.append(await described.ask("POST", path, json=model | body))
            for form in sounds:
                file = {"file": ("a.wav", clip("abc"))}
                data = {"model": "tiny", **form}
                await described.ask("POST", "/v1/audio/transcriptions", files=file, data=data)
            for path, operations in told["paths"].items():
                for method in operations:
                    await ask_simply(described, method, path)
            whole = {
                (path, 200, kind)
                for path, operations in told["paths"].items()
                for operation in operations.values()
                for kind in operation["responses"]["200"]["content"]
            }
            assert whole - described.seen == set(), "each answer was asked for"
            return told, answers

    return asyncio.run(run())


async def ask_simply(described, method, path):
    """What is refused, of a path that takes a body; else what it tells."""
    if method == "post":
        await described.ask("POST", path, 400, json={})
        if path not in ("/embed", "/v1/audio/transcriptions"):
            await described.ask("POST", path, 400, json={"model": "other"})
    elif "{" in path:
        await described.ask("GET", "/v1/models/tiny", route=path)
        await described.ask("GET", "/v1/models/other", 404, route=path)
    else:
        await described.ask("GET", path)


@pytest.mark.parametrize("name", SERVICES)
def test_each_answer_of_each_kind_of_server_is_what_its_document_says(name):
    spec = ServeSpec(engine="transformers", batch=4, queue=8)
    with closing(tiny_service(name, spec)) as service:
        asked = list(ANSWERED.get(name, ()))
        if name not in GENERATORS:
            one = service.task.example_request()
            asked += [("/predict", {"inputs": one}), ("/predict", {"inputs": [one, one]})]
        told, answers = ask_all(tiny_app(service), asked, SOUND if name == "speech_ctc" else ())
    if name == "tools":
        [choice] = answers[-1].json()["choices"]
        assert choice["finish_reason"] == "tool_calls", "answers with calls are among them"
    if name not in GENERATORS:
        items = told["components"]["schemas"]["PredictResponse"]["properties"]["data"]["items"]
        keys = answers[-1].json()["data"][0].keys()
        assert keys <= items["properties"].keys(), "nothing is told that is not described"
        assert set(items["required"]) == keys


def test_the_routes_of_the_embedder_and_the_sources_are_described_where_documents_are_served():
    spec = ServeSpec(engine="transformers", batch=4, queue=8)
    with (
        closing(tiny_service("tools", spec)) as chat,
        closing(tiny_service("embedding", spec)) as embedder,
    ):
        told, answers = ask_all(tiny_app(chat, embedder), [*GENERATED, *EMBEDDED])
        alone = described(chat)
    assert set(told["paths"]) - set(alone["paths"]) == {"/v1/embeddings", "/embed"}
    assert answers[3].json()["sources"][0]["source"] == "names.md"
    schemas = alone["components"]["schemas"]
    assert "sources" not in schemas["ChatCompletion"]["properties"]


def test_refusals_at_the_gate_are_what_the_document_says(classification):
    told = described(classification)
    app = build_app(classification, rules_of("secret", max_body_bytes=100))
    long = {"model": "tiny", "input": "a" * 100}

    async def run():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            asked = Described(client, told)
            for path, operations in told["paths"].items():
                if path not in ("/", "/health", "/readyz", "/livez", "/v1/models/{name}"):
                    [method] = operations
                    await asked.ask(method.upper(), path, 401)
            key = {"Authorization": "Bearer secret"}
            await asked.ask("POST", "/classify", 413, json=long, headers=key)
            other = {"model": "other", "input": "a"}
            await asked.ask("POST", "/classify", 404, json=other, headers=key)

    asyncio.run(run())


def test_an_answer_that_is_not_described_is_found_out(classification):
    told = described(classification)
    schema = {"$ref": "#/components/schemas/ClassifyResponse", "components": told["components"]}
    body = {"model": "tiny", "input": "a"}
    answer = call(classification, "POST", "/classify", json=body).json()
    validator = jsonschema.Draft202012Validator(schema)
    assert validator.is_valid(answer)
    assert not validator.is_valid(answer | {"more": 1})
    assert not validator.is_valid({key: answer[key] for key in answer if key != "object"})
    assert not validator.is_valid(answer | {"data": [answer["data"][0] | {"index": "0"}]})
