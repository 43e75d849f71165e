"""What filters find in a text, and in one that comes piece by piece."""

import asyncio
import random
import time

import pytest
from pydantic import ValidationError

from raymodel.data.cleaning.terms import Terms
from raymodel.errors import SpecError
from raymodel.serve.filters.chain import Chain, Filters
from raymodel.serve.filters.load import build_filters
from raymodel.serve.filters.outlet import REFUSED, Outlet
from raymodel.serve.filters.sentences import last_end, sentences
from raymodel.serve.filters.spec import FilterSpec
from raymodel.serve.pieces import Entry, Piece
from raymodel.serve.refusal import Refusal
from raymodel.serve.spec import ServeSpec

WORDS = {
    "name": "words",
    "words": ["bad", "very bad idea", "c++", "坏蛋", "straße", "坏", "f*ck"],
    "action": "redact",
}
PII = {"name": "pii"}
TEXTS = [
    "A BAD thing, badminton, a very, bad\nidea; a very bad ideal. C++! C++11 said the bad",
    "他是坏蛋。坏人说 STRASSE und Straßen f*ck f*cking",
    "mail ann.lee+x@mail.example.org, bad@b.de or call +44 20 7946 0958 now.",
    "card 4111 1111 1111 1111, IBAN DE89 3704 0044 0532 0130 00 BIC COBADEFF and 8.8.8.8:53",
    "电话13812345678。+86 138-1234-5678 身份证11010519491231002X，at",
    "at 2606:2800:220:1:248:1893:25c8:1946, a::b",
    "version 8.8.8.8 or 1.2.3.4.5, very, bad a@b.de idea, 12:30:45, 2019 I very",
    "GB82WEST12345698765432 (212) 555-2368 very bad",
    "İİ bad ßß bad",
]


def filters_of(*specs):
    return build_filters(ServeSpec.model_validate({"filters": specs}).filters, None)


def streamed(filters, pieces):
    """What goes out of each piece, until a filter refuses."""

    async def run():
        outlet, out = Outlet(filters.answered), []
        for place, text in enumerate(pieces, 1):
            reason = "stop" if place == len(pieces) else None
            out.append(await outlet.push(Piece(text, (), reason)))
            if out[-1].finish_reason:
                return out
        return out

    return asyncio.run(run())


def cut(text, seed):
    draw, parts = random.Random(seed), []
    while text:
        length = draw.choice((1, 1, 2, 3, 7))
        parts.append(text[:length])
        text = text[length:]
    return parts or [""]


def whole(filters, text):
    [piece] = streamed(filters, [text])
    return piece.text


def test_words_are_found_whole_without_capitals_and_anywhere_without_spaces():
    filters = filters_of(WORDS)
    assert whole(filters, TEXTS[0]) == (
        "A <REMOVED> thing, badminton, a <REMOVED>; a very <REMOVED> ideal. <REMOVED>! <REMOVED>11"
        " said the <REMOVED>"
    )
    assert whole(filters, TEXTS[1]) == (
        "他是<REMOVED>。<REMOVED>人说 <REMOVED> und Straßen <REMOVED> f*cking"
    )
    assert whole(filters, "İİ BAD ßß bad") == "İİ <REMOVED> ßß <REMOVED>"
    assert len(Terms(WORDS["words"])) == 7


def test_what_is_private_is_what_the_cleaning_step_finds():
    filters = filters_of(PII)
    assert whole(filters, TEXTS[2]) == "mail <EMAIL>, <EMAIL> or call <PHONE> now."
    some = filters_of({"name": "pii", "kinds": ["email"]})
    assert whole(some, "a@b.de 8.8.8.8") == "<EMAIL> 8.8.8.8"
    national = filters_of({"name": "pii", "regions": ["US"]})
    assert whole(national, "call (212) 555-2368") == "call <PHONE>"


@pytest.mark.parametrize("specs", [[WORDS], [PII], [PII, WORDS], [WORDS, PII]])
def test_a_stream_says_what_a_whole_answer_says_however_it_is_cut(specs):
    filters = filters_of(*specs)
    for text in [*TEXTS, " ".join(TEXTS), "\n".join(reversed(TEXTS))]:
        expected = whole(filters, text)
        for seed in range(3):
            out = streamed(filters, cut(text, seed))
            assert "".join(piece.text for piece in out) == expected, (text, seed)
            assert out[-1].finish_reason == "stop"


def test_a_stream_holds_back_no_more_than_what_may_go_on():
    filters = filters_of(WORDS, PII)
    out = [piece.text for piece in streamed(filters, ["It is", " a", " fine", " very", " odd", ""])]
    assert out == ["It ", "is ", "a ", "fine ", "very ", "odd"]
    plain = [piece.text for piece in streamed(filters_of(WORDS), ["It is", " a", " fi", "ne.", ""])]
    assert plain == ["It is", " a", " fi", "ne.", ""]
    table = [f"{i} " for i in range(1000)]
    given, num_sent = "", 0
    for piece, sent in zip(streamed(filters, table), table, strict=True):
        given, num_sent = given + piece.text, num_sent + len(sent)
        assert num_sent - len(given) <= 330
    assert given == "".join(table)


@pytest.mark.parametrize("seed", range(4))
def test_nothing_of_what_is_refused_is_sent_and_nothing_comes_after_it(seed):
    filters = filters_of(WORDS | {"action": "refuse"})
    text = "One two three. A very bad idea is this, and so on, and so on."
    out = streamed(filters, cut(text, seed))
    assert out[-1] == REFUSED
    sent = "".join(piece.text for piece in out)
    assert "One two three. A very bad idea".startswith(sent)
    assert "very" not in sent


def test_tokens_of_what_is_redacted_are_not_told_and_the_others_move():
    filters = filters_of(PII)
    words = ["Mail", " a@b", ".de", ", please", " now"]
    offsets = [sum(map(len, words[:i])) for i in range(len(words))]

    async def run():
        outlet, out = Outlet(filters.answered), Piece("")
        for i, (word, offset) in enumerate(zip(words, offsets, strict=True)):
            entry = Entry(i, -1.0, (), offset)
            out += await outlet.push(Piece(word, (entry,), "stop" if i == 4 else None))
        return out

    piece = asyncio.run(run())
    assert piece.text == "Mail <EMAIL>, please now"
    assert [entry.token for entry in piece.entries] == [0, 3, 4]
    assert [piece.text[entry.offset :].split()[0] for entry in piece.entries] == [
        "Mail", ",", "now",
    ]  # fmt: skip


def test_what_is_asked_is_refused_by_the_first_filter_that_finds_something_and_else_redacted():
    filters = filters_of(
        PII | {"side": "in"}, WORDS | {"action": "refuse", "side": "both"}, PII | {"side": "out"}
    )

    def admit(*texts):
        return asyncio.run(filters.admit(texts, "prompt"))

    assert admit("a@b.de", "fine") == ["<EMAIL>", "fine"]
    with pytest.raises(Refusal, match=r"prompt holds .* the filter `words`") as caught:
        admit("fine", "a bad one")
    assert caught.value.code == "content_filter"
    assert "bad" not in caught.value.message
    long = "fine words " * 2000
    assert admit(long + "a@b.de")[0].endswith("words <EMAIL>")
    assert asyncio.run(filters.screen(["fine", "bad"])) == ["fine", None]
    assert [each["name"] for each in filters.state()] == ["pii", "words", "pii"]
    assert len(Chain(filters._filters, "in").filters) == 2
    assert Filters().state() == []


def test_a_long_text_full_of_what_is_found_takes_no_longer_for_each():
    filters = filters_of(PII, WORDS | {"action": "redact"})

    def took_s(count):
        start_s = time.process_time()
        [told] = asyncio.run(filters.admit(["a@b.de bad " * count], "prompt"))
        assert told == "<EMAIL> <REMOVED> " * count
        return time.process_time() - start_s

    took_s(100)
    assert took_s(20_000) < 40 * max(0.01, took_s(1000))


def test_what_one_filter_covers_no_other_looks_into():
    filters = filters_of(PII, WORDS | {"words": ["b.de", "idea", "very EMAIL idea"]})
    assert whole(filters, "bad@b.de, a very a@b.de idea") == "<EMAIL>, a very <EMAIL> <REMOVED>"


def test_sentences_end_with_what_closes_them():
    text = 'One. "Two!" 3.14 three?\nFour 他说“好。”五。'
    assert sentences(text) == ["One.", ' "Two!"', " 3.14 three?", "Four 他说“好。”", "五。"]
    assert text[: last_end(text, 0, len(text))].endswith("好。”")
    assert last_end("no end", 0, 6) == 0
    long = "word " * 300
    assert last_end(long, 0, len(long)) == len(long) - 1


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"name": "word", "words": ["a"]}, "did you mean 'words'"),
        ({"name": "words"}, "no list"),
        ({"name": "pii", "kinds": ["mail"]}, "email"),
        ({"name": "pii", "kinds": ["email"], "regions": ["US"]}, "phone"),
        ({"name": "classifier", "model": "a/best", "label": "x", "action": "redact"}, "refuse"),
        ({"name": "classifier", "model": "a/best"}, "label"),
        ({"name": "words", "words": ["a"], "side": "inside"}, "both"),
    ],
)
def test_filters_that_make_no_sense_are_refused(spec, words):
    with pytest.raises(ValidationError) as caught:
        ServeSpec.model_validate({"filters": [spec]})
    assert words in str(caught.value)


def test_a_list_is_read_from_the_folder_of_the_job_and_marked_by_its_terms(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text("bad\n坏蛋\n")
    [spec] = ServeSpec.model_validate({"filters": [{"name": "words", "file": "list.txt"}]}).filters
    assert isinstance(spec, FilterSpec)
    mark = spec.mark()
    assert spec.with_lists().words == ("bad", "坏蛋")
    (tmp_path / "list.txt").rename(tmp_path / "other.txt")
    with pytest.raises(SpecError, match=r"list\.txt"):
        spec.with_lists()
    moved = spec.model_copy(update={"file": "other.txt"})
    assert moved.mark() == mark
    (tmp_path / "other.txt").write_text("bad\n")
    assert moved.mark() != mark
