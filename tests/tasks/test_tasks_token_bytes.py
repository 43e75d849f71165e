"""Bytes are counted by tokens: rows cut anywhere hold the bytes of the documents between them."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from raymodel.tasks.token_bytes import TokenBytes, target_bytes

END = "<|end|>"
TEXTS = [
    "Größe ≥ 10 €: naïve Straße, déjà vu.",
    "日本語の文章です。漢字とかな。",
    "emoji 👩‍👩‍👧 and 🧪 in\n\ttabs  and  spaces",
    "plain words only",
]


def fast(tokenizer: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, **special)


def byte_level(*, adds_space: bool = False) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=adds_space)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS[3:], trainer)
    found = fast(tokenizer)
    if not adds_space:  # else it adds one after each of these too
        found.add_tokens(["Straße", "vu."])  # not special: their text is in the documents
    return found


def sentence_piece() -> PreTrainedTokenizerFast:
    """As Llama 2's: a space before the text, `<0x..>` for what the vocabulary lacks."""
    words = ["▁", "▁plain", "▁words", "▁only", "e", "a", "n", "d", "ö", "▁▁"]
    tokens = ["<unk>", END, *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    vocab = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return fast(tokenizer, unk_token="<unk>")


def unigram() -> PreTrainedTokenizerFast:
    """As T5's and XLM-R's: words that begin with a mark for the space before them."""
    letters = sorted({letter for text in TEXTS for letter in text if not letter.isspace()})
    vocab = [("<unk>", -9.0), (END, 0.0), ("▁", -2.0), ("▁plain", -1.0)]
    tokenizer = Tokenizer(models.Unigram(vocab + [(letter, -3.0) for letter in letters], 0, False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return fast(tokenizer, unk_token="<unk>")


def word_piece() -> PreTrainedTokenizerFast:
    tokens = ["[UNK]", END, "plain", "words", "only", "größ", "##er", "##e", "を", "a"]
    vocab = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece("##", cleanup=False)
    return fast(tokenizer, unk_token="[UNK]")


SPACED = ["plain words only", "größer größe を plain"]
CASES = {
    "byte-level": (byte_level, TEXTS),
    "byte-level that adds a space": (lambda: byte_level(adds_space=True), TEXTS),
    "SentencePiece with bytes": (sentence_piece, TEXTS),
    "Unigram": (unigram, [TEXTS[0], TEXTS[3], SPACED[0]]),
    "WordPiece": (word_piece, SPACED),
}


def packed(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[int]:
    return [i for text in texts for i in [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]]


@pytest.mark.parametrize("case", CASES)
def test_rows_cut_anywhere_hold_the_bytes_of_the_documents(case: str) -> None:
    build, texts = CASES[case]
    tokenizer = build()
    ids, sizes = packed(tokenizer, texts), TokenBytes(tokenizer)
    assert tokenizer.unk_token_id not in ids or tokenizer.unk_token_id is None
    whole = sum(len(text.encode()) for text in texts)
    assert sizes.count(ids).sum() == whole
    for width in (1, 2, 3, 5, 7, 16):
        pieces = [
            sizes.count(
                ids[start : start + width],
                begins_text=start == 0 or ids[start - 1] == tokenizer.eos_token_id,
            )
            for start in range(0, len(ids), width)
        ]
        assert sum(int(piece.sum()) for piece in pieces) == whole, width


def test_the_targets_of_rows_are_all_bytes_but_those_of_first_tokens() -> None:
    tokenizer = byte_level()
    ids, sizes = packed(tokenizer, TEXTS), TokenBytes(tokenizer)
    rows = torch.tensor(ids[: len(ids) // 8 * 8]).view(-1, 8)
    first = sum(int(sizes.count([row[0]])[0]) for row in rows.tolist())
    assert target_bytes(rows, sizes) == sizes.count(rows.flatten()).sum() - first


def test_a_response_begins_a_text_and_its_prompt_counts_for_nothing() -> None:
    tokenizer = sentence_piece()
    prompt, response = tokenizer("größer")["input_ids"], tokenizer("plain 語")["input_ids"]
    labels = [-100] * len(prompt) + [*response, tokenizer.eos_token_id] + [-100] * 5
    assert target_bytes(torch.tensor([labels]), TokenBytes(tokenizer)) == len("plain 語".encode())


def test_ids_beyond_the_vocabulary_have_no_text() -> None:
    tokenizer = byte_level()
    assert TokenBytes(tokenizer).count([len(tokenizer) + 5, -100]).tolist() == [0, 0]
    assert TokenBytes(tokenizer).count(np.empty(0, dtype=np.int64)).tolist() == []
