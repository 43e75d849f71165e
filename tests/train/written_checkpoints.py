"""Checkpoints that no training wrote: given weights, in the files of several ranks."""

from collections.abc import Iterable
from pathlib import Path

import torch

from raymodel.model.initial import Weights
from raymodel.model.tensorfile import TensorInfo, write_tensors
from raymodel.storage.uri import Location
from raymodel.train.checkpoint.fragments import Fragment, checksums, tensor_offsets
from raymodel.train.checkpoint.index import Index, rank_file, save_index
from raymodel.train.checkpoint.span import Span
from raymodel.train.checkpoint.state import checkpoint_location
from raymodel.train.plan import cut
from raymodel.train.step.zero import WEIGHT


def write_checkpoint_of(
    run: Location, shapes: dict[str, Iterable[int]], weights: Weights, ranks: int = 2
) -> Index:
    """The checkpoint of step 1, on a disk; holds one weight at a time in memory."""
    folder = checkpoint_location(run, 1)
    folder.make_dir()
    infos = {name: TensorInfo(name, torch.float32, tuple(shape)) for name, shape in shapes.items()}
    parameters = {n: {"shape": list(i.shape), "fragments": []} for n, i in infos.items()}
    files = {}
    for rank in range(ranks):
        path, sums, runs = folder.local_path / rank_file(rank), {}, {}

        def part(name: str, rank: int = rank, sums: dict = sums) -> torch.Tensor:
            start, stop = cut(infos[name].bytes // 4, ranks)[rank]
            run = weights.read(name).float().contiguous().view(-1)[start:stop].clone()
            sums[name] = checksums(run.numpy())
            return run

        for name, info in infos.items():
            start, stop = cut(info.bytes // 4, ranks)[rank]
            if stop > start:
                runs[name] = start, stop
        with open(path, "wb") as stream:
            own = [
                TensorInfo(n, torch.float32, (stop - start,)) for n, (start, stop) in runs.items()
            ]
            write_tensors(stream, own, part)
        offsets = tensor_offsets(path)
        for name, (start, stop) in runs.items():
            places = {WEIGHT: (offsets[name], sums[name])}
            fragment = Fragment(path.name, Span.of(start, stop - start), places).to_json()
            parameters[name]["fragments"].append(fragment)
        files[path.name] = Path(path).stat().st_size
    index = Index(
        step=1,
        world_size=ranks,
        state={"step": 1, "tokens": 1, "data_digest": "0" * 16, "validation_loss": None},
        counters={},
        updates=1,
        moments=[],
        versions={},
        files=files,
        parameters=parameters,
    )
    save_index(folder, index)
    return index
