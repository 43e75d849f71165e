"""WARC files, as crawlers of the web write them: the pages of a file, as text.

Mostly each record is a gzip member of its own (`.warc.gz`). Then a damaged one costs only itself,
and many tasks share a large file.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from typing import Any

from raymodel.data.account import Account
from raymodel.data.readers.content import Content, Unreadable, open_file
from raymodel.data.readers.gzip_members import begins_member, find_members, open_member
from raymodel.data.readers.lines import MAX_LINE_BYTES
from raymodel.data.readers.warc_page import page_of
from raymodel.data.readers.warc_records import BEGIN, TAKEN, WarcRecord, read_records
from raymodel.data.record import FileSlice, RawRecord, digest_of
from raymodel.data.spec import SourceSpec
from raymodel.storage.uri import Location

_LOOKED_AT_BYTES, _LOOKED_AT_MEMBERS = 2**24, 2
"""Of a file, and unpacked of a member, to see whether it can be entered in the middle."""
_DAMAGED = "damaged gzip member of a WARC file"
_NO_MEMBER = "bytes between the gzip members of a WARC file"
_OTHERS = ("warcinfo", "request", "metadata", "revisit", "continuation")
_UNKNOWN = "WARC record of an unknown type"


def read_warc(
    root: Location, piece: FileSlice, spec: SourceSpec, account: Account
) -> Iterator[RawRecord]:
    """The pages of a slice; of the whole file, at its first slice, where it cannot be cut."""
    with open_file(root, piece) as raw:
        content = Content(raw, piece, is_member=(root / piece.name).is_in_archive)
        if content.packer == "gzip" and not content.is_member and _holds_whole_records(raw, piece):
            yield from _read_members(raw, piece, spec, account)
        elif piece.start == 0:
            for record in read_records(content.stream, spec.max_record_bytes or MAX_LINE_BYTES):
                yield from _enter(record, record.byte, piece, spec, account)
            if content.damage:
                account.begin(piece.name)
                account.leave_out(content.damage)


def _holds_whole_records(raw: Any, piece: FileSlice) -> bool:
    """Whether no record goes on in the next member, by the first that is whole."""
    end = min(piece.file_bytes, _LOOKED_AT_BYTES)
    for at in itertools.islice(find_members(raw, 0, end, BEGIN), _LOOKED_AT_MEMBERS):
        member, stream = open_member(raw, at)
        head = stream.read(_LOOKED_AT_BYTES)
        records = read_records(io.BytesIO(head), 0)
        if member.ends_at is not None and all(record.fault is None for record in records):
            return True
    return False


def _read_members(
    raw: Any, piece: FileSlice, spec: SourceSpec, account: Account
) -> Iterator[RawRecord]:
    """The records of the members that begin in the slice."""
    at = _find_member(raw, piece.start, piece.end)
    if piece.start == 0 and at != 0:
        account.begin(piece.name, byte=0)
        account.leave_out(_NO_MEMBER)
    while at is not None and at < piece.end:
        member, stream = open_member(raw, at)
        last: WarcRecord | None = None
        for record in read_records(stream, spec.max_record_bytes or MAX_LINE_BYTES):
            if last is not None:
                yield from _enter(last, at, piece, spec, account)
            last = record
        if member.ends_at is None:
            # Whether the last record is whole, only the checksum behind it would have told.
            account.begin(piece.name, byte=at)
            account.leave_out(_DAMAGED, last.block if last else "")
            at = _find_member(raw, at + 1, piece.end)
            continue
        assert last is not None, "a member that was found begins with a record"
        yield from _enter(last, at, piece, spec, account)
        at = member.ends_at
        if at < piece.file_bytes and not begins_member(raw, at, BEGIN):
            account.begin(piece.name, byte=at)
            account.leave_out(_NO_MEMBER)
            at = _find_member(raw, at, piece.end)


def _find_member(raw: Any, start: int, end: int) -> int | None:
    return next(find_members(raw, start, end, BEGIN), None)


def _enter(
    record: WarcRecord, byte: int, piece: FileSlice, spec: SourceSpec, account: Account
) -> Iterator[RawRecord]:
    """A record with its page, in the account; one that only tells of the crawl is no record."""
    if record.fault is None and record.type in _OTHERS:
        account.found["record", f"of WARC's type {record.type}, passed over"] += 1
        return
    account.begin(piece.name, byte=byte)
    if record.fault is not None or record.type not in TAKEN:
        account.leave_out(record.fault or _UNKNOWN, record.block or dict(record.headers))
        return
    try:
        fields = page_of(record, spec)
    except Unreadable as fault:
        account.leave_out(fault.reason, fault.sample)
    else:
        yield RawRecord(fields, digest_of(record.block))
