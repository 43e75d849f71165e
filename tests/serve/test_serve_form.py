"""Answers that must be JSON of a schema, match an expression, or be one of some texts."""

import json
import re

import openai
import pydantic
import pytest
import torch
from asked import call, check_error, complete
from fastapi.testclient import TestClient

from raymodel.errors import FormError
from raymodel.serve import form as form_module
from raymodel.serve.app import build_app
from raymodel.serve.form import Grammars
from raymodel.serve.generation import GenerationService
from raymodel.serve.sampling import Form
from raymodel.serve.spec import ServeSpec

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Köln", "東京"]},
        "size": {"type": "integer", "minimum": 0, "maximum": 99},
        "is_big": {"type": "boolean"},
    },
    "required": ["city", "size", "is_big"],
    "additionalProperties": False,
}


def check_city(text):
    told = json.loads(text)
    assert list(told) == ["city", "size", "is_big"]
    assert told["city"] in ("Köln", "東京")
    assert 0 <= told["size"] <= 99
    assert isinstance(told["is_big"], bool)


def written(service, **fields):
    response = complete(service, **{"max_tokens": 300, "temperature": 1.5} | fields)
    assert response.status_code == 200, response.text
    choice = response.json()["choices"][0]
    assert choice["finish_reason"] == "stop"
    return choice["text"]


@pytest.mark.parametrize("seed", range(4))
def test_an_answer_is_json_of_its_schema(generation, seed):
    schema = {"name": "city", "schema": SCHEMA, "strict": True}
    wanted = {"type": "json_schema", "json_schema": schema}
    check_city(written(generation, seed=seed, response_format=wanted))
    check_city(written(generation, seed=seed, structured_outputs={"json": SCHEMA}))
    check_city(written(generation, seed=seed, structured_outputs={"json": json.dumps(SCHEMA)}))


def test_an_answer_matches_its_expression_or_is_one_of_its_texts(generation):
    expression = r"(def|user)_[0-9]{2,3}(é|東)"
    for seed in range(4):
        text = written(generation, seed=seed, structured_outputs={"regex": expression})
        assert re.fullmatch(expression, text), text
    texts = ['say "no"', "yes\n", "東京", "a/b"]
    found = {
        written(generation, seed=seed, structured_outputs={"choice": texts}) for seed in range(12)
    }
    assert found <= set(texts)
    assert len(found) > 1
    greedy = written(generation, temperature=0, structured_outputs={"choice": texts})
    assert greedy in texts


def test_any_json_object_may_be_asked_for(generation):
    # The other characters of JSON are made unlikely, or a random model opens objects without end.
    options = {"max_tokens": 400, "seed": 1, "temperature": 1}
    for fields in (
        {"response_format": {"type": "json_object"}},
        {"structured_outputs": {"json_object": True}},
    ):
        response = complete(generation, **options, **fields).json()["choices"][0]
        assert response["text"].startswith("{")
        if response["finish_reason"] == "stop":
            assert isinstance(json.loads(response["text"]), dict)
    plain = complete(generation, response_format={"type": "text"}).json()["choices"]
    assert plain == complete(generation).json()["choices"]


class City(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    name: str = pydantic.Field(max_length=5)
    is_big: bool


def test_openais_client_gets_its_classes_back(generation):
    asked = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "seed": 2}
    with TestClient(build_app(generation)) as http:
        client = openai.OpenAI(api_key="none", base_url="http://testserver/v1", http_client=http)
        chat = client.chat.completions.parse(**asked, max_tokens=200, response_format=City)
        assert isinstance(chat.choices[0].message.parsed, City)
        told = client.responses.parse(model="tiny", input="hi", text_format=City)
        assert isinstance(told.output_parsed, City)
        assert told.text.format.type == "json_schema"
        text = ""
        for chunk in client.chat.completions.create(
            **asked,
            max_tokens=200,
            stream=True,
            extra_body={"structured_outputs": {"regex": "a{9}"}},
        ):
            text += chunk.choices[0].delta.content
        assert text == "a" * 9


def test_the_form_of_one_answer_is_not_that_of_its_neighbours(generation):
    response = complete(
        generation,
        prompt=["def", "user: hi", "naïve"],
        max_tokens=40,
        structured_outputs={"regex": "[a-c]{20}"},
    ).json()
    for choice in response["choices"]:
        assert re.fullmatch("[a-c]{20}", choice["text"])


def test_openvino_leaves_forms_to_torch(llama, causal_lm):
    spec = ServeSpec(engine="openvino", batch=2, queue=8, max_tokens=300)
    service = GenerationService(llama, causal_lm, name="tiny", spec=spec)
    check_city(written(service, structured_outputs={"json": SCHEMA}, seed=0))
    refused = complete(service, structured_outputs={"regex": "(a"})
    check_error(refused, 400, "unclosed group", param="structured_outputs")
    assert complete(service).status_code == 200
    assert service.engine.is_healthy
    service.close()


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"structured_outputs": {"regex": "(a"}}, "structured_outputs", ("unclosed group",)),
        ({"structured_outputs": {"regex": "(?=a)b"}}, "structured_outputs", ("look-ahead",)),
        ({"structured_outputs": {"json": {"type": "odd"}}}, "structured_outputs", ("odd",)),
        ({"structured_outputs": {"json": {"not": {}}}}, "structured_outputs", ("not",)),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs", ("cannot be followed",)),
        ({"structured_outputs": {"json": {"$ref": "http://a/b"}}}, "structured_outputs", ("a/b",)),
        ({"structured_outputs": {}}, "structured_outputs", ("give one of",)),
        (
            {"structured_outputs": {"regex": "a", "choice": ["a"]}},
            "structured_outputs",
            ("give one of",),
        ),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", ("at least 1",)),
        (
            {"structured_outputs": {"grammar": "root ::= a"}},
            "structured_outputs.grammar",
            ("does not support it",),
        ),
        ({"structured_outputs": {"regexp": "a"}}, "structured_outputs.regexp", ("'regex'",)),
        ({"response_format": {"type": "json"}}, "response_format.type", ("'json_schema'",)),
        (
            {"response_format": {"type": "json_schema"}},
            "response_format.json_schema",
            ("stands beside",),
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
            "response_format.json_schema.schema",
            ("is missing",),
        ),
        (
            {
                "response_format": {"type": "json_object"},
                "structured_outputs": {"regex": "a"},
            },
            None,
            ("either response_format or structured_outputs",),
        ),
        (
            {"structured_outputs": {"regex": "a"}, "ignore_eos": True},
            "structured_outputs",
            ("leave ignore_eos and min_tokens out",),
        ),
        ({"guided_json": {}}, "guided_json", ("does not support it",)),
    ],
)
def test_a_form_that_is_none_is_refused(generation, fields, param, words):
    check_error(complete(generation, **fields), 400, *words, param=param)


def test_a_responses_form_is_refused_by_its_name(generation):
    form = {"type": "json_schema", "name": "a", "schema": {"type": "odd"}}
    body = {"model": "tiny", "input": "hi", "text": {"format": form}}
    response = call(generation, "POST", "/v1/responses", json=body)
    check_error(response, 400, "cannot be followed", param="text.format")


# ---- grammars ------------------------------------------------------------------------------------


def test_each_answer_has_its_own_place_in_a_grammar_that_is_made_once(tokenizer, monkeypatch):
    grammars = Grammars(tokenizer, 320, frozenset({0, 7}))
    made = []
    build = form_module._grammar
    monkeypatch.setattr(form_module, "_grammar", lambda form: made.append(form) or build(form))
    one, two = (grammars.begin(Form("choice", '["ab", "b"]')) for _ in range(2))
    assert len(made) == 1
    a, b = (tokenizer(letter)["input_ids"][0] for letter in "ab")

    def allowed(state):
        mask = state.allowed(320)
        assert mask.dtype == torch.bool
        return set(mask.nonzero()[:, 0].tolist())

    assert {a, b} <= allowed(one)
    one.advance(a)
    assert allowed(one) == {b}
    assert {a, b} <= allowed(two)
    one.advance(b)
    assert allowed(one) == {0, 7}, "both ends, and rows that are no tokens are never allowed"
    one.advance(a)  # which was not allowed
    assert allowed(one) == {0, 7}


def test_a_model_that_ends_nothing_has_no_forms(tokenizer):
    with pytest.raises(FormError, match="no token that ends"):
        Grammars(tokenizer, 300, frozenset()).begin(Form("regex", "a"))
