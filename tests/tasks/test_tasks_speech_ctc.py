"""Speech by CTC: characters that fit their clip, the loss of the batch, and greedy answers."""

import base64

import pytest
import torch
import torch.nn.functional as F

from raymodel.errors import SpecError
from raymodel.tasks import get_task
from raymodel.tasks.base import LeftOut, Limits
from raymodel.tasks.clips import pieces_of
from raymodel.tasks.spec.audio import SpeechCTCSpec
from raymodel.testing.sounds import SMALL_WAVE, build_sound_model, clip

SPEC = SpeechCTCSpec.model_validate({"audio": {"max_seconds": 2}, "alphabet": "abc'"})


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def task():
    kind = get_task("speech_ctc")
    return kind(SPEC, processor=kind(SPEC).fresh_processor())


@pytest.fixture(scope="module")
def model(task):
    return build_sound_model(task, "wav2vec2", SMALL_WAVE)


def rows(task, texts=("ab", "abc ab", "c", "b cab")):
    made = [task.features({"audio": clip(t + "b"), "text": t}, None).features for t in texts]
    return {name: [row[name] for row in made] for name in made[0]}


def text_of(task, text, sound="abcabcab"):
    found = task.features({"audio": clip(sound), "text": text}, None)
    if isinstance(found, LeftOut):
        return found.reason
    return task.references({"transcript_ids": [found.features["transcript_ids"]]})[0]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("ab c", "ab c"),
        ("AB C", "ab c"),
        ("  ab,\tc! ", "ab c"),
        ("ab-c", "ab c"),
        ("a'b", "a'b"),
        ("a\u0301b", "transcript with characters that the tokenizer does not have"),
        ("abd", "transcript with characters that the tokenizer does not have"),
        ("東京", "transcript with characters that the tokenizer does not have"),
        ("a 7", "transcript with characters that the tokenizer does not have"),
        (" ", "empty transcript"),
        ("?!", "empty transcript"),
        ("abc" * 20, "transcript that is too long for its audio"),
        ("a" * 25, "transcript that is too long for its audio"),
    ],
)
def test_a_transcript_is_written_with_what_the_tokenizer_has(task, text, written):
    assert text_of(task, text) == written


def test_a_clip_with_a_transcript_is_not_cut(task):
    found = task.features({"audio": clip("a" * 14), "text": "a"}, None)
    assert found == LeftOut("audio of more than 2 s with a transcript")
    assert "audio" in task.features({"audio": clip("a" * 14)}, None).features


def test_upper_case_is_what_an_upper_case_alphabet_has():
    spec = SpeechCTCSpec.model_validate({"audio": {}, "alphabet": "ABC"})
    kind = get_task("speech_ctc")
    assert text_of(kind(spec, processor=kind(spec).fresh_processor()), "ab c") == "AB C"


def test_the_loss_is_the_sum_over_rows_however_they_are_cut(task, model):
    columns = rows(task)
    batch = task.collate(columns)
    whole = task.loss(model, batch)
    parts = [{name: c[i : i + 1] for name, c in columns.items()} for i in range(4)]
    each = [task.loss(model, task.collate(one)) for one in parts]
    torch.testing.assert_close(sum(each), whole, rtol=1e-6, atol=0)
    assert task.num_targets(batch) == sum(map(len, columns["transcript_ids"]))
    logits = model(**{k: v for k, v in task.collate(parts[1]).items() if k != "labels"}).logits
    [ids] = parts[1]["transcript_ids"]
    expected = F.ctc_loss(
        logits.log_softmax(-1).transpose(0, 1)[: logits.shape[1]],
        torch.tensor([ids]),
        model._get_feat_extract_output_lengths(
            torch.tensor([len(task.processor.audio.decode(parts[1]["audio"][0]))])
        ),
        torch.tensor([len(ids)]),
        reduction="sum",
    )
    torch.testing.assert_close(each[1], expected)


def test_a_blank_batch_bears_no_loss_and_has_a_gradient(task, model):
    batch = task.collate(rows(task))
    blank = {name: value[:1] for name, value in batch.items()}
    blank["labels"] = torch.full_like(blank["labels"], -100)
    loss = task.loss(model, blank)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    model.zero_grad()


def test_a_small_model_learns_what_tones_say(task):
    model, columns = build_sound_model(task, "wav2vec2", SMALL_WAVE).train(), rows(task)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    batch = task.collate(columns)
    torch.manual_seed(0)
    for _ in range(160):
        optimizer.zero_grad()
        (task.loss(model, batch) / task.num_targets(batch)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    answers = task.predict(model.eval(), columns, Limits())
    scores = task.measure(answers, task.references(columns), ["wer", "cer"])
    assert scores["cer"] <= 0.2, (answers, task.references(columns))


def test_a_long_clip_is_answered_piece_by_piece(task, model):
    sound = clip("abcabcabc abcabcabc")
    found = task.features({"audio": sound}, None).features
    [answer] = task.predict(model, {"audio": [found["audio"]]}, Limits())
    cut = pieces_of(task.processor.audio.decode(found["audio"]), task.processor.audio)
    pieces = [task.transcribe(model, [piece])[0].strip() for piece in cut]
    assert len(pieces) > 1
    assert answer["text"] == " ".join(filter(None, pieces))


def test_models_of_longer_frames_are_refused(task):
    with pytest.raises(SpecError, match="frames of 640 samples; speech_ctc needs one for every"):
        build_sound_model(task, "wav2vec2", {**SMALL_WAVE, "conv_stride": [10, 8, 8]})


def test_without_a_base_the_job_must_name_the_alphabet():
    kind = get_task("speech_ctc")
    assert kind(SpeechCTCSpec.model_validate({"audio": {}})).fresh_processor() is None
    asked = base64.b64decode(kind.example_request()["audio"])
    assert asked.startswith(b"RIFF")
