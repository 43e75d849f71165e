"""`/openapi.json` tells what is answered, and no more."""

import pytest
from asked import call, check_error, complete

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
