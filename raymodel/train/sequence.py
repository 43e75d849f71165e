"""Attention over rows that several workers share: Ulysses (arXiv:2309.14509), from DeepSpeed.

Each worker computes its own run of positions. Only attention looks at others: there the workers of
a row exchange positions for heads, so that each has all positions of some heads.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import transformers

KERNEL = "ulysses_sdpa"
"""What the model's configuration calls this attention. A name of its own, for which transformers
makes no mask (each worker's would be of its own positions only), and beside which a model that
shares no rows keeps its own kernel."""


def share_rows(model: torch.nn.Module, workers: int) -> Any:
    """Lets `model` compute a run of positions where it computed whole rows.

    Args:
        model: of transformers, or wrapped by peft.
        workers: of each row; neighbours in rank.

    Returns:
        The groups, in the form that `deepspeed.initialize` takes as `mpu`.
    """
    import deepspeed.runtime.sequence_parallel.parallel_state_sp as groups
    from deepspeed.runtime.sequence_parallel.ulysses_sp import UlyssesSPAttentionHF
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if groups._SEQUENCE_PARALLEL_GROUP is None:  # of an earlier engine of this process
        groups.initialize_sequence_parallel(workers)
    config: Any = model.config
    heads = config.num_attention_heads

    @cache
    def attention_of(rows: int) -> UlyssesSPAttentionHF:
        # DeepSpeed fixes the rows of a batch; the last micro batch of a step may have fewer.
        return UlyssesSPAttentionHF(
            attn=ALL_ATTENTION_FUNCTIONS["sdpa"],
            batch_size=rows,
            attn_head_count=heads,
            attn_head_size=getattr(config, "head_dim", None) or config.hidden_size // heads,
            kv_head_count=config.num_key_value_heads,
            num_hidden_layers=config.num_hidden_layers,
            process_group=groups.get_sequence_parallel_group(),
            seq_length_is_variable=True,
        )

    def attend(module: Any, query: torch.Tensor, *inputs: Any, **options: Any) -> Any:
        return attention_of(len(query))(module, query, *inputs, **options)

    transformers.AttentionInterface.register(KERNEL, attend)
    inner: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    inner.set_attn_implementation(KERNEL)
    return groups
