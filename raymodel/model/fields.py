"""Fields of a model's configuration that can be judged by arithmetic, without transformers.

What is found here is wrong for every architecture. What is `plain` is right for certain: families
whose rules are few and held by a test. Between the two only transformers knows (`examine.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from raymodel.model.spec import AdapterSpec

SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
)
MAX_SIZE = 2**31 - 1
"""Token ids are stored in 32 bits, and no matrix of any model is as long."""
MAX_LAYERS = 1000
"""The deepest Transformer known (arXiv:2203.00555); more would be outlined for minutes."""

_PLAIN_FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
NEEDED = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
"""Without these the size of a model is not known."""
_FLOATS = ("rms_norm_eps", "rope_theta", "initializer_range")


def find_wrong_fields(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Field of the configuration, and why no model can have its value."""
    wrong = [(name, why) for name in SIZES if (why := _wrong_field(name, fields))]
    yield from wrong
    if wrong:
        return
    heads, shared = fields.get("num_attention_heads"), fields.get("num_key_value_heads")
    if isinstance(heads, int) and isinstance(shared, int) and heads % shared:
        fits = ", ".join(str(n) for n in range(1, heads + 1) if heads % n == 0)
        yield (
            "num_key_value_heads",
            f"{heads} heads cannot share {shared} of keys and values evenly; use one of {fits}",
        )


def is_plain(architecture: str, fields: Mapping[str, Any]) -> bool:
    """Whether a language model of these fields can be built for certain.

    So that presets, and models like them, are checked without the seconds that asking takes.
    """
    return (
        architecture in _PLAIN_FAMILIES
        and set(NEEDED) <= set(fields) <= {*SIZES, *_FLOATS, "tie_word_embeddings"}
        and not any(find_wrong_fields(fields))
        and all(fields[name] is not None for name in fields)
        and isinstance(fields.get("tie_word_embeddings", False), bool)
        and all(isinstance(fields[name], float) for name in _FLOATS if name in fields)
        # Kinder than transformers is not needed: what fails here is asked about.
        and fields["hidden_size"] % (2 * fields["num_attention_heads"]) == 0
        and fields.get("head_dim", 2) % 2 == 0  # a rotary embedding turns pairs
        and (architecture != "qwen2" or "head_dim" not in fields)
        and (architecture == "llama" or "num_key_value_heads" in fields)
    )


def is_plain_adapter(adapter: AdapterSpec, fields: Mapping[str, Any]) -> bool:
    """Whether a model of plain fields can take an adapter for certain."""
    largest = min(fields["hidden_size"], fields["intermediate_size"])
    return adapter.lora.target == "all-linear" and adapter.lora.rank <= largest


def _wrong_field(name: str, fields: Mapping[str, Any]) -> str | None:
    """Models of several stages, which say the `depths` of each, have heads for each too."""
    value = fields.get(name)
    by_stage = name == "num_attention_heads" and isinstance(fields.get("depths"), list | tuple)
    if by_stage and isinstance(value, list | tuple):
        return next(filter(None, (_wrong_size(name, each) for each in value)), None)
    return _wrong_size(name, value)


def _wrong_size(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        return f"{_shown(value)} is not a whole number, at least 1"
    most = MAX_LAYERS if name == "num_hidden_layers" else MAX_SIZE
    if not 1 <= value <= most:
        return f"{_shown(value)} must be at least 1 and at most {most:,}"
    return None


def _shown(value: Any) -> str:
    # Python refuses to print whole numbers of more than a few thousand digits.
    if isinstance(value, int) and abs(value) > 10**18:
        return "a number of more than 18 digits"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
