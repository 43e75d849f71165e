"""JSON files: an object a line, or a stream of values such as an array."""

from __future__ import annotations

import json
from collections.abc import Iterator

from raymodel.data.account import Account
from raymodel.data.readers.content import Content, open_content
from raymodel.data.readers.json_object import Misfit, parse_object, unwrapped_field
from raymodel.data.readers.json_values import ValueReader
from raymodel.data.readers.lines import Encoding, LineReader, encoding_of, not_decoded
from raymodel.data.record import FileSlice, RawRecord, digest_of
from raymodel.data.spec import SourceSpec
from raymodel.storage.uri import Location
from raymodel.tasks.template import template_fields


def read_jsonl(
    root: Location, piece: FileSlice, spec: SourceSpec, account: Account
) -> Iterator[RawRecord]:
    """The records of a slice; of the whole file, at its first slice, where it is not of lines."""
    needed = _needed_fields(spec)
    with open_content(root, piece) as content:
        encoding = encoding_of(spec.encoding, content.head)
        is_of_lines = is_a_record_a_line(content.head[encoding.mark_bytes :], encoding)
        is_whole = content.packer is not None or encoding.unit_bytes > 1 or not is_of_lines
        if is_whole and piece.start:
            return
        end = None if is_whole else piece.end
        read = _read_lines if is_of_lines else _read_values
        for record in read(content, encoding, piece, end, account):
            if not needed <= record.fields.keys() and (field := unwrapped_field(record.fields)):
                account.leave_out(
                    f"one JSON object with the records in its list {field!r}: write only the list "
                    f"into the file, as `jq .{field}` does",
                    record.fields,
                )
            else:
                yield record


def is_a_record_a_line(head: bytes, encoding: Encoding) -> bool:
    """Whether a JSON file holds a value a line, by its beginning after the byte-order mark."""
    text = head.decode(encoding.codec, "replace").lstrip()
    first, newline, rest = text.partition("\n")
    first = first.rstrip()
    if first[:1] not in ("{", "["):
        return True
    if first.startswith("["):
        # The one line of a file is an array of records; of several, each is a record of its own.
        if not newline or not rest.strip():
            return False
        return not (first[-1] in "[{,:" or _is_json(first + "]")) or _is_json(first)
    old_mac, return_, _ = first.partition("\r")
    if return_ and _is_json(old_mac):
        return False
    return not newline or first[-1] not in "[{,:" or _is_json(first.rstrip(","))


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except RecursionError:  # it is an object on its line, if not one that is kept
        return True
    except ValueError:
        return False
    return True


def _read_lines(
    content: Content, encoding: Encoding, piece: FileSlice, end: int | None, account: Account
) -> Iterator[RawRecord]:
    """Lines that begin in the slice; the last one is read to its end beyond it."""
    reader = _enter(content, encoding, piece)
    lines, codec, is_wide = iter(reader), encoding.codec, encoding.unit_bytes > 1
    if piece.start:
        next(lines, None)
    position, number = reader.ends_at if piece.start else 0, 0
    while end is None or position < end:
        number += 1
        line = next(lines, b"")
        if not line or (content.damage and not line.endswith(encoding.newline)):
            break
        position = reader.ends_at
        data = (line.decode(codec, "replace").encode() if is_wide else line).strip()
        if not data:
            continue
        # Nobody knows how many lines lie before a slice in the middle.
        account.begin(piece.name, None if piece.start else number, reader.begins_at)
        if reader.was_cut:
            account.leave_out("line longer than a record may be", data[:1000])
            continue
        try:
            fields = parse_object(line.decode(codec).strip() if is_wide else data.decode(codec))
        except UnicodeError:
            account.leave_out(f"line {not_decoded(encoding.name, content.head)}", data)
        except Misfit as misfit:
            account.leave_out(f"line {misfit}", data)
        else:
            yield RawRecord(fields, digest_of(data))
    if content.damage:
        account.begin(piece.name, number)
        account.leave_out(content.damage, line)


def _enter(content: Content, encoding: Encoding, piece: FileSlice) -> LineReader:
    """Lines from the slice's start: the first one belongs to the slice before, but at 0."""
    if piece.start:
        # One byte early, because a line begins at the slice's start if another ends there.
        content.stream.seek(piece.start - 1)
        return LineReader(content.stream, encoding, piece.start - 1)
    content.stream.read(encoding.mark_bytes)
    return LineReader(content.stream, encoding, encoding.mark_bytes)


def _read_values(
    content: Content, encoding: Encoding, piece: FileSlice, end: int | None, account: Account
) -> Iterator[RawRecord]:
    content.stream.read(encoding.mark_bytes)
    reader = ValueReader(content.stream, encoding.codec)
    while reader.find_next():
        account.begin(piece.name, reader.line)
        try:
            fields = reader.take()
        except UnicodeError:
            account.leave_out(f"value {not_decoded(encoding.name, content.head)}", reader.sample)
        except Misfit as misfit:
            account.leave_out(f"value {misfit}", reader.sample)
        else:
            yield RawRecord(fields, digest_of(reader.sample.encode()))
    if content.damage:
        account.begin(piece.name, reader.line)
        account.leave_out(content.damage)


def _needed_fields(spec: SourceSpec) -> frozenset[str]:
    """Those that a record of this source should have."""
    named = [name for text in spec.fields.values() for name in template_fields(text)]
    plain = [text for text in spec.fields.values() if not template_fields(text)]
    return frozenset([*named, *plain] or ["text"])
