"""Whole jobs in processes of their own, as a user starts them."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from journeys import JobRunner, Workplace  # type: ignore[import-not-found]
from one_ray import OneRay  # type: ignore[import-not-found]
from shipped import JOBS, run_shortened  # type: ignore[import-not-found]

from raymodel.testing.tiny import build_tiny_bert, train_tiny_tokenizer, write_tiny_corpus


@pytest.fixture(scope="package")  # no longer: its processes would slow down all other tests
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    """With a corpus, labelled records, and a package of a classifier and of one without a head."""
    folder = tmp_path_factory.mktemp("workplace")
    corpus = [path.read_text() for path in write_tiny_corpus(folder / "corpus")]
    package, classifier = folder / "tiny_models", build_tiny_bert()
    for name, model in {"bert": classifier, "headless": classifier.bert}.items():
        model.save_pretrained(package / name)
        train_tiny_tokenizer(corpus).save_pretrained(package / name)
    (package / "__init__.py").touch()
    records = [
        {"text": f"{number} {text[:60]}", "label": ("no", "yes")[number % 2]}
        for number, text in enumerate(corpus)
    ]
    (folder / "labelled.jsonl").write_text("\n".join(json.dumps(record) for record in records))
    with OneRay(folder) as ray:
        yield Workplace(folder, ray)


@pytest.fixture(scope="package")
def given(workplace: Workplace) -> str:
    """The quickstart, shortened, under the name `given`; what it said."""
    path = next(path for path in JOBS if path.name == "quickstart.yaml")
    return str(run_shortened(workplace, path, "name=given", "evaluate.gates={}"))


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[JobRunner]:
    # Ray makes sockets there, whose paths may not be longer than 107 characters.
    ray_folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    yield JobRunner(tmp_path, ray_folder)
    shutil.rmtree(ray_folder, ignore_errors=True)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    write_tiny_corpus(folder)
    return folder
