"""Documents that lie in one row of a batch and do not see each other.

A batch that keeps them apart says where they begin: `position_ids` (B, T), which count anew in
every document, and `document_bounds` (N + 1,), where each of the N documents begins in the rows one
after the other, and where the last one ends. What is padding is a document of its own, of which
nobody learns and which nobody sees, so that no attention mask is needed. The model's attention
reads the bounds (`model/attention.py`).

Where a model can do that, examples are put end to end too: their batch is one row without padding.

Shapes: B rows, T tokens, N documents.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from raymodel.tasks.base import Task

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

BOUNDS = "document_bounds"
# Of what each of these computes for a document no other document changes anything, and it is what
# the model computes for the document alone: tests/model/test_model_attention.py measures it. Their
# attention passes on what it is told; no layer but attention looks at other positions.
DECODERS = (
    *("apertus", "arcee", "biogpt", "codegen", "cohere", "cohere2", "deepseek_v3", "ernie4_5"),
    *("exaone4", "gemma", "gemma2", "gemma3_text", "glm", "glm4", "gpt2", "gpt_bigcode"),
    *("gpt_neox", "gptj", "granite", "helium", "llama", "mistral", "mixtral", "olmo", "olmo2"),
    *("olmo3", "olmoe", "opt", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe"),
    *("seed_oss", "smollm3", "starcoder2"),
)
ENCODERS = (
    *("bert", "camembert", "data2vec-text", "distilbert", "electra", "ernie", "eurobert"),
    *("modernbert", "roberta", "xlm-roberta", "xlm-roberta-xl"),
)


class DocumentTask(Task):
    """A task on texts of which several may share a row."""

    def for_model(self, config: PretrainedConfig) -> Self:
        """Keeps documents apart where the job does not ask otherwise and the model can.

        This is the one place where that is decided: batches, and the model's attention, follow
        `keeps_apart`. Packed rows are refused with a model that cannot before they get here
        (`train/forecast/support.py`); examples are padded then, each in a row of its own.
        """
        made = copy.copy(self)
        asks_otherwise = getattr(self.spec, "cross_documents", False)
        made.keeps_apart = not asks_otherwise and config.model_type in self.apart_architectures
        return made


def with_documents(
    batch: Mapping[str, torch.Tensor],
    document_starts: Sequence[Sequence[int]],
    lengths: Sequence[int],
) -> dict[str, torch.Tensor]:
    """The batch of packed rows, and where their documents begin.

    A row begins a document, also when it goes on with that of the row before.

    Args:
        batch: `input_ids` (B, T), and others.
        document_starts: where documents begin in each row.
        lengths: real tokens of each row. (B,)
    """
    import torch

    is_start_BT = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
    is_start_BT[:, 0] = True
    for row_T, starts, length in zip(is_start_BT, document_starts, lengths, strict=True):
        row_T[torch.as_tensor([*starts], dtype=torch.long)] = True
        row_T[int(length) : int(length) + 1] = True  # the padding, where there is some
    return {**batch, **_places(is_start_BT)}


def joined(
    batch: Mapping[str, torch.Tensor],
    lengths: Sequence[int],
    fill: Mapping[str, int],
    *,
    multiple: int = 8,
) -> dict[str, torch.Tensor]:
    """Examples end to end in one row, in their order.

    Args:
        batch: by name what each token has, padded on the right. (B, T)
        lengths: real tokens of each example. (B,)
        fill: what padding has, by the same names.
        multiple: of which the length of the row is one, as that of padded rows.
    """
    import torch
    from torch.nn.functional import pad

    sizes = torch.as_tensor([int(length) for length in lengths])
    width = next(iter(batch.values())).shape[1]
    is_real_BT = torch.arange(width) < sizes[:, None]
    total = int(sizes.sum())
    more = -total % multiple
    made = {
        name: pad(rows[is_real_BT], (0, more), value=fill[name])[None]
        for name, rows in batch.items()
    }
    is_start_T = torch.zeros(1, total + more, dtype=torch.bool)
    is_start_T[0, (sizes.cumsum(0) - sizes)[sizes > 0]] = True
    is_start_T[0, total:][:1] = True
    return {**made, **_places(is_start_T)}


def without_first_tokens(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The batch of a decoder: of its document nothing stands before a first token, to predict it
    from."""
    from raymodel.tasks.loss import IGNORED

    labels = batch["labels"].masked_fill(batch["position_ids"] == 0, IGNORED)
    return batch | {"labels": labels}


def widened(position_ids_BT: torch.Tensor, more: int) -> dict[str, torch.Tensor]:
    """`position_ids` and bounds of rows that so much padding is added to on the right."""
    from torch.nn.functional import pad

    return _places(pad(position_ids_BT, (0, more)) == 0)


def model_inputs(batch: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """What the model is called with, as far as the batch has it.

    Bounds go by the names that FlashAttention's have in transformers. The longest document is not
    looked for, which on a GPU would be to wait: an upper bound will do.
    """
    names = ("input_ids", "attention_mask", "position_ids")
    inputs: dict[str, Any] = {name: batch[name] for name in names if name in batch}
    if BOUNDS in batch:
        for side, length in (("q", "max_length_q"), ("k", "max_length_k")):
            inputs[f"cu_seq_lens_{side}"] = batch[BOUNDS]
            inputs[length] = batch["input_ids"].shape[1]
    return inputs


def _places(is_start_BT: torch.Tensor) -> dict[str, torch.Tensor]:
    import torch
    from torch.nn.functional import pad

    place_BT = torch.arange(is_start_BT.shape[1]).expand_as(is_start_BT)
    start_BT = torch.where(is_start_BT, place_BT, 0).cummax(1).values
    starts_N = is_start_BT.flatten().nonzero()[:, 0]
    bounds = pad(starts_N, (0, 1), value=is_start_BT.numel()).int()
    return {"position_ids": place_BT - start_BT, BOUNDS: bounds}
