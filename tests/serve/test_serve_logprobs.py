"""Log-probabilities, of answers and of prompts, against transformers' own."""

import json
import math

import openai
import pytest
import torch
from asked import call, check_error, complete, events
from engines import Listener, generate, greedy, random_prompts, torch_engine
from fastapi.testclient import TestClient

from raymodel.serve import ahead, torch_runner
from raymodel.serve.answer import Answer, Chunk, Scored
from raymodel.serve.app import build_app
from raymodel.serve.decoder import SingleDecoder
from raymodel.serve.generation import GenerationService
from raymodel.serve.logits import score_tokens
from raymodel.serve.pieces import TokenTexts
from raymodel.serve.sampling import Sampling
from raymodel.serve.spec import ServeSpec


@torch.inference_mode()
def logprobs_of(model, ids):
    """(T - 1, V) of all tokens but the first."""
    return model(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1)


def own(table, ids):
    return [float(row[token]) for row, token in zip(table, ids[1:], strict=True)]


def choice_of(service, **body):
    response = complete(service, **body)
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]


def test_a_completions_logprobs_are_those_of_the_model(generation, llama, tokenizer):
    told = choice_of(generation, max_tokens=12, logprobs=3)
    prompt = tokenizer("def read")["input_ids"]
    written = generate(llama, prompt, 12)
    table = logprobs_of(llama, prompt + written)[len(prompt) - 1 :]
    found = told["logprobs"]
    assert set(found) == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
    expected = [float(row[token]) for row, token in zip(table, written, strict=True)]
    assert found["token_logprobs"] == pytest.approx(expected, abs=1e-4)
    for row, own_number, top in zip(table, expected, found["top_logprobs"], strict=True):
        assert list(top.values()) == pytest.approx(row.topk(3).values.tolist(), abs=1e-4)
        assert max(top.values()) == pytest.approx(own_number, abs=1e-4)  # as greedy takes it
    before = -1  # tokens behind a part of a character stand where that began
    for text, place in zip(found["tokens"], found["text_offset"], strict=True):
        if not text.startswith("bytes:") and place > before:
            assert told["text"][place : place + len(text)] == text
        before = place


def test_they_are_the_models_own_whatever_else_is_asked(generation, llama, tokenizer):
    """Neither penalties nor the temperature are in them; the chosen token is among the told."""
    options = {"temperature": 1.7, "seed": 5, "repetition_penalty": 1.8, "logit_bias": {"70": 9}}
    found = choice_of(generation, max_tokens=20, logprobs=0, **options)["logprobs"]
    ids = [_id_of(tokenizer, text) for text in found["tokens"]]
    prompt = tokenizer("def read")["input_ids"]
    expected = own(logprobs_of(llama, prompt + ids)[len(prompt) - 1 :], [0, *ids])
    assert found["token_logprobs"] == pytest.approx(expected, abs=1e-4)
    for text, number, top in zip(
        found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True
    ):
        assert top == {text: number}


def _id_of(tokenizer, text):
    texts = TokenTexts(tokenizer)
    [token] = [i for i in range(len(tokenizer)) if texts.text(i) == text]
    return token


def test_a_chats_logprobs_name_bytes_and_alternatives(generation, tokenizer):
    prompt = "user: hi\nassistant:"
    same = choice_of(generation, prompt=prompt, max_tokens=9, logprobs=2, stop="\nuser:")
    with TestClient(build_app(generation)) as http:
        client = openai.OpenAI(api_key="none", base_url="http://testserver/v1", http_client=http)
        asked = {
            "model": "tiny", "messages": [{"role": "user", "content": "hi"}], "temperature": 0,
            "max_tokens": 9, "logprobs": True, "top_logprobs": 2,
        }  # fmt: skip
        choice = client.chat.completions.create(**asked).choices[0]
        streamed = []
        for chunk in client.chat.completions.create(**asked, stream=True):
            if chunk.choices[0].logprobs:
                streamed += chunk.choices[0].logprobs.content
        plain = client.chat.completions.create(**asked | {"top_logprobs": None}).choices[0]
    told = choice.logprobs.content
    assert [each.token for each in told] == same["logprobs"]["tokens"]
    assert [each.logprob for each in told] == same["logprobs"]["token_logprobs"]
    for each in told:
        assert len(each.top_logprobs) == 2
        assert each.top_logprobs[0].token == each.token
        assert bytes(each.bytes).decode(errors="ignore") in (each.token, "")
    joined = b"".join(bytes(each.bytes) for each in told)
    assert joined.decode(errors="replace") == choice.message.content
    assert streamed == told
    assert [each.top_logprobs for each in plain.logprobs.content] == [[]] * len(told)


def test_top_logprobs_stand_beside_logprobs(generation):
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "top_logprobs": 2}
    response = call(generation, "POST", "/v1/chat/completions", json=chat)
    check_error(response, 400, "logprobs: true", param="top_logprobs")


def test_streamed_completions_tell_the_same(generation):
    asked = {"max_tokens": 30, "logprobs": 2, "echo": True, "prompt": "naïve café"}
    whole = choice_of(generation, **asked)
    *chunks, done = events(complete(generation, **asked, stream=True))
    assert done == "[DONE]"
    parts = [json.loads(chunk)["choices"][0] for chunk in chunks]
    assert "".join(part["text"] for part in parts) == whole["text"]
    for name, values in whole["logprobs"].items():
        assert [each for part in parts for each in part["logprobs"][name]] == values
    assert parts[0]["text"].startswith("naïve café")


# ---- the prompt ----------------------------------------------------------------------------------


def check_prompt(found, table, ids):
    """A prompt's part of the log-probabilities."""
    count = len(ids)
    assert found["token_logprobs"][0] is None
    assert found["top_logprobs"][0] is None
    assert found["token_logprobs"][1:count] == pytest.approx(own(table, ids), abs=1e-4)
    for row, top in zip(table, found["top_logprobs"][1:count], strict=True):
        assert max(top.values()) == pytest.approx(float(row.max()), abs=1e-4)


@pytest.mark.parametrize("max_tokens", [0, 1])
def test_what_an_evaluation_harness_sends_scores_its_prompts(
    generation, llama, tokenizer, max_tokens
):
    """The body of lm-evaluation-harness' `local-completions`, and what it reads of the answer."""
    texts = ["def read_file(items): return items", "user: hi\nassistant: hello"]
    prompts = [tokenizer(text)["input_ids"] for text in texts]
    body = {
        "model": "tiny", "prompt": prompts, "temperature": 0, "max_tokens": max_tokens,
        "logprobs": 1, "seed": 1234, "echo": True,
    }  # fmt: skip
    told = call(generation, "POST", "/v1/completions", json=body).json()
    assert told["usage"]["completion_tokens"] == 2 * max_tokens
    for ids, text, choice in zip(prompts, texts, told["choices"], strict=True):
        found = choice["logprobs"]
        assert len(found["tokens"]) == len(ids) + max_tokens
        table = logprobs_of(llama, ids)
        check_prompt(found, table, ids)
        assert choice["text"].startswith(text)
        assert found["text_offset"][0] == 0
        # A continuation from a place on, as the harness reads it: the sum, and if it is greedy.
        for start in (2, len(ids) - 1):
            end = len(found["tokens"]) - max_tokens
            numbers = found["token_logprobs"][start:end]
            top = found["top_logprobs"][start:end]
            is_greedy = all(n == max(t.values()) for n, t in zip(numbers, top, strict=True))
            likeliest = table[start - 1 :].argmax(-1).tolist()
            assert is_greedy == (likeliest == ids[start:])
            assert sum(numbers) == pytest.approx(sum(own(table, ids)[start - 1 :]), abs=1e-3)


def test_a_greedy_continuation_is_told_as_one(generation, llama, tokenizer):
    prompt = tokenizer("def read")["input_ids"]
    ids = prompt + generate(llama, prompt, 6)
    found = choice_of(generation, prompt=ids, max_tokens=1, logprobs=1, echo=True)["logprobs"]
    numbers = found["token_logprobs"][len(prompt) : -1]
    top = found["top_logprobs"][len(prompt) : -1]
    assert all(n == max(t.values()) for n, t in zip(numbers, top, strict=True))


def test_a_prompt_alone_comes_back(generation, tokenizer):
    for prompt in ("naïve café – 東京", tokenizer("naïve café – 東京")["input_ids"], [5]):
        told = choice_of(generation, prompt=prompt, max_tokens=0, echo=True)
        text = prompt if isinstance(prompt, str) else tokenizer.decode(prompt)
        assert (told["text"], told["finish_reason"], told["logprobs"]) == (text, "length", None)
    assert choice_of(generation, max_tokens=0)["text"] == ""
    alone = choice_of(generation, prompt=[5], max_tokens=0, echo=True, logprobs=1)["logprobs"]
    assert (alone["token_logprobs"], alone["text_offset"]) == ([None], [0])


def test_a_prompt_may_fill_the_context_when_nothing_follows(generation, llama):
    ids = [5 + i % 250 for i in range(512)]
    found = choice_of(generation, prompt=ids, max_tokens=0, logprobs=0, echo=True)["logprobs"]
    assert found["token_logprobs"][1:] == pytest.approx(own(logprobs_of(llama, ids), ids), abs=1e-3)
    response = complete(generation, prompt=ids, max_tokens=1, logprobs=0, echo=True)
    check_error(response, 400, "512 tokens", "at most 511", param="prompt")
    response = complete(generation, prompt=[*ids, 5], max_tokens=0)
    check_error(response, 400, "513 tokens", "at most 512", param="prompt")


def test_long_prompts_are_scored_in_pieces_beside_others(llama, tokenizer, monkeypatch):
    """Read sixteen tokens at a time between the steps of an answer; short ones together."""
    monkeypatch.setattr(torch_runner, "_SCORED_PIECE_NUMBERS", 16 * 300)
    engine, listener = torch_engine(llama, tokenizer, batch=4, queue=64), Listener()
    pieces, prefill, extend = [], engine.runner.decoder.prefill, engine.runner.decoder.extend

    def noting(read):
        def noted(prompts, *, every):
            logits = read(prompts, every=every)
            pieces.append(tuple(logits.shape))
            return logits

        return noted

    monkeypatch.setattr(engine.runner.decoder, "prefill", noting(prefill))
    monkeypatch.setattr(engine.runner.decoder, "extend", noting(extend))
    prompts = [*random_prompts(2, seed=30, longest=1), *random_prompts(6, seed=31, longest=9)]
    prompts[0] = (prompts[0] * 50)[:50]
    prompts[1] = [7, 8, 9]
    scoring = greedy(1, logprobs=2, prompt_logprobs=True)
    samplings = [scoring, greedy(40), *[scoring] * 6]
    chunks = {}

    def deliver(index, chunk):
        chunks.setdefault(index, chunk)
        listener(index, chunk)

    answers = engine.submit(list(zip(prompts, samplings, strict=True)), deliver)
    listener.wait(8)
    engine.close()
    assert answers[1].tokens == generate(llama, prompts[1], 40)
    for index in (0, *range(2, 8)):
        ids = prompts[index]
        found = [each.logprob for each in chunks[index].prompt]
        expected = own(logprobs_of(llama, ids), ids) if len(ids) > 1 else []
        assert found == pytest.approx(expected, abs=1e-4)
        assert [each.token for each in chunks[index].prompt] == ids[1:]
    assert max(math.prod(shape[:2]) for shape in pieces if len(shape) == 3) <= 16
    assert any(shape[0] > 1 for shape in pieces), "short prompts are scored together"
    assert all(not chunk.prompt for chunk in chunks.values() if chunk.num_tokens > 1)


@pytest.mark.usefixtures("slow_paths_are_taken")
def test_a_model_without_slots_scores_too(llama, tokenizer, monkeypatch):
    monkeypatch.setattr("raymodel.serve.decoder.find_obstacle", lambda model: "of this test")
    engine, listener, seen = torch_engine(llama, tokenizer, batch=4, queue=9), Listener(), []
    assert isinstance(engine.runner.decoder, SingleDecoder)
    ids = [5, 6, 7, 8, 60]

    def deliver(index, chunk):
        seen.append(chunk)
        listener(index, chunk)

    sampling = greedy(3, logprobs=0, prompt_logprobs=True)
    engine.submit([(ids, sampling)], deliver)
    listener.wait()
    engine.close()
    expected = own(logprobs_of(llama, ids), ids)
    assert [each.logprob for each in seen[0].prompt] == pytest.approx(expected, abs=1e-4)


def test_openvino_tells_how_probable_its_own_tokens_are(llama, causal_lm):
    def build(engine):
        spec = ServeSpec(engine=engine, batch=2, queue=2, max_tokens=60)
        return GenerationService(llama, causal_lm, name="tiny", spec=spec)

    both = [build("openvino"), build("transformers")]
    body = {"max_tokens": 40, "logprobs": 0, "repetition_penalty": 1.3}
    ours, theirs = (choice_of(service, **body)["logprobs"] for service in both)
    for service in both:
        service.close()
    assert ours["tokens"] == theirs["tokens"]
    assert ours["text_offset"] == theirs["text_offset"]
    assert ours["token_logprobs"] == pytest.approx(theirs["token_logprobs"], abs=2e-3)


# ---- parts ---------------------------------------------------------------------------------------


def told_tokens(tokens, texts, **fields):
    """Offsets of the tokens that come with each chunk of an answer."""
    chunks: list[Chunk] = []
    sampling = Sampling(max_tokens=len(tokens), logprobs=0, **fields)
    answer = Answer([1], sampling, lambda ids: "".join(texts[i] for i in ids), chunks.append)
    for token in tokens:
        if answer.add(token, Scored(token, -1.0), is_full=False):
            break
    return [(chunk.text, [p.offset for p in chunk.tokens]) for chunk in chunks]


def test_tokens_come_with_their_text_and_not_behind_a_stop_string():
    texts = ["ab", " END", "E", "N", "x", ""]
    assert told_tokens([0, 4, 0], texts) == [("ab", [0]), ("x", [2]), ("ab", [3])]
    # " END" is held back from its E on, and is the beginning of no stop string.
    assert told_tokens([0, 2, 3, 4], texts, stop=("END",)) == [("ab", [0]), ("ENx", [2, 3, 4])]
    assert told_tokens([0, 1, 4], texts, stop=("END",)) == [("ab", [0]), (" ", [2])]
    assert told_tokens([0, 2, 1, 4], texts, stop=("E END",)) == [("ab", [0]), ("", [])]
    # One without text stands with what comes before it or, at the end, with the last.
    assert told_tokens([0, 5, 4, 5], texts) == [("ab", [0]), ("x", [2, 2]), ("", [3])]


def test_the_likeliest_is_told_with_its_own_number_to_the_last_bit():
    logits = torch.randn(50, 3000, generator=torch.Generator().manual_seed(3)).bfloat16()
    tokens = logits.float().argmax(-1).tolist()
    scored = score_tokens(logits, tokens, 2)
    expected = logits.float().log_softmax(-1).max(-1).values
    for each, token, number in zip(scored, tokens, expected.tolist(), strict=True):
        assert each.logprob == each.top[0][1] == pytest.approx(number, abs=1e-5)
        assert each.token == token
    assert score_tokens(logits[:0], [], 2) == []


def test_what_cannot_be_has_a_number_that_json_knows(generation, monkeypatch):
    impossible = [Scored(3, -math.inf, ((3, -math.inf),))]
    monkeypatch.setattr(ahead, "score_tokens", lambda *_: impossible)
    found = choice_of(generation, max_tokens=1, logprobs=1)["logprobs"]
    assert found["token_logprobs"] == [-9999.0]


def test_parts_of_characters_are_called_by_their_bytes(tokenizer):
    texts = TokenTexts(tokenizer)
    ids = tokenizer("東 a")["input_ids"]
    assert b"".join(texts.bytes(token) for token in ids) == "東 a".encode()
    assert any(texts.text(token).startswith("bytes:\\x") for token in ids)
    assert texts.text(0) == tokenizer.decode([0])
    assert (texts.bytes(10**6), texts.text(10**6)) == (b"", "")
    names = [texts.text(token) for token in range(len(tokenizer))]
    assert len(set(names)) == len(names)
