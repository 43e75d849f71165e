"""What of a Hugging Face folder is read, by the names of its files."""

from __future__ import annotations

import re

ONE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
"""Of a model folder: its weights, or which of several files has which."""
GGUF_FILE = "model.gguf"
"""Of a folder that `compress` made, in place of these."""

_SMALL = (".json", ".txt", ".model", ".jinja")
_BELOW = re.compile(
    # Modules of sentence-transformers (`modules.json` names them), and chat templates with a name.
    r"\d+_\w+|additional_chat_templates"
)


def is_small(name: str) -> bool:
    """Whether a file holds a configuration, a tokenizer, a template or the settings of a processor;
    not weights, in whatever form, and no code."""
    return name.endswith(_SMALL)


def may_be_below(folder: str) -> bool:
    """Whether files of a folder below that of a model are its own: others hold checkpoints, or the
    same in other formats."""
    return _BELOW.fullmatch(folder) is not None
