"""A tokenizer whose tokens are characters: for Chinese above all, where a character is a syllable
with a meaning, and for a BERT that is trained from nothing (arXiv:1810.04805 reads Chinese so)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

PADDING, UNKNOWN, START, SEPARATOR, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIALS = (PADDING, UNKNOWN, START, SEPARATOR, MASK)
"""With BERT's names, and the ids from 0 in this order."""


def train_character_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """`learn_characters`, as transformers has it."""
    return as_bert(learn_characters(texts, vocab_size))


def learn_characters(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """The most frequent characters of the texts, each a token; the others are `[UNK]`.

    A character is a code point, white space too, and as it is written: upper and lower case, full
    and half width are different ones. So a text of known characters decodes to itself, and a token
    is one place of its text. The same texts give the same tokenizer, in whatever order.

    Args:
        texts: what to train on.
        vocab_size: tokens in all, specials included; fewer when the texts do not hold as many.

    Raises:
        ValueError: `vocab_size` leaves no room for a character.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocab = _vocabulary(texts, vocab_size)
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.FixedLength(1)
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def as_bert(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """With BERT's form of a text and of a pair; its special tokens are in the vocabulary."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    vocab = tokenizer.get_vocab()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {SEPARATOR}",
        pair=f"{START} $A {SEPARATOR} $B:1 {SEPARATOR}:1",
        special_tokens=[(START, vocab[START]), (SEPARATOR, vocab[SEPARATOR])],
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token=PADDING,
        unk_token=UNKNOWN,
        cls_token=START,
        sep_token=SEPARATOR,
        mask_token=MASK,
        clean_up_tokenization_spaces=False,
    )


def _vocabulary(texts: Iterable[str], vocab_size: int) -> dict[str, int]:
    """Token → id; characters that are equally frequent are in the order of their code points."""
    num_characters = vocab_size - len(SPECIALS)
    if num_characters < 1:
        raise ValueError(
            f"vocab_size {vocab_size} holds the {len(SPECIALS)} special tokens and no character; "
            "give some thousand for Chinese"
        )
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    frequent = sorted(counts, key=lambda character: (-counts[character], character))
    tokens = [*SPECIALS, *frequent[:num_characters]]
    return {token: token_id for token_id, token in enumerate(tokens)}
