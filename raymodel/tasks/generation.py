"""Answers to held-out prompts, scored against their references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import eq
from typing import TYPE_CHECKING, Any

import numpy as np
import sacrebleu
import torch

from raymodel.tasks.base import Sample
from raymodel.tasks.batch import batches, decode, pad_id, pad_left
from raymodel.tasks.boundaries import end_tokens, first_token, up_to_end
from raymodel.tasks.prompt import end_of_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def measure_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Mapping[str, Any],
    limits: Mapping[str, int],
) -> tuple[dict[str, float], tuple[Sample, ...]]:
    """Corpus `bleu` and `chrf` and the `exact_match` of greedy answers, and samples.

    Args:
        rows: Columns `input_ids` and `prompt_length`.
        limits: `generate_rows` prompts, spread evenly over the rows; `max_new_tokens` an answer;
            `batch_rows` answered together; `num_samples` returned.
    """
    chosen = spread(len(rows["input_ids"]), limits.get("generate_rows", 32))
    examples = [rows["input_ids"][index] for index in chosen]
    lengths = [int(rows["prompt_length"][index]) for index in chosen]
    prompts = [ids[:length] for ids, length in zip(examples, lengths, strict=True)]
    answers: list[str] = []
    for part in batches({"prompts": prompts}, limits.get("batch_rows", 8)):
        answers += generate_answers(
            model, tokenizer, part["prompts"], limits.get("max_new_tokens", 64)
        )
    references = [
        decode(tokenizer, ids[length:]).strip()
        for ids, length in zip(examples, lengths, strict=True)
    ]
    samples = [
        Sample(prompt=decode(tokenizer, prompt), answer=answer, reference=reference)
        for prompt, answer, reference in zip(prompts, answers, references, strict=True)
    ]
    return score_answers(answers, references), tuple(samples[: limits.get("num_samples", 5)])


# sacrebleu's signature, written though it is the default: another one is another measure. `force`
# only silences a warning about text that looks tokenised, as code does.
_BLEU: dict[str, Any] = {
    "smooth_method": "exp",
    "tokenize": "13a",
    "lowercase": False,
    "use_effective_order": False,
    "force": True,
}
_CHRF: dict[str, Any] = {"char_order": 6, "word_order": 0, "beta": 2, "eps_smoothing": False}


def score_answers(answers: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Corpus BLEU and chrF (arXiv:1804.08771), each from 0 to 100, and the share of answers that
    are the reference, white space at their ends aside (EM of arXiv:1606.05250), from 0 to 1."""
    texts = list(answers), [list(references)]
    return {
        "bleu": float(sacrebleu.corpus_bleu(*texts, **_BLEU).score),
        "chrf": float(sacrebleu.corpus_chrf(*texts, **_CHRF).score),
        "exact_match": sum(map(eq, answers, references)) / len(references),
    }


# A model's own generation_config.json may ask for other things, which the server does not do.
_GREEDY: dict[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_new_tokens": None,
}


@torch.inference_mode()
def generate_answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
) -> list[str]:
    """Greedy answers to a batch of prompts, stripped, each up to its end token.

    A prompt that leaves no room for the answer in the model's positions loses the start of its
    text.
    """
    room = model.config.max_position_embeddings - max_new_tokens
    if room < 1:
        raise ValueError(
            f"max_new_tokens is {max_new_tokens}, but the model has only "
            f"{model.config.max_position_embeddings} positions; ask for fewer tokens"
        )
    first, ends = first_token(tokenizer), end_tokens(model, tokenizer)
    cut = [end_of_prompt(prompt, room, tokenizer) for prompt in prompts]
    tokens = [prompt or ([] if first is None else [first]) for prompt in cut]
    if not all(tokens):
        raise ValueError(
            "a prompt is empty, and the tokenizer has neither a `bos_token` nor an `eos_token` to "
            "begin from; set one, or leave such examples out"
        )
    input_ids, mask = pad_left(tokens, pad_id(tokenizer))  # (B, T)
    output = model.generate(  # type: ignore[operator]  # torch types it as a tensor
        input_ids=input_ids.to(model.device),
        attention_mask=mask.to(model.device),
        max_new_tokens=max_new_tokens,
        **_GREEDY,
        eos_token_id=sorted(ends) or None,
        pad_token_id=pad_id(tokenizer),
    )
    new_tokens = output[:, input_ids.shape[1] :]
    return [decode(tokenizer, up_to_end(ids, ends)).strip() for ids in new_tokens.tolist()]


def spread(num_rows: int, num_chosen: int) -> list[int]:
    """Up to `num_chosen` row indexes, spread evenly: neighbouring rows come from the same file."""
    count = min(num_rows, num_chosen)
    indexes: list[int] = np.linspace(0, num_rows - 1, count).round().astype(int).tolist()
    return indexes
