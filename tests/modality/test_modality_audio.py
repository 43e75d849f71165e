"""Processors of sounds: what transformers makes, whatever else is in a batch; their folders."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import transformers
from transformers import AutoFeatureExtractor, Wav2Vec2Config

from raymodel.chance import Draw
from raymodel.errors import ArtifactError
from raymodel.modality.audio import AudioProcessor
from raymodel.modality.audio_config import KINDS
from raymodel.modality.spec import AudioAugmentSpec, AudioSpec
from raymodel.storage.uri import Location
from raymodel.testing.sounds import RATE, tones

CLIPS = [tones(text, seed=i) for i, text in enumerate(["abcd", "ab", "abcdefg", "c"])]
SAMPLES = AudioProcessor.fresh(AudioSpec(max_seconds=2))
UNMASKED = dataclasses.replace(SAMPLES, said={**SAMPLES.said, "return_attention_mask": False})
SPECTROGRAM = AudioProcessor.fresh(AudioSpec(features="spectrogram", max_seconds=2))
AUGMENT = AudioAugmentSpec(speed=0.1, noise=0.2, time_mask=0.3, frequency_mask=0.3)


def whisper(folder: Path) -> AudioProcessor:
    transformers.WhisperFeatureExtractor(chunk_length=2).save_pretrained(folder)
    return AudioProcessor.load(Location.parse(str(folder)))


@pytest.fixture(params=["samples", "unmasked", "spectrogram", "whisper"])
def processor(request: pytest.FixtureRequest, tmp_path: Path) -> AudioProcessor:
    made = {"samples": SAMPLES, "unmasked": UNMASKED, "spectrogram": SPECTROGRAM}
    return made.get(request.param) or whisper(tmp_path)


def test_the_features_are_those_of_transformers(processor: AudioProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    theirs = AutoFeatureExtractor.from_pretrained(tmp_path)
    made = processor.features_of(CLIPS)
    for row, clip in enumerate(CLIPS):
        expected = theirs(clip, sampling_rate=RATE, return_tensors="np")[processor.argument][0]
        found = made[processor.argument][row]
        if found.ndim == 1:
            assert not found[len(clip) :].any(), "filled up"
            found = found[: len(clip)]
        np.testing.assert_array_equal(found, expected)


def test_a_row_has_the_same_features_in_every_batch_and_on_any_threads(
    processor: AudioProcessor,
) -> None:
    whole = processor.features_of(CLIPS, AUGMENT, Draw(7, 3, range(4)), threads=3)
    for row in range(4):
        alone = processor.features_of([CLIPS[row]], AUGMENT, Draw(7, 3, [row]))
        for name, values in alone.items():
            width = values.shape[1]
            np.testing.assert_array_equal(values[0], whole[name][row][:width])
    other = processor.features_of(CLIPS, AUGMENT, Draw(7, 4, range(4)))
    width = min(made[processor.argument].shape[1] for made in (whole, other))
    assert not np.array_equal(
        other[processor.argument][:, :width], whole[processor.argument][:, :width]
    )


def test_without_a_mask_every_batch_is_as_wide_as_the_longest_clip_may_be() -> None:
    assert UNMASKED.features_of(CLIPS[:1])["input_values"].shape == (1, 2 * RATE)
    assert SAMPLES.features_of(CLIPS[:1])["attention_mask"].sum() == len(CLIPS[0])
    assert UNMASKED.features_of(CLIPS[:1]).keys() == {"input_values"}


def test_what_is_planned_with_is_the_shape_of_the_longest_clip(processor: AudioProcessor) -> None:
    made = processor.features_of([np.resize(CLIPS[0], 2 * RATE)])
    [(argument, shape)] = processor.facts()["inputs"].items()
    assert made[argument].shape[1:] == tuple(shape)


def test_a_folder_keeps_all_and_can_be_told_of_shorter_clips(
    processor: AudioProcessor, tmp_path: Path
) -> None:
    shorter = processor.up_to(1.0)
    shorter.save(Location.parse(str(tmp_path / "saved")))
    loaded = AudioProcessor.load(Location.parse(str(tmp_path / "saved")))
    assert loaded.max_seconds == 1.0
    assert loaded.facts() == shorter.facts()
    if processor.window is not None:
        with pytest.raises(ValueError, match="max_seconds is 9; the model takes 2 s at a time"):
            processor.up_to(9)


def test_the_defaults_are_those_of_transformers() -> None:
    for name, kind in KINDS.items():
        theirs = getattr(transformers, name)()
        assert {key: getattr(theirs, key) for key in kind.defaults} == dict(kind.defaults)


@pytest.mark.parametrize(
    ("said", "rule"),
    [
        ({"feature_extractor_type": "ClapFeatureExtractor"}, "must be one of Wav2Vec2Feature"),
        ({}, "feature_extractor_type is None"),
        ({"feature_extractor_type": "WhisperFeatureExtractor", "chunk_length": 0}, "at least 1"),
        ({"feature_extractor_type": "WhisperFeatureExtractor", "dither": 0.1}, "must be 0"),
        ({"feature_extractor_type": "ASTFeatureExtractor", "max_seconds": 11}, "10.24 s at a time"),
        ({"feature_extractor_type": "Wav2Vec2FeatureExtractor", "sampling_rate": "16k"}, "whole"),
    ],
)
def test_what_cannot_be_followed_is_refused(tmp_path: Path, said: dict, rule: str) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    with pytest.raises(ArtifactError, match=rule):
        AudioProcessor.load(Location.parse(str(tmp_path)))


def test_the_file_that_transformers_5_writes_of_both_is_read_too(tmp_path: Path) -> None:
    whole = {"feature_extractor": dict(UNMASKED.said)}
    (tmp_path / "processor_config.json").write_text(json.dumps(whole))
    assert AudioProcessor.load(Location.parse(str(tmp_path))).said == UNMASKED.said
    with pytest.raises(ArtifactError, match=r"holds no preprocessor_config\.json"):
        AudioProcessor.load(Location.parse(str(tmp_path / "none")))


def test_a_model_whose_loss_would_hang_on_the_batch_is_refused() -> None:
    group, layer = Wav2Vec2Config(feat_extract_norm="group"), Wav2Vec2Config()
    layer.feat_extract_norm = "layer"
    SAMPLES.check_config(layer)
    UNMASKED.check_config(group)
    with pytest.raises(ValueError, match="set return_attention_mask to false"):
        SAMPLES.check_config(group)
    with pytest.raises(ValueError, match="'data2vec-audio' model it is not known"):
        SAMPLES.check_config(transformers.Data2VecAudioConfig())
    with pytest.raises(ValueError, match=r"num_mel_bins 128, and config\.json says 64"):
        SPECTROGRAM.check_config(transformers.ASTConfig(num_mel_bins=64, max_length=200))
