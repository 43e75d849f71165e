"""Quiet: the log noise of libraries goes to a file, so that the user sees the story of the job."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

# Read by the libraries when they are imported, so set before; a user's own value wins.
_ENVIRONMENT = {
    "RAY_DEDUP_LOGS": "1",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "GRPC_VERBOSITY": "ERROR",
    "WANDB_SILENT": "true",
}
_LOGGERS = (
    "ray", "DeepSpeed", "deepspeed", "transformers", "tokenizers", "peft", "accelerate", "torch",
    "tensorboard", "tensorflow", "absl", "datasets", "huggingface_hub", "optuna", "filelock",
    "urllib3", "botocore", "asyncio", "uvicorn", "fsspec", "raymodel", "py.warnings",
)  # fmt: skip


def quiet_logs(log_file: Path) -> None:
    """Sends what libraries log and Python's warnings to `log_file`.

    Call it first, before the libraries are imported, for the environment variables; and again
    after `ray.init` or the import of DeepSpeed, which install handlers of their own.

    Args:
        log_file: appended to; the folder is made.
    """
    quiet_environment()
    log_file.parent.mkdir(parents=True, exist_ok=True)
    handler = _file_handler(log_file)
    logging.captureWarnings(True)
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
    for name in list(logging.root.manager.loggerDict):  # e.g. ray.data brings its own console
        if any(name.startswith(f"{parent}.") for parent in _LOGGERS):
            child = logging.getLogger(name)
            child.handlers, child.propagate = [], True


def quiet_environment() -> None:
    """Has libraries that are imported later draw no progress and log no advice."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def find_log_file() -> Path | None:
    """The file that `quiet_logs` was given; None before it."""
    for handler in logging.getLogger("raymodel").handlers:
        if isinstance(handler, logging.FileHandler):
            return Path(handler.baseFilename)
    return None


@contextmanager
def quiet_streams(log_file: Path) -> Iterator[None]:
    """Sends what libraries print to `log_file` while the block runs; a `Story` made before it
    still reaches the terminal. Ray's messages from other processes come through `print`."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with (
        open(log_file, "a", encoding="utf-8", buffering=1) as stream,
        redirect_stdout(stream),
        redirect_stderr(stream),
    ):
        yield


def _file_handler(log_file: Path) -> logging.Handler:
    for handler in logging.getLogger("raymodel").handlers:
        if isinstance(handler, logging.FileHandler) and handler.baseFilename == str(
            log_file.absolute()
        ):
            return handler
    handler = logging.FileHandler(log_file, delay=True)
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s")
    )
    return handler
