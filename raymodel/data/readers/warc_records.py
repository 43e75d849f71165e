"""Records of the WARC format, versions 1.0 and 1.1, one after the other in a stream.

https://iipc.github.io/warc-specifications/specifications/warc-format/warc-1.1/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import IO

BEGIN = b"WARC/"
_VERSIONS = (b"WARC/1.0", b"WARC/1.1")
_BLANK = (b"\r\n", b"\n")
MAX_HEADER_LINE_BYTES, MAX_HEADER_LINES = 2**16, 1000
"""An address has no limit, but a program that writes a longer one is not known."""
_CHUNK_BYTES = 2**20
TAKEN = ("response", "resource", "conversion")
"""Types of records that hold what was found at an address; all others tell of the crawl."""
NO_RECORD = "bytes between WARC records"
BAD_HEADER = "WARC record with a damaged header"
CUT_SHORT = "WARC record cut short"
TOO_LONG = "WARC record longer than a record may be"


@dataclass(frozen=True)
class WarcRecord:
    """One record, or what stands where one should."""

    byte: int
    """Where it begins in the stream."""
    headers: Mapping[str, str]
    """By lower-case name."""
    block: bytes = b""
    """What it holds, of the types that are taken."""
    fault: str | None = None
    """Why it cannot be used."""

    @property
    def type(self) -> str:
        return self.headers.get("warc-type", "").strip().lower()


def read_records(stream: IO[bytes], max_bytes: int) -> Iterator[WarcRecord]:
    """All records of a stream. Behind what is none, it goes on at the next line that begins one.

    Args:
        max_bytes: of the block of a record that is taken; a longer one is passed over.
    """
    byte, is_lost = 0, False
    while line := stream.readline(MAX_HEADER_LINE_BYTES):
        begins_at, byte = byte, byte + len(line)
        if not line.startswith(BEGIN):
            # A blank line or two close a record; whatever else comes before the next is told once.
            if line not in _BLANK and not is_lost:
                is_lost = True
                yield WarcRecord(begins_at, {}, line[:1000], NO_RECORD)
            continue
        is_lost = False
        headers, num_bytes = _read_headers(stream)
        byte += num_bytes
        length = _length_of(headers) if line.rstrip() in _VERSIONS else None
        if headers is None or length is None:
            # Its lines that were read are not looked at again: in them no record begins.
            is_lost = True
            yield WarcRecord(begins_at, headers or {}, line, BAD_HEADER)
            continue
        record = WarcRecord(begins_at, headers)
        is_wanted = record.type in TAKEN
        block, passed = _read_block(stream, length, max_bytes if is_wanted else 0)
        byte += passed
        fault = None
        if passed < length:
            fault = CUT_SHORT
        elif is_wanted and length > max_bytes:
            fault = TOO_LONG
        yield WarcRecord(begins_at, headers, block, fault)


def _read_headers(stream: IO[bytes]) -> tuple[dict[str, str] | None, int]:
    """The header up to its blank line, None where it has none; and the bytes that were read."""
    headers: dict[str, str] = {}
    name, num_bytes = "", 0
    for _ in range(MAX_HEADER_LINES):
        line = stream.readline(MAX_HEADER_LINE_BYTES)
        num_bytes += len(line)
        if line in _BLANK:
            return headers, num_bytes
        if not line.endswith(b"\n"):
            break
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        if text[:1] in (" ", "\t") and name:  # a value may go on in the next line
            headers[name] += " " + text.strip()
            continue
        name, colon, value = text.partition(":")
        name = name.strip().lower()
        if not colon or not name:
            break
        headers.setdefault(name, value.strip())
    return None, num_bytes


def _length_of(headers: Mapping[str, str] | None) -> int | None:
    text = (headers or {}).get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _read_block(stream: IO[bytes], length: int, most: int) -> tuple[bytes, int]:
    """The block where it has no more than `most` bytes; and how many were read."""
    parts, left = list[bytes](), length
    while left and (part := stream.read(min(left, _CHUNK_BYTES))):
        left -= len(part)
        if length <= most:
            parts.append(part)
    return b"".join(parts), length - left
