"""Words that are found over arrays, and ids of which each is encoded once: those of the library."""

import random

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from raymodel.modality import encode
from raymodel.modality.byte_level import Joins, byte_alphabet
from raymodel.modality.encode import Encoded, WordEncoder
from raymodel.modality.text import END_OF_TEXT, load_encoder, train_tokenizer
from raymodel.modality.unspaced import MARK
from raymodel.modality.words import END, byte_words
from raymodel.storage.uri import Location

PROSE = "the data of a step don't depend on it's seed; we'll see: 3,5 of them  \n\n and they've"
CHINESE = "天地间,人为贵。立君牧民,为之轨则。天地人民君为贵,人间之民"
KOREAN = "커널 문서를 읽는 사람은 누구나"
PIECES = [
    *" \n\t'\r\u00a0\u3000\u2003\u0085asdtrevlmSTé1٣²½!-_.😀한ক়й\u0301\u200d\ue000\U0003fffd\u0558",
    *("'s", "'re", "'ll", "'ve", "  ", "word", " the", END_OF_TEXT, *CHINESE, *KOREAN),
]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Tokenizer:
    place = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer([PROSE] * 3 + [CHINESE, KOREAN] * 5, 450).save_pretrained(place)
    return load_encoder(Location.parse(str(place)))


def by_library(encoder: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [each.ids for each in encoder.encode_batch_fast(texts, add_special_tokens=False)]


def assert_same(found: Encoded, expected: list[list[int]]) -> None:
    whole = Encoded.of(expected)
    assert found.ids.tolist() == whole.ids.tolist()
    assert found.counts.tolist() == whole.counts.tolist()


def texts_of_chance(draw: random.Random, pieces: list[str]) -> list[str]:
    return ["".join(draw.choices(pieces, k=draw.randrange(30))) for _ in range(draw.randrange(6))]


def test_texts_of_any_characters_get_the_ids_of_the_library(encoder, monkeypatch):
    monkeypatch.setattr(encode, "_MAX_KNOWN", 100)  # so that words are forgotten too
    ours, draw = WordEncoder(encoder), random.Random(0)
    anything = [chr(point) for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    for _ in range(300):
        for pieces in (PIECES, anything):
            texts = texts_of_chance(draw, pieces)
            assert_same(ours.encode(texts), by_library(encoder, texts))


@pytest.mark.parametrize("text", [f"a{MARK}b c", f"a{END}", END, ""])
def test_code_points_that_no_text_may_hold_are_texts_too(encoder, text):
    assert_same(WordEncoder(encoder).encode(["a b", text]), by_library(encoder, ["a b", text]))


def test_chinese_falls_into_parts_that_were_met(encoder):
    ours = WordEncoder(encoder)
    ours.encode([*CHINESE, CHINESE])
    known = len(ours._numbers)
    ours.encode([CHINESE[9:] + CHINESE[:3], CHINESE[4:] + CHINESE])
    assert known < len(ours._numbers) + 1 < known + 5


def test_a_word_is_cut_only_where_no_token_lies_across():
    tokens = [*byte_alphabet(), "ab"]
    written = {byte: letter for letter, byte in byte_alphabet().items()}
    for data in ("天地".encode(), b"\xa7" + "人".encode()[:2]):
        tokens.append("".join(written[byte] for byte in data))
    joins = Joins(tokens)

    def has(pair: str) -> bool:
        left, right = np.frombuffer(pair.encode("utf-32-le"), dtype="<u4").reshape(2, 1)
        return bool(joins.has(left, right)[0])

    assert has("天地")
    assert not has("地天")
    ends_so = next(chr(p) for p in range(0x4E00, 0x9FFF) if chr(p).encode()[-1] == 0xA7)
    assert has(f"{ends_so}人")  # a token begins in the middle of the one and ends in the other
    assert not has("天é")


@pytest.mark.parametrize(
    "change",
    [
        lambda t: setattr(t, "pre_tokenizer", pre_tokenizers.Whitespace()),
        lambda t: setattr(t, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True)),
        lambda t: t.add_tokens(["nd the"]),
        lambda t: setattr(t.model, "end_of_word_suffix", "</w>"),
    ],
)
def test_other_tokenizers_are_left_to_the_library(encoder, change):
    other = Tokenizer.from_str(encoder.to_str())
    change(other)
    texts = [PROSE, "and the end"]
    ours = WordEncoder(other)
    assert ours._joins is None
    assert_same(ours.encode(texts), by_library(other, texts))


def test_words_to_train_on_are_those_of_the_library():
    cuts, draw = pre_tokenizers.ByteLevel(add_prefix_space=False), random.Random(1)
    for _ in range(200):
        texts = texts_of_chance(draw, PIECES)
        found = [[word for word in each.split(" ") if word] for each in byte_words(texts)]
        assert found == [[word for word, _ in cuts.pre_tokenize_str(text)] for text in texts]


def test_a_vocabulary_is_what_the_library_learns_of_the_texts_themselves():
    texts = [PROSE, "we're here, aren't we? 'tis", "  x  1 2"] * 2
    whole = Tokenizer(models.BPE())
    whole.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    ours = train_tokenizer(texts, 320).backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[t.content for t in ours.get_added_tokens_decoder().values()],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    whole.train_from_iterator(texts, trainer)
    assert ours.get_vocab() == whole.get_vocab()
