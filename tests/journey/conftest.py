"""Whole jobs in processes of their own, as a user starts them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from one_ray import OneRay  # type: ignore[import-not-found]
from shipped import JOBS, run_shortened  # type: ignore[import-not-found]

from raymodel.testing.distributed import free_port
from raymodel.testing.tiny import build_tiny_bert, train_tiny_tokenizer, write_tiny_corpus

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


def tiny_job(corpus: Path) -> dict[str, Any]:
    """All stages, two workers, as small as each can be."""
    functions = {
        "path": str(corpus),
        "format": "python_functions",
        "fields": {"prompt": '{code}\n"""', "response": '{docstring}"""'},
    }
    return {
        "name": "tiny",
        "seed": 7,
        "cluster": {"workers": 2},
        "prepare": {
            "sources": [{"path": str(corpus)}],
            "tokenizer": {"vocab_size": 300},
            "sequence_length": 32,
            "holdout": "20%",
        },
        "pretrain": {
            "model": MODEL,
            "global_batch": 8,
            "duration": "30 steps",
            "optimizer": {"learning_rate": 0.01},
            "checkpoint": {"every": "5 steps"},
            "parallel": {"zero": 2},
        },
        "finetune": {
            "task": "causal_lm",
            "sources": [functions],
            "holdout": "20%",
            "max_length": 32,
            "global_batch": 4,
            "duration": "10 steps",
            "optimizer": {"learning_rate": 0.01},
            "adapter": {"lora": {"rank": 4}},
        },
        "evaluate": {
            "metrics": ["perplexity", "bits_per_byte", "bleu", "chrf"],
            "generate_rows": 4,
            "max_new_tokens": 8,
            "gates": {"perplexity": "< 1000"},
        },
        "serve": {"port": free_port(), "max_tokens": 8},
    }


class JobRunner:
    """Runs `raymodel` in a folder, with Ray's own files in a folder that goes at the end."""

    def __init__(self, folder: Path, ray_folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "RAY_TMPDIR": str(ray_folder),
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
        }

    def write(self, job: dict[str, Any]) -> Path:
        path = self.folder / f"{job['name']}.yaml"
        path.write_text(yaml.safe_dump(job))
        return path

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "raymodel", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, code: int = 0, timeout_s: float = 280) -> str:
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=timeout_s)
        assert process.returncode == code, output
        return output

    def kill_when(self, job: Path, is_time: Callable[[], bool], timeout_s: float = 240) -> None:
        """Starts the job and ends its driver with SIGKILL once the condition holds."""
        process = self.start("run", str(job))
        deadline = time.monotonic() + timeout_s
        while not is_time():
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, "the moment to kill never came"
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
        process.communicate()

    def artifact(self, stage: str, name: str = "tiny") -> Path:
        folder = self.folder / "runs" / name / stage
        return folder / (folder / "latest").read_text().strip()


class Workplace(NamedTuple):
    """A folder of small inputs, and the process that runs commands there on one Ray for all."""

    folder: Path
    ray: OneRay

    def write(self, job: dict[str, Any]) -> str:
        path = self.folder / f"{job['name']}.yaml"
        path.write_text(yaml.safe_dump(job))
        return path.name


@pytest.fixture(scope="package")  # no longer: its processes would slow down all other tests
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    """With a corpus, labelled records, and a package of a classifier and of one without a head."""
    folder = tmp_path_factory.mktemp("workplace")
    corpus = [path.read_text() for path in write_tiny_corpus(folder / "corpus")]
    package, classifier = folder / "tiny_models", build_tiny_bert()
    for name, model in {"bert": classifier, "headless": classifier.bert}.items():
        model.save_pretrained(package / name)
        train_tiny_tokenizer(corpus).save_pretrained(package / name)
    (package / "__init__.py").touch()
    records = [
        {"text": f"{number} {text[:60]}", "label": ("no", "yes")[number % 2]}
        for number, text in enumerate(corpus)
    ]
    (folder / "labelled.jsonl").write_text("\n".join(json.dumps(record) for record in records))
    with OneRay(folder) as ray:
        yield Workplace(folder, ray)


@pytest.fixture(scope="package")
def given(workplace: Workplace) -> str:
    """The quickstart, shortened, under the name `given`; what it said."""
    path = next(path for path in JOBS if path.name == "quickstart.yaml")
    return str(run_shortened(workplace, path, "name=given", "evaluate.gates={}"))


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[JobRunner]:
    # Ray makes sockets there, whose paths may not be longer than 107 characters.
    ray_folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    yield JobRunner(tmp_path, ray_folder)
    shutil.rmtree(ray_folder, ignore_errors=True)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    write_tiny_corpus(folder)
    return folder
