"""Runs without spaces are cut where no token can lie: training has less to do, and learns as
much."""

from __future__ import annotations

import random

import pytest

from raymodel.modality.text import train_tokenizer
from raymodel.modality.unspaced import MARK, MAX_RUN, cut_runs

# Words of a made-up language of Chinese characters: some are frequent, as words are.
CHANCE = random.Random(7)
CHARACTERS = [chr(0x4E00 + i) for i in range(400)]
VOCABULARY = [
    "".join(CHANCE.choices(CHARACTERS, k=CHANCE.choice([1, 2, 2, 3]))) for _ in range(500)
]
TEXTS = [
    "，".join("".join(CHANCE.choices(VOCABULARY, [1 / (i + 1) for i in range(500)], k=9))
             for _ in range(12))
    for _ in range(200)
]  # fmt: skip


def cut(texts: list[str], vocab_size: int) -> list[str]:
    found = cut_runs(texts, vocab_size)
    assert found is not None
    return list(found)


def test_cuts_change_nothing_else_and_keep_frequent_pairs_whole() -> None:
    texts = cut(TEXTS, 300)
    assert [text.replace(MARK, "") for text in texts] == TEXTS
    most = VOCABULARY[1] if len(VOCABULARY[1]) > 1 else VOCABULARY[2]
    assert "".join(texts).count(most) == "".join(TEXTS).count(most)
    pieces = [piece for text in texts for piece in text.replace("，", MARK).split(MARK)]
    runs = [run for text in TEXTS for run in text.split("，")]
    assert sum(map(len, set(pieces))) < sum(map(len, set(runs))) / 2


def test_runs_have_an_end_even_where_every_pair_is_frequent() -> None:
    (text,) = cut(["ไม" * 300], 300)
    assert max(map(len, text.split(MARK))) == MAX_RUN
    assert cut(["ไม" * 16 + " a"], 300) == ["ไม" * 16 + " a"]


def test_what_has_spaces_is_never_cut() -> None:
    assert cut_runs(["the steps of", "한국어 단어", "a中b文c", ""], 300) is None
    assert cut_runs([], 300) is None


def test_the_order_of_texts_does_not_matter() -> None:
    turned = TEXTS[::-1]
    assert cut(turned, 300)[::-1] == cut(TEXTS, 300)


def test_nor_does_it_matter_how_many_are_looked_at_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = cut(TEXTS, 300)
    monkeypatch.setattr("raymodel.modality.unspaced._BATCH_CHARS", 500)
    assert cut(TEXTS, 300) == whole


@pytest.mark.parametrize("vocab_size", [600, 1200])
def test_a_tokenizer_that_learns_from_pieces_takes_as_few_tokens(
    vocab_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tokens() -> int:
        tokenizer = train_tokenizer(TEXTS[20:], vocab_size)
        return sum(len(ids) for ids in tokenizer(TEXTS[:20])["input_ids"])

    found = tokens()
    monkeypatch.setattr("raymodel.modality.unspaced.cut_runs", lambda texts, size: None)
    assert found <= 1.005 * tokens()
