"""A small corpus of two sources, and a dataset made of it in this process."""

from collections.abc import Callable
from pathlib import Path

import pytest
from small_corpus import execute_here, text_of

from raymodel.data.prepare import Recipe, prepare_dataset
from raymodel.data.rows import RowKind
from raymodel.data.shard import Dataset, dataset_of
from raymodel.data.spec import CleanSpec, SourceSpec, TokenizerSpec
from raymodel.data.step import Step
from raymodel.modality.text import TextProcessor, train_tokenizer
from raymodel.storage.uri import Location


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """120 documents in `a`, of which one repeats, and 30 in `b`, of which three are in `a` too."""
    for name, indices in {"a": [*range(119), 5], "b": [3, 4, 5, *range(200, 227)]}.items():
        (tmp_path / "corpus" / name).mkdir(parents=True)
        for place, index in enumerate(indices):
            (tmp_path / "corpus" / name / f"{place:03d}.txt").write_text(text_of(index))
    return tmp_path / "corpus"


@pytest.fixture
def place(tmp_path: Path) -> Location:
    """Where a dataset is made."""
    return Location.parse(str(tmp_path / "out"))


@pytest.fixture
def recipe(corpus: Path) -> Recipe:
    clean = CleanSpec()
    return Recipe(
        sources=(
            SourceSpec(path=str(corpus / "a")),
            SourceSpec(path=str(corpus / "b"), weight=2.0),
        ),
        clean=clean,
        holdout=0.1,
        seed=7,
        kind=RowKind(length=16),
        processor=TokenizerSpec(vocab_size=300),
    )


@pytest.fixture
def execute() -> Callable[[Step], None]:
    return execute_here


@pytest.fixture
def dataset(recipe: Recipe, tmp_path: Path) -> Dataset:
    place = Location.parse(str(tmp_path / "dataset"))
    content = prepare_dataset(recipe, place, execute_here, lambda text: None)
    return dataset_of(place, content, "train")


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Location:
    """The folder of a tokenizer that was trained on the corpus."""
    place = Location.parse(str(tmp_path_factory.mktemp("tokenizer")))
    TextProcessor(train_tokenizer([text_of(index) for index in range(119)], 300)).save(place)
    return place
