"""Is what was loaded the model? Asked once, before the first request.

A folder may be whole by its names and shapes and still answer everybody with nonsense: a tokenizer
whose vocabulary is not there reads one thing into every text, and weights that are not finite make
every probability null. Both answer with 200.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from raymodel.errors import ArtifactError
from raymodel.modality.text import TextProcessor
from raymodel.model.build import first_line
from raymodel.serve.refusal import Refusal

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from raymodel.serve.service import Service
    from raymodel.tasks.base import Task

log = logging.getLogger(__name__)

_TOKENS = 200  # of the vocabulary, spread over it
# Of what is tried: pieces of bytes, or of words, do not come back alone; of whole ones nearly all.
_LEAST_TEXTS, _LEAST_PIECES = 0.25, 0.05
_FEW = 10  # tokens of several characters tell nothing


def check_model(model: PreTrainedModel, task: Task, folder: Path) -> None:
    """Raises ArtifactError unless the tokenizer reads texts apart and the weights are finite."""
    if isinstance(task.processor, TextProcessor):
        check_tokenizer(task.processor.tokenizer, folder)
    _check_weights(model, folder)


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Raises ArtifactError for one that does not give back the texts of its own tokens, or never
    finds a token of several characters, as without its merges."""
    pairs = list(_texts_of_tokens(tokenizer))
    kept = [(token, text) for token, text in pairs if _comes_back(tokenizer, text)]
    longer = [(token, text) for token, text in pairs if len(text.strip()) > 1]
    found = [pair for pair in longer if _is_found(tokenizer, *pair)]
    is_read = len(kept) > _LEAST_TEXTS * len(pairs)
    if not is_read or (len(longer) >= _FEW and len(found) < _LEAST_PIECES * len(longer)):
        said = (
            f"of {len(pairs)} texts that are tokens of its own it gives back {len(kept)}, and of "
            f"the {len(longer)} with several characters it finds {len(found)} as one token"
        )
        raise ArtifactError(
            f"{folder}: the tokenizer does not read texts ({said}), so every question would look "
            "alike to the model. Copy all files of the tokenizer from where the model comes from "
            "(tokenizer.json, or vocabulary and merges)"
        )


def _texts_of_tokens(tokenizer: PreTrainedTokenizerBase) -> Iterator[tuple[int, str]]:
    """Ordinary tokens with the text of each, where that is one of whole characters."""
    special = set(tokenizer.all_special_ids)
    ids = sorted(token for token in tokenizer.get_vocab().values() if token not in special)
    for token in ids[:: max(1, len(ids) // _TOKENS)]:
        text = str(tokenizer.decode([token]))
        if text.strip() and "\ufffd" not in text:
            yield token, text


def _comes_back(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    ids = _encode(tokenizer, text)
    return str(tokenizer.decode(ids, skip_special_tokens=True)).strip() == text.strip()


def _is_found(tokenizer: PreTrainedTokenizerBase, token: int, text: str) -> bool:
    return any(_encode(tokenizer, each) == [token] for each in (text, text.strip()))


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _check_weights(model: PreTrainedModel, folder: Path) -> None:
    for name, weight in model.named_parameters():
        if weight.dtype not in (torch.float32, torch.float16, torch.bfloat16):
            continue  # of quantised weights the sum says nothing
        # One pass without a mask of the same size. No sum of finite weights leaves the range of
        # fp32, which is that of bf16; given a dtype, torch would make a copy first.
        dtype = torch.float32 if weight.dtype == torch.float16 else None
        if not torch.isfinite(weight.detach().sum(dtype=dtype)):
            raise ArtifactError(
                f"{folder}: the weight {name} holds NaN or infinity, so every answer would be "
                "undefined; take an earlier checkpoint of the training that made it"
            )


def check_outputs(service: Service, folder: Path) -> None:
    """Raises ArtifactError unless a first question is answered, and with finite numbers."""
    bad: list[str] = []

    def look(module: Any, given: Any, output: Any) -> None:
        bad.extend(name for name, tensor in _tensors(output) if _is_undefined(tensor))

    hook = service.model.register_forward_hook(look)
    try:
        service.probe()
    except Refusal as refusal:
        log.warning("the probe of the model was refused: %s", refusal.message)
    except (RuntimeError, ValueError, TypeError, IndexError, ImportError) as error:
        raise ArtifactError(
            f"{folder}: the model does not answer a first question ({type(error).__name__}: "
            f"{first_line(error)}); its files do not belong together, or need a package that is "
            "not installed"
        ) from error
    finally:
        hook.remove()
    if bad:
        raise ArtifactError(
            f"{folder}: the model answers a first question with NaN or infinity (in {bad[0]}); "
            "take another checkpoint, or serve it in the dtype that it was trained in"
        )


def _tensors(output: Any, name: str = "its output") -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(output, torch.Tensor):
        yield name, output
    elif isinstance(output, Mapping):
        yield from _all_tensors((str(key), value) for key, value in output.items())
    elif isinstance(output, list | tuple):
        yield from _all_tensors((name, value) for value in output)


def _all_tensors(items: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in items:
        yield from _tensors(value, name)


def _is_undefined(tensor: torch.Tensor) -> bool:
    # Some models write -inf for rows of the vocabulary that are no tokens.
    return tensor.is_floating_point() and bool((tensor.isnan() | tensor.isposinf()).any())
