"""What runs a whole job, and the smallest job that has all stages."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from one_ray import OneRay  # type: ignore[import-not-found]

from raymodel.testing.distributed import free_port
from raymodel.testing.tiny import TINY_LLAMA


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
            "model": TINY_LLAMA,
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
