"""Writes checkpoints beside training.

Only an update changes the state that is saved, running statistics of norms too, so a thread copies
it out while the next forward and backward run; the loop calls `wait_for_copy` before the next
update, and whatever it waits there is all that a checkpoint stops training for. The copy is then
written, and uploaded, by the same thread. One checkpoint is under way at a time: the next one waits
for it.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from raymodel.errors import CheckpointError, StorageUnavailableError
from raymodel.storage.retry import first_line, with_retries
from raymodel.storage.uri import Location
from raymodel.storage.versions import TRAINING, installed_versions
from raymodel.train.checkpoint.buffers import buffer_places, persistent_buffers, tensor_key
from raymodel.train.checkpoint.fragments import Fragment, checksums, tensor_offsets
from raymodel.train.checkpoint.index import INDEX, Index, rank_file, rank_index, save_index
from raymodel.train.checkpoint.resume import rng_states
from raymodel.train.checkpoint.state import (
    FOLDER,
    TrainState,
    checkpoint_location,
    committed_steps,
    discard,
    discard_unfinished,
    find_best_checkpoint,
    withdraw_part,
)
from raymodel.train.step import zero
from raymodel.train.step.engine import Engine

COMMIT_TIMEOUT_S = 600.0


class Saver:
    """One rank's part of every checkpoint; rank 0 also commits and prunes."""

    def __init__(
        self,
        run: Location,
        engine: Engine,
        *,
        rank: int,
        world_size: int,
        token: str,
        keep: int,
        keep_best: bool,
        wait: bool,
        before_commit: Callable[[], None],
        on_event: Callable[[dict[str, Any]], None],
    ) -> None:
        """Args:
        run: the stage execution; checkpoints go below its `checkpoints/`.
        token: the same on all ranks and new for each attempt, so that files which an earlier
            attempt left at the same step are never taken for this one's.
        keep: newest checkpoints that stay.
        keep_best: the one with the lowest validation loss stays too.
        wait: write while the loop waits.
        before_commit: called on rank 0 when all but the commit is done; what it stores is there
            whenever the checkpoint is.
        on_event: told of commits and failures.
        """
        self._run, self._engine = run, engine
        self._rank, self._world_size, self._token = rank, world_size, token
        self._keep, self._keep_best = keep, keep_best
        self._wait, self._before_commit, self._on_event = wait, before_commit, on_event
        self._copies: dict[str, torch.Tensor] = {}
        self._copied = threading.Event()
        self._copied.set()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, state: TrainState) -> None:
        """Begins a checkpoint of the state after `state.step` steps."""
        self._join()
        job = _Job(
            step=state.step,
            state=state.to_dict(),
            counters=zero.counters(self._engine.deepspeed),
            updates=zero.updates_done(self._engine.deepspeed),
            rng=rng_states(),
            slices=[
                (part, zero.state_tensors(self._engine.deepspeed, part))
                for part in zero.owned_slices(self._engine.deepspeed)
            ],
            # Every rank has the same.
            buffers=persistent_buffers(self._engine.deepspeed.module) if self._rank == 0 else {},
        )
        self._copied.clear()
        self._thread = threading.Thread(target=self._work, args=(job,), name="checkpoint")
        self._thread.start()
        if self._wait:
            self._join()

    def wait_for_copy(self) -> None:
        """Returns once the optimizer may change its state again."""
        self._copied.wait()

    def close(self) -> None:
        """Waits for the checkpoint under way.

        Raises:
            StorageUnavailableError: it could not be written; the one before it is still there.
        """
        self._join()
        if self._error is not None:
            raise StorageUnavailableError(
                f"the last checkpoint below {self._run / FOLDER} could not be written "
                f"({self._error}); free or repair the storage and run again: it goes on from "
                "the checkpoint before"
            ) from self._error

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _work(self, job: _Job) -> None:
        self._error = None
        started = time.monotonic()
        try:
            try:
                tensors = self._copy_out(job)
            finally:
                self._copied.set()
            copied = time.monotonic()
            self._with_retries(job.step, lambda: self._write(job, tensors))
            if self._rank == 0:
                self._commit(job)
                self._prune(job.step)
                self._on_event(
                    {
                        "event": "checkpoint",
                        "step": job.step,
                        "copy_s": round(copied - started, 3),
                        "write_s": round(time.monotonic() - copied, 3),
                    }
                )
        except BaseException as error:  # noqa: BLE001  (a thread's error must reach the loop)
            self._error = error
            self._on_event({"event": "checkpoint_failed", "step": job.step, "cause": str(error)})
            self._withdraw(job.step)

    def _withdraw(self, step: int) -> None:
        """Leaves nothing of a checkpoint that failed: on a full disk every byte counts.

        What other ranks wrote of it goes with the next checkpoint, or at the next start.
        """
        folder = checkpoint_location(self._run, step)
        with suppress(OSError):  # the storage may be gone altogether
            if not (folder / INDEX).exists():
                withdraw_part(folder, (rank_index(self._rank), rank_file(self._rank)))

    def _copy_out(self, job: _Job) -> dict[str, torch.Tensor]:
        tensors = {}
        for part, views in job.slices:
            for key, view in views.items():
                name = f"{part.name}:{part.start}:{key}"
                tensors[name] = self._copy(name, view, torch.float32)
        for name, buffer in job.buffers.items():
            key = tensor_key(name)
            tensors[key] = self._copy(key, buffer, buffer.dtype)
        return tensors

    def _copy(self, name: str, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Into memory that is kept, so that none is mapped anew each time."""
        if name not in self._copies:
            self._copies[name] = torch.empty(tensor.shape, dtype=dtype)
        return self._copies[name].copy_(tensor)

    def _with_retries(self, step: int, action: Callable[[], None]) -> None:
        def tell(error: OSError, wait_s: float) -> None:
            self._on_event(
                {
                    "event": "checkpoint_retry",
                    "step": step,
                    "cause": first_line(error),
                    "wait_s": wait_s,
                }
            )

        with_retries(action, f"writing {checkpoint_location(self._run, step)}", tell)

    def _write(self, job: _Job, tensors: dict[str, torch.Tensor]) -> None:
        folder = checkpoint_location(self._run, job.step)
        folder.make_dir()
        rng = {f"rng:{device}": state for device, state in job.rng.items()}
        with tempfile.TemporaryDirectory(
            dir=folder.local_path if folder.is_local else None, prefix=".part-"
        ) as temporary:
            path = Path(temporary) / rank_file(self._rank)
            save_file(tensors | rng, path)
            offsets, size = tensor_offsets(path), path.stat().st_size
            if folder.is_local:
                path.rename(folder.local_path / path.name)
            else:
                (folder / path.name).upload(path)
        entry = {
            "token": self._token,
            "bytes": size,
            "parameters": _fragments(rank_file(self._rank), job, tensors, offsets),
            "rng": {
                device: [offsets[f"rng:{device}"], state.numel(), zlib.crc32(state.numpy().data)]
                for device, state in job.rng.items()
            },
        }
        if buffers := buffer_places(rank_file(self._rank), tensors, offsets):
            entry["buffers"] = buffers
        (folder / rank_index(self._rank)).write_json(entry)

    def _commit(self, job: _Job) -> None:
        """Waits for every rank's index, merges them, and writes `checkpoint.json` last."""
        folder = checkpoint_location(self._run, job.step)
        entries = [self._wait_for_index(folder, rank) for rank in range(self._world_size)]
        parameters: dict[str, dict[str, Any]] = {}
        for entry in entries:
            for name, (shape, fragments) in entry["parameters"].items():
                merged = parameters.setdefault(name, {"shape": shape, "fragments": []})
                merged["fragments"].extend(fragments)
        moments = {key for _, views in job.slices for key in views} - {zero.WEIGHT}
        index = Index(
            step=job.step,
            world_size=self._world_size,
            state=job.state,
            counters=job.counters,
            updates=job.updates,
            moments=sorted(moments),
            versions=installed_versions(TRAINING),
            files={rank_file(rank): entry["bytes"] for rank, entry in enumerate(entries)},
            parameters=parameters,
            rng={rank_file(rank): entry["rng"] for rank, entry in enumerate(entries)},
            buffers=entries[0].get("buffers", {}),
            tensor=self._engine.layout.tensor,
            sequence=self._engine.layout.sequence,
        )
        self._before_commit()
        self._with_retries(job.step, lambda: save_index(folder, index))

    def _wait_for_index(self, folder: Location, rank: int) -> dict[str, Any]:
        deadline = time.monotonic() + COMMIT_TIMEOUT_S
        while time.monotonic() < deadline:
            with suppress(OSError):  # looking again is the retry
                if (folder / rank_index(rank)).exists():
                    entry: dict[str, Any] = json.loads((folder / rank_index(rank)).read_bytes())
                    if entry["token"] == self._token:
                        return entry
            time.sleep(0.05 if folder.is_local else 0.5)
        raise CheckpointError(f"rank {rank} did not write its part in {COMMIT_TIMEOUT_S:.0f} s")

    def _prune(self, step: int) -> None:
        """Failing here loses nothing: the checkpoint is committed, and the next one prunes too."""
        try:
            discard_unfinished(self._run, step)
            best = find_best_checkpoint(self._run) if self._keep_best else None
            for old in committed_steps(self._run)[: -self._keep]:
                if best is None or old != best.step:
                    discard(checkpoint_location(self._run, old))
        except OSError as error:
            self._on_event({"event": "prune_failed", "step": step, "cause": str(error)})


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What one checkpoint needs to know of the moment it was asked for."""

    step: int
    state: dict[str, Any]
    counters: dict[str, float]
    updates: int
    rng: dict[str, torch.Tensor]
    slices: list[tuple[zero.Slice, dict[str, torch.Tensor]]]
    buffers: dict[str, torch.Tensor]


def _fragments(
    file: str, job: _Job, tensors: dict[str, torch.Tensor], offsets: dict[str, int]
) -> dict[str, Any]:
    parameters: dict[str, Any] = {}
    for part, views in job.slices:
        places = {}
        for key in views:
            name = f"{part.name}:{part.start}:{key}"
            places[key] = (offsets[name], checksums(tensors[name].numpy()))
        fragment = Fragment(file, part.span, places).to_json()
        parameters.setdefault(part.name, [list(part.shape), []])[1].append(fragment)
    return parameters
