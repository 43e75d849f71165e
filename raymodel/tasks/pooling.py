"""One vector of a text out of those of its tokens.

Shapes: B texts, T tokens, D numbers of a vector.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from raymodel.modality.spec import Pooling


def pool(hidden_BTD: torch.Tensor, mask_BT: torch.Tensor, how: Pooling) -> torch.Tensor:
    """(B, D) of length 1, in fp32, so that a product of two is their cosine.

    Args:
        mask_BT: 1 on tokens, 0 on padding, which is on the right.
        how: `mean` of all tokens, the first (`cls`), or the `last`.
    """
    hidden_BTD = hidden_BTD.float()
    if how == "mean":
        weight_BT1 = mask_BT[:, :, None].float()
        pooled_BD = (hidden_BTD * weight_BT1).sum(1) / weight_BT1.sum(1).clamp(min=1)
    elif how == "cls":
        pooled_BD = hidden_BTD[:, 0]
    else:
        last_B = (mask_BT.sum(1) - 1).clamp(min=0)
        pooled_BD = hidden_BTD[torch.arange(len(last_B), device=last_B.device), last_B]
    return F.normalize(pooled_BD, dim=-1)
