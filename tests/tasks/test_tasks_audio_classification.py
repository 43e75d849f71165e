"""Sounds and their labels: what is left out, what a batch is, and what a model answers."""

import base64

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from raymodel.chance import Draw
from raymodel.errors import SpecError
from raymodel.modality import audio_decode
from raymodel.tasks import get_task
from raymodel.tasks.base import LeftOut, Limits
from raymodel.tasks.spec.audio import AudioClassificationSpec
from raymodel.testing.sounds import RATE, SMALL_WAVE, build_sound_model, clip, encoded, tones

LABELS = ("high", "low")
AST = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
       "hidden_dropout_prob": 0.0}  # fmt: skip


def make_task(**audio):
    spec = AudioClassificationSpec.model_validate(
        {"audio": {"max_seconds": 2, **audio}, "augment": {"noise": 0.2, "speed": 0.1}}
    )
    kind = get_task("audio_classification")
    return kind(spec, labels=LABELS, processor=kind(spec).fresh_processor())


@pytest.fixture(scope="module")
def task():
    return make_task()


def rows(task, count=6):
    """Clips of different lengths."""
    made = [
        task.features({"audio": clip("ab"[i % 2] * (2 + i)), "label": LABELS[i % 2]}, None).features
        for i in range(count)
    ]
    return {name: [row[name] for row in made] for name in made[0]}


def part(columns, start, stop):
    return {name: column[start:stop] for name, column in columns.items()}


def test_a_clip_is_stored_at_the_rate_of_the_model_and_decoded_exactly(task):
    data = encoded(tones("ab", rate=44_100), 44_100, "OGG")
    found = task.features({"audio": data, "label": "low"}, None).features
    assert found["label"] == 1
    assert found["audio"].startswith(b"fLaC")
    samples = task.processor.decode(found["audio"])
    assert len(samples) == 0.3 * RATE
    assert audio_decode.encode_audio(samples, RATE) == found["audio"]
    assert task.features({"audio": data}, None).features == {"audio": found["audio"]}


def test_a_clip_that_is_too_long_ends_in_a_pause_and_is_counted_as_cut(task):
    found = task.features({"audio": clip("aaaaaaaa bbbbbbbb"), "label": "low"}, None)
    assert found.cut == ("audio",)
    samples = task.processor.decode(found.features["audio"])
    assert 8 * 2400 <= len(samples) <= 9 * 2400


@pytest.mark.parametrize("data", [b"", b"text", clip("a")[:50], encoded(tones("a"), 5000)])
def test_what_is_no_sound_is_left_out_with_its_reason(task, data):
    assert isinstance(task.features({"audio": data, "label": "low"}, None), LeftOut)


def test_an_unknown_label_is_named_with_the_known_ones(task):
    with pytest.raises(ValueError, match=r"'medium'.*high, low"):
        task.features({"audio": clip("ab"), "label": "medium"}, None)


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("wav2vec2", SMALL_WAVE),
        ("hubert", SMALL_WAVE),
        ("wavlm", SMALL_WAVE),
        ("unispeech", SMALL_WAVE),
        ("unispeech-sat", SMALL_WAVE),
        ("audio-spectrogram-transformer", AST),
    ],
)
def test_the_loss_of_a_row_does_not_depend_on_what_else_is_in_its_batch(architecture, config):
    features = "spectrogram" if config is AST else "samples"
    task = make_task(features=features)
    model, columns = build_sound_model(task, architecture, config).train(), rows(task)
    whole = task.loss(model, task.collate(columns))
    parts = [part(columns, *bounds) for bounds in ((0, 1), (1, 4), (4, 6))]
    cut = sum(task.loss(model, task.collate(each)) for each in parts)
    torch.testing.assert_close(cut, whole, rtol=1e-6, atol=0)
    batch = task.collate(columns)
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    expected = F.cross_entropy(model(**inputs).logits, batch["labels"], reduction="sum")
    torch.testing.assert_close(whole, expected)
    assert task.num_targets(batch) == 6


def test_a_model_with_a_norm_over_the_length_gets_clips_of_one_length():
    task = make_task()
    said = {**task.processor.said, "return_attention_mask": False}
    task._processor = type(task.processor)(said=said, max_seconds=2.0)
    model = build_sound_model(task, "wav2vec2", {**SMALL_WAVE, "feat_extract_norm": "group"})
    columns = rows(task)
    whole = task.loss(model, task.collate(columns))
    cut = sum(task.loss(model, task.collate(part(columns, i, i + 1))) for i in range(6))
    torch.testing.assert_close(cut, whole, rtol=1e-6, atol=0)


def test_chance_inside_of_the_model_is_off_and_cannot_be_asked_for(task):
    model = build_sound_model(task, "wav2vec2", SMALL_WAVE)
    assert not model.config.apply_spec_augment
    assert model.config.layerdrop == 0
    with pytest.raises(SpecError, match=r"layerdrop is 0\.1, and for audio_classification it is"):
        build_sound_model(task, "wav2vec2", {**SMALL_WAVE, "layerdrop": 0.1})
    with pytest.raises(SpecError, match="set return_attention_mask to false"):
        build_sound_model(task, "wav2vec2", {**SMALL_WAVE, "feat_extract_norm": "group"})


def test_chance_is_of_the_rows_place_and_there_is_none_in_evaluation(task):
    columns = rows(task)
    whole = task.collate(columns, Draw(7, 3, range(6)))["input_values"]
    for start, stop in ((0, 2), (2, 6)):
        made = task.collate(part(columns, start, stop), Draw(7, 3, range(start, stop)))
        width = made["input_values"].shape[1]
        assert torch.equal(made["input_values"], whole[start:stop, :width])
    plain = task.collate(columns)["input_values"]
    assert torch.equal(plain, task.collate(columns)["input_values"])
    assert not torch.equal(plain[:, :9000], whole[:, :9000])


def test_answers_references_and_samples_are_for_people_and_for_servers(task):
    model, columns = build_sound_model(task, "wav2vec2", SMALL_WAVE), rows(task, 4)
    answers, references = task.predict(model, columns, Limits()), task.references(columns)
    assert references == ["high", "low", "high", "low"]
    right = [a["label"] == r for a, r in zip(answers, references, strict=True)]
    assert task.measure(answers, references, ["accuracy"])["accuracy"] == np.mean(right)
    sample = task.sample(columns, 1, answers[1], references[1])
    assert base64.b64decode(sample.request["audio"]) == columns["audio"][1]
    asked = base64.b64decode(task.example_request()["audio"])
    assert not isinstance(task.features({"audio": asked}, None), LeftOut)


def test_a_base_is_told_how_long_clips_are(tmp_path):
    from raymodel.storage.uri import Location

    base = Location.parse(str(tmp_path))
    task = make_task(max_seconds=1)
    task.processor.up_to(30).save(base)
    adapted = type(task)(task.spec).reading_as(base)
    adapted.adapt_processor({})
    assert adapted.processor.max_seconds == 1
    assert type(task)().fresh_processor() is None
