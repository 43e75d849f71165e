"""Documents of one row are kept apart, and examples share one, with the loss of each alone."""

from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from raymodel.modality.text import TextProcessor
from raymodel.model.attention import documents_apart, keep_documents_apart
from raymodel.model.build import build_model
from raymodel.model.initial import InitialWeights
from raymodel.model.materialise import materialise
from raymodel.model.spec import ModelSpec
from raymodel.tasks import get_task, make_task
from raymodel.tasks.documents import BOUNDS
from raymodel.tasks.spec import TASK_SPECS
from raymodel.tasks.spec.language import CausalLMSpec, MaskedLMSpec
from raymodel.testing.tiny import build_tiny_llama, train_tiny_tokenizer

TEXT = "def add(a, b): return a + b  # größer ≥ 0 and more text to predict\n"
LLAMA, MAMBA, BERT = (SimpleNamespace(model_type=name) for name in ("llama", "mamba", "bert"))
# Two rows: of documents of 3, 2 and 3 tokens, and the end of the third, then one, then padding.
ROWS = {
    "tokens": np.array([[5, 6, 0, 7, 0, 8, 9, 10], [11, 0, 12, 13, 0, 1, 1, 1]]),
    "length": np.array([8, 5]),
    "document_starts": [np.array([0, 3, 5]), np.array([2])],
}
TEXTS = [[5, 6, 0], [7, 0], [8, 9, 10], [11, 0], [12, 13, 0]]
EXAMPLES = {
    "input_ids": [[5, 6, 7, 0], [8, 9, 3, 4, 2, 30, 31, 32, 0], [14, 15]],
    "prompt_length": np.array([2, 1, 0]),
}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tiny_tokenizer([TEXT])


@pytest.fixture
def apart(tokenizer):
    return get_task("causal_lm")(processor=TextProcessor(tokenizer)).for_model(LLAMA)


@pytest.fixture
def padded(tokenizer):
    return make_task(CausalLMSpec(cross_documents=True), processor=TextProcessor(tokenizer))


def loss_and_gradient(task, model, rows):
    batch = task.collate(rows)
    model.zero_grad()
    loss = task.loss(model, batch)
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in model.parameters()], task.num_targets(batch)


@pytest.mark.parametrize(
    ("spec", "config", "expected"),
    [
        (CausalLMSpec(), LLAMA, True),
        (CausalLMSpec(cross_documents=True), LLAMA, False),
        (CausalLMSpec(), MAMBA, False),
        (CausalLMSpec(), BERT, False),
        (MaskedLMSpec(), BERT, True),
        (MaskedLMSpec(cross_documents=True), BERT, False),
    ],
)
def test_documents_are_kept_apart_unless_the_job_or_the_model_says_otherwise(
    spec, config, expected
):
    assert make_task(spec).for_model(config).keeps_apart is expected


def test_other_tasks_know_no_documents():
    kinds = [get_task(spec.model_fields["name"].default) for spec in TASK_SPECS]
    texts = [kind for kind in kinds if kind.modality == "text"]
    able = {kind.name for kind in texts if kind().for_model(LLAMA).keeps_apart}
    assert able == {"causal_lm", "chat"}


def test_rows_that_cross_documents_are_as_they_were(padded, apart, tokenizer):
    for rows in (ROWS, EXAMPLES):
        batch = padded.for_model(LLAMA).collate(rows)
        before = get_task("causal_lm")(processor=TextProcessor(tokenizer)).collate(rows)
        assert batch.keys() == before.keys() == {"input_ids", "labels"}
        assert all(torch.equal(batch[name], before[name]) for name in batch)


def test_positions_begin_anew_in_each_document_and_in_the_padding(apart):
    batch = apart.collate(ROWS)
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 1, 2], [0, 1, 0, 1, 2, 0, 1, 2]]
    assert batch[BOUNDS].tolist() == [0, 3, 5, 8, 10, 13, 16]


def test_the_first_token_of_a_document_is_not_predicted(apart, padded):
    batch = apart.collate(ROWS)
    no = -100
    assert batch["labels"].tolist() == [
        [no, 6, 0, no, 0, no, 9, 10],
        [no, 0, no, 13, 0, no, no, no],
    ]
    assert apart.num_targets(batch) == 8
    assert padded.num_targets(padded.collate(ROWS)) == 11


def test_the_loss_of_a_row_is_that_of_its_documents_alone(apart, padded):
    model = build_tiny_llama()
    alone = {"input_ids": TEXTS, "prompt_length": np.ones(len(TEXTS), dtype=int)}
    loss, gradient, targets = loss_and_gradient(padded, model, alone)
    keep_documents_apart(model, "sdpa")
    assert targets == 8
    found, slopes, same = loss_and_gradient(apart, model, ROWS)
    assert same == targets
    torch.testing.assert_close(found, loss, rtol=1e-5, atol=0)
    for one, other in zip(slopes, gradient, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_examples_end_to_end_have_the_loss_of_padded_ones(apart, padded):
    model = build_tiny_llama()
    loss, gradient, targets = loss_and_gradient(padded, model, EXAMPLES)
    keep_documents_apart(model, "sdpa")
    found, slopes, same = loss_and_gradient(apart, model, EXAMPLES)
    assert same == targets == 2 + 8 + 1
    torch.testing.assert_close(found, loss, rtol=1e-5, atol=0)
    for one, other in zip(slopes, gradient, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_examples_end_to_end_have_next_to_no_padding(apart, padded):
    batch = apart.collate(EXAMPLES)
    assert batch["input_ids"].tolist() == [[*chain(*EXAMPLES["input_ids"]), 1]]
    assert apart.num_positions(batch) == 16
    assert padded.num_positions(padded.collate(EXAMPLES)) == 48
    assert batch[BOUNDS].tolist() == [0, 4, 13, 15, 16]


def test_conversations_end_to_end_have_the_loss_of_padded_ones(tokenizer):
    chat = get_task("chat")(processor=TextProcessor(tokenizer))
    rows = {"input_ids": EXAMPLES["input_ids"], "answers": [[2, 4], [1, 3, 5, 9], [1, 2]]}
    model = build_tiny_llama()
    loss, _, targets = loss_and_gradient(chat, model, rows)
    keep_documents_apart(model, "sdpa")
    found, _, same = loss_and_gradient(chat.for_model(LLAMA), model, rows)
    assert same == targets == 2 + 6 + 1
    torch.testing.assert_close(found, loss, rtol=1e-5, atol=0)


@pytest.mark.parametrize("rows", [ROWS, EXAMPLES])
@pytest.mark.parametrize("parts", [2, 3])
def test_the_parts_of_a_row_say_where_documents_begin_in_the_whole(apart, rows, parts):
    batch = apart.collate(rows)
    cut = [apart.sequence_part(batch, part, parts) for part in range(parts)]
    whole = {name: torch.cat([each[name] for each in cut], 1) for name in cut[0] if name != BOUNDS}
    width = batch["input_ids"].shape[1]
    assert torch.equal(whole["position_ids"][:, :width], batch["position_ids"])
    starts = (whole["position_ids"].flatten() == 0).nonzero()[:, 0].tolist()
    for each in cut:
        assert each[BOUNDS].tolist() == [*starts, whole["input_ids"].numel()]
    model = build_tiny_llama()
    keep_documents_apart(model, "sdpa")
    with torch.no_grad():
        expected = apart.loss(model, batch)
        torch.testing.assert_close(apart.loss(model, whole | {BOUNDS: cut[0][BOUNDS]}), expected)


def test_the_bytes_of_the_targets_are_those_of_the_documents(apart, padded, tokenizer):
    documents = [[*tokenizer(text)["input_ids"], 0] for text in (TEXT, "of a", "größer ≥ 0")]
    ids = [*chain(*documents)]
    starts = np.cumsum([0, *(len(each) for each in documents)])[:-1]
    rows = {"tokens": np.array([ids]), "length": [len(ids)], "document_starts": [starts]}
    expected = sum(len(tokenizer.decode(each[1:-1]).encode()) for each in documents)
    assert apart.target_bytes(apart.collate(rows)) == expected
    assert padded.target_bytes(padded.collate(rows)) > expected


def test_encoders_guess_the_same_in_examples_end_to_end(tokenizer):
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    processor = TextProcessor(tokenizer)
    padded = make_task(MaskedLMSpec(cross_documents=True), processor=processor)
    apart = make_task(MaskedLMSpec(), processor=processor).for_model(BERT)
    needed = processor.model_fields(16)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    spec = ModelSpec(architecture="roberta", config=sizes | {"num_attention_heads": 4})
    outline = build_model(spec, padded, needed)
    model = materialise(outline, InitialWeights(outline, 0), torch.float32).train(False)
    rows = {"input_ids": [list(range(10, 10 + size)) for size in (3, 14, 6)]}
    whole, joined = padded.collate(rows), apart.collate(rows)
    assert "attention_mask" not in joined
    assert joined["input_ids"].shape == (1, 24)
    assert apart.num_targets(joined) == padded.num_targets(whole)
    with torch.no_grad():
        expected = padded.loss(model, whole)
        with documents_apart(model):
            torch.testing.assert_close(apart.loss(model, joined), expected, rtol=1e-5, atol=0)
        torch.testing.assert_close(padded.loss(model, whole), expected, rtol=0, atol=0)


def test_encoders_keep_the_documents_of_a_row_apart(tokenizer):
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    apart = make_task(MaskedLMSpec(), processor=TextProcessor(tokenizer)).for_model(BERT)
    batch = apart.collate(ROWS)
    assert batch[BOUNDS].tolist() == [0, 3, 5, 8, 10, 13, 16]
    assert batch.keys() == {"input_ids", "labels", "position_ids", BOUNDS}


@pytest.mark.parametrize("kind", TASK_SPECS)
def test_what_an_artifact_says_of_its_task_is_read_back(kind):
    """Evaluation keeps documents apart as the training did."""
    spec = kind()
    if "cross_documents" in kind.model_fields:
        spec = kind(cross_documents=True)
    assert kind.model_validate(yaml.safe_load(yaml.safe_dump(spec.identity()))) == spec
