"""Words of Chinese, Japanese, Thai and their neighbours have no spaces between them; the script of
a text is that of most of its letters."""

import pytest
import regex

from raymodel.modality.scripts import (
    UNSPACED_CLASS,
    find_script,
    is_written_without_spaces,
    unspaced_table,
)

UNSPACED = regex.compile(f"[{UNSPACED_CLASS}]")


@pytest.mark.parametrize("character", list("中〇。，（「のカーｶ々㍍𠀀ไລကខབ"))
def test_scripts_without_spaces(character: str) -> None:
    assert is_written_without_spaces(character)


@pytest.mark.parametrize("character", list("aé1 .,(Жαאع한ㄱ㉠ﾡअ€😀\n"))
def test_scripts_with_spaces(character: str) -> None:
    assert not is_written_without_spaces(character)


def test_signs_are_written_with_the_scripts_and_are_not_their_letters() -> None:
    letters = {ord(char) for char in map(chr, range(0x110000)) if UNSPACED.match(char)}
    table = unspaced_table()
    assert all(table[point] for point in letters)
    assert all(is_written_without_spaces(chr(p)) == table[p] for p in range(0, 0x40000, 7))
    assert not letters & {*map(ord, "。，（「")}


@pytest.mark.parametrize(
    ("texts", "script"),
    [
        (["plain words"], "Latin"),
        (["12 + 34", "!"], None),
        ([], None),
        (["Ünïcödé", "。"], "Latin"),
        (["Это GPT, и всё"], "Cyrillic"),
        (["中文和 a few"], "Latin"),
        (["中文的文本和 a few"], "Han"),
        (["これはペンです", "漢字"], "Kana"),
        (["한국어 텍스트"], "Hangul"),
        (["ᏣᎳᎩ Привет"], "Cyrillic"),
        (["ᏣᎳᎩ"], "other"),
        (["a", "б", "б"], "Cyrillic"),
        (["\ud800 א"], "Hebrew"),
    ],
)
def test_a_text_is_in_the_script_of_most_of_its_letters(texts, script) -> None:
    assert find_script(texts) == script


def test_a_long_text_is_looked_at_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raymodel.modality.scripts._BLOCK_CHARS", 5)
    assert find_script(["и" * 7 + "a" * 3, "b" * 6]) == "Latin"
