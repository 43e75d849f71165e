"""Ray Data runs the steps of preparing data."""

from __future__ import annotations

import functools
import itertools
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import ray.data

from raymodel.cluster.ray_errors import own_errors
from raymodel.cluster.spec import ClusterSpec
from raymodel.data.prepare import Recipe, prepare_dataset
from raymodel.data.progress import DOING, StepProgress
from raymodel.data.references import AskedBase
from raymodel.data.rows import RowKind
from raymodel.data.sources import find_tokenizer
from raymodel.data.spec import PrepareSpec, TokenizerSpec
from raymodel.data.step import Step, complete_item, missing_items
from raymodel.errors import ArtifactError
from raymodel.heap import give_back_freed_memory
from raymodel.modality import processor_of
from raymodel.modality.base import Processor
from raymodel.modality.image import ImageProcessor
from raymodel.model.positions import find_max_tokens
from raymodel.storage.execution import Execution
from raymodel.storage.uri import Location
from raymodel.tasks import make_task
from raymodel.tasks.files import read_files

if TYPE_CHECKING:
    from raymodel.train.spec import FinetuneSpec


SHOW_AFTER_S = 3.0
"""A step that is done sooner is told by its result alone."""
_TASKS_PER_WORKER, _MAX_ITEMS_PER_TASK = 4, 8
"""Of items without a model: one takes about half a second, and a task a tenth more of its own."""


class Story(Protocol):
    """Where the user reads what happens."""

    def say(self, text: str) -> None: ...

    def progress_line(self, line: str, *, is_last: bool = False) -> None: ...

    def end_progress(self) -> None: ...

    def waiting(self, what: str) -> Any: ...


def run_prepare(
    spec: PrepareSpec, execution: Execution, story: Story, base_dir: Path | None = None
) -> dict[str, Any]:
    """Reads, cleans, drops duplicates, makes rows and writes; the `prepare` stage.

    Returns: the `content` of the artifact's manifest.

    Raises:
        SourceError: a source is missing, empty or unreadable.
    """
    image = ImageProcessor.fresh(spec.image) if spec.image else None
    processor = image or _tokenizer(spec.tokenizer, base_dir)
    assert processor is not None, "the spec has one of the two"
    recipe = Recipe(
        sources=spec.sources,
        clean=spec.clean,
        holdout=spec.holdout,
        seed=execution.seed,
        kind=RowKind(modality=spec.modality, length=spec.sequence_length),
        reads=processor_of(spec.modality),
        processor=processor,
        max_left_out=spec.max_left_out,
    )
    return _prepare(recipe, execution, story, base_dir)


def run_examples(
    spec: FinetuneSpec,
    execution: Execution,
    story: Story,
    base: Location | None,
    base_dir: Path | None = None,
) -> dict[str, Any]:
    """Turns the labelled sources of `finetune` into example shards, with the base's processor.

    Args:
        base: the Hugging Face folder of the model to start from; None for a fresh one, whose
            tokenizer the job names, or whose processor the task makes.

    Returns: the `content` of the artifact's manifest.

    Raises:
        SpecError: the examples are to be longer than the model can take.
        ArtifactError: the base has no processor, or one that the task cannot learn with.
        SourceError: a source is missing, empty or unreadable.
    """
    task, files = make_task(spec.task), read_files(spec.task, base_dir)
    processor: TokenizerSpec | Location | Processor | None
    if base is None:
        processor = _tokenizer(spec.tokenizer, base_dir) or task.fresh_processor()
    else:
        task = task.reading_as(base)
        processor = task.processor
    assert processor is not None, "the job was checked"

    def adapt(found: Processor) -> Processor:
        reader = make_task(spec.task, processor=found)
        try:
            reader.adapt_processor(files)
            reader.check_processor(reader.processor)
        except ValueError as error:
            raise ArtifactError(f"{base or 'finetune.tokenizer'}: {error}") from error
        return reader.processor

    if isinstance(processor, Location):
        processor = task.processor_class().load(processor)
    if not isinstance(processor, TokenizerSpec):  # what is wrong is told before anything is read
        processor = adapt(processor)
    most = None if base is None else find_max_tokens((base / "config.json").read_json())
    recipe = Recipe(
        sources=spec.sources,
        clean=spec.clean,
        holdout=spec.holdout,
        seed=execution.seed,
        kind=RowKind(task=spec.task, length=spec.max_length_for(most)),
        reads=task.processor_class(),
        processor=processor,
        adapt=adapt,
        max_left_out=spec.max_left_out,
        base=_asked(spec, execution, base) if base and task.base_readings else None,
    )
    return _prepare(recipe, execution, story, base_dir)


def _asked(spec: FinetuneSpec, execution: Execution, base: Location) -> AskedBase:
    wants_gpu = execution.cluster.gpus_per_worker > 0
    return AskedBase(folder=base, precision=spec.precision, wants_gpu=wants_gpu)


def _prepare(
    recipe: Recipe, execution: Execution, story: Story, base_dir: Path | None
) -> dict[str, Any]:
    execute = functools.partial(
        execute_step, story=story, stage=execution.stage, cluster=execution.cluster
    )
    return prepare_dataset(recipe, execution.location, execute, story.say, base_dir)


def _tokenizer(
    spec: TokenizerSpec | None, base_dir: Path | None
) -> TokenizerSpec | Location | None:
    """The one to load, else what to train; None where nothing is said."""
    if spec is not None and spec.load is not None:
        return find_tokenizer(spec.load, base_dir)
    return spec


class _Items:
    """Does items of a step, given by their places among the missing ones."""

    def __init__(self, step: Step, missing: list[int]) -> None:
        self._step, self._missing = step, missing

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        # One task, one core; tokenizers would start a thread for each core of the machine.
        os.environ["TOKENIZERS_PARALLELISM"] = "true" if len(self._missing) == 1 else "false"
        for index in batch["id"]:
            complete_item(self._step, self._missing[int(index)])
        # This process stays for the next step, and may be idle in it: what one item took at the
        # most, as the training of a tokenizer does, would be held to the end.
        pa.default_memory_pool().release_unused()
        give_back_freed_memory()
        return {"id": batch["id"]}


def execute_step(step: Step, story: Story, stage: str, cluster: ClusterSpec) -> None:
    """Does the missing items of a step as tasks of Ray Data, and shows how far it is.

    Those of a step that loads a model are done by actors, each with the means of a training worker
    and no more of them than there will be workers: a model is read once for all items of its actor.
    """
    missing = missing_items(step)
    if not missing:
        return
    if step.loads_model:
        most = min(cluster.max_workers, len(missing))
        done = quiet(ray.data.range(len(missing), override_num_blocks=len(missing))).map_batches(
            _Items,
            fn_constructor_args=(step, missing),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most),
            num_cpus=cluster.cpus_per_worker,
            num_gpus=cluster.gpus_per_worker or None,
        )
    else:
        # A function: of a class Ray Data would make actors.
        one = _Items(step, missing)
        tables = [pa.table({"id": each}) for each in _shares(len(missing), _num_cpus())]
        most_tasks = ray.data.TaskPoolStrategy(step.max_tasks) if step.max_tasks else None
        done = quiet(ray.data.from_arrow(tables)).map_batches(
            lambda ids: one(ids), batch_size=None, compute=most_tasks
        )
    bundles = done.iter_internal_ref_bundles()
    with own_errors():
        if len(missing) == 1:  # of which no share can be told
            with story.waiting(f"the end of {DOING[step.name]}"):
                list(bundles)
            return
        progress, left = StepProgress(step, missing), iter(missing)
        for bundle in bundles:  # in the order of the items, each when its task has ended
            progress.add(itertools.islice(left, bundle.num_rows()))
            if progress.elapsed_s > SHOW_AFTER_S:
                story.progress_line(f"{stage:<9} {progress.text()}", is_last=progress.is_complete)
        story.end_progress()


def _shares(num_items: int, num_workers: int) -> list[range]:
    """What tasks do, in their order: several items each, and fewer towards the end, so that little
    time goes between tasks and none is long at work when the others are through (guided
    self-scheduling, Polychronopoulos and Kuck 1987)."""
    shares, start = [], 0
    while start < num_items:
        size = math.ceil((num_items - start) / (_TASKS_PER_WORKER * num_workers))
        shares.append(range(start, start + min(size, _MAX_ITEMS_PER_TASK)))
        start = shares[-1].stop
    return shares


def _num_cpus() -> int:
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def quiet(items: ray.data.Dataset) -> ray.data.Dataset:
    """Ordered, and without progress bars: the story tells how far things are."""
    items.context.execution_options.preserve_order = True
    items.context.enable_progress_bars = False
    return items
