"""Text to text: rows of both kinds, the models that learn from them, and what they answer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig

from raymodel.chance import Draw
from raymodel.data.columns import columns_of
from raymodel.data.pack import pack_rows
from raymodel.errors import SpecError
from raymodel.job.check import check_job
from raymodel.job.forecast import plan_job
from raymodel.job.preflight import look_at_inputs
from raymodel.modality.encode import Encoded
from raymodel.modality.text import TextProcessor, train_tokenizer
from raymodel.model.adapters import attach_adapter
from raymodel.model.build import build_model
from raymodel.model.examine import Question
from raymodel.model.initial import InitialWeights
from raymodel.model.load import load_for_use
from raymodel.model.materialise import materialise
from raymodel.model.spec import AdapterSpec, ModelSpec
from raymodel.spec.load import load_job
from raymodel.storage.uri import Location
from raymodel.tasks import make_task
from raymodel.tasks.base import LeftOut, Limits
from raymodel.tasks.loss import IGNORED
from raymodel.tasks.spec.language import Seq2SeqLMSpec
from raymodel.tasks.text_scores import rouge_scores, signatures
from raymodel.testing.tiny import train_tiny_tokenizer

# Transformers is asked in this process, which has imported it.
pytestmark = pytest.mark.usefixtures("ask_here")

TEXTS = [
    "the quick brown fox jumps over the lazy dog",
    "a stitch in time saves nine, they say",
    "unbelievable tokenization of words",
]
PAIRS = {
    "the quick brown fox": "le vif renard brun",
    "a stitch in time": "un point à temps",
    "over the lazy dog": "par-dessus le chien",
}
LENGTH = 24
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
BART = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "dropout": 0.0,
}
MODELS = {"t5": T5, "bart": BART, "marian": BART}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Of models so small several threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def processor() -> TextProcessor:
    texts = [*TEXTS, *PAIRS.values()] * 3
    return TextProcessor(train_tokenizer(texts, 360, sentinels=12))


def make(processor, **spec):
    return make_task(Seq2SeqLMSpec(**spec), processor=processor)


def packed(task, texts=TEXTS):
    """Columns of packed rows, as training reads them."""
    tokenizer = task.processor.tokenizer
    table = pack_rows(
        Encoded.of([tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]),
        sequence_length=LENGTH,
        end_of_text=task.processor.end_of_text,
        padding=task.processor.padding,
        vocab_size=task.processor.num_ids,
    )
    return columns_of(table)


def examples(task, pairs=PAIRS):
    made = [task.features({"source": s, "target": t}, 64).features for s, t in pairs.items()]
    return {name: [row[name] for row in made] for name in made[0]}


def part(rows, start, stop):
    return {name: column[start:stop] for name, column in rows.items()}


def build(task, architecture="t5", positions=64):
    model = build_model(
        ModelSpec(architecture=architecture, config=MODELS[architecture]),
        task,
        task.processor.model_fields(positions),
    )
    return materialise(model, InitialWeights(model, 0), torch.float32)


# ---- packed rows ---------------------------------------------------------------------------------


@pytest.mark.parametrize("with_draw", [True, False])
@pytest.mark.parametrize("rows_of", [packed, examples])
def test_a_row_is_the_same_whatever_it_is_collated_with(processor, rows_of, with_draw):
    task = make(processor, corrupt=0.4)
    rows = rows_of(task)
    count = len(next(iter(rows.values())))
    draw = Draw(7, 3, range(10, 10 + count)) if with_draw else None
    whole = task.collate(rows, draw)
    rest = {"labels": IGNORED, "input_ids": processor.padding, "attention_mask": 0}
    for start, stop in ((0, 1), (1, count)):
        piece = task.collate(part(rows, start, stop), draw and draw.part(start, stop))
        for name, tensor in piece.items():
            width = tensor.shape[1]
            assert torch.equal(tensor, whole[name][start:stop, :width]), name
            assert (whole[name][start:stop, width:] == rest[name]).all()


def test_every_step_takes_other_tokens_out_and_validation_never_does(processor):
    task, other = make(processor), make(processor, corrupt=0.6, mean_span=8)
    rows = packed(task)
    read = [task.collate(rows, Draw(7, step, range(9)))["input_ids"] for step in (0, 1)]
    assert not torch.equal(*read)
    for name, tensor in task.collate(rows).items():
        assert torch.equal(tensor, other.collate(rows)[name]), "however a model was trained"
    draw = Draw(7, 0, range(9))
    assert other.num_targets(other.collate(rows, draw)) > 2 * task.num_targets(task.collate(rows))


def test_what_is_read_and_written_of_a_packed_row_is_the_row(processor):
    task = make(processor, corrupt=0.3)
    rows = packed(task)
    tokenizer = processor.tokenizer
    for step in range(10):
        batch = task.collate(rows, Draw(7, step, range(9)))
        for i, length in enumerate(rows["length"]):
            read = batch["input_ids"][i][batch["attention_mask"][i] == 1].tolist()
            written = [token for token in batch["labels"][i].tolist() if token != IGNORED]
            assert written.pop() == tokenizer.eos_token_id
            assert tokenizer.eos_token_id not in written
            for sentinel in processor.sentinels:
                if sentinel in read:
                    at, after = read.index(sentinel), written.index(sentinel) + 1
                    later = range(after, len(written))
                    ends = [k for k in later if written[k] in processor.sentinels]
                    read[at : at + 1] = written[after : min(ends, default=len(written))]
            assert read == list(rows["tokens"][i][:length])


# ---- examples ------------------------------------------------------------------------------------


def test_both_texts_are_closed_and_a_cut_target_is_never_taught_to_end(processor):
    task, end = make(processor), processor.tokenizer.eos_token_id
    values = {"source": TEXTS[0], "target": TEXTS[1]}
    whole = task.features(values, None)
    assert whole.cut == ()
    for ids in whole.features.values():
        assert ids.count(end) == 1
        assert ids[-1] == end
    cut = task.features(values, 8)
    assert cut.cut == ("source", "target")
    assert cut.features["input_ids"] == [*whole.features["input_ids"][:7], end]
    assert cut.features["target_ids"] == whole.features["target_ids"][:8]
    short = make(processor, max_target_length=4).features(values, 64)
    assert short.cut == ("target",)
    assert len(short.features["target_ids"]) == 4
    fits = make(processor, max_target_length=len(whole.features["target_ids"]))
    assert fits.features(values, None) == whole
    assert set(task.features({"source": "a"}, None).features) == {"input_ids"}


def test_a_pair_without_one_side_is_left_out_with_its_reason(processor):
    task = make(processor)
    assert task.features({"source": " ", "target": "a"}, 8) == LeftOut("empty source")
    assert task.features({"source": "a", "target": "\n"}, 8) == LeftOut("empty target")


def test_what_the_tokenizer_closes_is_not_closed_again(processor):
    from tokenizers.processors import TemplateProcessing

    closing = TextProcessor(train_tokenizer(TEXTS, 300))
    end = closing.tokenizer.eos_token
    closing.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {end}", special_tokens=[(end, closing.tokenizer.eos_token_id)]
    )
    for made in (make(closing), make(TextProcessor(train_tokenizer(TEXTS, 300)))):
        ids = made.features({"source": "a fox", "target": "a dog"}, 64).features
        assert all(each.count(closing.tokenizer.eos_token_id) == 1 for each in ids.values())


# ---- models --------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", MODELS)
def test_the_loss_is_the_sum_over_what_is_written_and_adds_up_over_micro_batches(
    processor, architecture
):
    task = make(processor)
    model = build(task, architecture)
    assert model.config.decoder_start_token_id == processor.padding
    for rows, draw in ((packed(task), Draw(7, 0, range(9))), (examples(task), None)):
        count = len(next(iter(rows.values())))
        batch = task.collate(rows, draw)
        whole = task.loss(model, batch)
        before = model.prepare_decoder_input_ids_from_labels(labels=batch["labels"])
        asked = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        logits = model(**asked, decoder_input_ids=before).logits
        expected = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), reduction="sum")
        torch.testing.assert_close(whole, expected)
        assert whole.dtype == torch.float32
        pieces = [(0, 1), (1, count)]
        parts = [task.collate(part(rows, *each), draw and draw.part(*each)) for each in pieces]
        torch.testing.assert_close(sum(task.loss(model, each) for each in parts), whole)
        assert sum(map(task.num_targets, parts)) == task.num_targets(batch)
    whole.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@pytest.fixture(scope="module")
def learnt(processor, tmp_path_factory):
    """A T5 that knows the pairs by heart, and its folder."""
    task = make(processor)
    model = build(task).train()
    batch = task.collate(examples(task))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(80):
        loss = task.loss(model, batch) / task.num_targets(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    folder = tmp_path_factory.mktemp("learnt")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("beams", [1, 3])
def test_a_tiny_t5_learns_pairs_by_heart_and_is_loaded_to_answer(learnt, beams):
    model, task = load_for_use(learnt, "seq2seq_lm")
    rows = examples(task)
    answers = task.predict(model, rows, Limits(max_new_tokens=32, beams=beams))
    assert [answer["text"] for answer in answers] == list(PAIRS.values())
    [short, *_] = task.predict(model, rows, Limits(max_new_tokens=2, beams=beams))
    assert PAIRS["the quick brown fox"].startswith(short["text"])
    assert 0 < len(short["text"]) < 12
    references = task.references(rows)
    scores = task.measure(answers, references, ["rougeL", "bleu"])
    assert (scores["rougeL"], scores["exact_match"]) == (100.0, 1.0)
    assert scores["bleu"] == pytest.approx(100)
    assert "rouge1" not in scores
    sample = task.sample(rows, 0, answers[0], references[0])
    assert sample.request == {"source": "the quick brown fox"} == {"source": sample.prompt}
    assert sample.answer == sample.reference == task.answer_text(answers[0])


def test_the_job_says_how_an_answer_is_searched_and_the_folder_does_not(learnt, monkeypatch):
    model, task = load_for_use(learnt, "seq2seq_lm")
    model.generation_config.num_beams = 7
    model.generation_config.length_penalty = 9.0
    asked = {}
    generate = model.generate
    monkeypatch.setattr(model, "generate", lambda **how: asked.update(how) or generate(**how))
    task.predict(model, part(examples(task), 0, 1), Limits(max_new_tokens=2, beams=3))
    assert (asked["num_beams"], asked["do_sample"]) == (3, False)
    assert (asked["length_penalty"], asked["min_length"]) == (1.0, 0)


def test_no_answer_is_longer_than_a_decoder_has_positions(processor):
    task = make(processor)
    model = build(task, "bart", positions=8).eval()
    rows = {"input_ids": [list(range(20, 40)), [20, 21]]}
    answers = task.predict(model, rows, Limits(max_new_tokens=500))
    assert len(answers) == 2


def test_padding_does_not_reach_beyond_the_positions_of_a_model(processor):
    task = make(processor)
    made = task.features({"source": TEXTS[0], "target": TEXTS[1]}, 9).features
    batch = task.collate({name: [ids] for name, ids in made.items()})
    assert batch["input_ids"].shape == batch["labels"].shape == (1, 16)
    model = build(task, "bart", positions=9).eval()
    padded = build(task, "t5").eval()
    assert torch.isfinite(task.loss(model, batch))
    assert torch.isfinite(task.loss(padded, batch))


def test_an_adapter_learns_beside_the_frozen_weights(processor):
    task = make(processor)
    outline = build_model(ModelSpec(architecture="t5", config=T5), task, processor.model_fields(64))
    adapted = attach_adapter(outline, AdapterSpec(lora={"rank": 2}), task).to_empty(device="cpu")
    for parameter in adapted.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    task.loss(adapted, task.collate(examples(task))).backward()
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in trained)
    assert any("EncDecAttention" in name for name in trained)
    assert all(p.grad is not None for p in adapted.parameters() if p.requires_grad)


# ---- refusals and plans --------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bert", "vit"])
def test_models_that_are_no_encoder_with_a_decoder_are_refused(processor, architecture):
    with pytest.raises(ValueError, match="no encoder with a decoder beside it"):
        make(processor).check_model(AutoConfig.for_model(architecture))
    for known in MODELS:
        make(processor).check_model(AutoConfig.for_model(known))


def test_a_folder_that_does_not_say_with_what_its_decoder_begins_is_refused(processor):
    with pytest.raises(ValueError, match="set decoder_start_token_id"):
        make(processor).settle(SimpleNamespace(config=AutoConfig.for_model("t5")))
    assert make(processor).settle(SimpleNamespace(config=AutoConfig.for_model("bart"))) is None


def test_a_tokenizer_without_sentinels_reads_pairs_and_no_plain_text():
    task = make(TextProcessor(train_tiny_tokenizer(TEXTS)))
    task.check_processor(task.processor)
    task.collate(examples(task))
    rows = {"tokens": np.array([[5, 6, 7, 8]]), "length": np.array([4])}
    with pytest.raises(ValueError, match="sentinels: 100"):
        task.collate(rows)


JOB = """\
name: translate
storage: RUNS
cluster: {workers: 2}
prepare:
  sources: [{path: pairs.jsonl, format: jsonl, fields: {text: "{en} {fr}"}}]
  tokenizer: {vocab_size: 512, sentinels: 16}
  sequence_length: 256
pretrain:
  objective: {name: seq2seq_lm, corrupt: 15%}
  model: {architecture: t5, config: {d_model: 32, d_kv: 8, d_ff: 64, num_layers: 2, num_heads: 4}}
  global_batch: 8
  duration: 10 steps
finetune:
  task: {name: seq2seq_lm, max_target_length: 16}
  sources: [{path: pairs.jsonl, format: jsonl, fields: {source: "{en}", target: "{fr}"}}]
  max_length: 32
  adapter: {lora: {rank: 2}}
  global_batch: 8
  duration: 10 steps
evaluate: {metrics: [perplexity, bleu, rougeL], beams: 4}
serve: {port: 8000, beams: 4}
"""


@pytest.fixture
def in_folder(tmp_path: Path):
    line = '{"en": "a fox", "fr": "un renard"}\n'
    (tmp_path / "pairs.jsonl").write_text(line * 50, encoding="utf-8")

    def load(old: str = "", new: str = ""):
        path = tmp_path / "job.yaml"
        text = JOB.replace("RUNS", str(tmp_path / "runs"))
        path.write_text(text.replace(old, new) if old else text, encoding="utf-8")
        return load_job(path)

    return load


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("sentinels: 16", "mask: true", "seq2seq_lm needs 13 tokens.* has none; add sentinels: 13"),
        ("sentinels: 16", "sentinels: 12", "needs 13 tokens.* has 12; add sentinels: 13"),
        ("sentinels: 16", "sentinels: 250", "vocab_size of 512 is too small.* at least 514"),
        ("corrupt: 15%", "corrupt: 60%", "needs 51 tokens"),
        ("{source: ", "{text: ", "has no role 'text', it has source, target"),
        ("duration: 10 steps\nfine", "duration: 10 steps\n  parallel: {tensor: 2}\nfine", "tensor"),
        (
            "duration: 10 steps\nfine",
            "duration: 10 steps\n  parallel: {sequence: 2}\nfine",
            "its decoder looks at all of another text",
        ),
        (
            "task: {name: seq2seq_lm, max_target_length: 16}",
            "task: causal_lm",
            "serve.beams: causal",
        ),
        ("beams: 4}\nserve", "beams: 0}\nserve", "evaluate.beams"),
    ],
)
def test_a_job_is_checked_before_anything_starts(in_folder, old, new, told):
    with pytest.raises(SpecError, match=told):
        check_job(in_folder(old, new))


def test_a_right_job_is_planned_in_the_tokens_that_are_read_and_written(in_folder, tmp_path):
    loaded = in_folder()
    check_job(loaded)
    plan = plan_job(loaded.job, tmp_path)
    assert (plan.wrong, plan.unplanned) == ({}, {})
    pretrain, finetune = (stage.forecasts[0] for stage in plan.stages)
    assert pretrain.row_tokens == 256
    assert finetune.row_tokens == 48, "of the source and of the target"
    assert finetune.shape.adapter is not None
    assert 0 < finetune.shape.trained < pretrain.shape.trained
    assert pretrain.flops_per_token > 3 * 2 * 20_000


def test_a_tokenizer_that_is_loaded_is_looked_at_before_the_first_stage(in_folder, tmp_path):
    tokenizer = TextProcessor(train_tokenizer(TEXTS, 300, sentinels=12))
    tokenizer.save(Location.parse(str(tmp_path / "tokenizer")))
    load = f"load: {tmp_path / 'tokenizer'}"
    job = in_folder("vocab_size: 512, sentinels: 16", load).job
    [found] = look_at_inputs(job, tmp_path).findings
    assert "needs 13 tokens" in found.message
    assert "has 12; take the tokenizer" in found.message


def test_no_model_is_thought_to_fit_without_asking():
    fields = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    llama = fields | {"num_attention_heads": 4, "num_key_value_heads": 2}
    assert Question(task="causal_lm", architecture="llama", fields=llama).is_plain
    assert not Question(task="seq2seq_lm", architecture="llama", fields=llama).is_plain


# ---- measures ------------------------------------------------------------------------------------


def test_rouge_counts_shared_words_pairs_and_the_longest_common_sequence():
    scores = rouge_scores(["the cat sat"], ["the cat slept"], ["rouge1", "rouge2", "rougeL"])
    assert scores == pytest.approx({"rouge1": 200 / 3, "rouge2": 50.0, "rougeL": 200 / 3})
    mean = rouge_scores(["a b", "x"], ["a b", "y"], ["rougeL"])
    assert mean == {"rougeL": 50.0}


def test_each_measure_of_texts_says_how_it_is_taken():
    said = signatures()
    assert said["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.")
    assert said["chrf"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.")
    assert "rouge-score 0.1.2" in said["rougeL"]
