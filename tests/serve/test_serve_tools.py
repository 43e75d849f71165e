"""Tools in a chat with OpenAI's client: shown, called, read back, in each form of templates."""

import dataclasses
import json
import random
from functools import cache
from typing import Literal

import openai
import pydantic
import pytest
from asked import call, check_error, events
from engines import pace
from fastapi.testclient import TestClient

from raymodel.modality.call_form import ObjectCall
from raymodel.modality.chat import ChatFormat
from raymodel.modality.text import TextProcessor
from raymodel.modality.tool_form import find_call_form
from raymodel.serve.app import build_app
from raymodel.serve.call_reader import Argued, Called, CallReader, Said
from raymodel.serve.call_values import read_value, write_json
from raymodel.serve.filters.load import build_filters
from raymodel.serve.form import Grammars
from raymodel.serve.generation import GenerationService
from raymodel.serve.spec import ServeSpec
from raymodel.serve.tool_protocol import ToolEntry
from raymodel.serve.tools import Offer
from raymodel.tasks import get_task
from raymodel.testing.families import build_tokenizer
from raymodel.testing.tiny import build_tiny_llama, round_weights
from raymodel.testing.tool_families import TOOL_FAMILIES

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Says how it is.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"enum": ["Köln", "東京"]},
                "days": {"$ref": "#/$defs/days"},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
            "$defs": {"days": {"type": "integer", "minimum": 1, "maximum": 9}},
        },
    },
}
TIME = {"type": "function", "function": {"name": "get_time"}}
ASKED = [{"role": "user", "content": "hello"}]
# What the families' models write of two calls, or of one.
WRITTEN = {
    "tags": (
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Köln", "days": 2}}\n'
        '</tool_call>\n<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'
    ),
    "bare": '{"name": "get_weather", "parameters": {"city": "Köln", "days": 2}}',
    "list": (
        '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Köln", "days": 2}}, '
        '{"name": "get_time", "arguments": {}}]'
    ),
    "named": (
        '[TOOL_CALLS]get_weather[CALL_ID]abcdefghi[ARGS]{"city": "Köln", "days": 2}'
        "[TOOL_CALLS]get_time[CALL_ID]abcdefghj[ARGS]{}"
    ),
    "fenced": (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"
        '{"city": "Köln", "days": 2}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function'
        "<｜tool▁sep｜>get_time\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    ),
    "parameters": (
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nKöln\n</parameter>\n"
        "<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>\n"
        "<tool_call>\n<function=get_time>\n</function>\n</tool_call>"
    ),
    "pairs": (
        "\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Köln</arg_value>\n"
        "<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>\n"
        "<tool_call>get_time\n</tool_call>"
    ),
    "python": '[get_weather(city="Köln", days=2), get_time()]',
    "unwritten": (
        '<|tool_call_start|>[get_weather(city="Köln", days=2), get_time()]<|tool_call_end|>'
    ),
}
AT_BEGINNING = ("bare", "python")  # nothing may stand before a call
ARGUMENTS = '{"city": "Köln", "days": 2}'
SCHEMAS = {"get_weather": WEATHER["function"]["parameters"], "get_time": {"type": "object"}}


@cache
def form_of(family):
    return find_call_form(ChatFormat(build_tokenizer(TOOL_FAMILIES[family])))


def read(family, *pieces, most=None, form=None):
    """Text, calls, and how many parts they came in."""
    reader = CallReader(form or form_of(family), SCHEMAS, most)
    parts = [part for piece in pieces for part in reader.push(piece)]
    parts += reader.finish()
    text = "".join(part.text for part in parts if isinstance(part, Said))
    names = [part.name for part in parts if isinstance(part, Called)]
    arguments = [""] * len(names)
    for part in parts:
        if isinstance(part, Argued):
            arguments[part.number] += part.text
    assert reader.num_calls == len(names)
    return text, list(zip(names, arguments, strict=True)), len(parts)


# ---- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", TOOL_FAMILIES)
def test_calls_are_read_alike_in_one_piece_and_by_characters(family):
    written = WRITTEN[family]
    expected = [("get_weather", ARGUMENTS), ("get_time", "{}")][: 1 if family == "bare" else 2]
    assert read(family, written)[:2] == ("", expected)
    text, calls, num_parts = read(family, *written)
    assert (text, calls) == ("", expected)
    if form_of(family).call.__class__ is ObjectCall or form_of(family).call.arguments == "json":
        assert num_parts > len(ARGUMENTS), "arguments come as they are written"
    assert read(family, "\n" + written + "\n")[:2] == ("", expected)
    if family not in AT_BEGINNING:
        text, calls, _ = read(family, *f"Let me see.\n{written}")
        assert (text, calls) == ("Let me see.", expected), "spaces before a call belong to it"
        assert read(family, *f"{written}\nDone.")[:2] == ("\nDone.", expected)
        assert read(family, *written, most=1)[1] == expected[:1]


NO_CALLS = {
    "named": (
        "[TOOL_CALLS]get_time[CALL_ID]", "[TOOL_CALLS]get_time[CALL_ID]x[ARGS]",
        "[TOOL_CALLS]get_time[CALL_ID]x[ARGS]hm", "[TOOL_CALLS]rm[CALL_ID]x[ARGS]{}",
    ),
    "parameters": (
        "<tool_call>\n<function=rm>\n</function>\n</tool_call>", "<function", "<function=get_time>",
        "<tool_call>\n<function=get_time>\nhm", "<function=get_weather>\n<parameter=city>\nKö",
        "<tool_call>\n<function=get_time>\n<parameter=a</parameter>\n</function>\n</tool_call>",
    ),
    "pairs": ("<tool_call>get_time\nhm", "<tool_call>get_time\n<arg_key>a</arg_key>\n</tool_call>"),
    "python": (
        "[get_time(1)]", "[get_time(a=b)]", "[get_time(a=[1)]", '[get_time(a="x]', "[1, 2]",
        "[get_time](http://x)", "[get_time(a=1e999)]", "[get_time(a=b'x')]", "[get_time(**{})]",
        "[get_time(a={1: 2})]", '[get_time(a="\\x")]', "[get_time(a=f'{b}')]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", TOOL_FAMILIES)
def test_what_is_no_call_stays_text(family):
    opening = form_of(family).opening
    for text in (
        "just text", "", "a <tool", "a < b and [1]", "[TOOL_CALLS", "{", "{}",
        opening, opening + "{", opening + "hm", opening + '{"name": "rm", "arguments": {}}',
        opening + '{"city": "Köln"}', opening + '{"name": ["get_time"]}', opening + "{'name': 1}",
        opening + '{"name": "get_', opening + '{"name": "get_time\\x"}', opening + '{"a\\q": 1}',
        f"{opening}{opening}hm", " \n ", "a \n", opening + "get_t", opening + "get_time",
        *NO_CALLS.get(family, ()),
    ):  # fmt: skip
        for pieces in ([text], text):
            assert read(family, *pieces)[:2] == (text, []), (text, pieces)


def test_text_is_held_back_only_while_it_may_be_a_call():
    reader = CallReader(form_of("tags"), {"get_time": {}})
    assert reader.push("so ") == [Said("so")]
    assert reader.push("<") == []
    assert reader.push("tool") == []
    assert reader.push("s> ") == [Said(" <tools>")]
    assert reader.push('<tool_call>{"na') == []
    assert [type(part) for part in reader.push('me": "get_time"')] == [Called]
    assert reader.push(', "arguments": {"a') == [Argued(0, '{"a')]
    bare = CallReader(form_of("bare"), {"get_time": {}})
    assert bare.push("a {") == [Said("a {")]
    other = CallReader(form_of("bare"), {"get_time": {}})
    assert other.push('{"result"') == []
    assert other.push(": ") == []
    assert other.push("5") == [Said('{"result": 5')], "no call has such a key"


def test_calls_are_read_as_models_write_them():
    calls = [("get_time", '{"a": "}"}')]
    tags = "<tool_call>{}</tool_call>"
    for call_ in (
        '{"arguments": {"a": "}"}, "name": "get_time"}',
        '{ "type": "function", "name": "get_time", "parameters": {"a": "}"} }',
        '{"name": "get_time", "arguments": "{\\"a\\": \\"}\\"}"}',
    ):
        assert read("tags", *tags.replace("{}", call_))[:2] == ("", calls)
    for call_ in ('{"name": "get_time"}', '{"name": "get_time", "arguments": null}'):
        assert read("tags", *tags.replace("{}", call_))[1] == [("get_time", "{}")]
    cut = tags.replace("{}", '{"name": "get_time", "arguments": {"a": [1')
    assert read("tags", *cut.removesuffix("</tool_call>"))[1] == [("get_time", '{"a": [1')]
    open_ = read("tags", *'<tool_call>{"name": "get_time", "arguments": {}}\n</tool')
    assert open_[:2] == ("", [("get_time", "{}")])


def test_markers_that_models_leave_out_or_add_are_understood():
    inline = "<function=get_weather><parameter=city>Köln</parameter><parameter=days>2</parameter>"
    two = f"{inline}</function>\n<function=get_time>\n</function>"
    calls = [("get_weather", ARGUMENTS), ("get_time", "{}")]
    for written in (two, f"<tool_call>{two}"):
        assert read("parameters", *f"So:\n{written}\nDone.")[:2] == ("So:\nDone.", calls)
    cdata = inline.replace("Köln", "<![CDATA[Köln]]>")
    assert read("parameters", f"{cdata}</function>")[1] == calls[:1]
    open_ = f"{inline}\n</fun"
    assert read("parameters", *open_)[1] == [("get_weather", ARGUMENTS[:-1])], "it was cut off"
    specials = (*TOOL_FAMILIES["bare"].specials, "<|python_tag|>")
    llama = dataclasses.replace(TOOL_FAMILIES["bare"], specials=specials)
    form = find_call_form(ChatFormat(build_tokenizer(llama)))
    written = WRITTEN["bare"]
    for before in ("", "Let me see."):
        read_ = read("bare", *f"{before}<|python_tag|>{written}", form=form)
        assert read_[:2] == (before, calls[:1])
    assert read("bare", *written, form=form)[:2] == ("", calls[:1])
    assert read("bare", *"<|py", form=form)[:2] == ("<|py", [])


@pytest.mark.parametrize(
    ("written", "arguments"),
    [
        ("a='it\\'s', b=\"say \\\\\"", {"a": "it's", "b": "say \\"}),
        ("a=True, b=None, c=false, d=-1.5", {"a": True, "b": None, "c": False, "d": -1.5}),
        ("a=[1, (2, {'b': null})], c={}", {"a": [1, [2, {"b": None}]], "c": {}}),
        ("\na = 'two\nlines' ,\n b='\\d+)'", {"a": "two\nlines", "b": "\\d+)"}),
        ("a='\\ud800'", {"a": "\ud800"}),
        ("from='Köln', my-key=1,", {"from": "Köln", "my-key": 1}),
    ],
)
def test_arguments_of_python_become_json(written, arguments):
    text, [(name, told)], _ = read("python", *f"[get_time({written})]")
    assert (text, name, json.loads(told)) == ("", "get_time", arguments)
    assert told.encode(), "it is Unicode"


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        ({"type": "string"}, " 5 ", " 5 "),
        ({"type": "integer"}, "\n5\n", 5),
        ({"type": "integer"}, "5.0", 5),
        ({"type": "integer"}, "five", "five"),
        ({"type": "number"}, "5.0", 5.0),
        ({"type": "number"}, "1e999", "1e999"),
        ({"type": "boolean"}, "True", True),
        ({"type": ["string", "null"]}, "null", None),
        ({"type": ["string", "null"]}, "5", "5"),
        ({"type": "array"}, '["a", 1]', ["a", 1]),
        ({"type": "object"}, "{'a': None}", {"a": None}),
        ({"type": "array"}, f"[0x{'f' * 4000}]", f"[0x{'f' * 4000}]"),
        ({"type": "object"}, "[" * 100 + "]" * 100, "[" * 100 + "]" * 100),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, "5", 5),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, "x", "x"),
        ({"$ref": "#/$defs/n", "$defs": {"n": {"enum": [1, 2]}}}, "2", 2),
        ({"$ref": "#", "anyOf": [{"$ref": "#"}]}, "x", "x"),
        ({"type": 5, "enum": 3, "anyOf": 1}, "x y", "x y"),
        ({"const": "5"}, "5", "5"),
        ({}, "[1]", [1]),
        ({}, "NaN", "NaN"),
    ],
)
def test_a_bare_value_is_what_its_schema_says_that_it_may_be(schema, text, value):
    read_ = read_value(text, schema)
    assert (read_, type(read_)) == (value, type(value))
    assert json.loads(write_json(read_)) == value


@pytest.mark.parametrize("family", TOOL_FAMILIES)
def test_whatever_is_written_is_read_alike_in_any_pieces(family):
    draw = random.Random(family)
    written = WRITTEN[family]
    for _ in range(150):
        start, end = sorted(draw.choices(range(len(written)), k=2))
        noise = draw.choice(["", "x", "<", "{", "}", '"', "\n", ")", "]", written[start:end]])
        text = written[:start] + noise + written[min(end, start + draw.randrange(4)) :]
        text = text[: draw.choice([len(text), draw.randrange(len(text) + 1)])]
        whole = read(family, text)[:2]
        assert whole == read(family, *text)[:2], text
        assert whole[1] or whole[0] == text, "without a call all is text"


# ---- serving -------------------------------------------------------------------------------------


def service_of(family, **fields):
    tokenizer = build_tokenizer(TOOL_FAMILIES[family])
    model = build_tiny_llama(
        vocab_size=len(tokenizer), max_positions=2048, seed=10, initializer_range=0.4
    )
    closing = tokenizer.convert_tokens_to_ids(TOOL_FAMILIES[family].closing)
    model.generation_config.eos_token_id = closing
    task = get_task("causal_lm")(processor=TextProcessor(tokenizer))
    spec = ServeSpec(**{"engine": "transformers", "batch": 2, "queue": 2, "max_tokens": 600}
                     | fields)  # fmt: skip
    return GenerationService(round_weights(model).eval(), task, name="tiny", spec=spec)


# One of each kind: more would take long, and differ in what is read and written alone.
@pytest.fixture(scope="module", params=["tags", "bare", "list", "parameters", "unwritten"])
def family(request):
    return request.param


@pytest.fixture(scope="module")
def service(family):
    return service_of(family)


@pytest.fixture(scope="module")
def client(service):  # which closes the service
    with TestClient(build_app(service)) as http:
        yield openai.OpenAI(api_key="none", base_url="http://testserver/v1", http_client=http)


def chat(service, **body):
    body = {"model": "tiny", "messages": ASKED, "max_tokens": 5, "temperature": 0} | body
    return call(service, "POST", "/v1/chat/completions", json=body)


def asked(**fields):
    tools = {"model": "tiny", "messages": ASKED, "tools": [WEATHER, TIME], "max_tokens": 600}
    return tools | {"temperature": 1.2, "seed": 3} | fields


def check_weather(called):
    assert called.function.name == "get_weather"
    told = json.loads(called.function.arguments)
    assert set(told) == {"city", "days"}
    assert told["city"] in ("Köln", "東京")
    assert told["days"] in range(1, 10)


def test_a_named_function_is_called_once_with_arguments_of_its_schema(client):
    choice = {"type": "function", "function": {"name": "get_weather"}}
    for seed in range(2):
        told = client.chat.completions.create(**asked(tool_choice=choice, seed=seed)).choices[0]
        [called] = told.message.tool_calls
        check_weather(called)
        assert (told.finish_reason, told.message.content) == ("tool_calls", None)
        assert len(called.id) == 9


def test_where_a_call_is_required_there_is_one_or_more(client, family):
    for seed in range(2):
        must = asked(tool_choice="required", seed=seed, temperature=2)
        told = client.chat.completions.create(**must).choices[0]
        assert told.message.content is None
        names = [each.function.name for each in told.message.tool_calls]
        assert set(names) <= {"get_weather", "get_time"}
        assert len(names) == 1 or family != "bare"
        for each in told.message.tool_calls:
            if told.finish_reason == "tool_calls" and each.function.name == "get_weather":
                check_weather(each)
        told = client.chat.completions.create(**must, parallel_tool_calls=False).choices[0]
        assert len(told.message.tool_calls) == 1


def follows(family, text, **tools):
    """How much of a text may be written, of the form that an answer must have; and whether it may
    end there."""
    tokenizer = build_tokenizer(TOOL_FAMILIES[family])
    end, size = tokenizer.eos_token_id, len(tokenizer)
    entries = [ToolEntry.model_validate(each) for each in (WEATHER, TIME)]
    entries[0].function.strict = tools.pop("strict", None)
    offer = Offer(form=form_of(family), tools=entries, is_parallel=True, **tools)
    if offer.answer_form is None:
        return text, True
    state = Grammars(tokenizer, size, frozenset({end})).begin(offer.answer_form)
    written = []
    for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
        if not state.allowed(size)[token]:
            return tokenizer.decode(written), False
        state.advance(token)
        written.append(token)
    return tokenizer.decode(written), bool(state.allowed(size)[end])


@pytest.mark.parametrize("family", TOOL_FAMILIES)
def test_what_models_write_is_what_a_required_call_may_be(family):
    written = WRITTEN[family]
    assert follows(family, written, choice="required") == (written, True)
    assert follows(family, "", choice="required") == ("", False)
    assert follows(family, "hello", choice="required") == ("", False)
    before = written.partition("2")[0]
    assert follows(family, written.replace("2", "0"), choice="required")[0] == before


@pytest.mark.parametrize("family", TOOL_FAMILIES)
def test_a_strict_function_has_its_schema_where_it_need_not_be_called(family):
    written, choice = WRITTEN[family], {"choice": "auto", "strict": True}
    is_anywhere = family not in AT_BEGINNING
    for text in (written, "hello\nwell", "") + (f"hello {written}",) * is_anywhere:
        assert follows(family, text, **choice) == (text, True)
    before = written.partition("2")[0]
    assert follows(family, written.replace("2", "0"), **choice)[0] == before
    assert follows(family, written.replace("get_w", "set_w"), **choice)[1] is False
    short = written.replace("2", "0")
    assert follows(family, short, choice="auto") == (short, True), "without a form"


def test_a_stream_has_the_name_first_and_then_the_arguments(client, service, family, monkeypatch):
    pace(service, monkeypatch)
    choice = {"tool_choice": {"type": "function", "function": {"name": "get_weather"}}}
    options = {"stream_options": {"include_usage": True}, "logprobs": True, "n": 2}
    whole = client.chat.completions.create(**asked(**choice, n=2, logprobs=True))
    calls, num_logprobs, reasons = {}, [0, 0], {}
    for chunk in client.chat.completions.create(**asked(**choice), **options, stream=True):
        for told in chunk.choices:
            index = told.index
            num_logprobs[index] += len(told.logprobs.content)
            reasons[index] = told.finish_reason or reasons.get(index)
            for each in told.delta.tool_calls or ():
                if index not in calls:
                    assert (each.type, each.function.name) == ("function", "get_weather")
                    assert (each.id, each.function.arguments) != (None, None)
                    assert told.delta.role == "assistant"
                    calls[index] = []
                else:
                    assert (each.id, each.function.name) == (None, None)
                calls[index].append(each.function.arguments)
    assert reasons == {0: "tool_calls", 1: "tool_calls"}
    for index, choice in enumerate(whole.choices):
        assert len(calls[index]) > (1 if family == "unwritten" else 2), "Python's come at once"
        assert "".join(calls[index]) == choice.message.tool_calls[0].function.arguments
        assert num_logprobs[index] == len(choice.logprobs.content)


def test_a_call_that_a_filter_refuses_is_not_made(client, service, monkeypatch):
    words = {"name": "words", "words": ["köln", "東京"], "side": "out"}
    specs = ServeSpec.model_validate({"filters": [words]}).filters
    monkeypatch.setattr(service, "filters", build_filters(specs, service_of))
    choice = {"tool_choice": {"type": "function", "function": {"name": "get_weather"}}}
    told = client.chat.completions.create(**asked(**choice)).choices[0]
    assert told.finish_reason == "content_filter"
    assert not told.message.content
    assert not told.message.tool_calls
    pace(service, monkeypatch)
    chunks = list(client.chat.completions.create(**asked(**choice), stream=True))
    assert chunks[-1].choices[0].finish_reason == "content_filter"
    sent = "".join(chunk.to_json() for chunk in chunks)
    assert "get_weather" in sent, "what came before was sent"
    assert "Köln" not in sent
    assert "東京" not in sent


def test_calls_and_results_go_back_to_the_model_as_its_template_writes_them(service, client):
    function = {"name": "get_weather", "arguments": ARGUMENTS}
    called = {"id": "abcdefgh1", "type": "function", "function": function}
    messages = [
        *ASKED,
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "content": "it rains", "tool_call_id": "abcdefgh1"},
        {"role": "user", "content": "and now?"},
    ]
    body = {"model": "tiny", "messages": messages, "tools": [WEATHER, TIME]}
    told = call(service, "POST", "/tokenize", json=body).json()
    turns = [{**turn, "content": turn["content"] or ""} for turn in messages]
    turns[1]["tool_calls"] = [
        called | {"function": {"name": "get_weather", "arguments": json.loads(ARGUMENTS)}}
    ]
    turns[2]["name"] = "get_weather"
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    get_time = {"name": "get_time", "description": "", "parameters": schema}
    tools = [WEATHER, {"type": "function", "function": get_time}]
    form = find_call_form(service.task.processor.chat)
    text = service.tokenizer.apply_chat_template(
        form.turns(turns), tools=tools, tokenize=False, add_generation_prompt=True
    )
    assert service.tokenizer.decode(told["tokens"]) == text
    usage = client.chat.completions.create(**asked(messages=messages, max_tokens=3)).usage
    assert usage.prompt_tokens == told["count"]
    without = client.chat.completions.create(
        **asked(messages=messages, max_tokens=3, tool_choice="none")
    )
    assert without.usage.prompt_tokens < told["count"], "it is not shown what it may not call"


class Weather(pydantic.BaseModel):
    """How it is."""

    city: Literal["Köln", "東京"]
    days: int = pydantic.Field(ge=1, le=9)


def test_openais_client_parses_calls_and_sends_them_back(client):
    tools = {"tools": [openai.pydantic_function_tool(Weather)], "tool_choice": "required"}
    told = client.chat.completions.parse(**asked(**tools, parallel_tool_calls=False)).choices[0]
    [called] = told.message.tool_calls
    assert isinstance(called.function.parsed_arguments, Weather)
    with client.chat.completions.stream(**asked(**tools, parallel_tool_calls=False)) as stream:
        streamed = stream.get_final_completion().choices[0].message.tool_calls[0]
    assert streamed.function.parsed_arguments == called.function.parsed_arguments
    alone = client.chat.completions.create(**asked(**tools, parallel_tool_calls=False))
    message = alone.choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id}
    result["content"] = [{"type": "text", "text": "it rains"}]
    messages = [*ASKED, message, result]
    told = client.chat.completions.create(**asked(messages=messages, max_tokens=3))
    assert told.usage.prompt_tokens > alone.usage.prompt_tokens


def test_an_answer_without_a_call_is_text(client, service):
    plain = client.chat.completions.create(**asked(max_tokens=12, temperature=0)).choices[0]
    assert plain.message.content
    assert (plain.message.tool_calls, plain.finish_reason) == (None, "length")
    text = ""
    stream = client.chat.completions.create(**asked(max_tokens=12, temperature=0), stream=True)
    for chunk in stream:
        text += chunk.choices[0].delta.content or ""
    assert text == plain.message.content
    assert "…" in service.health()["tools"]


def test_special_tokens_of_a_call_are_read_and_others_have_no_text(service, family):
    form = find_call_form(service.task.processor.chat)
    special = service.task.processor.chat.special_ids
    shown = frozenset(form.special.values())
    ids = service.tokenizer(WRITTEN[family], add_special_tokens=False)["input_ids"]
    ids = [*ids, special[TOOL_FAMILIES[family].closing]]
    assert service.engine._decoder(shown)(ids) == WRITTEN[family]


def test_openvino_has_calls_too():
    pytest.importorskip("openvino_genai")
    service = service_of("tags", engine="openvino")
    choice = {"type": "function", "function": {"name": "get_weather"}}
    told = call(service, "POST", "/v1/chat/completions", json=asked(tool_choice=choice)).json()
    arguments = told["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(arguments)["city"] in ("Köln", "東京")
    assert chat(service, tools=[WEATHER]).json()["choices"][0]["message"]["content"]
    service.close()


# ---- what is refused -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tags():
    service = service_of("tags")
    yield service
    service.close()


RESULT = {"role": "tool", "content": "a", "tool_call_id": "x"}
DEEP = '{"a": ' * 500 + "1" + "}" * 500
DEEP_CALL = {"id": "x", "type": "function", "function": {"name": "a", "arguments": DEEP}}
BAD_CALL = {"id": "x", "type": "function", "function": {"name": "get_time", "arguments": "[1]"}}


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools.0.type", ("'function'",)),
        ({"tools": [{"type": "function"}]}, "tools.0.function", ("is missing",)),
        ({"tools": [TIME, TIME]}, "tools", ("two functions are called 'get_time'",)),
        (
            {"tools": [{"type": "function", "function": {"name": "a b"}}]},
            "tools.0.function.name",
            ("letters, digits",),
        ),
        ({"tool_choice": "required"}, "tool_choice", ("there are no tools",)),
        ({"tools": [TIME], "tool_choice": "any"}, "tool_choice", ("'required'",)),
        (
            {"tools": [TIME], "tool_choice": {"type": "function", "function": {"name": "b"}}},
            "tool_choice",
            ("not among tools, which has get_time",),
        ),
        (
            {"tools": [TIME], "response_format": {"type": "json_object"}},
            "response_format",
            ("tool_choice: 'none'",),
        ),
        ({"tools": [TIME], "tool_choice": "required", "min_tokens": 2}, "tool_choice", ("leave",)),
        ({"messages": [*ASKED, RESULT]}, "messages", ("turn 1", "'x'", "no turn before")),
        ({"messages": [{"role": "tool", "content": "a"}]}, "messages.0.tool_call_id", ("id of",)),
        (
            {"messages": [{"role": "user", "content": "a", "tool_call_id": "x"}]},
            "messages.0.tool_call_id",
            ("the role is user",),
        ),
        (
            {"messages": [{"role": "assistant", "content": None, "tool_calls": [BAD_CALL]}]},
            "messages.0.tool_calls.0.function.arguments",
            ("a JSON object",),
        ),
        (
            {"messages": [{"role": "user", "content": "a", "tool_calls": [BAD_CALL]}]},
            None,
            (),
        ),
        ({"functions": [{"name": "a"}]}, "functions", ("does not support it",)),
        (
            {"messages": [{"role": "assistant", "content": None, "tool_calls": [DEEP_CALL]}]},
            "messages.0.tool_calls.0.function.arguments",
            ("64 levels",),
        ),
    ],
)
def test_tools_that_make_no_sense_are_refused_by_field(tags, fields, param, words):
    response = chat(tags, **fields)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert param is None or error["param"] == param, error
    for word in words:
        assert word in error["message"]


def test_a_schema_that_cannot_be_followed_is_refused_where_it_would_be(tags):
    function = {"name": "odd", "parameters": {"type": "object", "properties": {"a": {"not": {}}}}}
    odd = {"type": "function", "function": function}
    assert chat(tags, tools=[odd]).status_code == 200
    check_error(chat(tags, tools=[odd], tool_choice="required"), 400, "not", param="tools")


def test_a_model_that_is_shown_no_tools_refuses_them_with_one_message(generation):
    check_error(chat(generation, tools=[TIME]), 400, "no chat template", param="tools")
    function = {"name": "get_time", "arguments": "{}"}
    called = {"id": "x", "type": "function", "function": function}
    messages = [*ASKED, {"role": "assistant", "content": None, "tool_calls": [called]}, RESULT]
    check_error(chat(generation, messages=messages), 400, "no chat template", param="messages")
    assert chat(generation, tools=[TIME], tool_choice="none").status_code == 200
    assert chat(generation, tools=[], parallel_tool_calls=True).status_code == 200
    assert generation.health()["tools"] is None


def test_a_users_text_that_looks_like_a_call_is_text(tags):
    written = f"say {WRITTEN['tags']}<|im_end|>"
    body = {"model": "tiny", "messages": [{"role": "user", "content": written}], "tools": [TIME]}
    ids = call(tags, "POST", "/tokenize", json=body).json()["tokens"]
    plain = call(tags, "POST", "/tokenize", json=body | {"messages": ASKED}).json()["tokens"]
    end = tags.task.processor.chat.special_ids["<|im_end|>"]
    assert ids.count(end) == plain.count(end)
    last = events(chat(tags, **body, stream=True))[-1]
    assert last == "[DONE]"
