"""Filters before a model: what clients are told, on every route that takes or gives texts."""

import asyncio
import json
import re
import time
from types import SimpleNamespace

import pytest
import torch
from asked import call, check_error, client_of, complete, events

from raymodel.errors import ArtifactError
from raymodel.modality.embedding import EmbeddingProcessor
from raymodel.modality.text import TextProcessor
from raymodel.serve.filters.load import build_filters
from raymodel.serve.filters.values import admit_values
from raymodel.serve.prediction import PredictionService
from raymodel.serve.refusal import Refusal
from raymodel.serve.spec import ServeSpec
from raymodel.tasks import get_task
from raymodel.testing.tiny import build_tiny_bert, train_pair_tokenizer

BAD, MAIL = "forbidden", "ann@mail.org"
IN = {"name": "words", "words": [BAD], "side": "in"}
TOOL = {"type": "function", "function": {"name": "look", "description": f"Looks, {BAD}."}}


def set_filters(service, *specs, load=None):
    service.filters = build_filters(ServeSpec.model_validate({"filters": specs}).filters, load)
    return service


def post(service, path, **body):
    return call(service, "POST", path, json={"model": "tiny"} | body)


# ---- what is asked -------------------------------------------------------------------------------

TURNS = [{"role": "user", "content": "{}"}]
WITH_RESULT = [
    {"role": "user", "content": "a"},
    {"role": "assistant", "content": [{"type": "text", "text": "{}"}]},
    {"role": "user", "content": "b"},
]
RERANKED = [{"query": "{}", "documents": ["a"]}, {"query": "a", "documents": [{"text": "{}"}]}]
ASKED = {
    "/v1/completions": [{"prompt": "{}"}, {"prompt": ["a", "{}"]}],
    "/v1/chat/completions": [{"messages": TURNS}, {"messages": WITH_RESULT}],
    "/v1/responses": [
        {"input": "{}"},
        {"input": "a", "instructions": "{}"},
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": "{}"}]}]},
    ],
    "/tokenize": [{"prompt": "{}"}, {"messages": TURNS}],
    "/classify": [{"input": "{}"}, {"input": ["a", "{}"], "truncate": True}],
    "/v1/embeddings": [{"input": ["a", "{}"]}],
    "/embed": [{"inputs": "{}"}],
    **dict.fromkeys(("/rerank", "/v1/rerank", "/v2/rerank"), RERANKED),
    **{path: [{"text_1": "{}", "text_2": ["a"]}] for path in ("/score", "/v1/score")},
}
"""Path → bodies with a text in each place that takes one."""


SHORT = {
    "/v1/completions": {"max_tokens": 1},
    "/v1/chat/completions": {"max_tokens": 1},
    "/v1/responses": {"max_output_tokens": 1},
}


def put(body, text):
    return json.loads(json.dumps(body).replace("{}", text))


@pytest.fixture
def of_task(tokenizer):
    services = []

    def build(name, model):
        processor = EmbeddingProcessor if name == "embedding" else TextProcessor
        read_by = train_pair_tokenizer(["a text"]) if name == "ranking" else tokenizer
        task = get_task(name)(processor=processor(read_by))
        service = PredictionService(model, task, name="tiny", spec=ServeSpec(batch=4, queue=4))
        services.append(service)
        return service

    yield build
    for service in services:
        service.close()


def test_no_route_takes_a_text_past_the_filters(
    generation, classification, translation, of_task, tokenizer
):
    size = {"vocab_size": len(tokenizer)}
    vectors = of_task("embedding", build_tiny_bert(**size).bert.eval())
    scores = of_task("ranking", build_tiny_bert(**size).eval())
    given = {
        generation: [],
        classification: [{"inputs": {"text": "{}"}}],
        translation: [{"inputs": [{"source": "a"}, {"source": "{}"}]}],
        vectors: [{"inputs": {"query": "{}"}}],
        scores: [{"inputs": {"query": "{}", "document": "a"}}],
    }
    seen = set()
    for service, predicted in given.items():
        set_filters(service, IN)
        for route in service.router().routes:
            assert route.methods == {"POST"}, "another may take a text too"
            for body in predicted if route.path == "/predict" else ASKED[route.path]:
                model = {} if route.path == "/embed" else {"model": "tiny"}
                model |= SHORT.get(route.path, {})
                for text, status in (("some text", 200), (f"some {BAD.upper()} text", 400)):
                    answer = call(service, "POST", route.path, json=model | put(body, text))
                    assert answer.status_code == status, (route.path, body, answer.text)
                assert answer.json()["error"]["code"] == "content_filter"
                assert BAD not in answer.text.lower()
            seen.add(route.path)
    assert seen == ASKED.keys() | {"/predict"}


def test_a_prompt_of_token_ids_is_filtered_by_what_it_says(generation, tokenizer):
    set_filters(generation, IN, {"name": "pii", "side": "in"})
    ids = tokenizer(f"the {BAD} one")["input_ids"]
    refused = post(generation, "/v1/completions", prompt=[ids, ids[:1]])
    check_error(refused, 400, "`words`", param="prompt")
    mail = tokenizer(f"write to {MAIL} now")["input_ids"]
    asked = {"max_tokens": 1, "echo": True, "temperature": 0}
    told = post(generation, "/v1/completions", prompt=mail, **asked).json()["choices"][0]["text"]
    assert told.startswith("write to <EMAIL> now")
    same = post(generation, "/v1/completions", prompt="write to <EMAIL> now", **asked).json()
    assert same["choices"][0]["text"] == told
    check_error(post(generation, "/v1/completions", prompt=[9] * 600), 400, "600", param="prompt")


def test_what_is_redacted_is_what_the_model_reads(generation, classification):
    set_filters(generation, {"name": "pii", "side": "in"})
    turns = [{"role": "user", "content": f"I am {MAIL}"}]
    mended = [{"role": "user", "content": "I am <EMAIL>"}]
    tokens = [post(generation, "/tokenize", messages=m).json()["tokens"] for m in (turns, mended)]
    assert tokens[0] == tokens[1]
    set_filters(classification, {"name": "pii", "side": "in"})
    first, second = (
        post(classification, "/classify", input=[text]).json()["data"]
        for text in (f"I am {MAIL}", "I am <EMAIL>")
    )
    assert first == second


def test_functions_and_words_cannot_lose_what_filters_find(generation):
    set_filters(generation, IN, {"name": "pii", "side": "in"})
    chat = {"messages": [{"role": "user", "content": "hi"}]}
    refused = post(generation, "/v1/chat/completions", tools=[TOOL], **chat)
    check_error(refused, 400, "`words`", param="tools")
    tool = {"type": "function", "function": {"name": "look", "description": f"Asks {MAIL}."}}
    refused = post(generation, "/v1/chat/completions", tools=[tool], **chat)
    check_error(refused, 400, "taken out", param="tools")

    def admit(*words):
        given, kinds = (
            [{"words": list(words), "image": b"data"}],
            {"words": "words", "image": "image"},
        )
        return asyncio.run(admit_values(generation.filters, given, kinds, "inputs"))[0]["words"]

    assert admit("ask", MAIL, "now") == ["ask", "<EMAIL>", "now"]
    assert admit("ask", "me") == ["ask", "me"]
    with pytest.raises(Refusal, match="in several words"):
        admit("call", "+44", "20", "7946", "0958", "now")


# ---- what is answered ----------------------------------------------------------------------------


LONG = 120


def said_by(service, **body):
    return complete(service, max_tokens=LONG, **body).json()["choices"][0]


def a_word_of(text):
    """One with text on both sides, by the rule of the filter."""
    return max(re.findall(r"(?<!\w)[A-Za-z]{2,}(?!\w)", text[10:-10]), key=len)


@pytest.fixture
def speaker(generation):
    """A model that says something forbidden after something else, and what."""
    text = said_by(generation)["text"]
    return generation, text, a_word_of(text)


def test_an_answer_that_is_refused_has_no_text_and_says_why(speaker):
    service, _, word = speaker
    set_filters(service, {"name": "words", "words": [word], "side": "out"})
    whole = complete(service, max_tokens=LONG).json()
    assert whole["choices"][0]["text"] == ""
    assert whole["choices"][0]["finish_reason"] == "content_filter"
    assert whole["choices"][0]["logprobs"] is None
    assert 0 < whole["usage"]["completion_tokens"] <= LONG
    deadline_s = time.monotonic() + 60
    while service.engine.num_active:  # it is free before the next step
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def test_a_stream_that_is_refused_ends_before_what_it_may_not_say(speaker):
    service, text, word = speaker
    set_filters(service, {"name": "words", "words": [word], "side": "out"})
    *chunks, usage, done = events(
        complete(service, max_tokens=LONG, stream=True, stream_options={"include_usage": True})
    )
    assert done == "[DONE]"
    choices = [json.loads(chunk)["choices"][0] for chunk in chunks]
    sent = "".join(choice["text"] for choice in choices)
    assert text.startswith(sent)
    assert word not in sent
    assert choices[-1]["finish_reason"] == "content_filter"
    assert all(choice["finish_reason"] is None for choice in choices[:-1])
    assert json.loads(usage)["usage"]["completion_tokens"] < LONG


def test_one_of_several_answers_is_refused_and_the_others_go_on(generation):
    asked = {"prompt": ["def read", "naïve café"]}
    texts = [c["text"] for c in complete(generation, max_tokens=LONG, **asked).json()["choices"]]
    word = a_word_of(texts[0].replace(texts[1], ""))
    assert word.lower() not in re.findall(r"\w+", texts[1].lower())
    set_filters(generation, {"name": "words", "words": [word], "side": "out"})
    first, second = complete(generation, max_tokens=LONG, **asked).json()["choices"]
    assert (first["text"], first["finish_reason"]) == ("", "content_filter")
    assert (second["text"], second["finish_reason"]) == (texts[1], "length")


def test_an_answer_is_redacted_whole_and_in_a_stream_alike(speaker):
    service, text, word = speaker
    plain = said_by(service, logprobs=0)["logprobs"]
    set_filters(service, {"name": "words", "words": [word], "action": "redact"}, "pii")
    whole = said_by(service, logprobs=0)
    spans = [match.span() for match in re.finditer(rf"(?<!\w){word}(?!\w)", text)]
    assert whole["text"] == re.sub(rf"(?<!\w){word}(?!\w)", "<REMOVED>", text)
    assert whole["finish_reason"] == "length"
    tokens, offsets = whole["logprobs"]["tokens"], whole["logprobs"]["text_offset"]
    moved = [
        offset + sum(len("<REMOVED>") - len(word) for _, stop in spans if stop <= offset)
        for offset in plain["text_offset"]
        if not any(start <= offset < stop for start, stop in spans)
    ]
    assert offsets == moved
    assert len(tokens) == len(offsets) < LONG
    chunks = events(complete(service, max_tokens=LONG, stream=True, logprobs=0))[:-1]
    told = [json.loads(chunk)["choices"][0] for chunk in chunks]
    assert "".join(choice["text"] for choice in told) == whole["text"]
    assert [o for c in told for o in c["logprobs"]["text_offset"]] == offsets


def test_responses_tell_a_filter_in_their_own_words(generation):
    asked = {"input": "hi", "max_output_tokens": LONG, "temperature": 0}
    said = post(generation, "/v1/responses", **asked).json()["output"][0]["content"][0]["text"]
    set_filters(generation, {"name": "words", "words": [a_word_of(said)], "side": "out"})
    told = post(generation, "/v1/responses", **asked).json()
    assert told["status"] == "incomplete"
    assert told["incomplete_details"] == {"reason": "content_filter"}
    assert told["output"][0]["content"][0]["text"] == ""
    last = post(generation, "/v1/responses", stream=True, **asked).text.strip().split("data: ")[-1]
    ended = json.loads(last)
    assert ended["type"] == "response.incomplete"
    assert ended["response"]["incomplete_details"] == {"reason": "content_filter"}


def test_texts_that_come_whole_are_filtered_too_and_names_of_classes_are_not(
    translation, classification
):
    text = post(translation, "/predict", inputs={"source": "a b"}).json()["data"][0]["text"]
    word = max(text.split(), key=len)
    set_filters(translation, {"name": "words", "words": [word], "side": "out"})
    [told] = post(translation, "/predict", inputs={"source": "a b"}).json()["data"]
    assert (told["text"], told["finish_reason"]) == ("", "content_filter")
    redacting = {"name": "words", "words": [word], "side": "out", "action": "redact"}
    set_filters(translation, redacting)
    [told] = post(translation, "/predict", inputs={"source": "a b"}).json()["data"]
    assert "<REMOVED>" in told["text"]
    assert "finish_reason" not in told
    set_filters(classification, {"name": "words", "words": ["no", "maybe", "yes"], "side": "out"})
    [told] = post(classification, "/predict", inputs={"text": "a"}).json()["data"]
    assert told["label"] in ("no", "maybe", "yes")


# ---- what is told of filters ---------------------------------------------------------------------


def test_what_filters_find_is_counted_and_the_text_is_told_nowhere(speaker, caplog):
    service, _, word = speaker
    set_filters(service, IN, {"name": "words", "words": [word], "side": "out"}, "pii")
    caplog.set_level("DEBUG")

    async def run():
        async with client_of(service) as client:
            for prompt in (f"a {BAD} b {BAD}", "def read", f"{MAIL} {MAIL}"):
                body = {"model": "tiny", "prompt": prompt, "max_tokens": LONG, "temperature": 0}
                await client.post("/v1/completions", json=body)
            return (await client.get("/metrics")).text, (await client.get("/health")).json()

    metrics, health = asyncio.run(run())

    def count(**labels):
        wanted = [f'{name}="{value}"' for name, value in labels.items()]
        lines = [
            line for line in metrics.splitlines()
            if line.startswith("raymodel_filtered_total") and all(each in line for each in wanted)
        ]  # fmt: skip
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    assert count(filter="words", side="in", action="refuse", kind="word") == 2
    assert count(filter="words", side="out", action="refuse", kind="word") >= 1
    assert count(filter="pii", side="in", action="redact", kind="email") == 2
    # Those that a filter ended count as whole: else a canary would fail for its filters.
    assert 'raymodel_tokens_total{kind="completion"' in metrics
    assert health["filters"][0] == {
        "name": "words", "side": "in", "action": "refuse", "terms": 1,
    }  # fmt: skip
    assert "email" in health["filters"][2]["kinds"]
    assert BAD not in caplog.text
    assert MAIL not in caplog.text


# ---- with a classifier ---------------------------------------------------------------------------

LABELS = ("fine", "toxic")


class Sees(torch.nn.Module):
    """A classifier for which a text with the token of `!` is toxic; keeps what it was asked."""

    def __init__(self, tokenizer):
        super().__init__()
        model = build_tiny_bert(LABELS, vocab_size=len(tokenizer))
        self.config, self.sign = model.config, tokenizer.convert_tokens_to_ids("!")
        self.dtype, self.device, self.lengths = torch.float32, torch.device("cpu"), []

    def forward(self, input_ids, **given):
        from transformers.modeling_outputs import SequenceClassifierOutput

        self.lengths.append(input_ids.shape[1])
        has = (input_ids == self.sign).any(1)
        return SequenceClassifierOutput(
            logits=torch.stack([torch.zeros(len(has)), torch.where(has, 3.0, -3.0)], 1)
        )


@pytest.fixture
def judge(of_task, tokenizer):
    service = of_task("text_classification", Sees(tokenizer).eval())
    service.max_input_tokens = 16
    return service


TOXIC = {"name": "classifier", "model": "a/best", "label": "toxic", "at_least": 0.8}


def test_what_a_classifier_tells_is_refused_however_long_it_is(classification, judge):
    service = set_filters(classification, TOXIC, load=lambda spec: judge)
    fine = post(service, "/classify", input=["fine", "fine words " * 5])
    assert fine.status_code == 200, fine.text
    refused = post(service, "/classify", input=["fine", "words " * 5 + "so! " + "words "])
    check_error(refused, 400, "`classifier`", param="input")
    assert max(judge.model.lengths) <= 16
    asked = len(judge.model.lengths)
    assert post(service, "/classify", input=["fine", "fine words " * 5]).status_code == 200
    assert len(judge.model.lengths) == asked, "a text that is known is not judged again"
    [told] = service.health()["filters"]
    assert (told["label"], told["at_least"], told["unit"]) == ("toxic", 0.8, "sentence")


def test_a_filter_sees_what_those_before_it_left(classification, judge):
    removes = {"name": "words", "words": ["so!"], "action": "redact"}
    service = set_filters(classification, removes, TOXIC, load=lambda spec: judge)
    assert post(service, "/classify", input="oh so! no").status_code == 200
    service = set_filters(classification, TOXIC, removes, load=lambda spec: judge)
    assert post(service, "/classify", input="oh so! no").status_code == 400


@pytest.mark.parametrize(("unit", "expected"), [("sentence", "One. Two?"), ("answer", "")])
def test_a_stream_is_judged_by_sentences_or_whole(unit, expected, judge):
    from test_serve_filter_texts import cut, streamed

    specs = [TOXIC | {"unit": unit, "side": "out"}, {"name": "pii"}]
    filters = build_filters(
        ServeSpec.model_validate({"filters": specs}).filters, lambda spec: judge
    )
    text = "One. Two? Three! Four. Five a@b.de."
    for pieces, sent in ((cut(text, 1), expected), ([text], "")):
        out = streamed(filters, pieces)
        assert out[-1].finish_reason == "content_filter"
        assert "".join(piece.text for piece in out) == sent, out
    fine = text.replace("!", ".")
    out = streamed(filters, cut(fine, 2))
    assert "".join(piece.text for piece in out) == fine.replace("a@b.de", "<EMAIL>")
    given = [piece.text for piece in out if piece.text]
    assert len(given) == (5 if unit == "sentence" else 1)


def test_a_model_that_does_not_tell_the_label_is_refused(generation, judge, tmp_path):
    from raymodel.serve.filters.check import check_classifier
    from raymodel.storage.uri import Location

    def build(spec, service):
        specs = ServeSpec.model_validate({"filters": [spec]}).filters
        return build_filters(specs, lambda spec: service)

    with pytest.raises(ArtifactError, match=r"'toxi'.*did you mean 'toxic'"):
        build(TOXIC | {"label": "toxi"}, judge)
    with pytest.raises(ArtifactError, match="causal_lm"):
        build(TOXIC, generation)
    [spec] = ServeSpec.model_validate({"filters": [TOXIC]}).filters
    (tmp_path / "config.json").write_text('{"id2label": {"0": "a", "1": "b"}}')
    folder = Location.parse(str(tmp_path))
    with pytest.raises(ArtifactError, match="it tells a, b"):
        check_classifier(spec, folder, "text_classification")
    (tmp_path / "config.json").write_text('{"id2label": {"0": "a", "1": "toxic"}}')
    check_classifier(spec, folder, "text_classification")
    with pytest.raises(ArtifactError, match="embedding"):
        check_classifier(spec, folder, "embedding")


# ---- around them ---------------------------------------------------------------------------------


def test_another_model_that_takes_over_has_the_same_filters(monkeypatch):
    from raymodel.serve import deployment
    from raymodel.serve.filters.chain import Filters

    class Loaded:
        def __init__(self, version):
            self.version, self.filters = version, None

    monkeypatch.setattr(deployment, "_load", lambda deployed, version, draft: Loaded(version))
    filters = Filters()
    services = [
        deployment._load_all(SimpleNamespace(members=(), draft=None), version, filters)
        for version in ("old", "new")
    ]
    assert [service.version for service in services] == ["old", "new"]
    assert all(service.filters is filters for service in services)


def test_excerpts_that_a_filter_refuses_are_not_given_to_the_model():
    from raymodel.serve.documents import Documents
    from raymodel.serve.library import Found
    from raymodel.serve.spec import DocumentsSpec

    texts = (f"ask {MAIL}", f"a {BAD} text", "say never")
    found = [Found("a.md", text, 0.9) for text in texts]
    documents = Documents.__new__(Documents)
    documents._spec = DocumentsSpec(path="help", embedder="e")
    documents._library = SimpleNamespace(find=lambda *asked: found)
    documents._service = set_filters(
        SimpleNamespace(),
        IN,
        {"name": "pii", "side": "out"},
        IN | {"words": ["never"], "side": "out"},
    )
    documents._looking, documents._looked_s = None, float("inf")
    told = asyncio.run(documents.find(["?"]))
    assert told == [Found("a.md", "ask <EMAIL>", 0.9)]


def test_a_chat_at_the_terminal_says_that_a_filter_ended_the_answer(
    generation, tokenizer, monkeypatch, capsys
):
    from listening import listening

    from raymodel.errors import RaymodelError
    from raymodel.serve.app import build_app
    from raymodel.serve.chat_model import ChatSettings
    from raymodel.serve.chat_remote import RemoteChat

    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    monkeypatch.setattr(tokenizer, "chat_template", template, raising=False)
    turns = [{"role": "user", "content": "hi"}]
    with listening(build_app(generation)) as url:
        chat = RemoteChat(url, ChatSettings(temperature=0, max_tokens=LONG))
        word = a_word_of("".join(chat.answer(turns)))
        set_filters(generation, {"name": "words", "words": [word]})
        with pytest.raises(RaymodelError, match="a filter of the server ended the answer"):
            list(chat.answer(turns))
        chat.close()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_filters_stand_before_a_model_on_ray(bert, tokenizer, tmp_path):
    import httpx
    from local_ray import local_ray

    from raymodel.cluster.spec import ClusterSpec
    from raymodel.observe.story import Story
    from raymodel.serve.run import run_serve
    from raymodel.storage.uri import Location
    from raymodel.testing.distributed import free_port

    for name, model in {
        "served": bert,
        "judge": build_tiny_bert(LABELS, vocab_size=len(tokenizer)),
    }.items():
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    (tmp_path / "list.txt").write_text(BAD)
    # Some probability of each class: everything is refused, or nothing, by the bound alone.
    with local_ray(4):
        for bound, refuses in ((0.001, True), (1.0, False)):
            judge = {"name": "classifier", "model": "judge", "label": "toxic", "at_least": bound}
            words = {"name": "words", "file": str(tmp_path / "list.txt"), "side": "in"}
            spec = ServeSpec.model_validate({"port": free_port(), "filters": [words, judge]})
            with run_serve(
                spec,
                Location.parse(str(tmp_path / "served")),
                job_name="tiny",
                cluster=ClusterSpec(),
                story=Story(),
                classifiers=[Location.parse(str(tmp_path / "judge"))],
            ) as served:
                told = [each["name"] for each in served.health()["filters"]]
                assert told == ["words", "classifier"]
                assert served.ask({"text": BAD}) == "(nothing: a filter refused the question)"
                assert ("filter" in served.ask({"text": "a"})) == refuses
                told = httpx.get(served.url + "/metrics").text
                assert 'raymodel_filtered_total{action="refuse",filter="words",kind="word"' in told
                assert ('filter="classifier",kind="toxic"' in told) == refuses
