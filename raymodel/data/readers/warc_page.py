"""What a WARC record holds, as text: the body of an answer over HTTP, unpacked and decoded."""

from __future__ import annotations

import codecs
import re
import zlib
from collections.abc import Mapping
from typing import Any

from raymodel.data.readers.content import Unreadable
from raymodel.data.readers.lines import MAX_LINE_BYTES, not_decoded
from raymodel.data.readers.warc_records import TOO_LONG, WarcRecord
from raymodel.data.spec import SourceSpec
from raymodel.errors import SourceError

_HTML = ("text/html", "application/xhtml+xml")
_NO_HTTP = "WARC record whose answer is not HTTP"
_NO_PAGE = "answer with an error or a redirect"
_NO_TEXT = "WARC record of something else than text"
_BAD_BODY = "answer with a body that cannot be unpacked"
_NO_MAIN = "page without a main text"
_SAMPLE_BYTES = 1000
_HEAD_BYTES = 1024
"""In which a page says its encoding: https://html.spec.whatwg.org/#the-meta-element"""
_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w.:-]{1,40})""", re.I)
_OF_TYPE = re.compile(r"""charset\s*=\s*["']?\s*([\w.:-]{1,40})""", re.I)
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What browsers read where a page names the first: https://encoding.spec.whatwg.org/#names-and-labels
_READ_AS = {"ascii": "cp1252", "iso8859-1": "cp1252", "gb2312": "gb18030", "gbk": "gb18030"}


def page_of(record: WarcRecord, spec: SourceSpec) -> dict[str, Any]:
    """The fields of a page.

    Raises:
        Unreadable: it holds no text that can be had.
        SourceError: the library that takes text out of HTML is not installed.
    """
    body, kind, status = record.block, record.headers.get("content-type", ""), None
    if record.type == "response" and kind.lower().startswith("application/http"):
        status, headers, body = _answer_of(record.block)
        if status != 200:
            raise Unreadable(_NO_PAGE, record.block[:_SAMPLE_BYTES])
        kind = headers.get("content-type", "")
        body = _unpacked(body, headers, spec.max_record_bytes or MAX_LINE_BYTES)
    media = kind.partition(";")[0].strip().lower()
    is_html = media in _HTML
    if not is_html and not media.startswith("text/"):
        raise Unreadable(_NO_TEXT, f"{media} {record.headers.get('warc-target-uri', '')}")
    text = _decoded(body, kind, is_html, spec.encoding)
    if "\0" in text:
        raise Unreadable(_NO_TEXT, body[:_SAMPLE_BYTES])
    if is_html and spec.html != "source":
        text = text_of_html(text, main_only=spec.html == "main")
        if not text.strip():
            raise Unreadable(_NO_MAIN, body[:_SAMPLE_BYTES])
    return {
        "text": text,
        "url": record.headers.get("warc-target-uri", "").strip("<>"),
        "date": record.headers.get("warc-date", ""),
        "id": record.headers.get("warc-record-id", "").strip("<>"),
        "type": record.type,
        "content_type": media,
    }


def _answer_of(block: bytes) -> tuple[int, dict[str, str], bytes]:
    """The status, the headers by lower-case name, and the body."""
    end = re.search(rb"\r?\n\r?\n", block)
    lines = block[: end.start() if end else len(block)].decode("latin-1").splitlines()
    found = re.match(r"HTTP/\d(?:\.\d)?\s+(\d{3})(?:\s|$)", lines[0] if lines else "")
    if found is None:
        raise Unreadable(_NO_HTTP, block[:_SAMPLE_BYTES])
    pairs = (line.partition(":") for line in lines[1:])
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    return int(found[1]), headers, block[end.end() :] if end else b""


def _unpacked(body: bytes, headers: Mapping[str, str], max_bytes: int) -> bytes:
    """The body as its server meant it: crawlers may keep it as it came over the wire."""
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = _joined(body)
    packer = headers.get("content-encoding", "").lower()
    try:
        if packer in ("gzip", "x-gzip", "deflate"):
            whole = _inflated(body, max_bytes + 1)
        elif packer in ("br", "zstd"):
            whole = _opened(body, {"br": "brotli"}.get(packer, packer), max_bytes + 1)
        elif packer in ("", "identity"):
            whole = body
        else:
            raise Unreadable(_BAD_BODY, body[:_SAMPLE_BYTES])
    except (zlib.error, OSError, EOFError) as error:
        raise Unreadable(_BAD_BODY, body[:_SAMPLE_BYTES]) from error
    if len(whole) > max_bytes:
        raise Unreadable(TOO_LONG, whole[:_SAMPLE_BYTES])
    return whole


def _joined(body: bytes) -> bytes:
    """The chunks of RFC 9112, section 7.1. A body that has none was joined by the crawler."""
    parts, at = list[bytes](), 0
    while found := re.compile(rb"\s*([0-9a-fA-F]{1,8})[^\r\n]{0,1000}\r?\n").match(body, at):
        size = int(found[1], 16)
        if not size:
            return b"".join(parts)
        at = found.end() + size
        parts.append(body[found.end() : at])
    if not parts:
        return body
    raise Unreadable(_BAD_BODY, body[:_SAMPLE_BYTES])


def _inflated(body: bytes, most: int) -> bytes:
    # Of "deflate" some servers send the bare form.
    bits = zlib.MAX_WBITS | 32 if body[:1] in (b"\x1f", b"\x78") else -zlib.MAX_WBITS
    return zlib.decompressobj(bits).decompress(body, most)


def _opened(body: bytes, codec: str, most: int) -> bytes:
    import pyarrow as pa

    with pa.CompressedInputStream(pa.BufferReader(body), codec) as stream:
        data: bytes = stream.read(most)
    return data


def _decoded(body: bytes, kind: str, is_html: bool, encoding: str) -> str:
    """By its mark, by what its header says, by what it says itself, else as the job says."""
    mark = next((name for mark, name in _MARKS if body.startswith(mark)), None)
    said = found[1] if (found := _OF_TYPE.search(kind)) else None
    inner = _CHARSET.search(body[:_HEAD_BYTES]) if is_html else None
    name = mark or said or (inner[1].decode("ascii") if inner else encoding)
    try:
        codec = codecs.lookup(name).name
        text = body.decode(_READ_AS.get(codec, codec))
    except (LookupError, UnicodeError) as error:
        raise Unreadable(f"page {not_decoded(encoding, body)}", body[:_SAMPLE_BYTES]) from error
    return text.removeprefix("\ufeff")


def text_of_html(html: str, *, main_only: bool) -> str:
    """What a reader sees of a page.

    Args:
        main_only: without menus, headers and footers, by rules of thumb.

    Raises:
        Unreadable: it cannot be parsed.
        SourceError: the library is not installed.
    """
    try:
        from resiliparse.extract.html2text import extract_plain_text
        from resiliparse.parse.html import HTMLParserException
    except ImportError as error:
        raise SourceError(
            "text is taken out of HTML by the package resiliparse, which is not installed; "
            "pip install 'raymodel[web]' on every node, or keep the HTML with `html: source`"
        ) from error
    try:
        text: str = extract_plain_text(html, main_content=main_only, alt_texts=False)
    except HTMLParserException as error:
        raise Unreadable(_NO_MAIN, html[:_SAMPLE_BYTES]) from error
    return text
