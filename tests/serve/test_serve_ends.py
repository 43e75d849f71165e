"""An answer ends where the evaluation ended it, whichever file of the model names the end."""

import copy
import queue
from types import SimpleNamespace

import pytest

from raymodel.modality.text import TextProcessor
from raymodel.serve.choice import build_engine
from raymodel.serve.sampling import Sampling
from raymodel.tasks.boundaries import end_tokens, first_token, up_to_end
from raymodel.tasks.generation import generate_answers

PROMPTS = [[5, 6, 7], [40, 41], [200, 9, 33, 12]]


def files(tokenizer=None, config=None, generation=None):
    """A model and a tokenizer of which only the ends are known."""
    own = SimpleNamespace(eos_token_id=config)
    own.get_text_config = lambda decoder: own
    model = SimpleNamespace(config=own, generation_config=SimpleNamespace(eos_token_id=generation))
    return model, SimpleNamespace(eos_token_id=tokenizer)


@pytest.mark.parametrize(
    ("named", "ends"),
    [
        ({}, set()),
        ({"tokenizer": 1}, {1}),
        ({"config": 2}, {2}),
        ({"config": [2, 3]}, {2, 3}),
        ({"generation": [4, 5]}, {4, 5}),
        ({"tokenizer": 1, "config": 2, "generation": [2, 3]}, {1, 2, 3}),
        ({"tokenizer": 0, "generation": 7}, {0, 7}),
    ],
)
def test_every_file_that_names_an_end_counts(named, ends):
    assert end_tokens(*files(**named)) == ends


def test_a_model_without_a_generation_configuration_ends_by_the_others():
    model, tokenizer = files(tokenizer=1)
    model.generation_config = None
    assert end_tokens(model, tokenizer) == {1}


def test_an_answer_is_cut_at_its_first_end():
    assert up_to_end([5, 6, 2, 7, 3], frozenset({2, 3})) == [5, 6]
    assert up_to_end([5, 6], frozenset({2})) == [5, 6]


def test_an_empty_prompt_begins_as_a_text_does():
    assert first_token(SimpleNamespace(bos_token_id=0, eos_token_id=1)) == 0
    assert first_token(SimpleNamespace(bos_token_id=None, eos_token_id=1)) == 1
    assert first_token(SimpleNamespace(bos_token_id=None, eos_token_id=None)) is None


def served(model, tokenizer, prompts, max_tokens, asked):
    engine = build_engine(model, tokenizer, batch=3, queue=8, asked=asked).engine
    chunks = queue.Queue()
    try:
        sampling = Sampling(max_tokens=max_tokens, temperature=0)
        engine.submit([(p, sampling) for p in prompts], lambda i, chunk: chunks.put((i, chunk)))
        texts, reasons = [""] * len(prompts), {}
        while len(reasons) < len(prompts):
            index, chunk = chunks.get(timeout=30)
            assert chunk.error is None
            texts[index] += chunk.text
            if chunk.finish_reason:
                reasons[index] = chunk.finish_reason
        return [text.strip() for text in texts], reasons
    finally:
        engine.close()


@pytest.mark.parametrize("asked", ["transformers", "openvino"])
@pytest.mark.parametrize("place", ["tokenizer", "config", "generation"])
def test_evaluation_and_server_end_at_the_same_token(llama, tokenizer, monkeypatch, place, asked):
    whole = generate_answers(llama, TextProcessor(tokenizer), PROMPTS, max_new_tokens=20)
    plain = tokenizer(whole[0], add_special_tokens=False)["input_ids"]
    end = plain[len(plain) // 2]  # a token of the answer, which no other file calls an end
    if place == "tokenizer":
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(end)
    else:
        holder = llama.config if place == "config" else llama.generation_config
        monkeypatch.setattr(holder, "eos_token_id", [0, end])
    measured = generate_answers(llama, TextProcessor(tokenizer), PROMPTS, max_new_tokens=20)
    answers, reasons = served(llama, tokenizer, PROMPTS, 20, asked)
    assert answers == measured
    assert reasons[0] == "stop"
    assert len(measured[0]) < len(whole[0])
    assert whole[0].startswith(measured[0])
