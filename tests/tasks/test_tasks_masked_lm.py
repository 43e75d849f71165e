"""Masked language modelling: fixed masks, the models that it trains, and what they answer."""

from __future__ import annotations

from dataclasses import fields as fields_of
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig

from raymodel.chance import Draw
from raymodel.data.pack import pack_rows
from raymodel.data.shard_format import PartContent
from raymodel.errors import SpecError
from raymodel.job.check import check_job
from raymodel.job.preflight import look_at_inputs
from raymodel.modality.characters import train_character_tokenizer
from raymodel.modality.encode import Encoded
from raymodel.modality.text import TextProcessor, train_tokenizer
from raymodel.model.build import build_model
from raymodel.model.examine import Question
from raymodel.model.initial import InitialWeights
from raymodel.model.materialise import materialise
from raymodel.model.spec import ModelSpec
from raymodel.spec.load import load_job
from raymodel.storage.manifest import commit_manifest
from raymodel.storage.uri import Location
from raymodel.tasks import make_task
from raymodel.tasks.base import Example, LeftOut, Limits
from raymodel.tasks.loss import IGNORED
from raymodel.tasks.masking import word_numbers, word_starts
from raymodel.tasks.spec.language import MaskedLMSpec
from raymodel.testing.tiny import train_tiny_tokenizer

# Transformers is asked in this process, which has imported it.
pytestmark = pytest.mark.usefixtures("ask_here")

TEXTS = [
    "the quick brown fox jumps over the lazy dog",
    "a stitch in time saves nine, they say",
    "床前明月光，疑是地上霜。举头望明月，低头思故乡。",
    "unbelievable tokenization of words",
]
LENGTH = 24
SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def processor(kind: str) -> TextProcessor:
    if kind == "characters":
        return TextProcessor(train_character_tokenizer(TEXTS, 200))
    return TextProcessor(train_tokenizer(TEXTS * 3, 320, mask=True))


def make(kind: str = "characters", **spec):
    return make_task(MaskedLMSpec(**spec), processor=processor(kind))


def packed(task, texts=TEXTS):
    """Columns of packed rows, as training reads them."""
    from raymodel.data.columns import columns_of

    tokenizer = task.processor.tokenizer
    table = pack_rows(
        Encoded.of([tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]),
        sequence_length=LENGTH,
        end_of_text=task.processor.end_of_text,
        padding=task.processor.padding,
        vocab_size=task.processor.num_ids,
    )
    return columns_of(table)


def examples(task, texts=TEXTS):
    return {"input_ids": [task.features({"text": t}, 64).features["input_ids"] for t in texts]}


def part(rows, start, stop):
    return {name: column[start:stop] for name, column in rows.items()}


def build(task, architecture="bert", **config):
    needed = task.processor.model_fields(64)
    model = build_model(
        ModelSpec(architecture=architecture, config={**SMALL, **config}), task, needed
    )
    return materialise(model, InitialWeights(model, 0), torch.float32)


# ---- masks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows_of", [packed, examples])
@pytest.mark.parametrize("with_draw", [True, False])
@pytest.mark.parametrize("kind", ["characters", "bytes"])
def test_a_row_has_one_mask_whatever_it_is_collated_with(kind, with_draw, rows_of):
    task = make(kind, mask=0.4, whole_words=True)
    rows = rows_of(task)
    count = len(next(iter(rows.values())))
    draw = Draw(7, 3, range(10, 10 + count)) if with_draw else None
    whole = task.collate(rows, draw)
    assert count > 2
    for start, stop in ((0, 1), (1, count)):
        piece = task.collate(part(rows, start, stop), draw and draw.part(start, stop))
        for name, tensor in piece.items():
            width = tensor.shape[1]
            assert torch.equal(tensor, whole[name][start:stop, :width]), name
            rest = {"labels": IGNORED, "input_ids": task.processor.padding, "attention_mask": 0}
            assert (whole[name][start:stop, width:] == rest[name]).all()


def test_every_step_draws_another_mask_and_validation_never_does():
    task, rows = make(), packed(make())
    masks = [task.collate(rows, Draw(7, step, range(9)))["labels"] for step in (0, 1)]
    assert not torch.equal(*masks)
    again = [task.collate(rows)["labels"] for _ in range(2)]
    assert torch.equal(*again)


def test_validation_hides_the_same_tokens_however_a_model_was_trained():
    plain, other = make(), make(mask=0.6, whole_words=True)
    rows = packed(plain)
    assert torch.equal(plain.collate(rows)["input_ids"], other.collate(rows)["input_ids"])
    draw = Draw(7, 0, range(9))
    assert other.num_targets(other.collate(rows, draw)) > 2 * plain.num_targets(
        plain.collate(rows, draw)
    )


@pytest.mark.parametrize("kind", ["characters", "bytes"])
def test_what_is_hidden_is_to_be_guessed_and_nothing_else(kind):
    task = make(kind, mask=0.5)
    rows = packed(task)
    special = torch.tensor(task.processor.tokenizer.all_special_ids)
    seen = 0
    for step in range(20):
        batch = task.collate(rows, Draw(7, step, range(9)))
        original = torch.from_numpy(np.stack(rows["tokens"]).astype(np.int64))
        is_target = batch["labels"] != IGNORED
        assert torch.equal(batch["labels"][is_target], original[is_target])
        assert torch.equal(batch["input_ids"][~is_target], original[~is_target])
        assert not torch.isin(batch["labels"], special).any()
        assert batch["attention_mask"].sum(1).tolist() == list(rows["length"])
        assert not (is_target & (batch["attention_mask"] == 0)).any()
        seen += task.num_targets(batch)
        assert task.num_targets(batch) == int(is_target.sum())
    in_all = 20 * int((~torch.isin(original, special)).sum())
    assert seen / in_all == pytest.approx(0.5, abs=0.05)


def test_words_are_hidden_whole():
    task = make("bytes", mask=0.3, whole_words=True)
    rows = packed(task)
    starts = word_starts(task.processor.tokenizer)
    for step in range(10):
        batch = task.collate(rows, Draw(7, step, range(9)))
        for tokens, labels in zip(rows["tokens"], batch["labels"].numpy(), strict=True):
            ids = np.asarray(tokens, dtype=np.int64)
            special = np.isin(ids, task.processor.tokenizer.all_special_ids)
            words = word_numbers(ids, special, starts)
            for word in np.unique(words[~special]):
                chosen = (labels != IGNORED)[words == word]
                assert chosen.all() or not chosen.any()


# ---- models --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["characters", "bytes"])
@pytest.mark.parametrize("architecture", ["bert", "roberta", "modernbert", "electra"])
def test_encoders_learn_from_both_kinds_of_rows(architecture, kind):
    task = make(kind)
    model = build(task, architecture)
    ids = {task.processor.padding, task.processor.tokenizer.mask_token_id}
    assert max(ids) < model.config.vocab_size
    for name in ("pad_token_id", "cls_token_id", "sep_token_id"):
        told = getattr(model.config, name, None)
        assert told is None or told == getattr(task.processor.tokenizer, name)
    model.train()
    for rows in (packed(task), examples(task)):
        loss = task.loss(model, task.collate(rows, Draw(7, 0, range(9))))
        loss.backward()
        assert loss.dtype == torch.float32
        assert torch.isfinite(loss)
    gradients = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(grad is not None and torch.isfinite(grad).all() for grad in gradients)


def test_the_loss_is_the_sum_over_hidden_tokens_and_adds_up_over_micro_batches():
    task = make()
    model, rows = build(task).eval(), examples(task)
    draw = Draw(7, 0, range(4))
    batch = task.collate(rows, draw)
    whole = task.loss(model, batch)
    logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    expected = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), reduction="sum")
    torch.testing.assert_close(whole, expected)
    pieces = [(0, 1), (1, 4)]
    parts = [task.collate(part(rows, *each), draw.part(*each)) for each in pieces]
    torch.testing.assert_close(sum(task.loss(model, each) for each in parts), whole)
    assert sum(map(task.num_targets, parts)) == task.num_targets(batch)


def test_a_tiny_bert_learns_a_text_by_heart_and_fills_it_in():
    task = make()
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = build(task, **dropout).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    rows = examples(task, [TEXTS[2], TEXTS[1]])
    for step in range(150):
        batch = task.collate(rows, Draw(7, step, range(2)))
        loss = task.loss(model, batch) / task.num_targets(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.5
    hidden = "床前明[MASK]光，疑是地上[MASK]。举头望明月，低头思故乡。"
    row = task.features({"text": hidden}, None).features
    plain = task.features({"text": "a b"}, None).features
    columns = {"input_ids": [row["input_ids"], plain["input_ids"]]}
    answer, nothing = task.predict(model.eval(), columns, Limits())
    assert answer["text"] == TEXTS[2] == task.answer_text(answer)
    assert [fills[0]["token"] for fills in answer["fills"]] == ["月", "霜"]
    for fills in answer["fills"]:
        probs = [fill["prob"] for fill in fills]
        assert len(fills) == 5
        assert sum(probs) <= 1
        assert probs == sorted(probs, reverse=True)
    assert nothing == {"fills": [], "text": "a b"}
    sample = task.sample(columns, 0, answer, "")
    assert (sample.prompt, sample.request) == (hidden, {"text": hidden})


def test_special_tokens_are_no_guesses():
    task = make()
    model = build(task).eval()
    with torch.no_grad():
        model.cls.predictions.bias[:5] = 50.0
    columns = examples(task, ["床前[MASK]月光"])
    (answer,) = task.predict(model, columns, Limits())
    assert not {"", "[SEP]", "[MASK]"} & {fill["token"] for fill in answer["fills"][0]}
    assert sum(fill["prob"] for fill in answer["fills"][0]) < 1e-6


# ---- data ----------------------------------------------------------------------------------------


def test_a_request_hides_with_one_name_in_every_tokenizer():
    for kind in ("characters", "bytes"):
        task = make(kind)
        tokenizer = task.processor.tokenizer
        ids = [
            task.features({"text": f"the {name} fox"}, None).features["input_ids"]
            for name in ("[MASK]", tokenizer.mask_token)
        ]
        assert ids[0] == ids[1]
        assert ids[0].count(tokenizer.mask_token_id) == 1
        assert task.features(task.example_request(), None).features["input_ids"]


def test_a_text_is_cut_and_an_empty_one_left_out():
    task = make()
    cut = task.features({"text": TEXTS[2]}, 10)
    assert isinstance(cut, Example)
    assert (len(cut.features["input_ids"]), cut.cut) == (10, ("text",))
    assert task.features({"text": ""}, 10) == LeftOut("no token to guess")
    assert task.features({"text": "☃"}, 10) == LeftOut("no token to guess")  # unknown
    assert isinstance(task.features({"text": "[MASK]"}, 10), Example)


def test_packed_rows_and_examples_are_measured_by_the_loss_alone():
    task = make()
    assert task.can_evaluate(["tokens", "document_starts", "length"])
    assert task.can_evaluate(["input_ids"])
    assert not task.can_evaluate(["image", "label"])
    assert not task.has_answers(packed(task))
    assert {measure.needs for measure in task.measures.values()} == {"loss"}


# ---- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "fields"),
    [("llama", {}), ("gpt2", {}), ("t5", {}), ("bart", {}), ("bert", {"is_decoder": True})],
)
def test_models_that_see_one_side_are_refused(architecture, fields):
    with pytest.raises(ValueError, match="is no encoder with a head that guesses"):
        make().check_model(AutoConfig.for_model(architecture, **fields))


def test_a_tokenizer_without_a_mask_is_refused():
    task = make_task(MaskedLMSpec(), processor=TextProcessor(train_tiny_tokenizer(TEXTS)))
    for refused in (
        lambda: task.check_processor(task.processor),
        lambda: task.features({"text": "a"}, None),
        lambda: task.collate({"input_ids": [[5, 6]]}),
    ):
        with pytest.raises(ValueError, match=r"no token that stands for a hidden one.*mask: true"):
            refused()
    for kind in ("characters", "bytes"):
        make(kind, whole_words=True).check_processor(processor(kind))


JOB = """\
name: masked
prepare:
  sources: [{path: "python:stdlib"}]
  tokenizer: {vocab_size: 4096, mask: true}
  sequence_length: 128
pretrain:
  model: {preset: bert-tiny}
  objective: {name: masked_lm, mask: 15%, whole_words: true}
  global_batch: 8
  duration: 10 steps
evaluate: {metrics: [perplexity]}
serve: {port: 8000}
"""


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("", "", None),
        (", mask: true", ", tokens: characters", None),
        (", mask: true", "", "prepare.tokenizer: masked_lm needs a token.* add mask: true"),
        ("bert-tiny", "llama-tiny", "pretrain.model.config: .*no encoder"),
        ("mask: 15%", "mask: 0%", "objective.*mask"),
        ("[perplexity]", "[bits_per_byte]", "not a measure of masked_lm, which has perplexity"),
    ],
)
def test_a_job_is_checked_before_anything_starts(old, new, told, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = tmp_path / "job.yaml"
    path.write_text(JOB.replace(old, new), encoding="utf-8")
    if told is None:
        check_job(load_job(path))
        return
    with pytest.raises(SpecError, match=told):
        check_job(load_job(path))


def test_a_decoder_is_never_thought_to_fit_without_asking():
    fields = SMALL | {"num_key_value_heads": 2}
    assert Question(task="causal_lm", architecture="llama", fields=fields).is_plain
    assert not Question(task="masked_lm", architecture="llama", fields=fields).is_plain


@pytest.mark.parametrize("name", ["tokenizer", "dataset"])
def test_what_is_loaded_is_looked_at_before_the_first_stage(name, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for masked in (True, False):
        place = tmp_path / f"{masked}"
        reads = TextProcessor(train_tokenizer(TEXTS, 300, mask=masked))
        text = JOB.replace("vocab_size: 4096, mask: true", f"load: {place}")
        if name == "tokenizer":
            reads.save(Location.parse(str(place)))
        else:
            part = {field.name: 1 for field in fields_of(PartContent)} | {"folder": "part"}
            content = {
                "processor": {
                    "modality": "text",
                    "folder": "processor",
                    "sha256": "0",
                    **reads.facts(),
                },
                "sequence_length": 128,
                "splits": {split: {"parts": [part]} for split in ("train", "holdout")},
            }
            commit_manifest(
                Location.parse(str(place)),
                job_name="other",
                stage="prepare",
                fingerprint="0123456789abcdef",
                parents={},
                content=content,
            )
            text = text.replace("duration", f"data: {place}\n  duration")
            text = text[: text.index("prepare")] + text[text.index("pretrain") :]
        path = tmp_path / "job.yaml"
        path.write_text(text, encoding="utf-8")
        job = load_job(path).job
        found = [f.message for f in look_at_inputs(job, tmp_path).findings if "hidden" in f.message]
        assert bool(found) != masked, found
