"""The engine against `model.generate`, with requests that come and go, whatever computes."""

import inspect
import logging
import time

import pytest
import torch
from engines import (
    Listener,
    generate,
    greedy,
    random_prompts,
    steps_when,
    torch_engine,
    wait_until,
)
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

from raymodel.errors import SlowPathError
from raymodel.observe.slow_paths import slow_paths
from raymodel.serve import torch_runner
from raymodel.serve.choice import build_engine
from raymodel.serve.decoder import SingleDecoder, build_decoder, find_obstacle
from raymodel.serve.engine import EngineClosedError, QueueFullError
from raymodel.serve.forward import find_cache_word
from raymodel.serve.sampling import Sampling


@pytest.fixture(params=["transformers", "openvino"])
def asked(request):
    return request.param


@pytest.fixture
def engine(llama, tokenizer, asked):
    engine = build_engine(llama, tokenizer, batch=3, queue=64, asked=asked).engine
    yield engine
    engine.close()


def test_a_batch_larger_than_the_slots_gives_the_tokens_of_generate(engine, llama):
    prompts, listener = random_prompts(10), Listener()
    answers = engine.submit([(prompt, greedy()) for prompt in prompts], listener)
    listener.wait(10)
    assert engine.runner.mode == "continuous batching"
    expected = [generate(llama, prompt, 24) for prompt in prompts]
    assert [answer.tokens for answer in answers] == expected
    assert len({tuple(tokens) for tokens in expected}) == 10, "answers must differ to prove it"


def test_staggered_arrivals_of_different_lengths_give_the_tokens_of_generate(engine, llama):
    prompts, listener, answers = random_prompts(8, seed=1), Listener(), []
    lengths = [5, 60, 11, 33, 2, 47, 1, 20]
    for prompt, length in zip(prompts, lengths, strict=True):
        answers += engine.submit([(prompt, greedy(length))], Listener() if length < 0 else listener)
        time.sleep(0.01)
    for _ in prompts:
        listener.wait(1)
    for answer, prompt, length in zip(answers, prompts, lengths, strict=True):
        assert answer.tokens == generate(llama, prompt, length)


def test_rows_that_outgrow_the_first_store_keep_their_tokens(engine, llama):
    prompts, listener = random_prompts(3, seed=2, longest=200), Listener()
    answers = engine.submit([(prompt, greedy(300)) for prompt in prompts], listener)
    listener.wait(3)
    for answer, prompt in zip(answers, prompts, strict=True):
        assert answer.tokens == generate(llama, prompt, 300)


@pytest.fixture
def pieces(llama, tokenizer, monkeypatch):
    """An engine that reads prompts sixteen tokens at a time."""
    monkeypatch.setitem(torch_runner._PIECE_TOKENS, "cpu", 16)
    engine = torch_engine(llama, tokenizer, batch=4, queue=64)
    yield engine
    engine.close()


def test_a_long_prompt_is_read_between_the_steps_of_others(pieces, llama):
    seen, short = [], Listener()
    with steps_when(pieces, lambda: False):
        [running] = pieces.submit([([5, 6, 7], greedy(300))], short)
        wait_until(lambda: running.tokens)
        prompt = random_prompts(1, seed=11, longest=1)[0] * 150 + random_prompts(1, seed=12)[0] * 8
        [long] = pieces.submit([(prompt, greedy(20))], lambda *_: seen.append(len(running.tokens)))
        begun = len(running.tokens)
    short.wait()
    wait_until(lambda: len(long.tokens) == 20)
    assert seen[0] - begun >= len(prompt) // 16 - 2
    assert running.tokens == generate(llama, [5, 6, 7], 300)
    assert long.tokens == generate(llama, prompt, 20)


def test_whoever_comes_and_goes_while_a_prompt_is_read_keeps_his_tokens(pieces, llama):
    long, given_up = ([5 + i % 200 for i in range(length)] for length in (300, 250))
    prompts = [[7, 8], [9], *random_prompts(3, seed=13, longest=60)]
    listener = Listener()
    for round_ in range(2):  # the second after all slots were empty
        requests = [(prompt, greedy(3 + 4 * at)) for at, prompt in enumerate(prompts)]
        answers = pieces.submit([*requests[:2], (long, greedy(9)), *requests[2:]], listener)
        [dropped] = pieces.submit([(given_up, greedy(9))], Listener())
        wait_until(lambda last=answers[3]: last.tokens)
        pieces.abort([dropped])
        listener.wait(6)
        told = [answer.tokens for answer in answers]
        long_tokens = told.pop(2)
        assert long_tokens == generate(llama, long, 9), round_
        assert told == [generate(llama, p, 3 + 4 * at) for at, p in enumerate(prompts)]
        wait_until(lambda: pieces.num_active == 0)


def test_the_store_of_a_long_prompt_is_given_back(llama, tokenizer):
    engine, listener = torch_engine(llama, tokenizer, batch=3, queue=4), Listener()
    engine.submit([([5] * 400, greedy(4))], listener)
    listener.wait()
    wait_until(lambda: engine.num_active == 0)
    layer = engine.runner.decoder._layers[0]
    wait_until(lambda: layer.keys.numel() == 0)
    [answer] = engine.submit([([5, 6], greedy(4))], listener)
    listener.wait()
    engine.close()
    assert layer.keys.shape[2] == 256
    assert answer.tokens == generate(llama, [5, 6], 4)


def test_the_text_is_the_decoded_answer(engine, llama, tokenizer):
    prompts, listener = random_prompts(6, seed=3), Listener()
    answers = engine.submit([(prompt, greedy(80)) for prompt in prompts], listener)
    for index, (text, chunk) in listener.wait(6).items():
        assert text == tokenizer.decode(answers[index].tokens, skip_special_tokens=True)
        assert chunk.num_tokens == len(answers[index].tokens)


def test_the_end_token_ends_an_answer_without_a_trace_in_the_text(llama, tokenizer):
    prompt = random_prompts(1, seed=4)[0]
    plain = generate(llama, prompt, 10)
    before = llama.generation_config.eos_token_id
    llama.generation_config.eos_token_id = [plain[4]]
    engine, listener = torch_engine(llama, tokenizer, batch=1, queue=4), Listener()
    try:
        [answer] = engine.submit([(prompt, greedy(10))], listener)
        text, chunk = listener.wait()[0]
    finally:
        llama.generation_config.eos_token_id = before
        engine.close()
    end = plain.index(plain[4])
    assert answer.tokens == plain[: end + 1]
    assert chunk.finish_reason == "stop"
    assert text == tokenizer.decode(plain[:end], skip_special_tokens=True)


def test_a_stop_string_ends_the_answer_before_it(engine, llama, tokenizer):
    prompt = random_prompts(1, seed=5)[0]
    whole = tokenizer.decode(generate(llama, prompt, 60), skip_special_tokens=True)
    stop = next(whole[i : i + 3] for i in range(20, 50) if whole[i : i + 3].isprintable())
    listener = Listener()
    engine.submit([(prompt, greedy(60, stop=(stop,)))], listener)
    text, chunk = listener.wait()[0]
    assert text == whole[: whole.index(stop)]
    assert chunk.finish_reason == "stop"


def test_a_seed_gives_the_same_answer_alone_and_in_company(engine):
    prompt = random_prompts(1, seed=6)[0]
    sampling = Sampling(max_tokens=30, temperature=1.5, top_p=0.9, seed=42)
    alone = Listener()
    [first] = engine.submit([(prompt, sampling)], alone)
    alone.wait()
    company = Listener()
    others = [(other, Sampling(max_tokens=30)) for other in random_prompts(2, seed=7)]
    answers = engine.submit([*others, (prompt, sampling)], company)
    company.wait(3)
    assert answers[2].tokens == first.tokens
    [unseeded] = engine.submit([(prompt, Sampling(max_tokens=30, temperature=1.5))], alone)
    alone.wait()
    assert unseeded.tokens != first.tokens


def test_an_aborted_answer_frees_its_slot(llama, tokenizer, asked):
    engine = build_engine(llama, tokenizer, batch=1, queue=4, asked=asked).engine
    try:
        endless, next_one, running = Listener(), Listener(), []
        with steps_when(engine, lambda: running and not running[0].tokens):
            running += engine.submit([([5, 6], greedy(500))], endless)
            waiting = engine.submit([([7, 8], greedy(500))], endless)
            wait_until(lambda: running[0].tokens)
            engine.abort(running + waiting)
        [answer] = engine.submit([([9, 10], greedy(4))], next_one)
        next_one.wait()
        assert answer.tokens == generate(llama, [9, 10], 4)
        assert len(running[0].tokens) < 500
        assert waiting[0].tokens == []
        wait_until(lambda: engine.num_active == 0 and engine.num_waiting == 0)
    finally:
        engine.close()


def test_a_full_queue_refuses_and_says_when_to_come_back(llama, tokenizer):
    engine, listener = torch_engine(llama, tokenizer, batch=1, queue=1), Listener()
    try:
        with steps_when(engine, lambda: False):
            running = engine.submit([([5, 6], greedy(500))], listener)
            wait_until(lambda: engine.num_active == 1)
            engine.submit([([5, 6], greedy(500))], listener)
            with pytest.raises(QueueFullError) as caught:
                engine.submit([([5, 6], greedy(500))], listener)
        assert caught.value.num_waiting == 1
        assert caught.value.retry_after_s >= 1
        engine.abort(running)
    finally:
        engine.close()


def test_who_gets_a_slot_is_told_so_and_who_waits_is_not(llama, tokenizer):
    engine, listener, told = torch_engine(llama, tokenizer, batch=1, queue=1), Listener(), []
    try:
        with steps_when(engine, lambda: False):
            first, second = (
                engine.submit([([5, 6], greedy(500))], listener, lambda n=name: told.append(n))
                for name in ("first", "second")
            )
            wait_until(lambda: told)
            assert (told, engine.num_active) == (["first"], 1)
            engine.abort(first)
        wait_until(lambda: len(told) == 2)
        engine.abort(second)
    finally:
        engine.close()


def test_a_step_that_fails_ends_its_requests_and_not_the_engine(llama, tokenizer, caplog):
    engine, listener = torch_engine(llama, tokenizer, batch=3, queue=64), Listener()
    with caplog.at_level(logging.CRITICAL):
        engine.submit([([5, 10**6], greedy())], listener)
        _, chunk = listener.wait()[0]
    assert isinstance(chunk.error, IndexError)
    [answer] = engine.submit([([5, 6], greedy(4))], listener)
    listener.wait()
    assert answer.tokens == generate(llama, [5, 6], 4)
    assert engine.is_healthy
    engine.close()


def test_closing_tells_those_who_wait(llama, tokenizer, asked):
    engine = build_engine(llama, tokenizer, batch=1, queue=1, asked=asked).engine
    listener = Listener()
    with steps_when(engine, lambda: engine._closed):
        engine.submit([([5, 6], greedy(500))], listener)
        engine.close()
    _, chunk = listener.wait()[0]
    assert isinstance(chunk.error, EngineClosedError)
    with pytest.raises(EngineClosedError):
        engine.submit([([5, 6], greedy())], listener)


def test_other_models_with_a_plain_cache_are_batched_too(tokenizer):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=300, n_positions=64, n_embd=32, n_layer=2, n_head=2)
    model = GPT2LMHeadModel(config).eval()
    model.generation_config.eos_token_id = None
    assert find_obstacle(model) is None
    engine, listener = torch_engine(model, tokenizer, batch=3, queue=8), Listener()
    prompts = random_prompts(5, seed=8, longest=20)
    answers = engine.submit([(prompt, greedy(12)) for prompt in prompts], listener)
    listener.wait(5)
    engine.close()
    for answer, prompt in zip(answers, prompts, strict=True):
        assert answer.tokens[:-1] == generate(model, prompt, 12)[: len(answer.tokens) - 1]


@pytest.fixture
def windowed():
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=8, initializer_range=0.4,
        eos_token_id=0, max_position_embeddings=256,
    )  # fmt: skip
    return MistralForCausalLM(config).eval()


@pytest.mark.usefixtures("slow_paths_are_taken")
def test_a_model_with_sliding_windows_answers_one_by_one_and_says_so(windowed, tokenizer, caplog):
    with caplog.at_level(logging.WARNING):
        engine = torch_engine(windowed, tokenizer, batch=3, queue=8)
    assert engine.runner.mode == SingleDecoder.mode
    assert "one request at a time" in caplog.text
    [told] = slow_paths()
    assert told.what == "answers one request at a time"
    assert "not all of its layers attend to the whole context" in told.why
    listener, prompts = Listener(), random_prompts(3, seed=9)
    answers = engine.submit([(prompt, greedy(12)) for prompt in prompts], listener)
    listener.wait(3)
    engine.close()
    for answer, prompt in zip(answers, prompts, strict=True):
        assert answer.tokens == generate(windowed, prompt, 12)


def test_a_model_that_cannot_be_batched_is_refused_where_slow_paths_are(windowed):
    with pytest.raises(SlowPathError, match=r"answers one request at a time .* is slow"):
        build_decoder(windowed, 3, 64)


@pytest.mark.usefixtures("slow_paths_are_taken")
def test_a_model_without_a_cache_says_that_it_reads_all_again(llama, tokenizer, monkeypatch):
    forward = llama.forward

    def without_cache(input_ids, attention_mask=None):
        return forward(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)

    monkeypatch.setattr(llama, "forward", without_cache)
    engine, listener = torch_engine(llama, tokenizer, batch=2, queue=4), Listener()
    [answer] = engine.submit([([5, 6], greedy(8))], listener)
    listener.wait()
    engine.close()
    monkeypatch.undo()
    assert answer.tokens == generate(llama, [5, 6], 8)
    assert [path.what for path in slow_paths()] == [
        "answers one request at a time",
        "reads the whole text again for each token",
    ]


@pytest.mark.parametrize("word", ["cache", "past_key_values"])
def test_a_cache_is_found_by_both_of_its_names(word, llama, tokenizer, monkeypatch):
    """Whichever transformers is installed, so that the other half of the range is held too."""
    forward, own = llama.forward, find_cache_word(llama)

    def spelt(input_ids, position_ids=None, attention_mask=None, logits_to_keep=0,
              use_cache=None, **caches):  # fmt: skip
        assert set(caches) <= {word}
        given = {own: caches[word]} if caches else {}
        output = forward(
            input_ids=input_ids, position_ids=position_ids, attention_mask=attention_mask,
            logits_to_keep=logits_to_keep, use_cache=use_cache, **given,
        )  # fmt: skip
        return Output(output.logits, word, output.get(own))

    parameters = [
        *inspect.signature(spelt).parameters.values(),
        inspect.Parameter(word, inspect.Parameter.KEYWORD_ONLY, default=None),
    ]
    kept = [p for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD]
    spelt.__signature__ = inspect.Signature(kept)
    monkeypatch.setattr(llama, "forward", spelt)
    assert find_cache_word(llama) == word
    assert find_obstacle(llama) is None
    single = SingleDecoder(llama, 64)
    logits = [single.prefill([[5, 6, 7]]), single.step([8])]
    assert single.has_cache
    monkeypatch.undo()
    plain = llama(input_ids=torch.tensor([[5, 6, 7, 8]])).logits[:, 2:]
    torch.testing.assert_close(torch.stack(logits, 1), plain, rtol=1e-4, atol=1e-5)


class Output(dict):
    """As transformers' outputs: fields by name, and those that are None are not there."""

    def __init__(self, logits, word, cache):
        super().__init__({"logits": logits} | ({} if cache is None else {word: cache}))
        self.logits = logits


def test_the_probe_finds_a_model_that_ignores_positions(llama, monkeypatch):
    forward = llama.model.forward

    def without_positions(*args, position_ids=None, **kwargs):
        return forward(*args, **kwargs)

    monkeypatch.setattr(llama.model, "forward", without_positions)
    assert "differed" in find_obstacle(llama)
