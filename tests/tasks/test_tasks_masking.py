"""What a masked language model has to guess: fair on average, and fixed for a row and a step."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from raymodel.chance import Chance, Draw
from raymodel.modality.characters import train_character_tokenizer
from raymodel.modality.text import train_tokenizer
from raymodel.tasks.loss import IGNORED
from raymodel.tasks.masking import Ids, mask_row, ordinary_ids, word_numbers, word_starts

MASK = 4
OTHERS = np.arange(100, 200, dtype=np.int64)
TEXT = "the unbelievable tokenization, of (naïve) words don't end"


def row(length: int, num_special: int = 0) -> tuple[Ids, np.ndarray]:
    """Ids from 1000, all different; the first `num_special` are special."""
    return np.arange(1000, 1000 + length), np.arange(length) < num_special


def test_a_mask_is_fixed_for_good() -> None:
    ids, special = row(12, 2)
    inputs, labels = mask_row(
        ids, special, Draw(7, 3, [5]).of_row(0), mask_id=MASK, random_ids=OTHERS, share=0.5
    )
    assert inputs.tolist() == [1000, 1001, 4, 4, 4, 4, 1006, 4, 1008, 1009, 1010, 1011]
    assert labels.tolist() == [
        -100,
        -100,
        1002,
        1003,
        1004,
        1005,
        -100,
        1007,
        -100,
        -100,
        -100,
        -100,
    ]


def test_a_row_of_a_step_has_one_mask_and_every_step_another() -> None:
    ids, special = row(64)

    def masked(step: int, positions: list[int], index: int) -> list[int]:
        chance = Draw(7, step, positions).of_row(index)
        return mask_row(ids, special, chance, mask_id=MASK, random_ids=OTHERS)[1].tolist()

    assert masked(3, [5], 0) == masked(3, [4, 5, 6], 1)
    assert len({tuple(masked(step, [5], 0)) for step in range(50)}) == 50


def test_padding_does_not_change_what_is_chosen() -> None:
    ids, special = row(50, 1)
    padded = np.concatenate([ids, np.zeros(14, dtype=np.int64)])
    is_special = np.concatenate([special, np.ones(14, dtype=bool)])
    for words in (None, np.arange(64) // 3):
        part = None if words is None else words[:50]
        expected = mask_row(
            ids, special, Chance("row", 1), mask_id=MASK, random_ids=OTHERS, words_T=part
        )
        found = mask_row(
            padded, is_special, Chance("row", 1), mask_id=MASK, random_ids=OTHERS, words_T=words
        )
        for long, short in zip(found, expected, strict=True):
            assert long[:50].tolist() == short.tolist()
        assert set(found[1][50:].tolist()) == {IGNORED}


def test_the_row_itself_is_left_as_it_is() -> None:
    ids, special = row(20)
    mask_row(ids, special, Chance(1), mask_id=MASK, random_ids=OTHERS, share=1.0)
    assert ids.tolist() == list(range(1000, 1020))


@pytest.mark.parametrize("with_words", [False, True])
@pytest.mark.parametrize("share", [0.15, 0.4])
def test_shares_are_right_on_average(share: float, with_words: bool) -> None:
    ids, special = row(101, 1)
    lengths = np.resize([1, 2, 1, 5, 3], 60)
    words = np.repeat(np.arange(60), lengths)[:101] if with_words else None
    num_rows = 2_000
    chosen_T, total = np.zeros(101), np.zeros(3)
    for index in range(num_rows):
        inputs, labels = mask_row(
            ids,
            special,
            Chance("share", index),
            mask_id=MASK,
            random_ids=OTHERS,
            share=share,
            words_T=words,
        )
        is_target = labels != IGNORED
        assert (labels[is_target] == ids[is_target]).all()
        assert (inputs[~is_target] == ids[~is_target]).all()
        chosen_T += is_target
        hidden = inputs[is_target]
        total += [(hidden == MASK).sum(), np.isin(hidden, OTHERS).sum(), (hidden >= 1000).sum()]
    assert chosen_T[0] == 0
    # Five deviations of a share of 2,000 rows, for the token that is furthest off.
    deviation = (share * (1 - share) / num_rows) ** 0.5
    assert np.abs(chosen_T[1:] / num_rows - share).max() < 5 * deviation
    num_targets = total.sum()
    assert num_targets / num_rows / 100 == pytest.approx(share, rel=0.01)
    for found, expected in zip(total / num_targets, (0.8, 0.1, 0.1), strict=True):
        assert abs(found - expected) < 5 * (expected * (1 - expected) / num_targets) ** 0.5


def test_others_are_drawn_evenly_from_those_that_may_be() -> None:
    ids, special = row(2_000)
    counts = np.zeros(200)
    for index in range(50):
        inputs, _ = mask_row(
            ids, special, Chance("other", index), mask_id=MASK, random_ids=OTHERS, share=1.0
        )
        counts += np.bincount(inputs[(inputs < 1000) & (inputs != MASK)], minlength=200)
    assert counts[:100].sum() == 0
    assert counts[100:].min() > 50  # 100 of each, with a deviation of 10
    assert counts[100:].max() < 150


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_short_row_has_a_target(length: int) -> None:
    ids, special = row(length + 2, 2)
    for index in range(100):
        _, labels = mask_row(
            ids, special, Chance("short", index), mask_id=MASK, random_ids=OTHERS, share=0.01
        )
        assert (labels != IGNORED).sum() == 1


def test_a_row_of_special_tokens_has_none() -> None:
    ids, special = row(3, 3)
    inputs, labels = mask_row(ids, special, Chance(1), mask_id=MASK, random_ids=OTHERS)
    assert inputs.tolist() == ids.tolist()
    assert labels.tolist() == [IGNORED] * 3


def test_the_whole_row_can_be_chosen() -> None:
    ids, special = row(33)
    _, labels = mask_row(ids, special, Chance(1), mask_id=MASK, random_ids=OTHERS, share=1.0)
    assert labels.tolist() == ids.tolist()


def test_a_word_is_chosen_as_a_whole() -> None:
    ids, special = row(40, 1)
    words = np.repeat([0, 7, 3, 6, 100], 8)  # numbers of words need not be in order
    for index in range(50):
        _, labels = mask_row(
            ids,
            special,
            Chance("word", index),
            mask_id=MASK,
            random_ids=OTHERS,
            share=0.3,
            words_T=words,
        )
        for word in np.unique(words):
            is_target = (labels != IGNORED)[(words == word) & ~special]
            assert is_target.all() or not is_target.any()
        assert len(np.unique(words[labels != IGNORED])) in (1, 2)  # 0.3 of 5 words


def word_piece() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece("##")
    trainer = trainers.WordPieceTrainer(
        vocab_size=60, special_tokens=["[UNK]", "[SEP]"], show_progress=False
    )
    tokenizer.train_from_iterator([TEXT, "我住在北京。"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", sep_token="[SEP]")


def metaspace() -> PreTrainedTokenizerFast:
    letters = sorted({letter for letter in TEXT + "我住在北京。" if not letter.isspace()})
    vocab = [("<unk>", -9.0), ("▁", -2.0), *((letter, -3.0) for letter in letters), ("▁of", -1.0)]
    tokenizer = Tokenizer(models.Unigram(vocab, 0, False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def byte_level() -> PreTrainedTokenizerFast:
    return train_tokenizer([TEXT] * 3 + ["我住在北京。"] * 9, 330)


def characters() -> PreTrainedTokenizerFast:
    return train_character_tokenizer([TEXT, "我住在北京。"], 100)


def words_of(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    """The words of a text, as its tokens give them."""
    ids = np.array(tokenizer(text, add_special_tokens=False)["input_ids"])
    special = np.isin(ids, tokenizer.all_special_ids)
    numbers = word_numbers(ids, special, word_starts(tokenizer))
    return [tokenizer.decode(ids[numbers == number]).strip() for number in np.unique(numbers)]


@pytest.mark.parametrize("kind", [word_piece, metaspace, byte_level, characters])
def test_words_are_told_by_their_first_tokens(kind) -> None:
    found = words_of(kind(), TEXT)
    if kind is word_piece:  # which parts letters from the mark before them
        assert [*found[:3], *found[4:5]] == ["the", "unbelievable", "tokenization", "of"]
        assert found[5:] == ["(", "naïve", ")", "words", "don", "'", "t", "end"]
    else:
        expected = "the unbelievable tokenization , of (naïve ) words don 't end"
        assert " ".join(found).split() == expected.split()


@pytest.mark.parametrize("kind", [word_piece, metaspace, characters])
def test_a_chinese_character_is_a_word(kind) -> None:
    found = [word for word in words_of(kind(), "我住在北京。") if word]
    assert found == list("我住在北京。")


def test_a_word_begins_after_a_special_token() -> None:
    tokenizer = byte_level()
    end = tokenizer.eos_token
    assert words_of(tokenizer, f"the end{end}unbelievable{end}") == [
        "the",
        "end",
        end,
        "unbelievable",
        end,
    ]


def test_accents_and_parts_of_a_character_go_on_with_a_word() -> None:
    tokenizer = train_tokenizer(["plain words only"], 300)
    assert words_of(tokenizer, "naïve cafe\u0301 naïve") == ["naïve", "cafe\u0301", "naïve"]
    tokenizer = train_character_tokenizer(["cafe\u0301 "], 50)
    assert words_of(tokenizer, "cafe\u0301") == ["cafe\u0301"]


def test_an_added_token_begins_a_word() -> None:
    tokenizer = byte_level()
    tokenizer.add_tokens(["words"])
    starts = word_starts(tokenizer)
    assert len(starts) == len(tokenizer)
    assert starts[-1]
    assert words_of(tokenizer, "the endwords") == ["the", "end", "words"]


def test_without_a_decoder_every_token_is_a_word() -> None:
    vocab = {"[UNK]": 0, "a": 1, "##b": 2}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    )
    assert word_starts(tokenizer).tolist() == [True] * 3


def test_a_vocabulary_that_marks_the_ends_of_words_is_refused() -> None:
    vocab = {"a": 0, "b</w>": 1, "ab</w>": 2}
    tokenizer = Tokenizer(models.BPE(vocab, [], end_of_word_suffix="</w>"))
    tokenizer.decoder = decoders.BPEDecoder("</w>")
    with pytest.raises(
        ValueError, match=r"none comes with the space before it.*Mask single tokens"
    ):
        word_starts(PreTrainedTokenizerFast(tokenizer_object=tokenizer))


def test_special_tokens_are_no_ordinary_ones() -> None:
    tokenizer = byte_level()
    ids = ordinary_ids(tokenizer)
    assert len(ids) == len(tokenizer) - len(set(tokenizer.all_special_ids))
    assert not set(ids.tolist()) & set(tokenizer.all_special_ids)
    assert ids.tolist() == sorted(ids.tolist())
    assert tokenizer.convert_tokens_to_ids("<|user|>") not in ids
