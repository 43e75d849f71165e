"""How many tokens a model takes, which is not always its `max_position_embeddings`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COUNTED_AFTER_PADDING = (
    "camembert",
    "data2vec-text",
    "ibert",
    "layoutlmv3",
    "lilt",
    "longformer",
    "luke",
    "markuplm",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
)
"""The `model_type`s whose first token stands at the position after the padding's id, as in fairseq
(`create_position_ids_from_input_ids` of transformers): RoBERTa has 514 positions for 512 tokens."""


def positions_before(architecture: str, pad_token_id: int | None) -> int:
    """Positions of a model that no token of a text stands at."""
    if architecture not in COUNTED_AFTER_PADDING:
        return 0
    if architecture == "mpnet":  # whatever its configuration says of padding
        return 2
    return 1 + (pad_token_id or 0)


def find_max_tokens(config: Mapping[str, Any]) -> int | None:
    """The longest text that a model of this configuration takes; None where it names no limit."""
    positions = config.get("max_position_embeddings")
    if positions is None:
        return None
    before = positions_before(str(config.get("model_type")), config.get("pad_token_id"))
    return int(positions) - before
