"""Text for vectors: a tokenizer, and how the vectors of a text's tokens become one.

Both lie beside the model in the form that sentence-transformers reads, and are read from such a
folder: https://sbert.net/docs/package_reference/sentence_transformer/modules.html
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from raymodel.errors import ArtifactError
from raymodel.modality.spec import Pooling
from raymodel.modality.text import TextProcessor
from raymodel.storage.uri import Location

MODULES = "modules.json"
_POOLING, _NORMALIZE = "1_Pooling", "2_Normalize"
_LENGTHS = "sentence_bert_config.json"
_PREFIX = "pooling_mode_"
_FLAGS: Mapping[str, Pooling] = MappingProxyType(
    {"mean_tokens": "mean", "cls_token": "cls", "lasttoken": "last"}
)
"""What of `1_Pooling/config.json` is followed. All other flags there stand for other ways."""
_MODES: Mapping[str, Pooling] = MappingProxyType(
    {"mean": "mean", "cls": "cls", "lasttoken": "last"}
)
"""The same as newer versions name it in `pooling_mode`."""
_STEPS = ("Transformer", "Pooling", "Normalize")


class EmbeddingProcessor(TextProcessor):
    """A tokenizer with a pooling.

    Args:
        pooling: None where the folder says nothing of it.
        max_seq_length: tokens of the longest text, for sentence-transformers; None where the folder
            leaves it to the tokenizer.
    """

    def __init__(
        self, tokenizer: Any, pooling: Pooling | None = None, max_seq_length: int | None = None
    ) -> None:
        super().__init__(tokenizer)
        self.pooling, self.max_seq_length = pooling, max_seq_length

    @classmethod
    def load(cls, place: Location) -> Self:
        """The tokenizer of a Hugging Face folder, and its pooling where it has one."""
        processor = super().load(place)
        processor.pooling = _read_pooling(place)
        processor.max_seq_length = _read(place / _LENGTHS).get("max_seq_length")
        return processor

    def pooling_by(self, pooling: Pooling) -> Self:
        """The same with another pooling."""
        other = copy.copy(self)
        other.pooling = pooling
        return other

    def save_pretrained(self, folder: Path) -> None:
        """The tokenizer, and the modules of sentence-transformers once the pooling is known."""
        super().save_pretrained(folder)
        if self.pooling is None:
            return
        paths = zip(_STEPS, ("", _POOLING, _NORMALIZE), strict=True)
        modules = [
            {
                "idx": index,
                "name": str(index),
                "path": path,
                "type": f"sentence_transformers.models.{step}",
            }
            for index, (step, path) in enumerate(paths)
        ]
        flags = {_PREFIX + flag: name == self.pooling for flag, name in _FLAGS.items()}
        _write(folder / MODULES, modules)
        _write(folder / _POOLING / "config.json", _width(folder) | flags)
        _write(folder / _NORMALIZE / "config.json", {})
        length = {} if self.max_seq_length is None else {"max_seq_length": self.max_seq_length}
        _write(folder / _LENGTHS, {"do_lower_case": False, **length})


def _read_pooling(place: Location) -> Pooling | None:
    """Raises ArtifactError where a folder's vectors are made in a way that cannot be followed."""
    if not (place / MODULES).exists():
        return None
    modules = _read(place / MODULES)
    steps = [str(each.get("type", "")).rpartition(".")[2] for each in modules]
    unknown = [step for step in steps if step not in _STEPS]
    if unknown or "Pooling" not in steps:
        raise ArtifactError(
            f"{place / MODULES} makes vectors by {', '.join(steps)}; what can be followed is "
            f"{', '.join(_STEPS)}. Start from a model without {', '.join(unknown) or 'others'}"
        )
    folder = str(modules[steps.index("Pooling")].get("path", _POOLING))
    said = _read(place / folder / "config.json")
    flags = [name.removeprefix(_PREFIX) for name, value in said.items() if value is True]
    flags = [flag for flag in flags if flag != "include_prompt"]
    known = {**_FLAGS, **_MODES}
    modes = said.get("pooling_mode", flags or ["mean_tokens"])
    modes = [modes] if isinstance(modes, str) else modes
    if len(modes) != 1 or modes[0] not in known:
        raise ArtifactError(
            f"{place / folder} pools by {', '.join(map(str, modes))}; the poolings are "
            f"{', '.join(_MODES.values())}. Start from a model with one of these"
        )
    return known[modes[0]]


def _read(place: Location) -> Any:
    """JSON; nothing where there is no such file."""
    return place.read_json() if place.exists() else {}


def _width(folder: Path) -> dict[str, int]:
    """Numbers of a vector, where the model's configuration lies beside it: in a dataset none."""
    if not (folder / "config.json").is_file():
        return {}
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    return {"word_embedding_dimension": int(config.get_text_config().hidden_size)}


def _write(file: Path, body: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(body, indent=2, sort_keys=True) + "\n", encoding="utf-8")
