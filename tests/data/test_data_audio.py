"""Sounds as their users have them: class folders, LibriSpeech's, tables with paths, structs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reading import read_source

from raymodel.data.columns import columns_of
from raymodel.data.mixture import mixture_of
from raymodel.data.prepare import Recipe, prepare_dataset
from raymodel.data.rows import RowKind
from raymodel.data.shard import open_dataset
from raymodel.data.spec import CleanSpec, SourceSpec
from raymodel.modality import audio_decode
from raymodel.storage.artifact import open_artifact
from raymodel.storage.manifest import commit_manifest
from raymodel.storage.uri import Location
from raymodel.tasks import make_task
from raymodel.tasks.spec.audio import AudioClassificationSpec, SpeechCTCSpec
from raymodel.testing.sounds import RATE, clip, encoded, tones

SPEECH = SpeechCTCSpec.model_validate({"audio": {"max_seconds": 2}, "alphabet": "abcdefghij"})
CLASSES = AudioClassificationSpec.model_validate({"audio": {"max_seconds": 2}})


def prepared(spec, source: SourceSpec, place: Location, execute) -> dict:
    task = make_task(spec)
    recipe = Recipe(
        sources=(source,),
        clean=CleanSpec(),
        holdout=0.2,
        seed=7,
        kind=RowKind(task=spec, length=None),
        reads=task.processor_class(),
        processor=task.fresh_processor(),
    )
    return prepare_dataset(recipe, place, execute, lambda text: None)


def write_librispeech(folder: Path) -> Path:
    """Two speakers; a clip without a transcript, and a transcript without a clip."""
    for speaker in ("84", "9"):
        chapter = folder / speaker / "77"
        chapter.mkdir(parents=True)
        lines = []
        for index in range(3):
            name, text = f"{speaker}-77-{index:04}", "abcdefghij"[index : index + 3]
            (chapter / f"{name}.flac").write_bytes(
                encoded(tones(text, seed=index + int(speaker)), format="FLAC")
            )
            lines.append(f"{name} {text.upper()}\n")
        (chapter / f"{speaker}-77.trans.txt").write_text("".join(lines))
    (folder / "84/77/84-77-0009.flac").write_bytes(clip("a"))
    with open(folder / "9/77/9-77.trans.txt", "a") as file:
        file.write("9-77-0008 NOBODY\n")
    return folder


@pytest.mark.parametrize("partition_bytes", [2**20, 1])
def test_librispeech_has_a_record_for_each_clip_and_counts_what_lacks_its_other_half(
    tmp_path: Path, partition_bytes: int
) -> None:
    spec = SourceSpec(path=str(write_librispeech(tmp_path)), format="librispeech")
    records, account = read_source(spec, partition_bytes)
    assert account.read == 8
    assert account.left_out == {
        "clip without a transcript beside it": 1,
        "transcript without its clip": 1,
    }
    first = records[0].fields
    assert {key: value for key, value in first.items() if key != "audio"} == {
        "text": "ABC",
        "id": "84-77-0000",
        "speaker": "84",
        "chapter": "77",
        "path": "84/77/84-77-0000.flac",
    }
    assert first["audio"].startswith(b"fLaC")


def test_class_folders_hold_sounds_whatever_their_names_end_in(tmp_path: Path) -> None:
    for index, (ending, format) in enumerate((("wav", "WAV"), ("ogg", "OGG"), ("mp3", "MP3"))):
        place = tmp_path / f"dog/{index}.{ending}"
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(encoded(tones("abcd"), format=format))
    (tmp_path / "dog/really_flac.wav").write_bytes(encoded(tones("ab"), format="FLAC"))
    records, account = read_source(SourceSpec(path=str(tmp_path), format="class_folders"))
    assert account.read == 4
    assert {record.fields["label"] for record in records} == {"dog"}
    for record in records:
        assert len(audio_decode.decode_audio(record.fields["audio"], RATE)) > 0.2 * RATE


def test_bad_sounds_are_counted_by_reason_and_the_account_adds_up(
    tmp_path: Path, place: Location, execute
) -> None:
    folder = tmp_path / "clips"
    for label, text in (("high", "d"), ("low", "a")):
        (folder / label).mkdir(parents=True)
        for index in range(12):
            (folder / label / f"{index}.wav").write_bytes(clip(text * (2 + index % 3), seed=index))
    bad = {
        "none.wav": encoded(tones("a")[:0]),
        "nan.wav": encoded(np.full(9000, np.nan, np.float32), subtype="FLOAT"),
        "low.wav": encoded(tones("a"), 5_000),
        "six.wav": encoded(np.zeros((9000, 6), np.float32)),
        "text.wav": b"no sound at all",
    }
    for name, data in bad.items():
        (folder / "low" / name).write_bytes(data)
    source = SourceSpec(path=str(folder), format="class_folders")
    content = prepared(CLASSES, source, place, execute)
    assert content["read"] == 24 + len(bad)
    assert content["left_out"] == {
        audio_decode.EMPTY: 1,
        audio_decode.NOT_FINITE: 1,
        audio_decode.TOO_LOW: 1,
        audio_decode.MANY_CHANNELS: 1,
        audio_decode.UNKNOWN: 1,
    }
    assert content["labels"] == ["high", "low"]
    assert sum(split["documents"] for split in content["splits"].values()) == 24
    assert content["processor"]["sampling_rate"] == RATE


def test_a_table_of_paths_and_parquet_with_structs_give_the_same_rows(
    tmp_path: Path, execute
) -> None:
    texts = ["abc", "bcd e", "fgh", "hij", "cab", "ga", "ed", "if"]
    (tmp_path / "wavs").mkdir()
    datas = [clip(text, seed=i) for i, text in enumerate(texts)]
    for index, data in enumerate(datas):
        (tmp_path / f"wavs/{index}.wav").write_bytes(data)
    lines = [f"wavs/{index}.wav,{text}" for index, text in enumerate(texts)]
    (tmp_path / "train.csv").write_text("\n".join(["audio,text", *lines, "wavs/9.wav,abc"]))
    structs = [{"bytes": data, "path": None} for data in datas[:-1]]
    structs.append({"bytes": None, "path": f"wavs/{len(texts) - 1}.wav"})
    table = pa.table({"audio": structs, "text": texts})
    pq.write_table(table, tmp_path / "train.parquet")
    found = []
    for name, format in (("train.csv", "csv"), ("train.parquet", "parquet")):
        place = Location.parse(str(tmp_path / format))
        source = SourceSpec(path=str(tmp_path / name), format=format)
        content = prepared(SPEECH, source, place, execute)
        commit_manifest(
            place, job_name="x", stage="examples", fingerprint="1" * 16, parents={}, content=content
        )
        rows = columns_of(open_dataset(mixture_of(open_artifact(place)), "train").read([0, 1, 2]))
        found.append([bytes(data) for data in rows["audio"]])
        missing = {"file that does not exist in 'audio'": 1} if format == "csv" else {}
        assert content["left_out"] == missing
    assert found[0] == found[1]
    assert all(data.startswith(b"fLaC") for data in found[0])


def test_a_transcript_that_cannot_be_written_is_counted(
    tmp_path: Path, place: Location, execute
) -> None:
    texts = ["abc", "bcd", "efg", "hij", "jab", "東京", "?!", "", "abc" * 40]
    (tmp_path / "wavs").mkdir()
    for index in range(len(texts)):
        (tmp_path / f"wavs/{index}.wav").write_bytes(clip("abcd", seed=index))
    lines = [f"wavs/{index}.wav,{text}" for index, text in enumerate(texts)]
    (tmp_path / "train.csv").write_text("\n".join(["audio,text", *lines]))
    source = SourceSpec(path=str(tmp_path / "train.csv"), format="csv")
    content = prepared(SPEECH, source, place, execute)
    left_out = Counter(content["left_out"])
    assert left_out["transcript with characters that the tokenizer does not have"] == 1
    assert left_out["transcript that is too long for its audio"] == 1
    assert left_out.total() == 4
    assert sum(split["documents"] for split in content["splits"].values()) == 5
