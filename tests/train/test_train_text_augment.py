"""Texts that training changes by chance: the same ones for any number of workers, from any step."""

import json
from pathlib import Path

import pytest
import torch
from tiny_runs import commit_dataset

from raymodel.data.feed import DirectFeed
from raymodel.data.prepare import Recipe
from raymodel.data.rows import RowKind
from raymodel.data.shard import open_dataset
from raymodel.data.spec import CleanSpec, SourceSpec
from raymodel.modality.text import TextProcessor
from raymodel.storage.artifact import Artifact
from raymodel.tasks import make_task
from raymodel.tasks.spec.text import TextClassificationSpec
from raymodel.testing.tiny import train_pair_tokenizer
from raymodel.train.step.batches import Collator, collated

SPEC = TextClassificationSpec.model_validate({"augment": {"drop": 0.1, "swap": 0.1, "noise": 0.2}})
TEXTS = [f"row number {i} has {'many' if i % 2 else 'very few'} words in it" for i in range(40)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder: Path = tmp_path_factory.mktemp("texts")
    records = [{"text": text, "label": "xy"[i % 2]} for i, text in enumerate(TEXTS)]
    (folder / "a.jsonl").write_text("".join(json.dumps(each) + "\n" for each in records))
    recipe = Recipe(
        sources=(SourceSpec(path=str(folder / "a.jsonl"), format="jsonl"),),
        clean=CleanSpec(),
        holdout=0.1,
        seed=7,
        kind=RowKind(task=SPEC, length=64),
        processor=TextProcessor(train_pair_tokenizer(TEXTS)),
    )
    return commit_dataset(recipe, folder / "dataset", fingerprint="1" * 16)


def rows_of(dataset: Artifact, spec: TextClassificationSpec, workers: int, steps: range) -> list:
    """The tokens of each row of these steps, without padding, and its label."""
    data = open_dataset(dataset, "train")
    task = make_task(spec, labels=dataset.content["labels"]).reading_as(data.processor)
    shares = [
        collated(
            DirectFeed(data, data.order(3, 7), steps.start, steps.stop, rank, workers),
            Collator(task, accumulation=2, seed=3),
        )
        for rank in range(workers)
    ]
    found = []
    for step in zip(*shares, strict=True):
        for piece in (piece for _, batch in step for piece in batch.micro_batches):
            rows = zip(
                piece["input_ids"], piece["attention_mask"], piece["labels"].tolist(), strict=True
            )
            found += [(ids[mask == 1].tolist(), label) for ids, mask, label in rows if label >= 0]
    return found


def test_changed_texts_are_the_same_at_any_number_of_workers_and_from_any_step(
    dataset: Artifact,
) -> None:
    torch.set_num_threads(1)
    whole = rows_of(dataset, SPEC, 1, range(6))
    plain = rows_of(dataset, TextClassificationSpec(), 1, range(6))
    assert len(whole) == len(plain) == 42
    assert [label for _, label in whole] == [label for _, label in plain]
    assert sum(a != b for a, b in zip(whole, plain, strict=True)) > 25
    assert len({tuple(ids) for ids, _ in whole}) > 36, "a row is another one at another visit"
    for workers, first in ((2, 0), (3, 0), (3, 4), (1, 4)):
        assert rows_of(dataset, SPEC, workers, range(first, 6)) == whole[7 * first :]
