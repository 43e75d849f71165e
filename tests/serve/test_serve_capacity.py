"""What follows from memory and model: requests at once, keys and values, lengths of answers."""

import pytest
import torch
from asked import call, check_error, complete
from engines import Listener, generate, greedy, torch_engine

from raymodel.errors import ClusterError
from raymodel.serve import decoder as decoder_module
from raymodel.serve.capacity import find_rows, longest_answer, plan_cache, unasked_answer
from raymodel.serve.generation import GenerationService
from raymodel.serve.spec import ServeSpec

GIB = 2**30
TOKEN_BYTES = 2 * 2 * 2 * 8 * 4  # of the tiny model: 2 layers, 2 heads of 8, fp32
SMALL = {"token_bytes": 46_080, "context_tokens": 8192, "device": "cpu"}  # SmolLM2-135M in fp32


def test_a_small_model_has_as_many_rows_as_are_worth_it_and_its_whole_context():
    plan = plan_cache(left_bytes=16 * GIB, **SMALL)
    assert (plan.rows, plan.context_tokens) == (32, 8192)
    assert plan.cache_bytes <= 8 * GIB
    assert plan_cache(left_bytes=200 * GIB, **SMALL).cache_tokens == 32 * 8192


def test_rows_are_fewer_where_usual_texts_do_not_fit_and_then_the_context_is_shorter():
    plan = plan_cache(left_bytes=GIB, **SMALL)
    assert plan.rows == plan.cache_tokens // 1024 == 11
    assert plan.context_tokens == 8192
    tight = plan_cache(left_bytes=GIB // 4, **SMALL)
    assert (tight.rows, tight.context_tokens) == (2, tight.cache_tokens)
    with pytest.raises(ClusterError, match="keys and values of 11 tokens"):
        plan_cache(left_bytes=2**20, **SMALL)


def test_an_eight_billion_model_of_a_long_context_stays_within_a_gpu():
    large = {"token_bytes": 131_072, "context_tokens": 131_072, "device": "cuda"}
    plan = plan_cache(left_bytes=64 * GIB, **large)
    assert (plan.rows, plan.context_tokens) == (64, 131_072)
    assert plan.cache_bytes < 0.8 * 64 * GIB


def test_what_was_asked_for_stays_and_replicas_share():
    plan = plan_cache(left_bytes=GIB, asked_rows=100, **SMALL)
    assert plan.rows == 100
    alone, shared = (plan_cache(left_bytes=8 * GIB, replicas=n, **SMALL) for n in (1, 4))
    assert shared.cache_tokens == alone.cache_tokens // 4
    gpu = SMALL | {"device": "cuda"}
    assert plan_cache(left_bytes=GIB, replicas=4, **gpu) == plan_cache(left_bytes=GIB, **gpu)


def test_rows_by_kind_of_model_and_answers_by_what_is_written():
    spec = ServeSpec()
    assert find_rows(spec, "causal_lm", "cpu") == 32
    assert find_rows(spec, "causal_lm", "cuda") == 64
    assert find_rows(spec, "text_classification", "cpu") == 8
    assert find_rows(ServeSpec(batch=3), "causal_lm", "cpu") == 3
    assert (longest_answer(spec, 4096), unasked_answer(spec, 4096)) == (4096, 512)
    assert (longest_answer(spec, 64), unasked_answer(spec, 64)) == (64, 64)
    written = ServeSpec(max_tokens=2000)
    assert (longest_answer(written, 4096), unasked_answer(written, 4096)) == (2000, 2000)


def test_a_job_keeps_its_identity_whatever_memory_decides():
    told = ServeSpec().identity()
    assert (told["batch"], told["max_tokens"]) == (8, 256)
    assert ServeSpec(batch=9).identity()["batch"] == 9


def test_health_tells_what_was_derived_and_requests_may_ask_for_all_of_it(llama, causal_lm):
    service = GenerationService(
        llama, causal_lm, name="tiny", spec=ServeSpec(engine="transformers")
    )
    try:
        told = call(service, "GET", "/health").json()
        assert (told["rows"], told["context_tokens"]) == (32, 512)
        assert (told["max_tokens"], told["unasked_tokens"]) == (512, 512)
        assert told["cache_tokens"] == 32 * 512
        assert told["cache_bytes"] == 32 * 512 * TOKEN_BYTES
        assert complete(service, max_tokens=300, ignore_eos=True).status_code == 200
        check_error(complete(service, max_tokens=513), 400, "at most 512", param="max_tokens")
    finally:
        service.close()


def test_torch_answers_within_its_budget_and_who_does_not_fit_waits(llama, tokenizer, monkeypatch):
    """Room for 256 tokens: of four answers of 100 two run at a time, and all are right."""
    monkeypatch.setattr(decoder_module, "free_bytes", lambda device: 2 * 256 * TOKEN_BYTES)
    engine, listener = torch_engine(llama, tokenizer, batch=4, queue=8), Listener()
    decoder, largest = engine.runner.decoder, []
    assert engine.context_tokens == 256
    step = decoder.step

    def watch(tokens):
        store = decoder._layers[0].keys
        largest.append((len(tokens), store.shape[0] * store.shape[2]))
        return step(tokens)

    monkeypatch.setattr(decoder, "step", watch)
    prompts = [[5 + n] * (4 + n) for n in range(4)]
    answers = engine.submit([(prompt, greedy(96)) for prompt in prompts], listener)
    listener.wait(4)
    engine.close()
    told = [answer.tokens for answer in answers]
    assert told == [
        generate(llama, prompt, 96)[: len(t)] for prompt, t in zip(prompts, told, strict=True)
    ]
    assert max(rows for rows, _ in largest) == 2
    assert max(places for _, places in largest) <= 256


def test_a_store_of_one_prompt_has_one_row_and_rows_are_added_as_they_come(llama):
    from raymodel.serve.slots import SlotDecoder

    decoder = SlotDecoder(llama, num_slots=8, context_tokens=512)
    with torch.inference_mode():
        decoder.prefill([[5, 6, 7]])
        assert decoder._layers[0].keys.shape[0] == 1
        decoder.prefill([[8, 9], [4, 5]])
        assert decoder._layers[0].keys.shape[0] == 4
        logits = decoder.step([1, 2, 3])
        plain = llama(input_ids=torch.tensor([[5, 6, 7, 1]])).logits[0, -1]
    torch.testing.assert_close(logits[0], plain, rtol=1e-4, atol=1e-4)
