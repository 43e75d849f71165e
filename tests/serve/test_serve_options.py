"""What clients ask of the choice of tokens: penalties, cuts, biases, ends; of either engine."""

import asyncio
import random
import string

import pytest
import torch
from asked import call, check_error, client_of, complete
from engines import Listener, generate, greedy, random_prompts
from transformers.generation.logits_process import (
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from raymodel.serve import beside_runner
from raymodel.serve.answer import Answer
from raymodel.serve.choice import build_engine
from raymodel.serve.generation import GenerationService
from raymodel.serve.logits import _ALL, _Cut, change_logits, choose_tokens
from raymodel.serve.sampling import Sampling
from raymodel.serve.spec import ServeSpec

PROMPT, WRITTEN = [3, 4, 4, 7], [7, 9, 9, 9]


@pytest.fixture
def logits():
    return torch.randn(1, 400, generator=torch.Generator().manual_seed(0)) * 3


def answer_of(ends=(), **fields):
    sampling = Sampling(max_tokens=20, temperature=0, **fields)
    return Answer(PROMPT, sampling, str, print, ends=frozenset(ends), tokens=list(WRITTEN))


def changed(logits, **fields):
    before = logits.clone()
    after = change_logits(logits, [answer_of(**fields)])
    assert torch.equal(logits, before), "the model's logits are left as they are"
    return after


# ---- one row -------------------------------------------------------------------------------------


def test_penalties_are_openais_formula_on_the_written_tokens(logits):
    after = changed(logits, presence_penalty=0.5, frequency_penalty=0.25)
    expected = logits.clone()
    expected[0, 7] -= 0.5 + 0.25
    expected[0, 9] -= 0.5 + 3 * 0.25
    torch.testing.assert_close(after, expected)


@pytest.mark.parametrize("penalty", [1.7, 0.6])
def test_the_repetition_penalty_is_that_of_transformers_on_prompt_and_answer(logits, penalty):
    seen = torch.tensor([PROMPT + WRITTEN])
    assert logits[0, seen].min() < 0 < logits[0, seen].max(), "both signs must be tried"
    expected = RepetitionPenaltyLogitsProcessor(penalty)(seen, logits.clone())
    torch.testing.assert_close(changed(logits, repetition_penalty=penalty), expected)


def test_no_end_token_is_likely_before_the_least_length(logits):
    seen = torch.tensor([PROMPT + WRITTEN])
    for least in (4, 5):
        expected = MinNewTokensLengthLogitsProcessor(len(PROMPT), least, [5, 8])(seen, logits)
        assert torch.equal(changed(logits, min_tokens=least, ends=[5, 8]), expected)


def test_a_bias_is_added_before_the_repetition_penalty(logits):
    after = changed(logits, logit_bias=((9, 100.0), (30, -2.0)), repetition_penalty=2.0)
    assert after[0, 9] == pytest.approx((float(logits[0, 9]) + 100) / 2)
    assert after[0, 30] == pytest.approx(float(logits[0, 30]) - 2)


def test_a_request_without_options_has_the_models_own_logits(logits):
    assert change_logits(logits, [answer_of()]) is logits


@pytest.mark.parametrize("size", [200, 400])  # all tokens are ranked at once, and not all
@pytest.mark.parametrize("top_k", [0, 1, 17, 150, 300])
@pytest.mark.parametrize("top_p", [0.3, 0.97, 1.0])
@pytest.mark.parametrize("min_p", [0.0, 0.02, 1.0])
def test_what_is_kept_is_what_transformers_keeps(size, top_k, top_p, min_p):
    logits = torch.randn(1, size, generator=torch.Generator().manual_seed(1))
    sampling = Sampling(max_tokens=1, top_k=top_k, top_p=top_p, min_p=min_p)
    expected = logits
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    if min_p:
        expected = MinPLogitsWarper(min_p)(None, expected)
    expected = set(expected[0].isfinite().nonzero()[:, 0].tolist())

    cut = _Cut.of([sampling], logits.device)
    ordered, order = logits.softmax(-1).sort(descending=True)
    kept = set(order[cut.keep(ordered) > 0].tolist())
    assert kept == expected
    first = ordered[:, :256]
    if cut.is_within(first):  # then the first ranking must say the same
        assert set(order[:, :256][cut.keep(first) > 0].tolist()) == expected
    else:
        assert sampling.top_k == 0 or sampling.top_k > 256
    draws = random.Random(0)
    drawn = {choose_tokens(logits, [sampling], [draws])[0] for _ in range(300)}
    assert drawn <= expected
    assert len(drawn) > min(100, len(expected) // 3)
    assert _ALL > 400


def test_a_row_does_not_depend_on_its_neighbours():
    """With the same number drawn, whatever is asked of the row beside it."""
    logits = torch.randn(2, 1000, generator=torch.Generator().manual_seed(2))
    kinds = [
        {}, {"top_p": 0.9}, {"top_p": 0.999}, {"top_k": 5}, {"top_k": 500, "top_p": 0.8},
        {"min_p": 0.2}, {"temperature": 0}, {"temperature": 1.5, "min_p": 0.01},
        {"presence_penalty": 1.0}, {"repetition_penalty": 1.3, "top_p": 0.5},
    ]  # fmt: skip

    def chosen(rows, *fields):
        answers = [
            Answer(PROMPT, Sampling(max_tokens=9, **each), str, print, tokens=list(WRITTEN))
            for each in fields
        ]
        changed = change_logits(logits[rows], answers)
        draws = [random.Random(7 + row) for row in rows]
        return choose_tokens(changed, [answer.sampling for answer in answers], draws)

    for one in kinds:
        alone = chosen([0], one)[0]
        for other in kinds:
            assert chosen([0, 1], one, other)[0] == alone, (one, other)


# ---- engines -------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["transformers", "openvino"])
def engine(request, llama, tokenizer):
    engine = build_engine(llama, tokenizer, batch=3, queue=64, asked=request.param).engine
    yield engine
    engine.close()


def written(engine, prompts, *samplings):
    listener = Listener()
    answers = engine.submit(list(zip(prompts, samplings, strict=True)), listener)
    last = listener.wait(len(answers))
    for index in range(len(answers)):
        assert last[index][1].error is None, last[index][1].error
    return answers, [last[index][1].finish_reason for index in range(len(answers))]


def test_penalised_tokens_are_those_of_generate(engine, llama):
    prompts = random_prompts(3, seed=20)
    samplings = [greedy(40, repetition_penalty=each) for each in (1.0, 1.4, 0.8)]
    answers, _ = written(engine, prompts, *samplings)
    expected = [
        generate(llama, prompt, 40, repetition_penalty=sampling.repetition_penalty)
        for prompt, sampling in zip(prompts, samplings, strict=True)
    ]
    assert [answer.tokens for answer in answers] == expected
    assert expected[1] != generate(llama, prompts[1], 40), "it must change something to prove it"
    assert expected[2] != generate(llama, prompts[2], 40)


def test_tokens_end_an_answer_but_not_before_its_least_length(engine, llama):
    [prompt] = random_prompts(1, seed=21)
    plain = generate(llama, prompt, 30)
    end = plain[6]
    assert end not in plain[:6]
    kinds = ({}, {"min_tokens": 3}, {"min_tokens": 12})
    samplings = [greedy(30, stop_token_ids=frozenset({end}), **each) for each in kinds]
    answers, reasons = written(engine, [prompt] * 3, *samplings)
    assert answers[0].tokens == answers[1].tokens == plain[:7]
    later = answers[2].tokens
    assert later == generate(llama, prompt, 30, min_new_tokens=12, eos_token_id=end)[: len(later)]
    assert end not in later[:12]
    assert len(later) > 12
    assert reasons[:2] == ["stop", "stop"]


def test_the_models_own_end_can_be_ignored(engine, llama, monkeypatch):
    [prompt] = random_prompts(1, seed=22)
    plain = generate(llama, prompt, 20)
    monkeypatch.setattr(engine, "_end_tokens", frozenset({plain[4]}))
    kinds = ({}, {"ignore_eos": True}, {"min_tokens": 10})
    answers, reasons = written(engine, [prompt] * 3, *(greedy(20, **each) for each in kinds))
    assert answers[0].tokens == plain[:5]
    assert answers[1].tokens == plain
    assert plain[4] not in answers[2].tokens[:10]
    assert reasons[:2] == ["stop", "length"]


def test_stop_strings_are_not_looked_for_before_the_least_length(engine):
    [prompt] = random_prompts(1, seed=23)
    stops = tuple(string.printable)
    samplings = [greedy(60, stop=stops, min_tokens=least) for least in (0, 20)]
    answers, reasons = written(engine, [prompt] * 2, *samplings)
    assert len(answers[0].tokens) < 15
    assert len(answers[1].tokens) > 20
    assert reasons == ["stop", "stop"]


def test_one_token_to_choose_from_is_the_likeliest(engine, llama):
    prompts = random_prompts(3, seed=24)
    kinds = ({"top_k": 1}, {"min_p": 1.0}, {"top_p": 1e-6})
    answers, _ = written(
        engine, prompts, *(Sampling(max_tokens=12, temperature=1.5, **each) for each in kinds)
    )
    assert [answer.tokens for answer in answers] == [
        generate(llama, prompt, 12) for prompt in prompts
    ]


def test_few_tokens_to_choose_from_are_the_likeliest(engine, llama):
    [prompt] = random_prompts(1, seed=25)
    with torch.inference_mode():
        logits = llama(torch.tensor([prompt])).logits[0, -1]
    samplings = [
        Sampling(max_tokens=1, temperature=9, seed=seed, top_k=3 if seed % 2 else 0,
                 min_p=0.0 if seed % 2 else 0.4)
        for seed in range(60)
    ]  # fmt: skip
    answers, _ = written(engine, [prompt] * 60, *samplings)
    likeliest = set(logits.topk(3).indices.tolist())
    assert {answer.tokens[0] for answer in answers[1::2]} == likeliest
    probabilities = (logits / 9).softmax(-1)
    enough = set((probabilities >= 0.4 * probabilities.max()).nonzero()[:, 0].tolist())
    found = {answer.tokens[0] for answer in answers[::2]}
    assert found <= enough
    assert len(found) > 1


# ---- over HTTP -----------------------------------------------------------------------------------


def text_of(service, **body):
    response = complete(service, **body)
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["text"]


def test_a_bias_decides_the_answer(generation, tokenizer):
    [token] = tokenizer("e")["input_ids"]
    assert text_of(generation, logit_bias={str(token): 100}, max_tokens=4) == "eeee"
    plain = tokenizer(text_of(generation, max_tokens=1))["input_ids"]
    assert text_of(generation, logit_bias={str(plain[0]): -100}, max_tokens=1) != plain


def test_penalties_and_values_that_change_nothing_are_taken(generation):
    plain = text_of(generation, max_tokens=40)
    nothing = {
        "presence_penalty": 0, "frequency_penalty": 0.0, "repetition_penalty": 1, "top_k": -1,
        "min_p": 0, "min_tokens": 0, "stop_token_ids": [], "ignore_eos": False, "logit_bias": {},
    }  # fmt: skip
    assert text_of(generation, max_tokens=40, **nothing) == plain
    assert text_of(generation, max_tokens=40, **dict.fromkeys(nothing)) == plain
    sampled = text_of(generation, max_tokens=40, temperature=1, seed=1)
    for everything in (0, 300, 10**30):
        same = text_of(generation, max_tokens=40, temperature=1, seed=1, top_k=everything)
        assert same == sampled
    for name in ("presence_penalty", "frequency_penalty"):
        assert text_of(generation, max_tokens=40, **{name: 2}) != plain


def test_an_answer_is_the_same_beside_others(generation):
    """Whose options are of every other kind, and whose slots it may have to share."""
    body = {"model": "tiny", "prompt": "def read", "max_tokens": 30, "seed": 3}
    other = {"model": "tiny", "prompt": "user: hi", "max_tokens": 30, "top_k": 40, "min_p": 0.01,
             "repetition_penalty": 1.3, "presence_penalty": 1}  # fmt: skip
    alone = [text_of(generation, **body, temperature=t) for t in (0, 1.2)]

    async def together():
        async with client_of(generation) as client:
            texts = []
            for temperature in (0, 1.2):
                posts = [body | {"temperature": temperature}, other | {"temperature": 1}]
                sent = [client.post("/v1/completions", json=each) for each in posts]
                response, _ = await asyncio.gather(*sent)
                texts.append(response.json()["choices"][0]["text"])
            return texts

    assert asyncio.run(together()) == alone


@pytest.fixture
def openvino(llama, causal_lm):
    spec = ServeSpec(engine="openvino", batch=2, queue=8, max_tokens=60)
    service = GenerationService(llama, causal_lm, name="tiny", spec=spec)
    yield service
    service.close()


OTHERWISE = [
    {"presence_penalty": 0.5}, {"frequency_penalty": -0.5}, {"logit_bias": {"70": 3}},
    {"logprobs": 1}, {"echo": True, "logprobs": 0},
]  # fmt: skip


def test_what_openvino_does_otherwise_torch_answers_beside_it(openvino, generation):
    def told(service, **fields):
        return text_of(service, max_tokens=30, **fields)

    def state():
        return call(openvino, "GET", "/health").json()["transformers"]

    plain = told(openvino)
    assert state()["loaded"] is False
    assert "presence_penalty" in state()["for"]
    for fields in OTHERWISE:
        assert told(openvino, **fields) == told(generation, **fields)
    assert state()["loaded"] is True

    async def together():
        async with client_of(openvino) as client:
            body = {"model": "tiny", "prompt": "def read", "max_tokens": 30, "temperature": 0}
            posts = [body | fields for fields in [{}, *OTHERWISE, {}]]
            sent = [client.post("/v1/completions", json=each) for each in posts]
            return [each.json()["choices"][0]["text"] for each in await asyncio.gather(*sent)]

    first, *others, last = asyncio.run(together())
    assert first == last == plain
    assert others == [told(generation, **fields) for fields in OTHERWISE]


def test_without_memory_for_the_model_once_more_such_requests_are_refused(openvino, monkeypatch):
    monkeypatch.setattr(beside_runner, "available_memory_bytes", lambda: 10)
    for fields in OTHERWISE:
        response = complete(openvino, **fields)
        check_error(response, 400, "openvino", "0.0 MiB", "set serve.engine: transformers")
        assert response.json()["error"]["code"] == "unsupported_by_engine"
    assert complete(openvino).status_code == 200
