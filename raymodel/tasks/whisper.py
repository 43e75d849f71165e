"""How Whisper answers: greedily, from a beginning that is given.

transformers' own `generate` of Whisper chooses that beginning by what a folder's
generation_config.json happens to say; the general one takes it as it was in training.

Shapes: B clips, T tokens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationMixin

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_START = "<|startoftranscript|>"
_LANGUAGE = re.compile(r"<\|([a-z]{2,3})\|>")
# A folder's generation_config.json may ask for other things.
_GREEDY: dict[str, Any] = {"do_sample": False, "num_beams": 1, "return_dict_in_generate": False}


@torch.inference_mode()
def greedy_ids(
    model: PreTrainedModel, features: torch.Tensor, prefixes: Sequence[Sequence[int]], end: int
) -> list[list[int]]:
    """The ids that follow each beginning, up to the end token.

    Args:
        features: on the model's device. (B, bins, frames)
        prefixes: beginnings of one length.
    """
    given = torch.tensor(prefixes, device=model.device)
    output: Any = GenerationMixin.generate(
        model,
        features,
        decoder_input_ids=given,
        max_new_tokens=model.config.max_target_positions - given.shape[1],
        eos_token_id=end,
        pad_token_id=end,
        **_GREEDY,
    )
    answers = output[:, given.shape[1] :].tolist()
    return [ids[: ids.index(end)] if end in ids else ids for ids in answers]


@torch.inference_mode()
def languages_heard(model: Any, features: torch.Tensor, tokenizer: Any) -> list[str]:
    """The code of the most probable language of each clip: what comes first after the start."""
    vocabulary = tokenizer.get_vocab()
    found = {token: _LANGUAGE.fullmatch(token) for token in vocabulary}
    codes = {vocabulary[token]: match[1] for token, match in found.items() if match}
    start = torch.full((len(features), 1), vocabulary[_START], device=model.device)
    logits_BV = model(input_features=features, decoder_input_ids=start).logits[:, -1]
    ids = torch.tensor(sorted(codes), device=model.device)
    return [codes[int(ids[best])] for best in logits_BV[:, ids].argmax(-1)]
