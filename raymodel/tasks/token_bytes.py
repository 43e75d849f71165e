"""Which bytes of text each token of a tokenizer stands for, and how many.

Counted token by token, and not by decoding rows: a row may end in the middle of a character, and
what is decoded of a part of one is the replacement character, which has three bytes of its own.
The form in which a vocabulary writes its tokens is read from the tokenizer's decoder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from raymodel.modality.byte_level import byte_alphabet

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from raymodel.modality.text import TextProcessor

Sizes = npt.NDArray[np.int64]
_LETTERS = "aenost01"
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class TokenBytes:
    """The bytes of every id, in UTF-8.

    Where a tokenizer writes the space before a word into the word's token, it puts one before the
    first word of a text too, which the text does not have; so a token is a byte shorter there.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Reads the whole vocabulary: a tenth of a second for a hundred thousand tokens."""
        texts = read_token_bytes(tokenizer)
        top = 1 + max(texts, default=0)
        self._inside: Sizes = np.zeros(top, dtype=np.int64)
        self._is_special = np.zeros(top, dtype=bool)
        self._is_special[[i for i in tokenizer.all_special_ids if i < top]] = True
        has_space = np.zeros(top, dtype=bool)
        for token_id, text in texts.items():
            self._inside[token_id], has_space[token_id] = len(text), text.startswith(b" ")
        self._inside[self._is_special] = 0
        adds_space = self._adds_space(tokenizer)
        self._first = self._inside - (has_space & ~self._is_special if adds_space else 0)

    def count(self, ids: npt.ArrayLike, *, begins_text: bool = True) -> Sizes:
        """The bytes of each token of a run. (T,)

        Special tokens have none, and neither have ids that the tokenizer lacks; a text begins
        after a special token and after an id below zero, which labels hold where no loss is borne.

        Args:
            ids: of consecutive tokens. (T,)
            begins_text: whether a text begins with the first of them.
        """
        run = np.asarray(ids, dtype=np.int64)
        is_known = (run >= 0) & (run < len(self._inside))
        known = np.where(is_known, run, 0)
        ends_text = (run < 0) | (is_known & self._is_special[known])
        begins = np.concatenate(([begins_text], ends_text[:-1]))[: len(run)]
        sizes: Sizes = np.where(begins, self._first[known], self._inside[known]) * is_known
        return sizes

    def _adds_space(self, tokenizer: PreTrainedTokenizerBase) -> bool:
        """Whether a letter alone becomes two bytes. More than one is tried: a small vocabulary may
        lack some."""
        ids = [tokenizer(letter, add_special_tokens=False)["input_ids"] for letter in _LETTERS]
        return any(int(self._inside[each].sum()) == 2 for each in ids)


def read_token_bytes(tokenizer: PreTrainedTokenizerBase) -> dict[int, bytes]:
    """Id → what the token stands for within a text, special tokens for what they are written as."""
    added = {i: str(token) for i, token in tokenizer.added_tokens_decoder.items()}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    read = _reader(_decoders(backend)) if backend is not None else str.encode
    return {
        # What was added to a vocabulary stands there as it is.
        token_id: added[token_id].encode() if token_id in added else read(token)
        for token, token_id in tokenizer.get_vocab().items()
    }


def _decoders(backend: Any) -> tuple[Mapping[str, Any], ...]:
    """The steps of a decoder, as `tokenizer.json` names them."""

    def flat(step: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        if step["type"] != "Sequence":
            yield step
            return
        for inner in step["decoders"]:
            yield from flat(inner)

    if backend.decoder is None:
        return ()
    return tuple(flat(json.loads(backend.decoder.__getstate__())))


def _reader(decoders: tuple[Mapping[str, Any], ...]) -> Callable[[str], bytes]:
    """From a token as the vocabulary writes it to its bytes within a text."""
    kinds = {step["type"]: step for step in decoders}
    if "ByteLevel" in kinds:
        return _from_byte_level
    if "WordPiece" in kinds:
        return _from_word_piece(kinds["WordPiece"]["prefix"])
    replaced = [
        (step["pattern"]["String"], step["content"])
        for step in decoders
        if step["type"] == "Replace" and "String" in step["pattern"]
    ]
    replaced += [(s["replacement"], " ") for s in decoders if s["type"] == "Metaspace"]
    has_bytes = "ByteFallback" in kinds

    def read(token: str) -> bytes:
        if has_bytes and _BYTE.fullmatch(token):
            return bytes([int(token[3:5], 16)])
        for written, meant in replaced:
            token = token.replace(written, meant)
        return token.encode()

    if not decoders:  # then tokens are words, joined by spaces
        return lambda token: b" " + token.encode()
    return read


def _from_byte_level(token: str) -> bytes:
    alphabet = byte_alphabet()
    if all(character in alphabet for character in token):
        return bytes(alphabet[character] for character in token)
    return token.encode()


def _from_word_piece(prefix: str) -> Callable[[str], bytes]:
    def read(token: str) -> bytes:
        if token.startswith(prefix):
            return token.removeprefix(prefix).encode()
        return b" " + token.encode()

    return read


def target_bytes(
    labels_BT: torch.Tensor, sizes: TokenBytes, text_BT: torch.Tensor | None = None
) -> int:
    """UTF-8 bytes of the predicted text. End-of-text tokens have none, though they bear loss.

    Args:
        labels_BT: what bears loss; below zero what does not.
        text_BT: the same with the tokens that bear no loss but whose text goes on in the next one,
            as the first of a document; None where there are none.
    """
    total = 0
    for labels_T, text_T in zip(
        labels_BT.numpy(), (labels_BT if text_BT is None else text_BT).numpy(), strict=True
    ):
        # The first token of a row is not predicted.
        total += int(sizes.count(text_T)[1:][labels_T[1:] >= 0].sum())
    return total


@lru_cache(maxsize=1)
def token_bytes(processor: TextProcessor) -> TokenBytes:
    """Of a processor's tokenizer; read once for all batches of an evaluation."""
    return TokenBytes(processor.tokenizer)
