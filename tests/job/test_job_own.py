"""A job that names parts of the user's own: what `check` says of it, and what it costs."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from raymodel import cli
from raymodel.job.spec import own_parts
from raymodel.job.stages import Stages
from raymodel.spec.load import load_job

TEMPLATES = Path(__file__).parents[2] / "docs/own"
JOB = TEMPLATES / "job.yaml"
CNN = {
    "name": "cnn",
    "finetune": {
        "task": {"name": "image_classification", "image": {"size": 8, "channels": 1}},
        "model": {"module": "networks:SmallCNN"},
        "sources": [{"path": "images", "format": "class_folders"}],
        "global_batch": 2,
        "duration": "4 steps",
        "precision": "fp32",
    },
}


@pytest.fixture
def folder(own_folder) -> Path:
    """The working directory: a copy of the templates, and a text."""
    folder = own_folder()
    for file in TEMPLATES.iterdir():
        if file.is_file():
            (folder / file.name).write_text(file.read_text())
    record = {"text": "a", "label": "same"}
    (folder / "texts.jsonl").write_text(json.dumps(record) + "\n")
    return folder


def check(path: Path | str, *settings: str) -> int:
    return cli.main(["check", str(path), *[word for each in settings for word in ("--set", each)]])


def written(folder: Path, job: dict) -> Path:
    path = folder / "written.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


def test_the_template_of_a_job_passes_check_and_names_all_parts(folder, ask_here, capsys):
    assert check("job.yaml") == 0
    assert "tasks:LongTextClassification from networks:TextLSTM" in capsys.readouterr().out
    assert [question.task for question in ask_here] == ["tasks:LongTextClassification"]
    assert own_parts(load_job("job.yaml").job) == (
        "tasks:LongTextClassification",
        "networks:TextLSTM",
        "steps:drop_tables",
        "steps:drop_links",
        "measures:macro_recall",
    )


def test_a_part_that_changed_changes_the_stages_that_it_decides(folder):
    def marks() -> dict[str, str]:
        stages = Stages(load_job("job.yaml").job, folder)
        spec = stages.job.evaluate
        assert spec is not None
        return {
            "examples": stages.examples(None).fingerprint(0),
            "model": json.dumps(stages.job.finetune.identity()["model"]),
            "evaluate": json.dumps(spec.identity()),
        }

    known = marks()
    for file, changed in {
        "tasks.py": {"examples"},
        "steps.py": {"examples"},
        "networks.py": {"model"},
        "measures.py": {"evaluate"},
    }.items():
        path = folder / file
        path.write_text(path.read_text() + "\n# changed\n")
        now = marks()
        assert {name for name in now if now[name] != known[name]} == changed
        known = now


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("finetune.task=tasks:LongTextClasification", "did you mean tasks:LongTextClassification"),
        ("finetune.task.strat=0.5", "unknown key 'strat'; did you mean 'start'"),
        ("finetune.clean.steps=[steps:drop_table]", "did you mean steps:drop_tables"),
        (
            "finetune.clean.steps=[drop_tables]",
            "is not a cleaning step, nor a module.path",
        ),
        ("finetune.model.module=network:TextLSTM", "there is no module network in the working"),
        ("finetune.model.module=networks:TextLSTMM", "did you mean networks:TextLSTM"),
        ("finetune.model.config.widht=3", "no argument of TextLSTM, .*did you mean 'width'"),
        ("finetune.model.preset=llama-tiny", "give one of .*this has `preset` and `module`"),
        ("evaluate.metrics=[accuracy,measures:recall]", "did you mean measures:macro_recall"),
        ("evaluate.gates={measures:makro: '> 1'}", "the gate is on 'measures:makro'"),
        ("finetune.attention=eager", "attention: a module of your own attends as it is written"),
        ("finetune.activation_checkpointing=true", "torch.utils.checkpoint in its forward"),
        ("finetune.parallel.tensor=2", "raymodel_own cannot share its matrices"),
        ("finetune.tokenizer=null", "or `tokenizer`, such as"),
    ],
)
def test_what_is_wrong_is_one_error_at_check(folder, ask_here, capsys, setting, said):
    settings = [setting]
    if "gates=" not in setting and "metrics=" in setting:
        settings.append("evaluate.gates={}")
    if "tensor=" in setting:
        settings.append("cluster.workers=2")
    assert check("job.yaml", *settings) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert re.search(said, error), error
    assert "Traceback" not in error


def test_a_network_is_tried_with_the_images_that_the_job_says(folder, ask_here, capsys):
    (folder / "small.py").write_text(
        "from torch import nn\n"
        "class Flat(nn.Sequential):\n"
        "    def __init__(self, num_labels, image_size):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(image_size ** 2, num_labels))\n"
        "class Fixed(nn.Sequential):\n"
        "    def __init__(self, num_labels):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(28 * 28, num_labels))\n"
    )
    job = written(folder, CNN)
    assert check(job) == 0
    assert check(job, "finetune.model.module=small:Flat") == 0
    capsys.readouterr()
    assert check(job, "finetune.model.module=small:Fixed") == 2
    error = capsys.readouterr().err
    assert "finetune.model.module: the forward of 'small:Fixed' ended in RuntimeError" in error
    assert "pixel_values (2, 1, 8, 8)" in error


def test_a_tokenizer_is_for_a_fresh_model_that_reads_text(folder, ask_here, capsys):
    fields = CNN["finetune"] | {"tokenizer": {"vocab_size": 300}}
    assert check(written(folder, {"name": "x", "finetune": fields})) == 2
    assert "image_classification reads no text; leave it out" in capsys.readouterr().err
    assert check("job.yaml", "finetune.model=null", "finetune.base=x") == 2
    assert "tokenizer is for a fresh `model`" in capsys.readouterr().err
    assert check("job.yaml", "finetune.task=masked_lm") == 2
    assert "add mask: true" in capsys.readouterr().err


def test_check_imports_no_torch_for_a_task_a_measure_and_a_step(folder):
    job = yaml.safe_load(JOB.read_text())
    job["finetune"]["base"] = "some/folder"
    del job["finetune"]["model"], job["finetune"]["tokenizer"]
    code = (
        "import sys; from raymodel.cli import main; code = main(['check', sys.argv[1]]); "
        "print([m for m in ('torch', 'ray', 'transformers', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(written(folder, job))], capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_a_plan_counts_a_network_of_ones_own(folder, ask_here, capsys):
    assert cli.main(["plan", "job.yaml"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    # 400 × 32 of the table, 4 × (32 × 32 + 32 × 32 + 2 × 32) of each direction, 64 × 2 + 2.
    assert f"parameters {400 * 32 + 2 * 4 * (2 * 32 * 32 + 2 * 32) + 130:,}" in said
    assert "counted on the meta device" in said
