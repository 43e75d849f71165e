"""Cleaning steps that look at images and sounds: bounds, what is decoded, what is counted."""

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cleaned import cleaner_of
from PIL import Image, ImageFilter
from pydantic import ValidationError

from raymodel.data.cleaning import media
from raymodel.data.cleaning.media import CLIPPED_RUN, Picture, Sound
from raymodel.data.cleaning.spec.image import MAX_SIDE
from raymodel.data.prepare import REJECTS, Recipe, prepare_dataset
from raymodel.data.rows import RowKind
from raymodel.data.spec import CleanSpec, SourceSpec
from raymodel.job.check import check_sources
from raymodel.job.spec import Job
from raymodel.modality import audio_decode, image_decode
from raymodel.modality.image import ImageProcessor
from raymodel.modality.spec import ImageSpec
from raymodel.spec.document import dotted
from raymodel.spec.problems import Problem
from raymodel.storage.uri import Location
from raymodel.tasks import make_task
from raymodel.tasks.spec.audio import AudioClassificationSpec
from raymodel.tasks.template import RecordError
from raymodel.testing.sounds import RATE, encoded, tones


def png(pixels: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """A photograph of sorts: smooth shapes with some grain."""
    draw = np.random.default_rng(seed)
    small = Image.fromarray(draw.integers(0, 256, (8, 8), dtype=np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), np.int64)
    return Image.fromarray(
        np.clip(smooth + draw.integers(-12, 13, smooth.shape), 0, 255).astype(np.uint8)
    )


def reason_of(data: bytes, name: str, **settings: Any) -> str | None:
    """Why a step leaves a file out, in the words of its rules; None where it keeps it."""
    cleaner = cleaner_of({"name": name, **settings})
    (spec,) = cleaner.spec.steps
    images, sounds = ([data], []) if spec.sees == "image" else ([], [data])
    try:
        cleaner.clean([], images, sounds)
    except RecordError as error:
        known = {reason: reason.removeprefix(f"{name}: ") for reason in spec.reasons.values()}
        return known[error.reason]
    return None


# ---- images --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "settings", "reason"),
    [
        ((200, 900), {}, None),
        ((199, 900), {}, "a side of fewer than 200 pixels"),
        ((900, 199), {}, "a side of fewer than 200 pixels"),
        ((30, 20), {"min_side": 20, "max_side": 30}, None),
        ((31, 20), {"min_side": 20, "max_side": 30}, "a side of more than 30 pixels"),
    ],
)
def test_each_side_has_as_many_pixels_as_the_bounds_say(size, settings, reason) -> None:
    assert reason_of(png(np.zeros(size)), "size", **settings) == reason


@pytest.mark.parametrize("turned", [False, True])
def test_a_side_may_be_so_many_times_the_other_and_no_more(turned: bool) -> None:
    wide, wider = (np.zeros(shape) for shape in ((20, 60), (20, 61)))
    kept, gone = (png(each.T if turned else each) for each in (wide, wider))
    assert reason_of(kept, "aspect") is None
    assert reason_of(gone, "aspect") == "one side more than 3 times the other"
    assert reason_of(gone, "aspect", max_ratio=3.05) is None


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    grey = np.asarray(noise(40, 30), np.int64)
    around = [
        grey[y - 1, x] + grey[y + 1, x] + grey[y, x - 1] + grey[y, x + 1] - 4 * grey[y, x]
        for y in range(1, 29)
        for x in range(1, 39)
    ]
    assert Picture(png(grey)).sharpness(512) == pytest.approx(np.var(around), rel=1e-12)
    assert Picture(png(np.zeros((2, 40)))).sharpness(512) == 0


def test_what_is_out_of_focus_is_left_out_whatever_its_resolution() -> None:
    sharp = noise(512, 400, seed=3)
    blurred = sharp.filter(ImageFilter.GaussianBlur(3))
    rule = "a variance of the Laplacian of less than 100"
    for picture, reason in ((sharp, None), (blurred, rule)):
        assert reason_of(png(picture), "blur") == reason
        larger = picture.resize((2048, 1600), Image.Resampling.LANCZOS)
        assert reason_of(png(larger), "blur") == reason
    whole = reason_of(png(sharp.resize((2048, 1600))), "blur", longest_edge=2048)
    assert whole == rule, "without being scaled down it looks blurred"


def test_the_shape_is_that_in_which_an_image_is_shown() -> None:
    stream, turn = io.BytesIO(), Image.Exif()
    turn[0x0112] = 6  # turned by a quarter
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(stream, "JPEG", exif=turn)
    assert Picture(stream.getvalue()).grey.size == (20, 30)


def test_all_steps_look_at_one_decoded_image(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, decode = [], image_decode.decode_image
    monkeypatch.setattr(
        image_decode, "decode_image", lambda data, channels: calls.append(1) or decode(data, 1)
    )
    cleaner = cleaner_of({"name": "size", "min_side": 8}, "aspect", "blur")
    cleaner.clean([], [png(noise(40, 40))])
    assert len(calls) == 1
    cleaner_of("unicode").clean(["x"], [png(noise(40, 40))])
    assert len(calls) == 1, "nobody looked"


@pytest.mark.parametrize("name", ["size", "aspect", "blur"])
def test_what_cannot_be_decoded_is_counted_as_it_is_without_steps(name: str) -> None:
    broken = png(noise(40, 40))[:-30]
    with pytest.raises(RecordError) as error:
        cleaner_of(name).clean([], [broken])
    assert error.value.reason == image_decode.BROKEN


def test_no_side_is_longer_than_what_is_decoded() -> None:
    assert MAX_SIDE == image_decode.MAX_SIDE


# ---- sounds --------------------------------------------------------------------------------------


def sine(amplitude: float, seconds: float = 1.0, rate: int = RATE) -> Any:
    turns = 2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate
    return (amplitude * np.sin(turns)).astype(np.float32)


def test_sounds_are_as_long_as_the_bounds_say() -> None:
    second = encoded(sine(0.5), RATE)
    assert reason_of(second, "duration", min_seconds=1, max_seconds=1) is None
    assert reason_of(second, "duration", min_seconds=1.01) == "shorter than 1.01 s"
    assert reason_of(second, "duration", max_seconds=0.99) == "longer than 0.99 s"


def test_sounds_are_as_loud_as_the_bounds_say() -> None:
    quiet = encoded(sine(0.1), subtype="FLOAT")  # 440 Hz: 0.6 dB less than at 997 Hz
    assert reason_of(quiet, "loudness", min_lufs=-24, max_lufs=-23) is None
    assert reason_of(quiet, "loudness", min_lufs=-23) == "quieter than -23 LUFS"
    assert reason_of(quiet, "loudness", max_lufs=-24) == "louder than -24 LUFS"
    nothing = encoded(np.zeros(RATE, np.float32))
    assert reason_of(nothing, "loudness", min_lufs=-70) == "quieter than -70 LUFS"
    assert reason_of(nothing, "loudness", max_lufs=-70) is None


def test_silence_is_the_share_of_quiet_frames() -> None:
    half = np.concatenate([sine(0.3), np.zeros(RATE, np.float32)])
    data = encoded(half, subtype="FLOAT")
    assert Sound(data).silent_share(-60) == pytest.approx(0.5)
    assert reason_of(data, "silence") is None
    longer = encoded(np.append(half, np.zeros(RATE // 10, np.float32)), subtype="FLOAT")
    assert reason_of(longer, "silence") == "more than 50 % below -60 dBFS"
    assert reason_of(longer, "silence", max_share=0.6) is None
    assert reason_of(data, "silence", below_dbfs=-10) == "more than 50 % below -10 dBFS"


def test_levels_do_not_depend_on_how_many_samples_are_looked_at_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = encoded(np.concatenate([sine(0.3, 1.003), np.zeros(RATE // 3, np.float32)]))
    once = Sound(data)
    expected = once.lufs, once.silent_share(-60)
    monkeypatch.setattr(media, "_BLOCK_SAMPLES", 1000)
    again = Sound(data)
    assert (again.lufs, again.silent_share(-60)) == pytest.approx(expected, rel=1e-12)


def test_clipped_is_what_lies_in_a_row_at_full_scale() -> None:
    samples = sine(0.5, 1.0)
    samples[100 : 100 + CLIPPED_RUN] = 1.0
    samples[300 : 300 + CLIPPED_RUN + 2] = -1.0
    samples[500 : 500 + CLIPPED_RUN - 1] = 1.0  # the top of a wave that fits
    assert Sound(encoded(samples)).clipped_share == (2 * CLIPPED_RUN + 2) / RATE
    assert Sound(encoded(sine(0.98))).clipped_share == 0
    loud = np.clip(sine(1.5), -1, 1)
    assert reason_of(encoded(loud), "clipping") == "more than 0.1 % of the samples at full scale"
    assert reason_of(encoded(loud, subtype="PCM_U8"), "clipping") is not None
    assert reason_of(encoded(loud), "clipping", max_share=0.6) is None
    assert reason_of(encoded(samples), "clipping") is None


def test_one_channel_that_is_clipped_is_seen_at_its_own_rate() -> None:
    both = np.stack([np.clip(sine(1.5), -1, 1), sine(0.2)], axis=1)
    data = encoded(both, RATE)
    assert np.abs(audio_decode.decode_audio(data, 8_000)).max() < 0.8, "mixed down it is hidden"
    assert reason_of(data, "clipping") is not None


def test_all_steps_hear_one_decoded_sound_and_broken_ones_are_counted_as_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls, read = [], audio_decode.read_audio
    monkeypatch.setattr(audio_decode, "read_audio", lambda data: calls.append(1) or read(data))
    cleaner = cleaner_of("silence", "clipping", {"name": "loudness", "min_lufs": -50})
    cleaner.clean([], [], [encoded(tones("abc"))])
    assert len(calls) == 1
    with pytest.raises(RecordError) as error:
        cleaner.clean([], [], [b"RIFF none"])
    assert error.value.reason == audio_decode.BROKEN


def test_the_same_samples_are_the_same_sound_whatever_file_they_are_in() -> None:
    samples = tones("abc")
    first = encoded(samples)
    flac = audio_decode.encode_audio(audio_decode.read_audio(first).samples[:, 0], RATE)
    same = [first, flac]
    assert len({Sound(each).content for each in same}) == 1
    others = [
        encoded(samples[:-1]),
        encoded(samples, 8_000),
        encoded(np.stack([samples, samples], axis=1)),
        encoded(tones("abd")),
    ]
    assert len({Sound(each).content for each in [*same, *others]}) == 5


# ---- in a job ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"name": "size", "min_side": 9, "max_side": 8}, "min_side must not exceed max_side"),
        ("duration", "there is no bound; give `min_seconds` or `max_seconds`"),
        ({"name": "loudness", "min_lufs": -10, "max_lufs": -20}, "so that no sound is kept"),
        ({"name": "silence", "below_dbfs": 3}, "less than 0"),
    ],
)
def test_bounds_that_nothing_meets_are_refused(step: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        CleanSpec.model_validate({"steps": [step]})


@pytest.mark.parametrize(
    ("task", "steps", "said"),
    [
        ("text_classification", ["unicode", "blur"], "steps.1: blur looks at images, and text_cla"),
        ("text_classification", ["blur"], "steps that look at these are unicode, language, gopher"),
        ("image_classification", ["gopher"], "gopher looks at texts, and image_classification"),
        ("image_classification", ["silence"], "these are size, aspect, blur"),
        ("audio_classification", ["size"], "these are duration, silence, clipping, loudness"),
        ("token_classification", ["pii"], "pii looks at texts, .* is one; leave it out"),
    ],
)
def test_a_step_beside_what_it_does_not_look_at_is_refused(task, steps, said) -> None:
    found = [f"{dotted(problem.path)}: {problem.message}" for problem in problems_of(task, steps)]
    assert any(re.search(said, line) for line in found), found


def test_speech_has_sounds_and_texts() -> None:
    assert problems_of("speech_ctc", ["unicode", "silence"]) == []


def problems_of(task: str, steps: list[str]) -> list[Problem]:
    tuned = {
        "task": task,
        "base": "b",
        "sources": [{"path": "a", "format": "jsonl", "fields": {"text": "{a}"}}],
        "clean": {"steps": steps},
        "global_batch": 4,
        "duration": "4 steps",
    }
    job = Job.model_validate({"name": "x", "finetune": tuned})
    return [each for each in check_sources(job) if "clean" in each.path]


def test_images_that_steps_leave_out_are_in_the_account_and_on_the_card(
    tmp_path: Path, place: Location, execute
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(12):
        (folder / f"good{i:02}.png").write_bytes(png(noise(60 + i, 48, seed=i)))
    for i in range(3):
        blurred = noise(64, 48, seed=50 + i).filter(ImageFilter.GaussianBlur(4))
        (folder / f"blurred{i}.png").write_bytes(png(blurred))
    (folder / "small.png").write_bytes(png(noise(9, 48)))
    (folder / "cut.png").write_bytes(png(noise(64, 48))[:-200])
    source = SourceSpec(path=str(tmp_path), format="class_folders")
    recipe = Recipe(
        sources=(source,),
        clean=CleanSpec.model_validate({"steps": [{"name": "size", "min_side": 16}, "blur"]}),
        holdout=0.2,
        seed=7,
        kind=RowKind(modality="image", length=None),
        reads=ImageProcessor,
        processor=ImageProcessor.fresh(ImageSpec(size=16, channels=1)),
        max_left_out=0.1,
    )
    content = prepare_dataset(recipe, place, execute, lambda text: None)
    assert content["left_out"] == {
        "blur: a variance of the Laplacian of less than 100": 3,
        "size: a side of fewer than 16 pixels": 1,
        image_decode.BROKEN: 1,
    }
    (card,) = (place / "card.json").read_json()["sources"]
    aspect = card["sizes"]["aspect"]
    assert (aspect["count"], aspect["least"], aspect["most"]) == (12, 125, 147)
    by_file = {each["file"]: each for each in card["dropped"]}
    assert by_file["photos/blurred0.png"]["image"].startswith("data:image/png;base64,")
    assert "image" not in by_file["photos/cut.png"]
    assert "<" in by_file["photos/small.png"]["sample"], "of a file its size, not its bytes"
    page = (place / "card.html").read_text()
    assert "Width of an image over its height" in page
    assert "from 1.25 to 1.47" in page
    rejects = [json.loads(line) for line in (place / REJECTS).read_text().splitlines()]
    assert not any("image" in reject for reject in rejects)


def test_the_card_tells_how_loud_clips_are(tmp_path: Path, place: Location, execute) -> None:
    spec = AudioClassificationSpec.model_validate({"audio": {"max_seconds": 2}})
    for label, amplitude in (("loud", 0.5), ("quiet", 0.01)):
        (tmp_path / label).mkdir()
        for i in range(8):
            samples = sine(amplitude, 0.5 + i / 50)
            (tmp_path / label / f"{i}.wav").write_bytes(encoded(samples, subtype="FLOAT"))
    for i in range(2):
        silent = encoded(np.zeros(RATE + i, np.float32))
        (tmp_path / "quiet" / f"silent{i}.wav").write_bytes(silent)
    task = make_task(spec)
    recipe = Recipe(
        sources=(SourceSpec(path=str(tmp_path), format="class_folders"),),
        clean=CleanSpec.model_validate({"steps": ["silence"]}),
        holdout=0.2,
        seed=7,
        kind=RowKind(task=spec, length=None),
        reads=task.processor_class(),
        processor=task.fresh_processor(),
    )
    content = prepare_dataset(recipe, place, execute, lambda text: None)
    assert content["left_out"] == {"silence: more than 50 % below -60 dBFS": 2}
    (card,) = (place / "card.json").read_json()["sources"]
    lufs = card["sizes"]["lufs"]
    assert (lufs["count"], lufs["least"], lufs["most"]) == (16, 10, 44)
    assert "from -44 LUFS to -10 LUFS" in (place / "card.html").read_text()
