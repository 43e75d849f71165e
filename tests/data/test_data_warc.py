"""WARC files: the pages in them, and damage that costs what it must."""

import gzip
import sys
from pathlib import Path
from typing import Any

import pytest
from reading import read_file, texts

from raymodel.data.account import Account
from raymodel.data.read import read_slice, slice_files
from raymodel.data.record import RawRecord
from raymodel.data.sources import resolve_source
from raymodel.data.spec import SourceSpec
from raymodel.errors import SourceError

PAGE = (
    "<html><head><title>T</title><meta charset=utf-8></head><body><nav><a href=/>Home</a></nav>"
    "<article><h1>Head</h1><p>A paragraph with é and more words, so that it is kept.</p></article>"
    "<footer>Imprint</footer><script>x()</script></body></html>"
)


def record(kind: str, block: bytes, content_type: str = "text/plain", **headers: str) -> bytes:
    """One of WARC 1.0."""
    named = {
        "WARC-Type": kind,
        "WARC-Target-URI": "https://a.example/x",
        "WARC-Date": "2024-01-02T03:04:05Z",
        "WARC-Record-ID": "<urn:uuid:1>",
        "Content-Type": content_type,
        "Content-Length": str(len(block)),
    } | {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return b"WARC/1.0\r\n" + lines.encode() + b"\r\n" + block + b"\r\n\r\n"


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    head = "".join(f"{header}\r\n" for header in headers)
    block = f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body
    return record("response", block, "application/http; msgtype=response")


def html_answer(page: str = PAGE, *headers: str) -> bytes:
    return answer(page.encode(), "Content-Type: text/html", *headers)


INFO = record("warcinfo", b"software: x", "application/warc-fields")
TEXTS = [f"text {i} é".encode() * (i + 1) for i in range(12)]
RECORDS = [INFO, *(record("conversion", text) for text in TEXTS)]


def by_member(records: list[bytes] = RECORDS) -> bytes:
    return b"".join(gzip.compress(each, mtime=0) for each in records)


def read(folder: Path, data: bytes, name: str = "x.warc", size: int = 2**20, **spec: Any):
    return read_file(folder, name, data, size, format="warc", **spec)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.warc", b"".join(RECORDS)),
        ("x.warc.gz", by_member()),
        ("x.warc.gz", gzip.compress(b"".join(RECORDS))),
        (
            "x.warc.gz",
            gzip.compress(b"".join(RECORDS)[:700]) + gzip.compress(b"".join(RECORDS)[700:]),
        ),
        ("x.warc.wet.gz", by_member()),
    ],
    ids=["plain", "by-member", "one-member", "members-of-parts", "wet"],
)
@pytest.mark.parametrize("size", [2**20, 97])
def test_all_pages_are_read_however_a_file_is_packed_and_cut(
    tmp_path: Path, name: str, data: bytes, size: int
) -> None:
    records, account = read(tmp_path, data, name, size)
    assert texts(records) == [text.decode() for text in TEXTS]
    assert (account.read, account.left_out) == (12, {})
    assert account.found["record", "of WARC's type warcinfo, passed over"] == 1
    assert records[0].fields | {"text": ""} == {
        "text": "",
        "url": "https://a.example/x",
        "date": "2024-01-02T03:04:05Z",
        "id": "urn:uuid:1",
        "type": "conversion",
        "content_type": "text/plain",
    }


def test_a_file_by_members_is_shared_by_many_tasks(tmp_path: Path) -> None:
    (tmp_path / "x.warc.gz").write_bytes(by_member())
    spec = SourceSpec(path=str(tmp_path / "x.warc.gz"), format="warc")
    files = resolve_source(spec)
    counts = [
        sum(len([*read_slice(files.root, piece, spec, Account())]) for piece in partition)
        for partition in slice_files(files, spec, 300)
    ]
    assert len(counts) > 3
    assert max(counts) < 6


def test_a_damaged_member_costs_only_itself(tmp_path: Path) -> None:
    members = [bytearray(gzip.compress(each, mtime=0)) for each in RECORDS]
    members[4][-6] ^= 1  # the checksum
    members[7][90] ^= 255
    data = b"".join(members)
    for size in (2**20, 50):
        records, account = read(tmp_path, data, "x.warc.gz", size)
        assert texts(records) == [t.decode() for i, t in enumerate(TEXTS) if i not in (3, 6)]
        assert account.left_out == {"damaged gzip member of a WARC file": 2}
        assert account.rejects[0].place.byte == sum(map(len, members[:4]))
    _, account = read(tmp_path, b"junk" + data[:-9], "x.warc.gz")
    assert account.left_out == {
        "damaged gzip member of a WARC file": 3,
        "bytes between the gzip members of a WARC file": 1,
    }


def test_damage_of_a_plain_file_costs_the_records_that_it_is_in(tmp_path: Path) -> None:
    broken = RECORDS[3].replace(b"Content-Length", b"Content-Lengt")
    longer = RECORDS[5].replace(b"Content-Length: ", b"Content-Length: 9")
    data = b"junk\r\n" + b"".join([*RECORDS[:3], broken, RECORDS[4], longer])
    records, account = read(tmp_path, data)
    assert texts(records) == [TEXTS[i].decode() for i in (0, 1, 3)]
    assert account.left_out == {
        "bytes between WARC records": 1,
        "WARC record with a damaged header": 1,
        "WARC record cut short": 1,
    }


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (answer(b"", status="404 Not Found"), "answer with an error or a redirect"),
        (answer(b"\x89PNG", "Content-Type: image/png"), "WARC record of something else than text"),
        (answer(b"a\0b", "Content-Type: text/plain"), "WARC record of something else than text"),
        (answer(b"caf\xe9", "Content-Type: text/plain; charset=utf-8"), "page not utf-8"),
        (html_answer(PAGE, "Content-Encoding: gzip"), "answer with a body that cannot be unpacked"),
        (
            html_answer(PAGE, "Content-Encoding: x-own"),
            "answer with a body that cannot be unpacked",
        ),
        (html_answer("<p> </p>"), "page without a main text"),
        (record("response", b"no", "application/http"), "WARC record whose answer is not HTTP"),
        (record("other", b"no"), "WARC record of an unknown type"),
        (INFO.replace(b"WARC/1.0", b"WARC/3.0"), "WARC record with a damaged header"),
    ],
)
def test_what_is_no_page_is_left_out_by_reason(tmp_path: Path, block: bytes, reason: str) -> None:
    pytest.importorskip("resiliparse")
    records, account = read(tmp_path, block + RECORDS[1])
    assert texts(records) == [TEXTS[0].decode()]
    assert account.left_out == {reason: 1}


def only(records: list[RawRecord]) -> str:
    (one,) = records
    return str(one.fields["text"])


def test_the_text_of_a_page_is_what_is_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("resiliparse")
    page = html_answer()
    main = only(read(tmp_path, page)[0])
    assert "paragraph with é" in main
    assert "Imprint" not in main
    whole = only(read(tmp_path, page, html="all")[0])
    assert "Home" in whole
    assert "Imprint" in whole
    assert "x()" not in whole
    assert only(read(tmp_path, page, html="source")[0]) == PAGE


@pytest.mark.parametrize(
    ("headers", "pack"),
    [
        (["Content-Encoding: gzip"], gzip.compress),
        (["Transfer-Encoding: chunked"], lambda data: b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data)),
        (["Transfer-Encoding: chunked"], lambda data: data),
    ],
    ids=["gzip", "chunked", "joined-by-the-crawler"],
)
def test_a_body_as_it_came_over_the_wire_is_unpacked(
    tmp_path: Path, headers: Any, pack: Any
) -> None:
    body = pack("Grüße".encode())
    records, _ = read(tmp_path, answer(body, "Content-Type: text/plain; charset=UTF-8", *headers))
    assert texts(records) == ["Grüße"]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("<meta charset='windows-1251'>Привет".encode("cp1251"), "text/html"),
        ("Привет".encode("cp1251"), "text/html; charset=windows-1251"),
        ("“Привет”".encode("utf-16"), "text/html"),
        (
            "<meta http-equiv=x content='text/html; charset=gb2312'>Привет".encode("gb18030"),
            "text/html",
        ),
    ],
)
def test_a_page_is_decoded_as_it_says(tmp_path: Path, body: bytes, kind: str) -> None:
    records, _ = read(tmp_path, answer(body, f"Content-Type: {kind}"), html="source")
    assert "Привет" in only(records)


def test_a_page_that_is_too_large_costs_no_memory(tmp_path: Path) -> None:
    bomb = answer(gzip.compress(b"x" * 10**6), "Content-Type: text/plain", "Content-Encoding: gzip")
    data = bomb + record("conversion", b"y" * 5000) + RECORDS[1]
    records, account = read(tmp_path, data, max_record_bytes=4000)
    assert texts(records) == [TEXTS[0].decode()]
    assert account.left_out == {"WARC record longer than a record may be": 2}


def test_a_missing_library_is_told_with_the_way_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "resiliparse.extract.html2text", None)
    with pytest.raises(SourceError, match=r"raymodel\[web\].*html: source"):
        read(tmp_path, html_answer())
    # What needs no library is read without it.
    assert len(read(tmp_path, RECORDS[1])[0]) == 1
