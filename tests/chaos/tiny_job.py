"""The job files of the tests that start the command itself."""

from pathlib import Path
from typing import Any

from tiny_runs import MODEL

GLOBAL_BATCH = 8


def tiny_job(folder: Path, name: str = "tiny", **pretrain: Any) -> dict[str, Any]:
    """Two workers train a two-layer model on `folder`/corpus, as small as each can be."""
    return {
        "name": name,
        "seed": 7,
        "cluster": {"workers": 2},
        "prepare": {
            "sources": [{"path": str(folder / "corpus")}],
            "tokenizer": {"vocab_size": 300},
            "sequence_length": 16,
            "holdout": "20%",
        },
        "pretrain": {
            "model": MODEL,
            "global_batch": GLOBAL_BATCH,
            "log_every": "1 step",
            **pretrain,
        },
    }
