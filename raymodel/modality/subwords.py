"""Tokenizers of pieces of words that do not know every text: WordPiece, as BERT and its family
have it (arXiv:1810.04805), and Unigram, as T5 and ALBERT have it (arXiv:1804.10959).

Both are trained by the `tokenizers` library, whose trainers go through words in an order that
changes from run to run. What follows from that is undone here, so that the same texts give the same
tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from raymodel.modality.characters import SPECIALS, UNKNOWN, as_bert
from raymodel.modality.text import (
    END_OF_TEXT,
    PADDING,
    hidden_tokens,
    other_specials,
    with_specials,
)
from raymodel.modality.unspaced import MARK, cut_runs

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    from raymodel.modality.spec import Normalization

GOES_ON = "##"
"""Before a WordPiece that does not begin a word."""
UNKNOWN_PIECE = "<|unknown|>"
_ALPHABET_FRAC = 0.5
"""Of the vocabulary at most: the most frequent characters, so that pieces have room beside them."""
_SCORE_DIGITS = 3
"""Of the logarithms that Unigram learns. They differ by some 1e-10 from run to run."""
_WORDS = r" ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""As GPT-2 cuts text, without its English endings: no piece has letters and signs, or two words."""
_BATCH_CHARS = 2**20


class _Seen(NamedTuple):
    """How often each code point stands in texts as a tokenizer normalises them. (0x110000,)"""

    all: Any
    going_on: Any
    """Those that do not begin a word."""


def train_wordpiece(
    texts: Collection[str],
    vocab_size: int,
    *,
    lowercase: bool = False,
    normalization: Normalization = "none",
) -> PreTrainedTokenizerFast:
    """`learn_wordpiece`, as transformers has it."""
    return as_bert(
        learn_wordpiece(texts, vocab_size, lowercase=lowercase, normalization=normalization)
    )


def learn_wordpiece(
    texts: Collection[str],
    vocab_size: int,
    *,
    lowercase: bool = False,
    normalization: Normalization = "none",
) -> Tokenizer:
    """Trains a WordPiece tokenizer with BERT's special tokens, and its way of cutting text: at
    white space, of which nothing stays, around signs and around Chinese characters.

    Args:
        texts: what to train on; gone through several times.
        vocab_size: tokens in all, specials included; fewer when the texts do not hold as many.
        lowercase: capitals are small letters, and accents are left out, as for BERT's uncased.
        normalization: Unicode's, before all else.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from tokenizers.trainers import WordPieceTrainer

    def fresh(vocab: dict[str, int]) -> Tokenizer:
        model = models.WordPiece(
            vocab=vocab, unk_token=UNKNOWN, max_input_chars_per_word=100,
            continuing_subword_prefix=GOES_ON,
        )  # fmt: skip
        tokenizer = Tokenizer(model)
        bert = normalizers.BertNormalizer(
            clean_text=True, handle_chinese_chars=True, strip_accents=lowercase, lowercase=lowercase
        )
        tokenizer.normalizer = normalizers.Sequence([*_normalizers(normalization), bert])
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        return tokenizer

    untrained = fresh({UNKNOWN: 0})
    seen = _count_characters(untrained, texts)
    known = _alphabet(seen, int((vocab_size - len(SPECIALS)) * _ALPHABET_FRAC))
    going_on = [GOES_ON + c for c in known if seen.going_on[ord(c)]]
    trainer = WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=0,
        # The trainer numbers these as it meets them, unless it is given them; and ties between
        # merges go by number.
        special_tokens=[*SPECIALS, *going_on],
        initial_alphabet=known,
        continuing_subword_prefix=GOES_ON,
        show_progress=False,
    )
    untrained.train_from_iterator(_without_rare(texts, untrained, known), trainer)
    vocab = untrained.get_vocab()
    tokenizer = fresh(vocab)
    tokenizer.decoder = decoders.WordPiece(prefix=GOES_ON, cleanup=False)
    return tokenizer


def train_unigram(
    texts: Collection[str],
    vocab_size: int,
    *,
    mask: bool = False,
    sentinels: int = 0,
    lowercase: bool = False,
    normalization: Normalization = "none",
) -> PreTrainedTokenizerFast:
    """`learn_unigram`, as transformers has it."""
    tokenizer = learn_unigram(
        texts,
        vocab_size,
        mask=mask,
        sentinels=sentinels,
        lowercase=lowercase,
        normalization=normalization,
    )
    return as_unigram(tokenizer, mask=mask, sentinels=sentinels)


def as_unigram(tokenizer: Tokenizer, *, mask: bool, sentinels: int) -> PreTrainedTokenizerFast:
    """With what its special tokens are for."""
    return with_specials(tokenizer, mask=mask, sentinels=sentinels, unk_token=UNKNOWN_PIECE)


def learn_unigram(
    texts: Collection[str],
    vocab_size: int,
    *,
    mask: bool = False,
    sentinels: int = 0,
    lowercase: bool = False,
    normalization: Normalization = "none",
) -> Tokenizer:
    """Trains a Unigram tokenizer with the special tokens of our byte-level BPE. White space stays
    as it is, so a text of known characters decodes to itself as it was normalised.

    Args:
        texts: what to train on; gone through several times.
        vocab_size: tokens in all, specials included; fewer when the texts do not hold as many.
        mask: one of the special tokens stands for a hidden one.
        sentinels: so many of them stand for runs of hidden ones.
        lowercase: capitals are small letters.
        normalization: Unicode's, before all else.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers
    from tokenizers import pre_tokenizers as cuts
    from tokenizers.trainers import UnigramTrainer

    small = [normalizers.Lowercase()] if lowercase else []
    hidden = map(str, hidden_tokens(mask))
    specials = [END_OF_TEXT, PADDING, UNKNOWN_PIECE, *other_specials(sentinels), *hidden]
    spaces: dict[str, Any] = {"replacement": "▁", "prepend_scheme": "never", "split": False}

    def fresh(model: Any, *before: Any) -> Tokenizer:
        tokenizer = Tokenizer(model)
        tokenizer.normalizer = normalizers.Sequence([*_normalizers(normalization), *small])
        words = cuts.Split(Regex(_WORDS), behavior="isolated")
        tokenizer.pre_tokenizer = cuts.Sequence([*before, words, cuts.Metaspace(**spaces)])
        return tokenizer

    untrained = fresh(models.Unigram(), cuts.Split(MARK, behavior="removed"))
    seen = _count_characters(untrained, texts)
    known = _alphabet(seen, int((vocab_size - len(specials)) * _ALPHABET_FRAC))
    trainer = UnigramTrainer(
        vocab_size=vocab_size,
        special_tokens=specials,
        unk_token=UNKNOWN_PIECE,
        initial_alphabet=[],
        shrinking_factor=0.75,
        max_piece_length=16,
        n_sub_iterations=2,
        show_progress=False,
    )
    marked = cut_runs(texts, vocab_size)
    untrained.train_from_iterator(
        _without_rare(texts if marked is None else marked, untrained, known), trainer
    )
    learnt = json.loads(untrained.to_str())["model"]["vocab"][len(specials) :]
    vocab = [*((special, 0.0) for special in specials), *_in_order(learnt)]
    tokenizer = fresh(models.Unigram(vocab, specials.index(UNKNOWN_PIECE), byte_fallback=False))
    tokenizer.decoder = decoders.Metaspace(**spaces)
    return tokenizer


def _normalizers(normalization: Normalization) -> list[Any]:
    from tokenizers import normalizers

    known = {"nfc": normalizers.NFC, "nfkc": normalizers.NFKC}
    return [known[normalization]()] if normalization in known else []


def _in_order(learnt: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    """Pieces by their scores, and those of equal ones by name. Characters that Unigram has kept
    though it did not want them get scores in the order in which it met them: they share one."""
    pieces = [(piece, float(score)) for piece, score in learnt]
    least = min((score for piece, score in pieces if len(piece) > 1), default=0.0)
    shared = max((score for piece, score in pieces if score < least), default=least)
    rounded = [(piece, round(max(score, shared), _SCORE_DIGITS)) for piece, score in pieces]
    return sorted(rounded, key=lambda each: (-each[1], each[0]))


def _alphabet(seen: _Seen, room: int) -> list[str]:
    """The most frequent characters, as many as have room as tokens, in the order of Unicode."""
    points = np.flatnonzero(seen.all)
    points = points[[not chr(point).isspace() for point in points]]
    points = points[np.lexsort((points, -seen.all[points]))]
    tokens = np.cumsum(1 + (seen.going_on[points] > 0))
    return sorted(map(chr, points[: int(np.searchsorted(tokens, max(room, 1), side="right"))]))


def _count_characters(tokenizer: Tokenizer, texts: Iterable[str]) -> _Seen:
    is_bert = tokenizer.pre_tokenizer.__class__.__name__ == "BertPreTokenizer"
    every = np.zeros(0x110000, dtype=np.int64)
    going_on, in_word = np.zeros_like(every), dict[int, bool]()
    for text in texts:
        for start in range(0, len(text), _BATCH_CHARS):
            normal = tokenizer.normalizer.normalize_str(text[start : start + _BATCH_CHARS])
            codes = np.frombuffer(normal.encode("utf-32-le"), dtype="<u4")
            found, index = np.unique(codes, return_inverse=True)
            every[found] += np.bincount(index, minlength=len(found))
            if is_bert:
                for code in map(int, found):
                    if code not in in_word:
                        cut = tokenizer.pre_tokenizer.pre_tokenize_str(f"a{chr(code)}a")
                        in_word[code] = len(cut) == 1
                inside = np.array([in_word[int(code)] for code in found], dtype=bool)[index]
                np.add.at(going_on, codes[1:][inside[1:] & inside[:-1]], 1)
    return _Seen(every, going_on)


def _without_rare(
    texts: Iterable[str], tokenizer: Tokenizer, known: Iterable[str]
) -> Iterator[str]:
    """As a tokenizer normalises them, which is left nothing of that to do, with a space in the
    place of every character that will be unknown."""
    normalizer, tokenizer.normalizer = tokenizer.normalizer, None
    return _as_known(texts, normalizer, {ord(character) for character in (*known, MARK)})


def _as_known(texts: Iterable[str], normalizer: Any, kept: set[int]) -> Iterator[str]:
    class Table(dict[int, int]):
        def __missing__(self, point: int) -> int:
            self[point] = point if point in kept or chr(point).isspace() else 0x20
            return self[point]

    table = Table()
    for text in texts:
        yield normalizer.normalize_str(text).translate(table)
