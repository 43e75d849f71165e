"""The jobs that the page on sounds shows run whole, on a few sounds that are made here."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import pytest
import yaml
from journeys import Workplace  # type: ignore[import-not-found]
from shipped import run_shortened  # type: ignore[import-not-found]

from raymodel.testing.sounds import clip, encoded, tones, write_tiny_whisper

DOCS = Path(__file__).parents[2] / "docs/audio"


def make_tables(script: str, root: Path) -> None:
    """Runs one of the scripts of the page."""
    spec = importlib.util.spec_from_file_location(script, DOCS / f"{script}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(root)


def write_syllables(root: Path) -> None:
    for index, name in enumerate(["ma", "ma2", "ma3", "ma4", "ba", "ba2", "ba3", "ba4"] * 2):
        folder = root / f"{name[0]}{index}{name[1:]}"
        folder.mkdir(parents=True)
        for speaker in ("3", "5"):
            samples = tones("abcd"[index % 4], 0.3, seed=index + int(speaker))
            (folder / f"{speaker}.ogg").write_bytes(encoded(samples, format="OGG"))


def write_readings(root: Path) -> None:
    root.mkdir(parents=True)
    texts = [a + b + c for a in "abc" for b in "def" for c in "gh"]
    lines = [f"<s> {text} </s> (read-{text})" for text in texts]
    (root / "transcription").write_text("\n".join(lines))
    for text in texts:
        (root / f"read-{text}.wav").write_bytes(clip(text))


def test_the_tables_are_those_of_the_two_packages(tmp_path: Path) -> None:
    write_syllables(tmp_path / "ogg")
    make_tables("tones", tmp_path / "ogg")
    with open(tmp_path / "ogg/speaker_5.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16
    assert {row["label"] for row in rows} == {"1", "2", "3", "4"}
    assert all((tmp_path / "ogg" / row["audio"]).exists() for row in rows)
    write_readings(tmp_path / "librivox")
    make_tables("readings", tmp_path / "librivox")
    with open(tmp_path / "librivox/readings.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {"audio": "read-adg.wav", "text": "adg"}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_job_of_tones_runs_whole(workplace: Workplace) -> None:
    job = yaml.safe_load((DOCS / "tones.yaml").read_text())
    root = workplace.folder / Path(job["finetune"]["sources"][0]["path"]).parent
    write_syllables(root)
    make_tables("tones", root)
    small = ("finetune.model.config.num_hidden_layers=1", "evaluate.gates={}")
    said = run_shortened(workplace, DOCS / "tones.yaml", *small)
    assert "accuracy" in said


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_job_of_whisper_runs_whole_and_answers(workplace: Workplace) -> None:
    job = yaml.safe_load((DOCS / "whisper.yaml").read_text())
    root = workplace.folder / Path(job["finetune"]["sources"][0]["path"]).parent
    write_readings(root)
    make_tables("readings", root)
    write_tiny_whisper(workplace.folder / "tiny_whisper")
    base = ("finetune.base=tiny_whisper", "finetune.global_batch=2", "evaluate.gates={}")
    said = run_shortened(workplace, DOCS / "whisper.yaml", *base)
    assert "answered:" in said
    assert "wer" in said
