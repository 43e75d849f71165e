"""XML dumps: elements as records, in bounded memory, and damage that costs what it must."""

import re
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from reading import lines_left_out, read_file, texts

from raymodel.data.account import Account
from raymodel.data.read import read_slice
from raymodel.data.record import FileSlice
from raymodel.data.spec import SourceSpec
from raymodel.storage.uri import Location

WIKI = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" xml:lang="en">
  <siteinfo><sitename>Wiki</sitename></siteinfo>
  <page>
    <title>One &amp; two</title>
    <id>1</id>
    <revision>
      <contributor><username>A</username></contributor>
      <text bytes="11" xml:space="preserve">First '''é'''
line</text>
    </revision>
    <category>a</category>
    <category>b</category>
  </page>
  <page><title>Empty</title><id>2</id><revision><text/></revision></page>
  <pages>not one</pages>
</mediawiki>
"""
DATA = (
    "<data>\n"
    + "".join(f"<row n='{i}'><text>row {i} é</text></row>\n" for i in range(9))
    + "</data>"
)


def read(folder: Path, data: str | bytes, element: str = "row", **spec: Any):
    return read_file(folder, "x.xml", data, format="xml", element=element, **spec)


def test_the_pages_of_a_wiki_are_records(tmp_path: Path) -> None:
    records, account = read(tmp_path, WIKI, "page")
    assert [record.fields for record in records] == [
        {
            "title": "One & two",
            "id": "1",
            "revision": {
                "contributor": {"username": "A"},
                "text": "First '''é'''\nline",
                "text@bytes": "11",
                "text@xml:space": "preserve",
            },
            "category": ["a", "b"],
        },
        {"title": "Empty", "id": "2", "revision": {"text": ""}},
    ]
    assert (account.read, account.left_out) == (2, {})


def test_an_element_of_text_alone_is_a_text(tmp_path: Path) -> None:
    records, _ = read(tmp_path, "<d><s id='7'>Hello <![CDATA[<b>]]></s><s><b>x</b> y</s></d>", "s")
    assert [record.fields for record in records] == [
        {"text": "Hello <b>", "@id": "7"},
        {"b": "x", "#text": " y"},
    ]


def test_attributes_of_parts_that_come_several_times_stay_with_them(tmp_path: Path) -> None:
    data = "<d><s><t>a</t><t l='x'>b</t><t>c</t><n><u/></n><n k='1'><u/></n></s></d>"
    records, _ = read(tmp_path, data, "s")
    assert records[0].fields == {
        "t": ["a", "b", "c"],
        "t@l": [None, "x", None],
        "n": [{"u": ""}, {"u": "", "@k": "1"}],
    }


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "iso-8859-1", "windows-1252", "gb18030"])
@pytest.mark.parametrize("is_declared", [True, False])
def test_an_encoding_is_that_of_the_job_or_of_the_file(
    tmp_path: Path, encoding: str, is_declared: bool
) -> None:
    head = f'<?xml version="1.0" encoding="{encoding}"?>' if is_declared else ""
    said = {} if is_declared else {"encoding": encoding}
    records, account = read(tmp_path, (head + DATA).encode(encoding), **said)
    assert texts(records) == [f"row {i} é" for i in range(9)]
    assert not account.left_out


@pytest.mark.parametrize(
    "damage",
    [
        ("<text>row 4 é</text>", "<text>row 4 é</txt>"),
        ("row 4 é", "row 4 & é"),
        ("row 4 é", "row \x01 é"),
        ("row 4 é", "row &nosuch; é"),
        ("<row n='4'>", "<row n=4>"),
        ("<text>row 4 é</text></row>", "<text>row 4 é</text>"),
    ],
)
def test_a_damaged_element_costs_only_itself(tmp_path: Path, damage: tuple[str, str]) -> None:
    records, account = read(tmp_path, DATA.replace(*damage))
    assert texts(records) == [f"row {i} é" for i in range(9) if i != 4]
    assert [*lines_left_out(account).values()] == [[6]]


def test_bytes_that_are_not_of_the_encoding_cost_their_element(tmp_path: Path) -> None:
    data = DATA.encode().replace(b"row 4 \xc3\xa9", b"row 4 \xe9")
    records, account = read(tmp_path, data)
    assert texts(records) == [f"row {i} é" for i in range(9) if i != 4]
    assert account.left_out == {"XML that is not well-formed": 1}


def test_a_file_that_is_cut_short_gives_what_is_whole(tmp_path: Path) -> None:
    records, account = read(tmp_path, DATA[: DATA.index("row 7")])
    assert len(records) == 7
    assert lines_left_out(account) == {"XML that is not well-formed": [9]}


BOMB = '<!DOCTYPE d [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]><d><row><text>&b;</text></row></d>'


@pytest.mark.parametrize(
    "data",
    [
        BOMB,
        '<!DOCTYPE d [<!ENTITY x SYSTEM "file:///etc/hostname">]><d><row>&x;</row></d>',
        '<!DOCTYPE d [<!ENTITY % p SYSTEM "http://x.example/y"> %p;]><d><row>1</row></d>',
    ],
)
def test_entities_that_a_file_defines_are_refused(tmp_path: Path, data: str) -> None:
    records, account = read(tmp_path, data)
    assert (records, account.left_out) == ([], {"XML that defines entities": 1})


def test_names_that_a_description_beside_the_file_defines_are_those_of_html(tmp_path: Path) -> None:
    data = '<!DOCTYPE d SYSTEM "d.dtd"><d><row>M&uuml;ller</row><row>&own;</row><row>x</row></d>'
    records, account = read(tmp_path, data)
    assert texts(records) == ["Müller", "x"]
    assert account.left_out == {"XML element with a reference to what nothing defines": 1}


def test_one_huge_or_deep_element_is_left_out(tmp_path: Path) -> None:
    huge = "<row><text>" + "x" * 300_000 + "</text></row>"
    deep = "<row>" + "<a>" * 5000 + "</a>" * 5000 + "</row>"
    data = DATA.replace("<row n='4'>", f"{huge}\n{deep}\n<row n='4'>")
    records, account = read(tmp_path, data, max_record_bytes=100_000)
    assert len(records) == 9
    assert account.left_out == {
        "XML element longer than a record may be": 1,
        "XML element nested too deep": 1,
    }


def test_an_element_that_no_file_has_is_told(tmp_path: Path) -> None:
    _, account = read(tmp_path, DATA, "page")
    assert account.left_out == {"XML file without an element 'page'": 1}


def test_a_large_file_takes_no_more_memory_than_a_small_one(tmp_path: Path) -> None:
    rows, peaks = DATA.removeprefix("<data>\n").removesuffix("</data>"), []
    spec = SourceSpec(path="x", format="xml", element="row")
    for repeats in (500, 3000):
        (tmp_path / "x.xml").write_text("<data>\n" + rows * repeats + "</data>")
        size = (tmp_path / "x.xml").stat().st_size
        piece, root = FileSlice("x.xml", 0, size, size), Location.parse(str(tmp_path))
        tracemalloc.start()
        count = sum(1 for _ in read_slice(root, piece, spec, Account()))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert count == 9 * repeats
    assert peaks[1] < peaks[0] + size / 2


def test_the_sources_in_the_documentation_are_sources() -> None:
    text = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.S)]
    sources = [each for block in blocks for each in block.get("prepare", block)["sources"]]
    formats = [SourceSpec.model_validate(source).format for source in sources]
    assert formats == ["text", "warc", "xml"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"format": "xml"},
        {"format": "jsonl", "element": "page"},
        {"format": "text", "html": "all"},
    ],
)
def test_a_field_for_another_format_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match=r"needs `element`|is for format"):
        SourceSpec.model_validate({"path": "x", **wrong})
