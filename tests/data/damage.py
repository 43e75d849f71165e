"""Files with bytes changed at random.

A file gives accounted records or one SourceError, never another error; and cut at any size it gives
the same records and the same account as in one piece.
"""

import random
from pathlib import Path
from typing import Any

from reading import read_source

from raymodel.data.spec import SourceSpec
from raymodel.errors import SourceError

# What is special in one of the formats, and so likely to be met by damage.
SPECIAL = [
    b'"',
    b"\n",
    b"\r",
    b"\0",
    b",",
    b";",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\\",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\t",
    b" ",
    b"/",
    b"-DOCSTART-",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\x80\x02",
    b"(R.",
]


def mutated(data: bytes, chance: random.Random) -> bytes:
    """One to four changes: bytes set, inserted, removed, repeated, or the end cut off."""
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 4])):
        at = chance.randrange(len(changed) + 1)
        span = chance.choice([1, 1, 2, 8, 64])
        new = chance.choice([chance.choice(SPECIAL), chance.randbytes(span)])
        kind = chance.randrange(6)
        if kind == 0:
            changed[at : at + len(new)] = new
        elif kind == 1:
            changed[at:at] = new
        elif kind == 2:
            del changed[at : at + span]
        elif kind == 3:
            changed[at:at] = changed[at : at + span] * chance.choice([1, 2, 30])
        elif kind == 4:
            changed[at:at] = chance.choice(SPECIAL) * chance.choice([1, 2, 300])
        else:
            del changed[max(at, 1) :]
    return bytes(changed) or b"x"


def outcome(path: Path, options: dict[str, Any], partition_bytes: int = 2**30) -> Any:
    """What reading gives, in a form that can be compared; or the error that it ends with."""
    try:
        records, account = read_source(SourceSpec(path=str(path), **options), partition_bytes)
    except SourceError as error:
        return str(error)
    return [repr(record) for record in records], account.read, account.left_out


def check_damage(
    name: str,
    file: Path,
    data: bytes,
    options: dict[str, Any],
    count: int,
    source: Path | None = None,
) -> None:
    """Writes the file whole and damaged in `count` ways, and reads it; it must read each time.

    Args:
        name: of the case, which decides the damage.
        source: the path of the source where it is not the file.
    """
    chance, source = random.Random(name), source or file
    file.write_bytes(data)
    whole = outcome(source, options)
    assert whole[0], f"{name}: the file that is not damaged gives no record"
    assert not whole[2], f"{name}: {whole[2]}"
    for index in range(count):
        damaged = mutated(data, chance)
        file.write_bytes(damaged)
        one_piece = outcome(source, options)
        size = chance.choice([1, 2, 3, 7, 50, 333])
        size = max(size, len(damaged) // 60 + 1)
        assert outcome(source, options, size) == one_piece, f"{name} {index}, cut at {size}"
