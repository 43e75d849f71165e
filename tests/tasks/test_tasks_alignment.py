"""Words and their pieces, for the kinds of tokenizers that models come with."""

from __future__ import annotations

import functools

import pytest
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from raymodel.modality.text import train_tokenizer
from raymodel.tasks.alignment import NO_PIECE, Aligned, align, text_of

WORDS = ["Alice", "lives", "in", "Paris", ",", "unbelievably", "far", "from", "Reykjavik", "."]
TEXTS = [" ".join(WORDS), "the far lives of Alice in Paris", "a b", "我住在北京。", "ich bin weit"]
ROOMY = 512


@functools.cache
def word_piece() -> PreTrainedTokenizerFast:
    """As BERT's: control characters go, Chinese characters stand alone, [CLS] and [SEP] around."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece("##")
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(vocab_size=90, special_tokens=specials, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


@functools.cache
def byte_level() -> PreTrainedTokenizerFast:
    """As GPT-2's: the space belongs to the word after it."""
    return train_tokenizer(TEXTS, 300)


@functools.cache
def byte_level_that_adds_a_space() -> PreTrainedTokenizerFast:
    """As RoBERTa's with `add_prefix_space`."""
    tokenizer = Tokenizer.from_str(byte_level().backend_tokenizer.to_str())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.post_processor = processors.RobertaProcessing(
        ("<|endoftext|>", 0), ("<|endoftext|>", 0), trim_offsets=True
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@functools.cache
def unigram() -> PreTrainedTokenizerFast:
    """As XLM-R's: a mark for the space before every word."""
    letters = sorted({letter for text in TEXTS for letter in text if not letter.isspace()})
    vocab = [("<unk>", -9.0), ("▁", -2.0), ("▁far", -1.0)]
    tokenizer = Tokenizer(models.Unigram(vocab + [(letter, -3.0) for letter in letters], 0, False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


@functools.cache
def sentence_piece() -> PreTrainedTokenizerFast:
    """As Llama 2's: a space goes before whatever is given, also before one that is there."""
    letters = sorted({letter for text in TEXTS for letter in text if not letter.isspace()})
    vocab = {token: index for index, token in enumerate(["<unk>", "▁", *letters])}
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


@functools.cache
def characters() -> PreTrainedTokenizerFast:
    """Each character a token, spaces too."""
    letters = sorted({letter for text in TEXTS for letter in text})
    vocab = {token: index for index, token in enumerate(["[UNK]", *letters])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.FixedLength(1)
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


KINDS = (word_piece, byte_level, byte_level_that_adds_a_space, unigram, sentence_piece, characters)


def tokens(tokenizer: PreTrainedTokenizerFast, aligned: Aligned) -> list[str]:
    return [str(token) for token in tokenizer.convert_ids_to_tokens(aligned.input_ids)]


def first_tokens(tokenizer: PreTrainedTokenizerFast, aligned: Aligned) -> list[str | None]:
    names = tokens(tokenizer, aligned)
    return [None if piece == NO_PIECE else names[piece] for piece in aligned.first_piece]


@pytest.mark.parametrize("kind", KINDS)
def test_words_become_what_they_are_in_their_text(kind) -> None:
    tokenizer = kind()
    aligned = align(WORDS, tokenizer, ROOMY)
    assert aligned.input_ids == tokenizer(" ".join(WORDS))["input_ids"]
    assert aligned.num_words_kept == len(WORDS)
    assert aligned.words_without_piece == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_piece_of_each_word_begins_it(kind) -> None:
    tokenizer = kind()
    for word, token in zip(
        WORDS, first_tokens(tokenizer, align(WORDS, tokenizer, ROOMY)), strict=True
    ):
        assert token is not None
        letters = token.lstrip("Ġ▁")
        assert letters, (word, token)
        assert word.lower().startswith(letters.lower())


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_that_is_too_long_ends_with_a_whole_word(kind) -> None:
    tokenizer = kind()
    whole = align(WORDS, tokenizer, ROOMY)
    num_special = len(tokenizer("")["input_ids"])
    for max_length in range(num_special + 1, len(whole.input_ids) + 1):
        cut = align(WORDS, tokenizer, max_length)
        assert len(cut.input_ids) <= max_length
        assert cut == align(WORDS[: cut.num_words_kept], tokenizer, ROOMY)
        if cut.num_words_kept < len(WORDS):
            longer = align(WORDS[: cut.num_words_kept + 1], tokenizer, ROOMY)
            assert len(longer.input_ids) > max_length
    assert cut == whole


def test_special_tokens_stand_around_what_was_cut() -> None:
    cut = align(WORDS, word_piece(), 6)
    names = tokens(word_piece(), cut)
    assert (names[0], names[-1]) == ("[CLS]", "[SEP]")
    with pytest.raises(ValueError, match="max_length 2: the tokenizer adds 2 special tokens"):
        align(WORDS, word_piece(), 2)


def test_a_first_word_that_does_not_fit_leaves_none() -> None:
    assert align(["a" * 50, "b"], characters(), 20).num_words_kept == 0


def test_words_without_a_piece_are_told() -> None:
    words = ["Alice", "\x00", "in", "\u200b", "", " ", "Paris"]
    aligned = align(words, word_piece(), ROOMY)
    assert aligned.words_without_piece == [1, 3, 4, 5]
    assert aligned.num_words_kept == len(words)
    assert aligned.input_ids == align(["Alice", "in", "Paris"], word_piece(), ROOMY).input_ids
    # A byte-level vocabulary has pieces for all but nothing.
    aligned = align(words, byte_level(), ROOMY)
    assert aligned.words_without_piece == [4, 5]
    assert aligned.input_ids == byte_level()("Alice \x00 in \u200b Paris")["input_ids"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("words", [[], [""], ["\x00" * 3, ""]])
def test_a_text_of_no_words_has_no_first_pieces(kind, words: list[str]) -> None:
    aligned = align(words, kind(), ROOMY)
    assert aligned.num_words_kept == len(words)
    if kind is word_piece:
        assert aligned.words_without_piece == list(range(len(words)))
        assert tokens(word_piece(), aligned) == ["[CLS]", "[SEP]"]


@pytest.mark.parametrize("kind", [word_piece, byte_level, characters])
def test_chinese_characters_are_words_without_spaces(kind) -> None:
    tokenizer, words = kind(), list("我住在北京。")
    aligned = align(words, tokenizer, ROOMY)
    assert aligned.words_without_piece == []
    ids = aligned.input_ids
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == "我住在北京。"
    assert not any("Ġ" in token or token == " " for token in tokens(tokenizer, aligned))
    if kind is not byte_level:
        assert first_tokens(tokenizer, aligned) == words


def test_there_is_a_space_between_words_of_scripts_that_write_one() -> None:
    words = ["I", "visited", "北", "京", "in", "2010", ",", "안녕", "하세요"]
    aligned = align(words, byte_level(), ROOMY)
    assert byte_level().decode(aligned.input_ids) == "I visited北京in 2010 , 안녕 하세요"


def test_the_space_alone_is_not_the_first_piece_of_a_word() -> None:
    for kind in (byte_level, unigram, characters):
        aligned = align(["Alice", "xy"], kind(), ROOMY)
        names, first = tokens(kind(), aligned), aligned.first_piece[1]
        assert names[first - 1] in "Ġ▁ ", names
        assert names[first] not in "Ġ▁ ", names


def test_white_space_around_a_word_is_not_part_of_it() -> None:
    for kind in KINDS:
        assert align([" Alice", "in\n"], kind(), ROOMY) == align(["Alice", "in"], kind(), ROOMY)


def test_a_word_that_spells_a_special_token_is_text() -> None:
    aligned = align(["Alice", "<|endoftext|>"], byte_level(), ROOMY)
    assert byte_level().eos_token_id not in aligned.input_ids
    aligned = align(["Alice", "[SEP]"], word_piece(), ROOMY)
    assert tokens(word_piece(), aligned).count("[SEP]") == 1


def test_a_slow_tokenizer_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match="Slow is a slow tokenizer"):
        align(["a"], Slow(), ROOMY)  # type: ignore[arg-type]


def test_words_are_joined_as_their_scripts_are_written() -> None:
    assert text_of(["Ann", "ran", "."]) == "Ann ran ."
    assert text_of(["我", "是", "Ann", "Lee"]) == "我是Ann Lee"
    assert text_of([]) == ""
