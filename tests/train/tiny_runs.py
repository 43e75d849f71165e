"""A training of a two-layer model on a hundred short documents: whole runs in seconds."""

from pathlib import Path
from typing import Any

from raymodel.data.mixture import Mixture, mixture_of
from raymodel.data.prepare import Recipe, prepare_dataset
from raymodel.data.rows import PackedRows
from raymodel.data.spec import CleanSpec, SourceSpec, TokenizerSpec
from raymodel.data.steps import Step, complete_item, missing_items
from raymodel.observe.records import Record, read_records
from raymodel.storage.artifact import Artifact, open_artifact
from raymodel.storage.manifest import commit_manifest
from raymodel.storage.uri import Location
from raymodel.testing.tiny import write_tiny_corpus
from raymodel.train.session import TorchrunSession
from raymodel.train.spec import PretrainSpec
from raymodel.train.work import TrainWork
from raymodel.train.worker import run_worker

MODEL = {
    "architecture": "llama",
    "config": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
}


TOKENIZER = TokenizerSpec(vocab_size=300)


def make_dataset(
    folder: Path, seed: int = 0, tokenizer: TokenizerSpec | Location = TOKENIZER
) -> Artifact:
    """Prepared rows of a tiny corpus, as an artifact.

    Args:
        seed: of the corpus; another one is another dataset.
        tokenizer: one to train, or the folder of another dataset's.
    """
    clean = CleanSpec()
    write_tiny_corpus(folder / "corpus", seed=seed)
    recipe = Recipe(
        sources=(SourceSpec(path=str(folder / "corpus")),),
        clean=clean,
        holdout=0.1,
        seed=7,
        kind=PackedRows(16, clean),
        tokenizer=tokenizer,
        sequence_length=16,
    )

    def execute(step: Step) -> None:
        for item in missing_items(step):
            complete_item(step, item)

    place = Location.parse(str(folder / "dataset"))
    content = prepare_dataset(recipe, place, execute, lambda text: None)
    commit_manifest(
        place,
        job_name="tiny",
        stage="prepare",
        fingerprint=f"{seed:016x}",
        parents={},
        content=content,
    )
    return open_artifact(place)


def make_work(dataset: Artifact | Mixture, run: Path | Location, **spec: Any) -> TrainWork:
    """What the workers are told: twelve steps, a checkpoint each four, unless `spec` differs."""
    fields = {
        "model": MODEL,
        "global_batch": 8,
        "duration": "12 steps",
        "precision": "fp32",
        "log_every": "1 step",
        "validate_every": "6 steps",
        "validate_rows": 8,
        "checkpoint": {"every": "4 steps"},
    }
    return TrainWork(
        job_name="tiny",
        stage="pretrain",
        spec=PretrainSpec.model_validate(fields | spec),
        task="causal_lm",
        labels=(),
        seed=3,
        run=Location.parse(str(run)),
        dataset=mixture_of(dataset) if isinstance(dataset, Artifact) else dataset,
        base=None,
        threads=1,
        export=False,
    )


def train_here(rank: int, world_size: int, work: TrainWork) -> None:
    """One rank of a whole run, in a process of `run_distributed`."""
    run_worker(work, TorchrunSession())


def records(work: TrainWork, name: str) -> list[Record]:
    return read_records(work.run / f"{name}.jsonl")


def events(work: TrainWork, kind: str) -> list[Record]:
    return [event for event in records(work, "events") if event["event"] == kind]


def losses(work: TrainWork) -> list[float | None]:
    return [record["loss"] for record in records(work, "metrics") if "loss" in record]


def fragments(work: TrainWork, step: int) -> dict[str, bytes]:
    """The files of a checkpoint that hold weights, moments and random states."""
    folder = work.run / "checkpoints" / f"step-{step:08d}"
    names = [entry.name for entry in folder.list() if entry.name.endswith(".safetensors")]
    return {name: (folder / name).read_bytes() for name in names}
