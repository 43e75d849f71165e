"""What a processor is: between the raw data of a kind and the numbers that a model takes.

A tokenizer is one, and what scales an image. It lies in the folder of every dataset and model that
was made with it, so that whoever trains, evaluates or serves reads its input in the same way.
"""

from __future__ import annotations

import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from raymodel.storage.local import near
from raymodel.storage.model_files import is_small
from raymodel.storage.uri import Location

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class ModelFields:
    """What the configuration of a fresh model must say to fit the data."""

    at_least: Mapping[str, int] = field(default_factory=dict)
    """Sizes that the job file may raise."""
    given: Mapping[str, Any] = field(default_factory=dict)
    """All else, for the architectures that have such a field."""


class Processor(ABC):
    """One of a modality."""

    modality: ClassVar[str]
    unit: ClassVar[str] = "tokens"
    """What rows are counted in."""
    file: ClassVar[str]
    """What decides how it reads; two datasets whose files are equal can be mixed."""

    @classmethod
    @abstractmethod
    def load(cls, place: Location) -> Self:
        """The processor of a folder, on a disk or in a bucket.

        Raises:
            ArtifactError: the folder holds none that can be loaded, or one that cannot be followed.
        """

    @abstractmethod
    def save_pretrained(self, folder: Path) -> None:
        """Writes it into a local folder, as transformers would."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What a manifest says of it, for those who plan without loading it."""

    @property
    def unknown(self) -> int | None:
        """The id of what its tokenizer has no token for; None where it has one for everything."""
        return None

    @abstractmethod
    def model_fields(self, max_length: int | None) -> ModelFields:
        """What a fresh model needs.

        Args:
            max_length: the longest row in tokens, where rows have tokens.
        """

    @abstractmethod
    def check_fits(self, model: PreTrainedModel) -> None:
        """Raises ValueError when a model cannot take what the processor makes."""

    def find_difference(self, other: Processor) -> str | None:
        """What another reads otherwise, in words; None where the same raw data is the same numbers
        to both."""
        if self.file != other.file:
            return f"one reads with {self.file} and the other with {other.file}"
        return None if self._saved() == other._saved() else f"their {self.file} differ"

    def _saved(self) -> bytes:
        """What decides how it reads, as this version of its library writes it."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(Path(folder))
            return (Path(folder) / self.file).read_bytes()

    def save(self, place: Location) -> None:
        """Writes it into a folder, on a disk or in a bucket."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(Path(folder))
            for file in sorted(Path(folder).rglob("*")):
                if file.is_file():
                    (place / file.relative_to(folder).as_posix()).upload(file)


@contextmanager
def as_local(place: Location) -> Iterator[Path]:
    """The small files of a folder on this machine: a model's weights beside them are not needed."""
    place = near(place, weights=False)
    if place.is_local:
        yield place.local_path
        return
    folder = Path(tempfile.mkdtemp())
    try:
        for entry in place.list():
            if is_small(entry.name):
                (folder / entry.name).write_bytes((place / entry.name).read_bytes())
        yield folder
    finally:
        shutil.rmtree(folder)
