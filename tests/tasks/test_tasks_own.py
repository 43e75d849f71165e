"""A user's own task and measure: found, held to the contract, and part of what names a result."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from raymodel.errors import SpecError
from raymodel.modality.text import TextProcessor
from raymodel.model.purpose import find_task_spec
from raymodel.spec.fields import own_name
from raymodel.storage.artifact import open_artifact
from raymodel.storage.manifest import commit_manifest
from raymodel.storage.uri import Location
from raymodel.tasks import is_higher_better, make_task
from raymodel.tasks.own import own_measure, own_task
from raymodel.tasks.spec import TASK_SPECS, default_spec
from raymodel.testing.tiny import train_tiny_tokenizer
from raymodel.train.base import examples_identity, finetune_identity
from raymodel.train.spec import FinetuneSpec
from raymodel.train.work import told_of_task
from raymodel.tune.space import apply_setting

TEMPLATES = Path(__file__).parents[2] / "docs/own"
LONG = "tasks:LongTextClassification"


def spec_of(task, **fields) -> FinetuneSpec:
    data = {"sources": [{"path": "."}], "global_batch": 1, "duration": "1 step", "base": "x"}
    return FinetuneSpec.model_validate(data | {"task": task} | fields)


def test_the_template_reads_both_ends_of_a_text_and_smooths_its_targets(own_folder):
    own_folder(TEMPLATES)
    processor = TextProcessor(train_tiny_tokenizer(["a cat sleeps"]))
    spec = spec_of({"name": LONG, "start": 0.5, "smoothing": 0.2}).task
    task = make_task(spec, labels=("no", "yes"), processor=processor)
    values = {"text": "abcdefgh", "label": "yes"}
    assert task.features(values, None).features["label"] == 1
    example = task.features(values, 4)
    assert processor.decode(example.features["input_ids"]) == "abgh"
    assert example.cut == ("text",)
    rows = {name: [value] for name, value in example.features.items()}
    assert set(task.collate(rows)) == {"input_ids", "attention_mask", "labels"}
    logits = torch.tensor([[0.0, 2.0], [0.0, 2.0]])
    plain, smoothed = (
        make_task(spec_of({"name": LONG, "smoothing": share}).task).loss_of(
            logits, torch.tensor([1, -100])
        )
        for share in (0.0, 0.5)
    )
    assert float(smoothed - plain) == pytest.approx(0.5 * 0.5 * 2.0)
    assert (task.name, task.class_role()) == (LONG, "label")


def test_a_model_tells_its_task_as_the_job_said_it(own_folder, tmp_path):
    own_folder(TEMPLATES)
    said = {"name": LONG, "start": 0.5}
    for spec in (spec_of(said).task, *(default_spec(own_name(kind)) for kind in TASK_SPECS)):
        place = Location.parse(str(tmp_path / spec.name.replace(":", "-")))
        (place / "model/config.json").write_text("{}")
        commit_manifest(
            place,
            job_name="a",
            stage="finetune",
            fingerprint="f" * 16,
            parents={},
            content=told_of_task(spec),
        )
        assert find_task_spec(open_artifact(place)) == spec


def test_a_job_says_the_fields_that_the_class_declares(own_folder):
    own_folder(TEMPLATES)
    spec = spec_of({"name": LONG, "start": 0.5})
    assert spec.to_dict()["task"] == {"name": LONG, "start": 0.5, "smoothing": 0.1}
    assert spec_of(LONG).task.start == 0.25
    assert pickle.loads(pickle.dumps(spec)).task == spec.task, "so it travels to workers"
    assert apply_setting(spec, {"optimizer.learning_rate": 0.5}).task == spec.task
    with pytest.raises(ValidationError, match="unknown key 'strat'; did you mean 'start'"):
        spec_of({"name": LONG, "strat": 1})
    with pytest.raises(ValidationError, match="start: true"):
        spec_of({"name": LONG, "start": True})


def test_a_class_whose_text_changed_makes_other_rows_and_another_model(own_folder):
    folder = own_folder()
    (folder / "data.txt").write_text("x")
    text = (TEMPLATES / "tasks.py").read_text()
    (folder / "mine.py").write_text(text)
    spec = spec_of("mine:LongTextClassification", sources=[{"path": "data.txt"}])

    def marks() -> tuple[str, str]:
        found = examples_identity(spec, None, folder), finetune_identity(spec, None, None)
        return tuple(json.dumps(each, sort_keys=True) for each in found)

    before = marks()
    assert marks() == before
    (folder / "mine.py").write_text(text + "\n# changed\n")
    assert all(a != b for a, b in zip(before, marks(), strict=True))


HEAD = """
from types import MappingProxyType
from raymodel.tasks.base import Task
from raymodel.tasks.fields import Field
from raymodel.tasks.spec import AnyTask
from raymodel.tasks.image_classification import ImageClassification
from raymodel.tasks.text_classification import TextClassification
class Bare(Task):
    modality = "text"
class Odd(TextClassification):
    modality = "smell"
class Roleless(TextClassification):
    fields = {"text": "{text}"}
class Images(ImageClassification): pass
class Wrong(TextClassification):
    spec_class = dict
class Plain(TextClassification): pass
"""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Bare", r"lacks answer_text\(\), collate\(\), features\(\).* fields, measures, answers"),
        ("Odd", "`modality` .* is 'smell'; what is read is one of text, image"),
        ("Roleless", "must be roles, each with a raymodel.tasks.fields.Field"),
        ("Field", "is the class Field; a task is a class derived from raymodel.tasks.base.Task"),
        ("Plian", "did you mean broken_tasks:Plain"),
    ],
)
def test_a_task_that_keeps_no_contract_is_told_what_it_lacks(own_folder, name, said):
    (own_folder() / "broken_tasks.py").write_text(HEAD)
    with pytest.raises(SpecError, match=said):
        own_task(f"broken_tasks:{name}")


def test_a_task_derived_from_one_with_fields_needs_a_spec_of_its_own(own_folder):
    (own_folder() / "broken_tasks.py").write_text(HEAD)
    assert spec_of("broken_tasks:Plain").task.name == "broken_tasks:Plain"
    changed = spec_of({"name": "broken_tasks:Plain", "augment": {"drop": 0.1}})
    assert changed.task.augment.is_on, "it takes what all tasks of such texts take"
    with pytest.raises(ValidationError, match=r"derived from raymodel\.tasks\.spec\.image\.Image"):
        spec_of("broken_tasks:Images")
    with pytest.raises(ValidationError, match=r"`spec_class` .* must be a class derived"):
        spec_of("broken_tasks:Wrong")


def test_asking_a_task_of_ones_own_loads_nothing_heavy():
    code = (
        f"from raymodel.tasks import get_task; task = get_task({LONG!r}); "
        "import sys; assert list(task.fields) == ['text', 'label']; "
        "print([m for m in ('torch', 'pyarrow', 'transformers', 'ray') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=TEMPLATES
    )
    assert done.stdout.strip() == "[]", done.stderr


# ---- measures ------------------------------------------------------------------------------------


def test_the_template_measures_each_class_alike(own_folder):
    own_folder(TEMPLATES)
    recall = own_measure("measures:macro_recall")
    answers = [{"label": label} for label in ("a", "a", "a", "a")]
    assert recall(answers, ["a", "a", "a", "b"]) == 0.5
    assert is_higher_better("measures:macro_recall")


def test_an_object_can_be_a_measure(own_folder):
    (own_folder() / "measured.py").write_text(
        "class Wrong:\n"
        "    higher_is_better = False\n"
        "    def __call__(self, answers, references):\n"
        "        return sum(a != r for a, r in zip(answers, references))\n"
    )
    assert own_measure("measured:Wrong")([1, 2], [1, 3]) == 1
    assert not is_higher_better("measured:Wrong")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("one", r"cannot be called with \(answers, references\): too many positional"),
        ("two", r"does not say which way it goes; write two\.higher_is_better = True"),
        ("number", r"is a int; a measure is a function of \(answers, references\)"),
        ("Needs", r"Needs\(\) ended in TypeError"),
    ],
)
def test_what_is_no_measure_is_refused(own_folder, name, said):
    (own_folder() / "no_measures.py").write_text(
        "number = 1\n"
        "def one(answers): ...\n"
        "def two(answers, references): ...\n"
        "class Needs:\n    def __init__(self, x): ...\n"
    )
    with pytest.raises(SpecError, match=said):
        own_measure(f"no_measures:{name}")


def test_a_measure_that_fails_is_told_with_its_own_words(own_folder):
    (own_folder() / "failing.py").write_text(
        "def f(answers, references): return answers['label']\nf.higher_is_better = True\n"
    )
    with pytest.raises(SpecError, match="'failing:f' ended in TypeError: list indices"):
        own_measure("failing:f")([], [])
