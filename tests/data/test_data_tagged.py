"""Reading tagged sentences: a token a line, or a word and its tag."""

import bz2
import gzip
from pathlib import Path
from typing import Any

import pytest
from damage import check_damage
from reading import lines_left_out, read_file

from raymodel.data.readers import tagged
from raymodel.data.record import RawRecord

NER = "@paul\tO\nIt\tO\n\t\nEmpire\tB-facility\nBuilding\tI-facility\n\nESB\tB-facility\n"
NEWS = """-DOCSTART- -X- -X- O

EU NNP I-NP I-ORG
rejects VBZ I-VP O

Peter NNP I-NP I-PER

-DOCSTART- -X- -X- O

BRUSSELS NNP I-NP I-LOC
"""
PEOPLES = "迈向/v  充满/v  希望/n\n\n[中央/n  人民/n  电台/n]nt  １/２/m  //w [/w ]/w\n"
COLUMNS = "sentence with a line of other than 2 columns"


def pairs(records: list[RawRecord]) -> list[list[tuple[str, str]]]:
    return [list(zip(r.fields["tokens"], r.fields["tags"], strict=True)) for r in records]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_token_a_line_is_read_with_any_line_end_and_encoding(
    tmp_path: Path, end: str, encoding: str
) -> None:
    data = NER.replace("\n", end).encode(encoding)
    records, account = read_file(tmp_path, "ner.txt", data, format="conll", encoding=encoding)
    assert pairs(records) == [
        [("@paul", "O"), ("It", "O")],
        [("Empire", "B-facility"), ("Building", "I-facility")],
        [("ESB", "B-facility")],
    ]
    assert (account.read, len(account.left_out)) == (3, 0)


def test_columns_between_have_numbers_and_documents_are_counted(tmp_path: Path) -> None:
    records, account = read_file(tmp_path, "eng.train", NEWS, format="conll")
    assert records[0].fields == {
        "tokens": ["EU", "rejects"],
        "tags": ["I-ORG", "O"],
        "column_2": ["NNP", "VBZ"],
        "column_3": ["I-NP", "I-VP"],
        "document": 1,
    }
    assert [record.fields["document"] for record in records] == [1, 1, 2]
    assert (account.read, len({record.document for record in records})) == (3, 3)


def test_a_token_may_be_a_wide_space_or_hold_a_space(tmp_path: Path) -> None:
    records, _ = read_file(tmp_path, "a.txt", "\u3000\tO\nNew York\tB\nx\tO\n", format="conll")
    assert pairs(records) == [[("\u3000", "O"), ("New York", "B"), ("x", "O")]]
    records, _ = read_file(tmp_path, "b.txt", "\u3000  O\nNew    B\n", format="conll")
    assert pairs(records) == [[("\u3000", "O"), ("New", "B")]]


def test_a_damaged_line_costs_its_sentence_and_is_told(tmp_path: Path) -> None:
    sentences = [b"a\tO\nb\tO", b"c\tO\nd\nd\tO", b"e\tO\tO", b"f\tO\n\tO", b"g\0\tO", b"h\t\xff"]
    data = b"\n\n".join([*sentences, b"i\t ", b"j\tB"])
    records, account = read_file(tmp_path, "x.txt", data, format="conll")
    assert pairs(records) == [[("a", "O"), ("b", "O")], [("j", "B")]]
    assert lines_left_out(account) == {
        COLUMNS: [5, 8],
        "sentence with a line that has an empty column": [11, 17],
        "sentence with a NUL byte": [13],
        "sentence not utf-8": [15],
    }


def test_a_damaged_first_line_does_not_decide_the_columns(tmp_path: Path) -> None:
    records, account = read_file(tmp_path, "x.txt", "-\tX\tY\n\n" + NER, format="conll")
    assert (len(records), account.left_out) == (3, {COLUMNS: 1})


def test_a_file_of_one_column_has_no_tags(tmp_path: Path) -> None:
    _, account = read_file(tmp_path, "x.txt", "a\nb\n\nc\n", format="conll")
    assert account.left_out == {COLUMNS: 2}


@pytest.mark.parametrize(
    "limit", [{"MAX_SENTENCE_LINES": 50}, {"MAX_SENTENCE_CHARS": 300}], ids=["lines", "chars"]
)
def test_a_sentence_without_an_end_does_not_fill_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: dict[str, int]
) -> None:
    for name, value in limit.items():
        monkeypatch.setattr(tagged, name, value)
    data = "a\tO\n\n" + "word\tO\n" * 1000 + "\nb\tO\n"
    records, account = read_file(tmp_path, "x.txt", data, format="conll")
    assert pairs(records) == [[("a", "O")], [("b", "O")]]
    assert account.left_out == {"sentence of more tokens than one may have": 1}


@pytest.mark.parametrize("format", ["conll", "word_tags"])
def test_a_damaged_packed_file_gives_what_lies_before(tmp_path: Path, format: str) -> None:
    sentence = "{}\tO\n{}\tB\n\n" if format == "conll" else "{}/O {}/B\n"
    text = "".join(sentence.format(i * i, i * 7919) for i in range(5000))
    data = gzip.compress(text.encode(), mtime=0)
    for end in range(len(data) // 2, len(data) // 2 + 30):  # so at any place of a sentence
        records, account = read_file(tmp_path, "x.gz", data[:end], format=format)
        assert 1000 < len(records) < 4000
        assert pairs(records) == [
            [(str(i * i), "O"), (str(i * 7919), "B")] for i in range(len(records))
        ]
        assert account.left_out == {"damaged gzip file": 1}


def test_words_and_tags_are_parted_at_the_last_slash(tmp_path: Path) -> None:
    records, account = read_file(tmp_path, "199801.txt", PEOPLES, format="word_tags")
    assert pairs(records) == [
        [("迈向", "v"), ("充满", "v"), ("希望", "n")],
        [
            ("中央", "n"),
            ("人民", "n"),
            ("电台", "n"),
            ("１/２", "m"),
            ("/", "w"),
            ("[", "w"),
            ("]", "w"),
        ],
    ]
    assert (account.read, len(account.left_out)) == (2, 0)


def test_a_word_without_a_tag_costs_its_sentence(tmp_path: Path) -> None:
    data = b"a/n b/v\na b/v\na/ b/v\n/n b/v\na/n]nt b/]x\na/\xff\nc/n\n"
    records, account = read_file(tmp_path, "x.txt", data, format="word_tags")
    assert pairs(records) == [[("a", "n"), ("b", "v")], [("c", "n")]]
    assert lines_left_out(account) == {
        "sentence with a word without a tag": [2, 3, 4, 5],
        "sentence not utf-8": [6],
    }


CASES: list[tuple[str, str, bytes, dict[str, Any]]] = [
    ("tabs", "x.txt", NER.encode(), {"format": "conll"}),
    ("columns", "x.txt", NEWS.encode(), {"format": "conll"}),
    ("packed", "x.txt.bz2", bz2.compress(NEWS.encode() * 20), {"format": "conll"}),
    ("wide", "x.txt", NER.encode("utf-16"), {"format": "conll", "encoding": "utf-16"}),
    ("words", "x.txt", PEOPLES.encode(), {"format": "word_tags"}),
    ("gzip words", "x.txt.gz", gzip.compress(PEOPLES.encode() * 20), {"format": "word_tags"}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0].replace(" ", "-"))
def test_damaged_sentences_give_accounted_records(tmp_path: Path, case: Any) -> None:
    name, file, data, options = case
    check_damage(name, tmp_path / file, data, options, count=40)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0].replace(" ", "-"))
def test_thousands_of_damaged_sentences_give_accounted_records(tmp_path: Path, case: Any) -> None:
    name, file, data, options = case
    check_damage(name, tmp_path / file, data, options, count=1000)
