"""The weights of a Hugging Face folder, one by one, under the names that a model has for them.

`from_pretrained` reads all of them into one process. The names, and what they have to do with those
in the files (old spellings, the prefix of the base model, experts that are merged into one matrix),
are transformers' own affair: its rules are asked here, and only the reading is ours.
"""

from __future__ import annotations

import copy
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

from raymodel.errors import ArtifactError
from raymodel.model.tensorfile import TensorFile
from raymodel.storage.model_files import INDEX, ONE_FILE
from raymodel.storage.uri import Location

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Of old folders: what models compute today, which transformers passes over for all of them too.
_OLD_BUFFERS = (r"rotary_emb\.inv_freq$", r"(^|\.)position_ids$")


class StoredWeights:
    """Reads a weight when it is asked for, wherever in the folder it lies."""

    def __init__(self, folder: Location, model: PreTrainedModel) -> None:
        """Reads the headers of the files.

        Args:
            folder: On a disk or in a bucket.
            model: On the meta device.

        Raises:
            ArtifactError: the folder holds no safetensors or damaged ones, or weights that
                contradict the configuration.
        """
        self._folder = folder
        self._model = copy.deepcopy(model)  # rules may ask it, and `model` will change
        self._files = {key: file for file in _open_files(folder) for key in file.tensors}
        known = self._model.state_dict()
        self._recipes: dict[str, tuple[_Recipe, str]] = {}
        """Name in the model → how it is made, and the name under which it comes out of that."""
        self.misshapen: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        """Name in the model → its shape in the folder, and the other one that the model has."""
        recipes, unplaced = _recipes(self._model, self._files, known)
        for recipe in recipes:
            for name, tensor in recipe.make(self._model, self._outline).items():
                if name in known and tensor.shape == known[name].shape:
                    self._recipes[name] = recipe, name
                elif name in known:
                    self.misshapen[name] = tuple(tensor.shape), tuple(known[name].shape)
        self.extra = self._find_extra(unplaced)
        """Keys in the files for whose layer the model has a place, and for them none: it is of
        another configuration. Heads of other tasks are no such keys."""
        self._made: dict[str, torch.Tensor] = {}
        self._tie()
        self.missing = self._find_missing(known)
        """Names in the model that the folder lacks, or has in another shape."""

    def __contains__(self, name: str) -> bool:
        return name in self._recipes

    @property
    def dtype(self) -> torch.dtype:
        """The type of most numbers in the files, those that have scales aside; fp32 where none is
        a fraction."""
        counts: Counter[torch.dtype] = Counter()
        for key, file in self._files.items():
            info = file.tensors[key]
            if info.dtype.is_floating_point and info.dtype.itemsize > 1:
                counts[info.dtype] += math.prod(info.shape)
        return max(counts, key=counts.__getitem__, default=torch.float32)

    def leave_out(self, is_unwanted: Callable[[str], bool]) -> None:
        """Takes weights for missing that the folder has, by their names in the model."""
        unwanted = [name for name in self._recipes if is_unwanted(name)]
        for name in unwanted:
            del self._recipes[name]
        self.missing = (*self.missing, *unwanted)

    def read(self, name: str) -> torch.Tensor:
        """A weight in the type that is stored, on the CPU."""
        recipe, name = self._recipes[name]
        if name not in self._made:
            self._made = recipe.make(self._model, lambda key: self._files[key].read(key))
        return self._made.pop(name)

    def _outline(self, key: str) -> torch.Tensor:
        info = self._files[key].tensors[key]
        return torch.empty(info.shape, dtype=info.dtype, device="meta")

    def _tie(self) -> None:
        """Of tied weights a folder may hold either name."""
        for target, source in self._model.all_tied_weights_keys.items():
            if target not in self:
                continue
            if source not in self:
                self._recipes[source] = self._recipes[target]
            elif not torch.equal(self.read(target), self.read(source)):
                raise ArtifactError(
                    f"{self._folder} holds two different weights for {source} and {target}, which "
                    "its config.json ties; set tie_word_embeddings to false there"
                )

    def _find_extra(self, unplaced: Mapping[str, str]) -> tuple[str, ...]:
        may_hold = [re.compile(p) for p in self._model._keys_to_ignore_on_load_unexpected or ()]
        may_hold += [re.compile(p) for p in _OLD_BUFFERS]
        modules = {name for name, _ in self._model.named_modules()}
        prefix = self._model.base_model_prefix
        return tuple(
            key
            for key, name in unplaced.items()
            if self._files[key].tensors[key].dtype.is_floating_point
            and not any(pattern.search(key) or pattern.search(name) for pattern in may_hold)
            and any(_has_place(each, modules) for each in (name, f"{prefix}.{name}"))
        )

    def _find_missing(self, known: Iterable[str]) -> tuple[str, ...]:
        may_lack = [re.compile(p) for p in self._model._keys_to_ignore_on_load_missing or ()]
        present = {*self._recipes, *self._model.all_tied_weights_keys}
        return tuple(
            name
            for name in known
            if name not in present and not any(pattern.search(name) for pattern in may_lack)
        )


@dataclass
class _Recipe:
    """How weights of the model are made from tensors of the files."""

    name: str
    converter: WeightConverter | None
    """None where the one tensor only has another name."""
    keys: list[tuple[str, str | None]] = field(default_factory=list)
    """Keys in the files, each with the pattern of the converter that it fits."""

    def make(
        self, model: PreTrainedModel, read: Callable[[str], torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        if self.converter is None:
            return {self.name: read(self.keys[0][0])}
        converter = copy.deepcopy(self.converter)
        for key, pattern in self.keys:
            converter.add_tensor(self.name, key, pattern, read(key))  # type: ignore[arg-type]
        made = converter.convert(self.name, model=model, config=model.config)
        return {name: t[0] if isinstance(t, list) else t for name, t in made.items()}


def _has_place(name: str, modules: set[str]) -> bool:
    """Whether a model has the module of this tensor, or the list that its layer is in."""
    *parents, _ = name.split(".")
    lists = [".".join(parents[:at]) for at, part in enumerate(parents) if part.isdigit()]
    return any(module in modules for module in (".".join(parents), *lists) if module)


def _recipes(
    model: PreTrainedModel, keys: Iterable[str], known: dict[str, torch.Tensor]
) -> tuple[Iterable[_Recipe], dict[str, str]]:
    """What of the model the keys in the files give; and the keys that it has no place for, with
    the names that they would have in it."""
    rules = get_model_conversion_mapping(model)
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    by_pattern = {pattern: rule for rule in converters for pattern in rule.source_patterns}
    prefix = model.base_model_prefix
    recipes: dict[str, _Recipe] = {}
    unplaced: dict[str, str] = {}
    for key in sorted(keys, key=dot_natural_key):  # experts in the order of their numbers
        name, pattern = rename_source_key(key, renamings, converters, prefix, known)
        if name not in known and key in known:  # has its new name already
            name, pattern = rename_source_key(key, [], [], prefix, known)
        if name in known:
            converter = by_pattern[pattern] if pattern is not None else None
            recipes.setdefault(name, _Recipe(name, converter)).keys.append((key, pattern))
        else:
            unplaced[key] = name
    return recipes.values(), unplaced


def _open_files(folder: Location) -> list[TensorFile]:
    if (folder / ONE_FILE).exists():
        names = [ONE_FILE]
    elif (folder / INDEX).exists():
        names = sorted(set((folder / INDEX).read_json()["weight_map"].values()))
        absent = [name for name in names if not (folder / name).exists()]
        if absent:
            raise ArtifactError(
                f"{folder} lacks {len(absent)} of the {len(names)} files of weights that {INDEX} "
                f"names ({', '.join(absent[:3])}); copy it again"
            )
    else:
        raise ArtifactError(
            f"{folder} holds no weights as safetensors ({ONE_FILE}, or {INDEX} and its files); "
            "pickled weights are never read: convert them"
        )
    return [TensorFile(folder / name) for name in names]
