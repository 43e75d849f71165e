"""Causal language modelling: what bears loss, what is cut, what is measured."""

import math
from copy import deepcopy

import numpy as np
import pytest
import sacrebleu
import torch
import torch.nn.functional as F
from tokenizers.processors import TemplateProcessing

from raymodel.modality.text import TextProcessor
from raymodel.tasks import get_task
from raymodel.tasks.base import LeftOut, Limits
from raymodel.tasks.generation import generate_answers
from raymodel.tasks.likelihood import likelihood_scores
from raymodel.tasks.prompt import end_of_prompt
from raymodel.tasks.text_scores import score_answers
from raymodel.testing.tiny import build_tiny_bert, build_tiny_llama, train_tiny_tokenizer

TEXT = "def add(a, b): return a + b  # größer ≥ 0 and more text to predict\n"


@pytest.fixture(scope="module")
def tokenizer():
    return train_tiny_tokenizer([TEXT])


@pytest.fixture
def task(tokenizer):
    return with_tokenizer(tokenizer)


def with_tokenizer(tokenizer):
    return get_task("causal_lm")(processor=TextProcessor(tokenizer))


def features(task, code, docstring, max_length=64):
    return task.features({"prompt": code + "\n", "response": docstring}, max_length)


def test_an_example_is_prompt_then_response_then_end_of_text(task, tokenizer):
    example = features(task, "def f():", "Add.").features
    prompt = tokenizer("def f():\n")["input_ids"]
    response = tokenizer("Add.")["input_ids"]
    assert example["input_ids"] == [*prompt, *response, tokenizer.eos_token_id]
    assert example["prompt_length"] == len(prompt)


def test_a_long_prompt_loses_its_start_and_the_response_stays_whole(task, tokenizer):
    found = features(task, "z" * 99, "Add.", max_length=16)
    example = found.features
    assert found.cut == ("prompt",)
    assert len(example["input_ids"]) == 16
    answer = example["input_ids"][example["prompt_length"] :]
    assert tokenizer.decode(answer, skip_special_tokens=True) == "Add."
    assert answer[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(example["input_ids"][: example["prompt_length"]]).endswith("z\n")


def test_a_long_response_is_cut_without_end_of_text(task, tokenizer):
    found = features(task, "z" * 99, "y" * 99, max_length=16)
    assert set(found.cut) == {"prompt", "response"}
    assert len(found.features["input_ids"]) == 16
    assert found.features["prompt_length"] == 8
    assert tokenizer.eos_token_id not in found.features["input_ids"]


@pytest.mark.parametrize("max_length", [2, 3, 9, 16])
def test_a_cut_prompt_keeps_what_the_tokenizer_puts_in_front(task, tokenizer, max_length):
    begins = deepcopy(tokenizer)
    first = begins.convert_tokens_to_ids(begins.pad_token)
    begins.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{begins.pad_token} $A", special_tokens=[(begins.pad_token, first)]
    )
    example = features(with_tokenizer(begins), "z" * 99, "Add.", max_length).features
    ids, length = example["input_ids"], example["prompt_length"]
    assert len(ids) == max_length
    assert ids[0] == first
    assert first not in ids[1:]
    assert end_of_prompt(ids[:length], 1, begins) == [first], "so it is when an answer is measured"
    whole = begins("z" * 99 + "\n")["input_ids"]
    assert ids[1:length] == whole[len(whole) - length + 1 :]


def test_what_fits_is_not_called_cut(task, tokenizer):
    whole = features(task, "def f():", "Add.")
    length = len(whole.features["input_ids"])
    assert features(task, "def f():", "Add.", max_length=length) == whole
    assert whole.cut == ()


@pytest.mark.parametrize("response", ["", "  ", "\n"])
def test_an_empty_response_teaches_nothing(task, tokenizer, response):
    assert features(task, "def f():", response) == LeftOut("empty response")


def test_only_the_response_bears_loss_and_padding_is_on_the_right(task):
    rows = {"input_ids": [[5, 6, 7, 0], [8, 9, 0]], "prompt_length": [2, 1]}
    batch = task.collate(rows)
    assert batch["input_ids"].shape == (2, 8)
    assert batch["input_ids"][1].tolist() == [8, 9, 0, 1, 1, 1, 1, 1]
    assert batch["labels"][0].tolist() == [-100, -100, 7, 0, -100, -100, -100, -100]
    assert batch["labels"][1].tolist() == [-100, 9, 0, -100, -100, -100, -100, -100]
    assert task.num_targets(batch) == 4


def test_packed_rows_predict_every_token_but_the_first_up_to_their_length(task):
    tokens = np.arange(12, dtype=np.int32).reshape(2, 6)
    rows = {"tokens": tokens, "length": np.array([6, 4], np.int32), "document_starts": [[0], [0]]}
    batch = task.collate(rows)
    assert batch["labels"][0].tolist() == [0, 1, 2, 3, 4, 5]
    assert batch["labels"][1].tolist() == [6, 7, 8, 9, -100, -100]
    assert task.num_targets(batch) == 5 + 3


def test_the_loss_is_that_of_the_unpadded_examples_one_by_one(task):
    model = build_tiny_llama()
    rows = {"input_ids": [[5, 6, 7, 0], [8, 9, 3, 4, 2, 0]], "prompt_length": [2, 1]}
    batched = task.loss(model, task.collate(rows))
    expected = 0.0
    for ids, prompt in zip(rows["input_ids"], rows["prompt_length"], strict=True):
        logits = model(torch.tensor([ids])).logits[0]
        expected += F.cross_entropy(
            logits[prompt - 1 : -1], torch.tensor(ids[prompt:]), reduction="sum"
        )
    torch.testing.assert_close(batched, expected)


def test_an_encoder_is_refused_because_it_sees_what_it_should_predict(task):
    with pytest.raises(ValueError, match="both directions"):
        task.check_model(build_tiny_bert().config)


def likelihood(task, model, rows):
    batch = task.collate(rows)
    with torch.no_grad():
        nats = float(task.loss(model, batch))
    return likelihood_scores(nats, task.num_targets(batch), task.target_bytes(batch))


def test_perplexity_and_bits_per_byte_follow_from_the_mean_loss(task, tokenizer):
    model = build_tiny_llama().eval()
    ids = tokenizer(TEXT)["input_ids"]
    rows = {"tokens": np.array([ids], np.int32), "length": np.array([len(ids)])}
    with torch.no_grad():
        nats = F.cross_entropy(model(torch.tensor([ids])).logits[0, :-1], torch.tensor(ids[1:]))
    num_bytes = len(tokenizer.decode(ids[1:]).encode())
    assert num_bytes > len(tokenizer.decode(ids[1:]))  # the text is not all ASCII
    assert not task.has_answers(rows)
    assert likelihood(task, model, rows) == pytest.approx(
        {
            "perplexity": math.exp(nats),
            "bits_per_byte": nats.item() * (len(ids) - 1) / math.log(2) / num_bytes,
        },
        rel=1e-5,
    )


def test_a_loss_beyond_all_numbers_is_infinite_and_none_at_all_an_error():
    assert likelihood_scores(1e6, 1, 1)["perplexity"] == math.inf
    with pytest.raises(ValueError, match="no token to predict"):
        likelihood_scores(0.0, 0, 0)


def test_a_batch_of_answers_equals_the_answers_one_by_one(tokenizer):
    model = build_tiny_llama().eval()
    prompts = [[5, 6, 7], [8], [9, 10, 11, 12, 13]]
    together = generate_answers(model, TextProcessor(tokenizer), prompts, max_new_tokens=6)
    alone = [
        generate_answers(model, TextProcessor(tokenizer), [p], max_new_tokens=6)[0] for p in prompts
    ]
    assert together == alone
    assert any(together)


def test_an_answer_that_cannot_fit_the_model_is_refused(tokenizer):
    with pytest.raises(ValueError, match="only 64 positions"):
        generate_answers(build_tiny_llama(), TextProcessor(tokenizer), [[5]], max_new_tokens=64)


def test_a_model_that_learnt_its_examples_answers_with_bleu_100(task, tokenizer):
    model = build_tiny_llama().train()
    rows = {"input_ids": [], "prompt_length": []}
    for code, text in (("one", "add all four numbers"), ("two", "give back the last text")):
        for name, value in features(task, code, text).features.items():
            rows[name].append(value)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    batch = task.collate(rows)
    for _ in range(60):
        optimizer.zero_grad()
        (task.loss(model, batch) / task.num_targets(batch)).backward()
        optimizer.step()
    answers = task.predict(model.eval(), rows, Limits(max_new_tokens=40))
    references = task.references(rows)
    scores = task.measure(answers, references, ["bleu", "chrf", "exact_match"])
    assert scores["bleu"] == pytest.approx(100)
    assert scores["chrf"] == pytest.approx(100)
    assert scores["exact_match"] == 1
    assert 1 < likelihood(task, model, rows)["perplexity"] < 1.5
    sample = task.sample(rows, 0, answers[0], references[0])
    assert sample.prompt == "one\n"
    assert sample.answer == sample.reference == "add all four numbers"
    assert sample.request == {"prompt": "one\n"}


def test_scores_are_those_of_sacrebleu():
    answers, references = ["the cat sat down", "a b c d e"], ["the cat sat here", "a b c d f"]
    scores = score_answers(answers, references)
    assert scores["bleu"] == sacrebleu.BLEU().corpus_score(answers, [references]).score
    assert scores["chrf"] == sacrebleu.CHRF().corpus_score(answers, [references]).score
    assert 0 < scores["bleu"] < 100


def test_an_exact_match_is_the_whole_answer():
    scores = score_answers(["email", "emails", "xml", ""], ["email", "email", "asyncio", "xml"])
    assert scores["exact_match"] == 0.25


@pytest.mark.parametrize(("width", "parts"), [(8, 2), (7, 2), (9, 4)])
def test_the_parts_of_a_row_bear_the_loss_of_the_row(task, width, parts):
    """With the targets across their borders, also where they are not as long as each other."""
    model = build_tiny_llama()
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(2, 300, (3, width), generator=draw)
    labels = ids.masked_fill(torch.arange(width) >= torch.tensor([[width], [4], [2]]), -100)
    cut = [task.sequence_part({"input_ids": ids, "labels": labels}, i, parts) for i in range(parts)]
    whole = {name: torch.cat([part[name] for part in cut], dim=1) for name in cut[0]}
    assert len({part["targets"].shape for part in cut}) == 1
    assert whole["position_ids"].tolist() == [list(range(whole["targets"].shape[1]))] * 3
    assert torch.equal(whole["input_ids"][:, :width], ids)
    assert int((whole["targets"] != -100).sum()) == task.num_targets({"labels": labels})
    with torch.no_grad():
        expected = task.loss(model, {"input_ids": ids, "labels": labels})
        torch.testing.assert_close(task.loss(model, whole), expected)
