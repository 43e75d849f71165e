"""A tokenizer of characters: for texts from nothing, in Chinese above all."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from raymodel.modality.characters import SPECIALS, train_character_tokenizer

POEM = "床前明月光，\n疑是地上霜。\n举头望明月，\n低头思故乡。"
TEXTS = [POEM, "人民日报 1998年1月1日：Ａ股 and B.", "𠀀𠀁 emoji 🧪 café\u0301\t\u3000全角"]


def train(vocab_size: int = 200) -> PreTrainedTokenizerFast:
    return train_character_tokenizer(TEXTS, vocab_size)


def text_of(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True))


@pytest.mark.parametrize("text", [*TEXTS, "月 月  月\n\n", " B . and .", ""])
def test_a_text_of_known_characters_decodes_to_itself(text: str) -> None:
    ids = train()(text)["input_ids"]
    assert text_of(train(), ids) == text
    assert len(ids) == len(text) + 2


def test_an_unknown_character_is_one_unknown_token() -> None:
    tokenizer = train()
    names = tokenizer.convert_ids_to_tokens(tokenizer("明蠢蠢月")["input_ids"])
    assert names == ["[CLS]", "明", "[UNK]", "[UNK]", "月", "[SEP]"]


def test_two_texts_are_parted_and_told_apart() -> None:
    tokenizer = train()
    pair = tokenizer("明月", "光", return_token_type_ids=True)
    names = tokenizer.convert_ids_to_tokens(pair["input_ids"])
    assert names == ["[CLS]", "明", "月", "[SEP]", "光", "[SEP]"]
    assert pair["token_type_ids"] == [0, 0, 0, 0, 1, 1]


def test_the_same_texts_give_the_same_tokenizer_in_any_order() -> None:
    lines = [line for text in TEXTS for line in text.splitlines(keepends=True)]
    expected = train_character_tokenizer(lines, 40).backend_tokenizer.to_str()
    for seed in range(5):
        random.Random(seed).shuffle(lines)
        found = train_character_tokenizer(iter(lines), 40).backend_tokenizer.to_str()
        assert found == expected


def test_the_most_frequent_characters_are_kept_and_equal_ones_by_their_code_points() -> None:
    tokenizer = train_character_tokenizer(["cab", "cxb", "c"], len(SPECIALS) + 3)
    vocab = tokenizer.get_vocab()
    assert sorted(vocab, key=vocab.__getitem__) == [*SPECIALS, "c", "b", "a"]
    assert sorted(vocab.values()) == list(range(len(SPECIALS) + 3))


def test_a_vocabulary_is_no_larger_than_its_texts() -> None:
    assert len(train_character_tokenizer(["ab"], 5_000)) == len(SPECIALS) + 2


def test_offsets_are_the_places_of_the_characters() -> None:
    text = "𠀀月a\u0301 🧪"
    offsets = train()(text, add_special_tokens=False, return_offsets_mapping=True)
    assert offsets["offset_mapping"] == [(i, i + 1) for i in range(len(text))]


def test_it_is_the_same_after_it_was_saved_and_loaded(tmp_path: Path) -> None:
    train().save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    for text in TEXTS:
        assert loaded(text)["input_ids"] == train()(text)["input_ids"]
        assert text_of(loaded, loaded(text)["input_ids"]) == text
    names = (loaded.pad_token, loaded.unk_token, loaded.cls_token, loaded.sep_token)
    assert (*names, loaded.mask_token) == SPECIALS
    assert [loaded.convert_tokens_to_ids(token) for token in SPECIALS] == [0, 1, 2, 3, 4]
    assert loaded.mask_token_id == 4


def test_a_mask_within_a_text_is_one_token() -> None:
    tokenizer = train()
    names = tokenizer.convert_ids_to_tokens(tokenizer("明[MASK]光")["input_ids"])
    assert names == ["[CLS]", "明", "[MASK]", "光", "[SEP]"]


@pytest.mark.parametrize("vocab_size", [0, 5])
def test_a_vocabulary_without_room_for_a_character_is_refused(vocab_size: int) -> None:
    with pytest.raises(ValueError, match=f"vocab_size {vocab_size} holds the 5 special tokens"):
        train_character_tokenizer(["月"], vocab_size)
