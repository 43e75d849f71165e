"""A model that writes ahead of another: the tokens are those of the other alone."""

import asyncio
import copy
import itertools
import queue
import random

import pytest
import torch
from asked import client_of
from engines import (
    WAIT_S,
    Listener,
    generate,
    greedy,
    random_prompts,
    torch_engine,
    wait_until,
)
from transformers import MistralConfig, MistralForCausalLM

from raymodel.errors import ArtifactError, ClusterError, SpecError
from raymodel.model.stored_numbers import StoredNumbers
from raymodel.serve import capacity, torch_runner
from raymodel.serve import draft as draft_module
from raymodel.serve import load as load_module
from raymodel.serve.capacity import find_draft_tokens
from raymodel.serve.choice import build_engine
from raymodel.serve.draft import DraftModel
from raymodel.serve.follow import Version
from raymodel.serve.load import load_service
from raymodel.serve.room import find_need, with_draft
from raymodel.serve.sampling import Form, Sampling
from raymodel.serve.spec import DraftSpec, ServeSpec
from raymodel.storage.uri import Location
from raymodel.testing.tiny import build_tiny_llama, round_weights, train_tiny_tokenizer


def tiny(vocab_size, seed=3, max_positions=512, **fields):
    fields = {"initializer_range": 0.4, "num_hidden_layers": 1} | fields
    model = build_tiny_llama(
        vocab_size=vocab_size, max_positions=max_positions, seed=seed, **fields
    )
    return round_weights(model).eval()


def disturbed(model, share):
    torch.manual_seed(0)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.parameters():
            weight += share * weight.std() * torch.randn_like(weight)
    return other


@pytest.fixture(scope="module")
def near(llama):
    """A draft that is right often, and not always."""
    return disturbed(llama, 0.02)


@pytest.fixture(scope="module")
def stranger(tokenizer):
    """One that is right by chance alone, and reads fewer tokens than it is asked about."""
    return tiny(len(tokenizer) - 8, max_positions=64)


@pytest.fixture(params=["itself", "near", "stranger"])
def draft(request, llama):
    return llama if request.param == "itself" else request.getfixturevalue(request.param)


def drafted(model, tokenizer, draft, batch=4, tokens=4):
    beside = DraftModel(draft, tokens, "small")
    return build_engine(model, tokenizer, batch=batch, queue=64, draft=beside).engine


@pytest.fixture
def engine(llama, tokenizer, draft):
    engine = drafted(llama, tokenizer, draft)
    yield engine
    engine.close()


def told_by(engine):
    return engine.runner.facts()["draft"]


def ask(engine, requests):
    """The answers, once all are finished, and the last chunk of each."""
    listener = Listener()
    answers = engine.submit(requests, listener)
    last = listener.wait(len(requests))
    assert all(chunk.error is None for _, chunk in last.values()), last
    return answers, [last[i] for i in range(len(requests))]


# ---- the same tokens -----------------------------------------------------------------------------


def test_greedy_answers_that_join_and_leave_are_those_of_the_model_alone(engine, llama):
    lengths = [24, 1, 2, 90, 5, 33, 9, 47, 3]
    prompts = random_prompts(len(lengths))
    requests = [(prompt, greedy(n)) for prompt, n in zip(prompts, lengths, strict=True)]
    answers, _ = ask(engine, requests)
    expected = [generate(llama, p, n) for p, n in zip(prompts, lengths, strict=True)]
    assert [answer.tokens for answer in answers] == expected
    assert told_by(engine)["drafted"] == sum(a.num_drafted for a in answers) > 0


def test_a_draft_that_is_the_model_itself_is_always_right(llama, tokenizer):
    engine = drafted(llama, tokenizer, llama)
    [answer], _ = ask(engine, [([5, 6, 7], greedy(41))])
    told = told_by(engine)
    engine.close()
    # The first token comes with the prompt, and of each step one is the model's own.
    assert (told["drafted"], told["accepted"]) == (32, 32)
    assert (answer.num_drafted, answer.num_accepted) == (32, 32)
    assert told | {"model": "small", "tokens": 4} == told


def test_a_near_one_is_right_often_and_a_stranger_seldom(llama, tokenizer, near, stranger):
    shares = []
    for draft in (near, stranger):
        engine = drafted(llama, tokenizer, draft)
        answers, _ = ask(engine, [(p, greedy(60)) for p in random_prompts(4, seed=3, longest=3)])
        shares.append(sum(a.num_accepted for a in answers) / sum(a.num_drafted for a in answers))
        engine.close()
    assert 1 > shares[0] > 0.5 > shares[1]


def test_for_an_answer_that_it_is_mostly_wrong_about_it_stops_to_write(llama, tokenizer, stranger):
    engine = drafted(llama, tokenizer, stranger, tokens=3)
    [answer, again], _ = ask(engine, [([5, 6], greedy(55)), ([7, 8], greedy(55))])
    engine.close()
    assert answer.tokens == generate(llama, [5, 6], 55)
    assert 32 <= answer.num_drafted < 32 + 3
    assert 32 <= again.num_drafted < 32 + 3  # each is tried


def test_prompts_in_pieces_and_answers_that_are_given_up_leave_others_as_they_are(
    llama, tokenizer, draft, monkeypatch
):
    monkeypatch.setitem(torch_runner._PIECE_TOKENS, "cpu", 16)
    engine = drafted(llama, tokenizer, draft)
    long, given_up = ([5 + i % 200 for i in range(length)] for length in (130, 110))
    prompts = [[7, 8], [9], *random_prompts(3, seed=13, longest=60)]
    for round_ in range(2):  # the second after all slots were empty
        listener = Listener()
        requests = [(prompt, greedy(3 + 8 * at)) for at, prompt in enumerate(prompts)]
        answers = engine.submit([*requests[:2], (long, greedy(9)), *requests[2:]], listener)
        [dropped] = engine.submit([(given_up, greedy(9))], Listener())
        wait_until(lambda last=answers[3]: last.tokens)
        engine.abort([dropped])
        listener.wait(6)
        told = [answer.tokens for answer in answers]
        assert told.pop(2) == generate(llama, long, 9), round_
        assert told == [generate(llama, p, 3 + 8 * at) for at, p in enumerate(prompts)]
        wait_until(lambda: engine.num_active == 0)
    engine.close()


def test_a_seed_gives_what_it_gives_without_a_draft(engine, llama, tokenizer):
    plain = torch_engine(llama, tokenizer, batch=2, queue=8)
    ways = [{}, {"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.05, "frequency_penalty": 0.5}]
    requests = [
        ([5, 6, at], Sampling(max_tokens=30, temperature=0.7, seed=at, **way))
        for at, way in enumerate(ways)
    ]
    expected, _ = ask(plain, requests)
    plain.close()
    answers, _ = ask(engine, requests)
    assert [answer.tokens for answer in answers] == [answer.tokens for answer in expected]
    assert all(answer.num_drafted for answer in answers)


def test_what_a_request_says_of_its_tokens_holds_at_each_place(engine, llama, tokenizer):
    bias = tuple((token, 4.0) for token in range(40, 60))
    ways = [
        {"repetition_penalty": 1.3},
        {"presence_penalty": 1.0, "frequency_penalty": 0.7},
        {"logit_bias": bias, "min_tokens": 20},
        {"form": Form("regex", "(ab|cd){4,9}e")},
        {"logprobs": 2},
        {"logprobs": 0, "form": Form("choice", '["def read", "return items"]'), "seed": 1},
    ]
    prompts = random_prompts(len(ways), seed=21, longest=12)
    requests = [(p, greedy(24, **way)) for p, way in zip(prompts, ways, strict=True)]
    plain = torch_engine(llama, tokenizer, batch=2, queue=8)
    expected, texts = ask(plain, requests)
    plain.close()
    answers, told = ask(engine, requests)
    assert [answer.tokens for answer in answers] == [answer.tokens for answer in expected]
    assert [text for text, _ in told] == [text for text, _ in texts]
    assert all(answer.num_drafted for answer in answers)


def test_log_probabilities_are_those_of_the_model(llama, tokenizer, near):
    plain = torch_engine(llama, tokenizer, batch=1, queue=8)
    seen = [scores_by(engine) for engine in (plain, drafted(llama, tokenizer, near))]
    assert len(seen[0]) == 20
    for one, other in zip(*seen, strict=True):
        assert one.token == other.token
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
        assert [token for token, _ in one.top] == [token for token, _ in other.top]


def scores_by(engine):
    chunks, seen = queue.Queue(), []
    engine.submit([([5, 6], greedy(20, logprobs=2))], lambda _, chunk: chunks.put(chunk))
    while True:
        chunk = chunks.get(timeout=WAIT_S)
        seen += [placed.scored for placed in chunk.tokens]
        if chunk.finish_reason:
            engine.close()
            return seen


# ---- ends within what was accepted ---------------------------------------------------------------


def test_an_answer_ends_within_what_was_accepted(llama, tokenizer):
    engine, prompt = drafted(llama, tokenizer, llama, tokens=6), random_prompts(1, seed=5)[0]
    tokens = generate(llama, prompt, 60)
    whole = tokenizer.decode(tokens, skip_special_tokens=True)
    stop = next(whole[i : i + 3] for i in range(20, 50) if whole[i : i + 3].isprintable())
    _, [(text, chunk)] = ask(engine, [(prompt, greedy(60, stop=(stop,)))])
    assert (text, chunk.finish_reason) == (whole[: whole.index(stop)], "stop")
    for at in range(3, 12):  # each place within a step
        end = tokens.index(tokens[at])
        sampling = greedy(60, stop_token_ids=frozenset({tokens[at]}))
        [answer, other], _ = ask(engine, [(prompt, sampling), ([5], greedy(30))])
        assert answer.tokens == tokens[: end + 1]
        assert other.tokens == generate(llama, [5], 30)
        [answer], [(_, chunk)] = ask(engine, [(prompt, greedy(at))])
        assert (answer.tokens, chunk.finish_reason) == (tokens[:at], "length")
    engine.close()


def test_an_answer_fills_the_context_to_its_last_token(tokenizer):
    model = tiny(len(tokenizer), max_positions=40)
    plain, engine = (
        torch_engine(model, tokenizer, batch=2, queue=8),
        drafted(model, tokenizer, model),
    )
    requests = [([5, 6, 7], greedy(100, ignore_eos=True)), ([8] * 39, greedy(100))]
    (expected, last), (answers, told) = ask(plain, requests), ask(engine, requests)
    plain.close()
    engine.close()
    assert [a.tokens for a in answers] == [a.tokens for a in expected]
    assert [c.finish_reason for _, c in told] == [c.finish_reason for _, c in last]
    assert len(answers[0].tokens) > 30


# ---- more answers than it writes for -------------------------------------------------------------


def test_where_many_run_nobody_writes_ahead_and_what_was_missed_is_read_later(
    llama, tokenizer, monkeypatch
):
    monkeypatch.setitem(capacity.DRAFTED_ROWS, "cpu", 2)
    monkeypatch.setattr(draft_module, "_PIECE_TOKENS", 16)
    engine = drafted(llama, tokenizer, llama)
    lengths, prompts = [120, 20, 20, 120], random_prompts(4, seed=8, longest=50)
    answers, _ = ask(engine, [(p, greedy(n)) for p, n in zip(prompts, lengths, strict=True)])
    expected = [generate(llama, p, n) for p, n in zip(prompts, lengths, strict=True)]
    assert [answer.tokens for answer in answers] == expected
    assert [bool(answer.num_drafted) for answer in answers] == [True, False, False, True]
    # It is always right, as it has read what it missed.
    assert [a.num_accepted for a in answers] == [a.num_drafted for a in answers]
    engine.close()


# ---- the same probabilities ----------------------------------------------------------------------

VOCAB, DRAWN = 10, 3
WAYS = [
    {"temperature": 0.8},
    {"temperature": 1.0, "top_k": 3},
    {"temperature": 1.0, "presence_penalty": 1.0},
]


def probabilities_of(model, way, prompt):
    """Answer → its probability, by plain forward passes."""
    known = {(): 1.0}
    for _ in range(DRAWN):
        rows = torch.tensor([[*prompt, *answer] for answer in known])
        logits_NV = model(input_ids=rows).logits[:, -1].double()
        longer = {}
        for (answer, before), logits in zip(known.items(), logits_NV, strict=True):
            for written in set(answer):
                logits[written] -= way.get("presence_penalty", 0)
            if "top_k" in way:
                logits[logits < logits.topk(way["top_k"]).values[-1]] = -torch.inf
            told = (logits / way["temperature"]).softmax(-1).tolist()
            longer |= {(*answer, token): before * p for token, p in enumerate(told)}
        known = longer
    return known


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(way))
@torch.inference_mode()
def test_answers_are_drawn_with_the_probabilities_of_the_model(way, tokenizer, monkeypatch):
    numbers = itertools.count()
    monkeypatch.setattr(Sampling, "draws", lambda self: random.Random(next(numbers)))
    monkeypatch.setitem(capacity.DRAFTED_ROWS, "cpu", 64)
    model = tiny(VOCAB, seed=1, initializer_range=0.25)
    with torch.inference_mode(mode=False):
        other = disturbed(model, 0.5)
    engine, count = drafted(model, tokenizer, other, batch=64), 1500
    sampling = Sampling(max_tokens=DRAWN, ignore_eos=True, **way)
    answers = []
    for _ in range(count // 60):
        answers += ask(engine, [([2, 3], sampling)] * 60)[0]
    engine.close()
    assert 0 < sum(a.num_accepted for a in answers) < sum(a.num_drafted for a in answers)
    seen = {}
    for answer in answers:
        seen[tuple(answer.tokens)] = seen.get(tuple(answer.tokens), 0) + 1
    told = probabilities_of(model, way, [2, 3])
    expected = {tokens: count * probability for tokens, probability in told.items()}
    assert all(expected[tokens] > 0 for tokens in seen)
    # Cells of few are joined, as the statistic asks for.
    large = {tokens: number for tokens, number in expected.items() if number >= 5}
    cells = [(seen.get(tokens, 0), number) for tokens, number in large.items()]
    rest = count - sum(number for _, number in cells)
    if rest > 1e-6:
        cells.append((count - sum(number for number, _ in cells), rest))
    chi_square = sum((number - wanted) ** 2 / wanted for number, wanted in cells)
    freedom = len(cells) - 1
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5, (chi_square, freedom)


# ---- what cannot be ------------------------------------------------------------------------------


def test_models_that_are_not_batched_are_refused(llama, tokenizer):
    config = MistralConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=8,
    )  # fmt: skip
    windowed = MistralForCausalLM(config).eval()
    for model, draft, whose in ((llama, windowed, "the draft"), (windowed, llama, "the model")):
        with pytest.raises(SpecError, match=rf"{whose}, a MistralForCausalLM, is not: not all of"):
            drafted(model, tokenizer, draft)


def test_a_draft_is_computed_by_transformers_and_the_reason_is_told(llama, tokenizer):
    beside = DraftModel(llama, 2, "small")
    choice = build_engine(llama, tokenizer, batch=1, queue=1, draft=beside)
    choice.engine.close()
    assert choice.reason.startswith("openvino cannot: beside a draft (serve.draft) it ends")
    with pytest.raises(SpecError, match=r"serve.weights is q8_0, .*beside a draft"):
        build_engine(llama, tokenizer, batch=1, queue=1, weights="q8_0", draft=beside)


def test_the_spec_refuses_what_does_not_go_with_a_draft():
    draft = {"model": "small/finetune"}
    with pytest.raises(ValueError, match="draft is for the engine transformers"):
        ServeSpec(engine="openvino", draft=draft)
    with pytest.raises(ValueError, match="ensemble is of classifiers"):
        ServeSpec(ensemble=("a/best",), draft=draft)
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        DraftSpec(model="small", tokens=0)
    assert "draft" not in ServeSpec(draft=draft).identity()


def test_the_smaller_a_draft_is_the_more_it_writes():
    counts = [find_draft_tokens(None, size, 100) for size in (90, 50, 30, 10, 1)]
    assert counts == [1, 1, 2, 5, 8]
    assert find_draft_tokens(3, 90, 100) == 3


def test_the_memory_holds_both_or_it_is_said_before_they_are_loaded():
    large, small = (
        find_need(
            StoredNumbers(
                fractions=numbers, kept_bytes=0, file_bytes=2 * numbers, largest=0,
                dtype="bfloat16", is_gguf=False,
            ),
            "causal_lm", device=device, dtype="bfloat16",
        )
        for device in ("cpu",)
        for numbers in (1000, 300)
    )  # fmt: skip
    both = with_draft(large, 2000, small)
    assert (both.host_bytes, both.device_bytes) == (2600, 0)
    assert "and for its draft" in both.parts


# ---- a served model ------------------------------------------------------------------------------


def save(folder, model, tokenizer):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Version(folder.name, Location.parse(str(folder)), "causal_lm")


def serve(tmp_path, draft, **spec):
    given = {"engine": "transformers"} if draft is None else {"draft": {"model": draft.name}}
    spec = ServeSpec(batch=2, queue=4, **given, **spec)
    return load_service(tmp_path / "model", "causal_lm", name="tiny", spec=spec, draft=draft)


def test_a_served_model_answers_with_its_draft_as_without_and_tells_of_it(
    llama, near, tokenizer, tmp_path
):
    save(tmp_path / "model", llama, tokenizer)
    draft = save(tmp_path / "small", near, tokenizer)
    bodies = [
        {"prompt": "def read", "temperature": 0, "max_tokens": 30},
        {"prompt": ["def", "naïve"], "temperature": 0, "max_tokens": 12, "stop": ["e"]},
        {"prompt": "items", "seed": 3, "n": 2, "max_tokens": 20},
    ]

    async def run(service):
        async with client_of(service) as client:
            answers = [
                await client.post("/v1/completions", json={"model": "tiny", **body})
                for body in bodies
            ]
            texts = [[c["text"] for c in answer.json()["choices"]] for answer in answers]
            return texts, (await client.get("/health")).json(), (await client.get("/metrics")).text

    told = []
    for beside in (None, draft):
        service = serve(tmp_path, beside)
        told.append(asyncio.run(run(service)))
        service.close()
    (plain, before, without), (texts, health, metrics) = told
    assert texts == plain
    assert health["engine"] == "transformers"
    assert "beside a draft" in health["engine_reason"]
    facts = health["draft"]
    assert (facts["model"], facts["tokens"]) == ("small", 1)  # as large as the model
    assert facts["drafted"] > facts["accepted"] > 0
    assert health["cache_bytes"] == 2 * before["cache_bytes"]
    assert "draft" not in before
    counted = {
        kind: float(line.rpartition(" ")[2])
        for kind in ("drafted", "accepted")
        for line in metrics.splitlines()
        if line.startswith(f'raymodel_tokens_total{{kind="{kind}"')
    }
    assert counted == {"drafted": facts["drafted"], "accepted": facts["accepted"]}
    assert "drafted" not in without


def test_a_draft_of_another_tokenizer_is_refused_with_what_differs(llama, tokenizer, tmp_path):
    save(tmp_path / "model", llama, tokenizer)
    other = train_tiny_tokenizer(["quite another text, of other words"] * 3, vocab_size=300)
    draft = save(tmp_path / "small", tiny(300), other)
    with pytest.raises(ArtifactError, match=r"another tokenizer .*\(one has 300 tokens and the"):
        serve(tmp_path, draft)


def test_a_draft_that_the_memory_has_no_room_for_is_refused(
    llama, tokenizer, tmp_path, monkeypatch
):
    save(tmp_path / "model", llama, tokenizer)
    draft = save(tmp_path / "small", llama, tokenizer)
    num_bytes = 4 * sum(weight.numel() for weight in llama.parameters())
    monkeypatch.setattr(load_module, "available_memory_bytes", lambda: num_bytes + 1000)
    with pytest.raises(ClusterError, match="and for its draft"):
        serve(tmp_path, draft)


def test_a_draft_is_of_a_model_that_writes(llama, tokenizer, tmp_path):
    save(tmp_path / "model", llama, tokenizer)
    draft = Version("b", Location.parse(str(tmp_path / "model")), "text_classification")
    with pytest.raises(ArtifactError, match="the draft is for text_classification, which does not"):
        serve(tmp_path, draft)
