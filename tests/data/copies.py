"""A dataset at another place, under paths that no process has read before."""

import shutil
from dataclasses import replace

from raymodel.data.shard import Dataset
from raymodel.storage.uri import Location


def folder_of(dataset: Dataset) -> Location:
    """Of the artifact of a dataset that is no mixture."""
    return dataset.processor.parent.parent


def copy_of(dataset: Dataset, name: str = "moved") -> Dataset:
    """The same dataset in a folder beside its own."""
    source = folder_of(dataset)
    target = source.parent / name
    shutil.copytree(source.local_path, target.local_path)
    parts = tuple(replace(part, folder=target / part.content.folder) for part in dataset.parts)
    return replace(dataset, parts=parts, processor=target / "data/processor")
