"""WordPiece and Unigram: what they keep of a text, and that they are the same each time."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from raymodel.data.spec import TokenizerSpec
from raymodel.data.tokenizer_step import finish, learn
from raymodel.modality.subwords import UNKNOWN_PIECE, train_unigram, train_wordpiece
from raymodel.modality.text import MASK, TextProcessor, load_encoder, unknown_id
from raymodel.serve.probe import check_tokenizer
from raymodel.storage.uri import Location

WORDS = "reading heading Leading readers headings the of in step steps stepped unread café 12 3"
TEXTS = [
    *(f"{' '.join(random.Random(i).choices(WORDS.split(), k=12))}.\n    def f(x): {i}\n" * 2
      for i in range(60)),
    "明月几时有，把酒问青天。不知天上宫阙，今夕是何年。", "明月出天山，苍茫云海间。",
]  # fmt: skip
TRAIN = {"wordpiece": train_wordpiece, "unigram": train_unigram}


@pytest.fixture(scope="module", params=TRAIN)
def trained(request: pytest.FixtureRequest) -> tuple[str, Any]:
    return request.param, TRAIN[request.param](TEXTS, 300)


def names(tokenizer: Any, text: str) -> list[str]:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return list(tokenizer.convert_ids_to_tokens(ids))


def test_what_is_saved_reads_the_same_and_so_does_the_encoder_of_rows(
    trained: tuple[str, Any], tmp_path: Path
) -> None:
    _, tokenizer = trained
    place = Location.parse(str(tmp_path))
    TextProcessor(tokenizer).save(place)
    loaded, encoder = AutoTokenizer.from_pretrained(tmp_path), load_encoder(place)
    for text in [*TEXTS[:3], TEXTS[-1], "Ünread ☃ steppe"]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert loaded(text, add_special_tokens=False)["input_ids"] == ids
        assert encoder.encode(text, add_special_tokens=False).ids == ids
    assert loaded("a", "b")["input_ids"] == tokenizer("a", "b")["input_ids"]
    assert unknown_id(encoder) == tokenizer.unk_token_id is not None
    assert TextProcessor(loaded).unknown == tokenizer.unk_token_id
    assert TextProcessor(loaded).end_of_text is not None


def test_a_text_that_spells_a_special_token_out_is_text(
    trained: tuple[str, Any], tmp_path: Path
) -> None:
    _, tokenizer = trained
    TextProcessor(tokenizer).save(Location.parse(str(tmp_path)))
    encoder = load_encoder(Location.parse(str(tmp_path)))
    for special in tokenizer.all_special_tokens:
        ids = encoder.encode(f"step {special} step", add_special_tokens=False).ids
        own = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        assert not own & set(ids), special


def test_the_same_texts_give_the_same_tokenizer_in_any_order(trained: tuple[str, Any]) -> None:
    kind, tokenizer = trained
    expected = tokenizer.backend_tokenizer.to_str()
    for seed in range(3):
        texts = random.Random(seed).sample(TEXTS, len(TEXTS))
        assert TRAIN[kind](texts, 300).backend_tokenizer.to_str() == expected


def test_common_words_are_one_piece_and_a_server_takes_the_tokenizer(
    trained: tuple[str, Any],
) -> None:
    kind, tokenizer = trained
    assert 60 < len(tokenizer) <= 300
    begins = "" if kind == "wordpiece" else "▁"
    assert names(tokenizer, "the step")[-1] == f"{begins}step"
    check_tokenizer(tokenizer, Path("a"))


def test_a_character_that_was_not_seen_is_unknown(trained: tuple[str, Any]) -> None:
    kind, tokenizer = trained
    assert UNKNOWN_PIECE in names(tokenizer, "the ☃") or "[UNK]" in names(tokenizer, "the ☃")
    assert (kind == "wordpiece") == (tokenizer.unk_token == "[UNK]")


def test_unigram_gives_a_text_back_with_its_white_space() -> None:
    tokenizer = train_unigram(TEXTS, 300)
    for text in [*TEXTS[:2], TEXTS[-1], "  the  steps\n\tof ", "Leading", ""]:
        known = text.replace("\t", "")
        assert TextProcessor(tokenizer).decode(tokenizer(known)["input_ids"]) == known


def test_wordpiece_keeps_no_white_space_and_reads_pairs_as_bert_does() -> None:
    tokenizer = train_wordpiece(TEXTS, 300)
    assert names(tokenizer, "the\n  steps") == names(tokenizer, "the steps")
    assert names(tokenizer, "明月") == ["明", "月"]
    pair = tokenizer("the", "steps", return_token_type_ids=True)
    assert tokenizer.convert_ids_to_tokens(pair["input_ids"])[0] == "[CLS]"
    assert pair["token_type_ids"] == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("make", TRAIN.values(), ids=TRAIN)
def test_capitals_and_ways_of_writing_are_one_where_it_is_asked_for(
    make: Callable[..., Any],
) -> None:
    plain = make(TEXTS, 300)
    assert names(plain, "Leading") != names(plain, "leading")
    small = make(TEXTS, 300, lowercase=True, normalization="nfkc")
    assert names(small, "Leading") == names(small, "leading") == names(small, "Ｌeading")
    assert small.unk_token not in names(small, "LEADING")
    folded = names(small, "café") == names(small, "cafe")
    assert folded == (make is train_wordpiece)


def test_rare_characters_leave_room_for_pieces() -> None:
    rare = "".join(map(chr, range(0x4E00, 0x4E00 + 900)))
    for make in TRAIN.values():
        tokenizer = make([*TEXTS, rare], 300)
        assert sum(len(token) > 3 for token in tokenizer.get_vocab()) > 20
        assert tokenizer.unk_token not in names(tokenizer, "the steps of readers")
        assert names(tokenizer, rare[-20:]).count(tokenizer.unk_token) > 0


def test_unigram_has_the_special_tokens_of_tasks_that_hide() -> None:
    tokenizer = train_unigram(TEXTS, 300, mask=True, sentinels=3)
    facts = TextProcessor(tokenizer).facts()
    assert facts["sentinels"] == 3
    assert tokenizer.convert_ids_to_tokens(facts["mask"]) == MASK
    hidden = tokenizer(f"the {MASK} of", add_special_tokens=False)["input_ids"]
    assert hidden.count(facts["mask"]) == 1
    shown = tokenizer.convert_ids_to_tokens(hidden)
    assert shown[shown.index(MASK) - 1] != "▁", "a mask stands for the space before it too"


@pytest.mark.parametrize(
    ("said", "wrong"),
    [
        ({"tokens": "wordpiece", "vocab_size": 900, "sentinels": 3}, "`sentinels` are for"),
        ({"vocab_size": 900, "lowercase": True}, "`lowercase` is for tokens: wordpiece"),
        ({"vocab_size": 8, "tokens": "unigram"}, "too small.*at least 10"),
        ({"load": "x", "normalization": "nfc"}, "are for a tokenizer that is trained"),
    ],
)
def test_what_does_not_go_together_is_refused(said: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        TokenizerSpec(**said)


def test_a_spec_says_all_that_is_trained() -> None:
    spec = TokenizerSpec(tokens="wordpiece", vocab_size=300, lowercase=True, normalization="nfc")
    assert spec.has_mask
    tokenizer = finish(spec, learn(spec, TEXTS)).tokenizer
    assert names(tokenizer, "Leading") == names(tokenizer, "leading")
    spec = TokenizerSpec(tokens="unigram", vocab_size=300, sentinels=2, mask=True)
    assert len(finish(spec, learn(spec, TEXTS)).sentinels) == 2
