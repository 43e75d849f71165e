"""Pieces of text: whole characters, and stop strings across the borders of chunks."""

import pytest

from raymodel.serve.text import Detokenizer, StopText

TEXT = "naïve café – 東京 🙂👩‍👩‍👧 end"


def pieces(tokenizer, ids):
    detokenizer = Detokenizer(lambda some: tokenizer.decode(some, skip_special_tokens=True))
    return [*(detokenizer.push(token) for token in ids), detokenizer.flush()]


def test_no_piece_holds_half_a_character(tokenizer):
    ids = tokenizer(TEXT)["input_ids"]
    assert len(ids) > len(TEXT), "some characters must be several tokens"
    found = pieces(tokenizer, ids)
    assert "".join(found) == TEXT
    assert not any("\ufffd" in piece for piece in found)


def test_stray_bytes_at_the_end_are_shown_as_such(tokenizer):
    ids = tokenizer("a🙂")["input_ids"][:-1]
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids) == "a\ufffd"


def test_endless_stray_bytes_do_not_hold_the_text_for_ever(tokenizer):
    stray = tokenizer.convert_tokens_to_ids("Ã")  # the byte 0xC3, the first of two
    found = pieces(tokenizer, [stray] * 40)
    assert any(found[:-1])


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_a_stop_string_is_found_across_chunks_of_any_size(size):
    text, stop_text, out = "one two END three", StopText(["END", "xyz"]), ""
    for start in range(0, len(text), size):
        piece, is_stopped = stop_text.push(text[start : start + size])
        out += piece
        if is_stopped:
            break
    assert (out, is_stopped) == ("one two ", True)


def test_the_first_of_several_stop_strings_counts():
    assert StopText(["late", "ear"]).push("an early and a late one") == ("an ", True)


def test_a_beginning_that_is_no_stop_string_is_given_out():
    stop_text = StopText(["###"])
    assert stop_text.push("a ##") == ("a ", False)
    assert stop_text.push(" b ##") == ("## b ", False)
    assert stop_text.flush() == "##"
