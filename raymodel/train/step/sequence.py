"""Attention over rows that several workers share: Ulysses (arXiv:2309.14509), from DeepSpeed.

Each worker computes its own run of positions. Only attention looks at others: there the workers of
a row exchange positions for heads, so that each has all positions of some heads.

DeepSpeed's engine is not told of it: to its gradients and its ZeRO partitions the workers of a row
are replicas like others. So nothing here differs by ZeRO stage or beside tensor parallelism.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.distributed as dist
import transformers

from raymodel.model.attention import attend_documents
from raymodel.train.layout import Layout

KERNEL = "ulysses_sdpa"
"""What the model's configuration calls this attention. A name of its own, for which transformers
makes no mask (each worker's would be of its own positions only), and beside which a model that
shares no rows keeps its own kernel."""


def share_rows(model: Any, layout: Layout, *, keeps_apart: bool = False) -> None:
    """Lets `model` compute a run of positions where it computed whole rows. Called by all ranks.

    Args:
        model: of transformers, not yet cut up by DeepSpeed.
        layout: this worker's place; `sequence` is above 1.
        keeps_apart: whether the documents of a row do not see each other. Each worker is told
            where they begin in the whole rows, of which its heads have all positions.
    """
    from deepspeed.runtime.sequence_parallel.ulysses_sp import UlyssesSPAttentionHF
    from deepspeed.sequence.layer import register_all_to_all_group
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    config = model.config
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    group = _group_of_row(layout)
    register_all_to_all_group(group)  # in a compiled model it would come too late

    @cache
    def attention_of(rows: int) -> UlyssesSPAttentionHF:
        # DeepSpeed fixes the rows of a batch; the last micro batch of a step may have fewer.
        return UlyssesSPAttentionHF(
            attn=attend_documents if keeps_apart else ALL_ATTENTION_FUNCTIONS["sdpa"],
            batch_size=rows,
            # Of these heads a tensor rank has its share before they are exchanged.
            attn_head_count=heads // layout.tensor,
            attn_head_size=getattr(config, "head_dim", None) or config.hidden_size // heads,
            kv_head_count=kv_heads // layout.tensor,
            num_hidden_layers=config.num_hidden_layers,
            process_group=group,
            seq_length_is_variable=True,
        )

    def attend(module: Any, query: torch.Tensor, *inputs: Any, **options: Any) -> Any:
        return attention_of(len(query))(module, query, *inputs, **options)

    transformers.AttentionInterface.register(KERNEL, attend)
    model.set_attn_implementation(KERNEL)


def _group_of_row(layout: Layout) -> Any:
    """The process group of this worker's rows. torch wants every rank to make every group."""
    mine = None
    for ranks in layout.row_groups():
        group = dist.new_group(ranks)
        if layout.world_rank in ranks:
            mine = group
    return mine
