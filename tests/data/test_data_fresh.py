"""Examples for a model without a base, whose tokenizer the job trains or names: of every task."""

from pathlib import Path
from typing import Any

import pytest
from tiny_tasks import RECORDS, TINY, spec_of, write_texts

from raymodel.cluster.spec import ClusterSpec
from raymodel.data import run as run_module
from raymodel.data.shard import dataset_of
from raymodel.data.step import complete_item, missing_items
from raymodel.errors import ArtifactError
from raymodel.job.check import check_processor
from raymodel.job.spec import Job
from raymodel.modality.text import TextProcessor
from raymodel.observe.story import Story
from raymodel.storage.execution import Execution
from raymodel.storage.uri import Location
from raymodel.tasks import TASKS, get_task
from raymodel.testing.tiny import train_tiny_tokenizer
from raymodel.train.spec import FinetuneSpec

TEXT_TASKS = [name for name in TASKS if get_task(name).modality == "text"]
CHATS = ("chat", "chat_preference")


def examples_of(spec: FinetuneSpec, place: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The training rows, made in this process."""

    def execute(step: Any, **_: Any) -> None:
        for item in missing_items(step):
            complete_item(step, item)

    monkeypatch.setattr(run_module, "execute_step", execute)
    location = Location.parse(str(place))
    execution = Execution(
        job_name="test",
        stage="examples",
        fingerprint="f" * 16,
        location=location,
        seed=7,
        cluster=ClusterSpec(),
    )
    content = run_module.run_examples(spec, execution, Story(), None)
    return dataset_of(location, content, "train")


@pytest.mark.parametrize("name", TEXT_TASKS)
def test_a_tokenizer_that_the_job_trains_and_one_that_it_names_read_examples(
    name, tmp_path, monkeypatch
):
    write_texts(tmp_path)
    trained = {"vocab_size": 300, "tokens": TINY[name].tokens}
    one = examples_of(spec_of(name, tmp_path, tokenizer=trained), tmp_path / "one", monkeypatch)
    assert one.num_rows > RECORDS / 2
    processor = tmp_path / "one/data/processor"
    template = TextProcessor.load(Location.parse(str(processor))).tokenizer.chat_template
    assert (template is not None) == (name in CHATS)
    named = {"load": str(processor)}
    two = examples_of(spec_of(name, tmp_path, tokenizer=named), tmp_path / "two", monkeypatch)
    assert two.num_rows == one.num_rows
    for file in filter(Path.is_file, processor.rglob("*")):
        assert (
            tmp_path / "two/data/processor" / file.relative_to(processor)
        ).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("name", TEXT_TASKS)
def test_a_job_is_told_what_the_tokenizer_that_it_trains_has_to_be(name, tmp_path):
    """`check` refuses what `run` would only refuse when all is read."""
    spec = spec_of(name, tmp_path, tokenizer={"vocab_size": 300, "tokens": "bytes"})
    told = [str(problem.rule) for problem in check_processor(Job(name="x", finetune=spec))]
    needed = ["mask: true"] if name == "masked_lm" else ["tokens: wordpiece"]
    expected = [] if TINY[name].tokens == "bytes" else needed
    assert [each.rpartition("; add ")[2] for each in told] == expected


def test_a_tokenizer_that_a_task_cannot_learn_with_is_told_before_anything_is_read(
    tmp_path, monkeypatch
):
    tokenizer = train_tiny_tokenizer(["a cat sleeps"])
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "saved")
    write_texts(tmp_path)
    spec = spec_of("causal_lm", tmp_path, tokenizer={"load": str(tmp_path / "saved")})
    with pytest.raises(ArtifactError, match=r"^finetune\.tokenizer: .*end-of-text"):
        examples_of(spec, tmp_path / "made", monkeypatch)
    assert not (tmp_path / "made").exists()
