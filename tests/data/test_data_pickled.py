"""Pickles that were made to do harm: they run nothing, and take little memory and time."""

import operator
import os
import pickle
import pickletools
import struct
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from images import binary_batch, digits, pickled_batch, python2_pickle
from reading import read_file

from raymodel.data.readers import pickled
from raymodel.data.readers.content import Unreadable
from raymodel.data.readers.pickled import read_pickle

FOREIGN = "pickle of more than lists, texts and arrays of bytes"
DAMAGED = "damaged pickle"
MAX_PEAK_BYTES, MAX_CPU_S = 2**21, 30.0


class Call:
    """Pickles as a call of something."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments


def harms(target: Path) -> dict[str, Any]:
    """What makes a file when Python's own reader meets it."""
    code = f"open({str(target)!r}, 'w').close()"
    batch = {b"data": digits(2).planes, b"labels": [1, 2]}
    return {
        "system": Call(os.system, f"touch {target}"),
        "eval": Call(eval, code),
        "exec": Call(exec, code),
        "chain": Call(operator.call, Call(getattr, Call(__import__, "builtins"), "exec"), code),
        "in a batch": {**batch, b"filenames": [b"a.png", Call(exec, code)]},
        "in the array": {**batch, b"data": Call(np.frombuffer, Call(exec, code))},
        "as a key": {Call(exec, code): 1, **batch},
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("name", list(harms(Path("x"))))
def test_a_pickle_that_calls_is_left_out_and_not_run(
    tmp_path: Path, name: str, protocol: int
) -> None:
    target = tmp_path / "harmed"
    data = pickle.dumps(harms(target)[name], protocol)
    with suppress(TypeError, ValueError):  # of what comes after the harm
        pickle.loads(data)
    assert target.exists(), "Python's own reader runs it"
    target.unlink()
    records, account = read_file(tmp_path, "data_batch_1", data, format="cifar")
    assert (records, account.read, account.left_out) == ([], 1, {FOREIGN: 1})
    assert not target.exists()


def test_names_are_never_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "harmful_module.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    data = b"\x80\x02charmful_module\nanything\n."
    with pytest.raises(SystemExit, match="imported"):
        pickle.loads(data)
    with pytest.raises(Unreadable, match=FOREIGN):
        read_pickle(data)


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n"
STATE = b"K\1K\1K\1\x86cnumpy\ndtype\nU\2u1K\0K\1\x87R\x89"
"""An array's state up to its bytes: 1 × 1."""
NEW = ARRAY + b"cnumpy\nndarray\nK\0\x85U\1b\x87R"


def of_size(operation: bytes, number: str, size: int) -> bytes:
    return b"\x80\x02" + operation + struct.pack(number, size) + b"x."


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x80\x02cos\nsystem\nU\4true\x85R.", FOREIGN),
        (b"\x80\x02c__builtin__\neval\n.", FOREIGN),
        (b"\x80\x02cnumpy\nload\n.", FOREIGN),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", FOREIGN),
        (b"\x80\x02(U\4trueios\nsystem\n.", FOREIGN),
        (b"\x80\x02(cos\nsystem\nU\4trueo.", FOREIGN),
        (b"\x80\x02\x82\x01.", FOREIGN),
        (b"\x80\x02cnumpy\nndarray\n)\x81.", FOREIGN),
        (b"\x80\x02cnumpy\nndarray\n)R.", FOREIGN),
        (b"\x80\x02" + ARRAY + b"cnumpy\ndtype\nK\0\x85U\1b\x87R.", FOREIGN),
        (b"\x80\x02cnumpy\ndtype\nU\2O8K\0K\1\x87R.", FOREIGN),
        (b"\x80\x02}U\1xK\1sb.", DAMAGED),
        (b"\x80\x02](K\1b.", FOREIGN),
        (b"\x80\x02U\1xPpersistent\n.", FOREIGN),
        (of_size(b"T", "<i", 2**31 - 1), DAMAGED),
        (of_size(b"B", "<I", 2**32 - 1), DAMAGED),
        (of_size(b"X", "<I", 2**32 - 1), DAMAGED),
        (of_size(b"\x8e", "<Q", 2**63 - 1), DAMAGED),
        (of_size(b"\x96", "<Q", 2**63 - 1), DAMAGED),
        (of_size(b"\x8b", "<i", 2**31 - 1), DAMAGED),
        (b"\x80\x02", DAMAGED),
        (b"\x80\x02.", DAMAGED),
        (b"\x80\x02t.", DAMAGED),
        (b"\x80\x02h\x07.", DAMAGED),
        (b"\x80\x02K\1\x87.", DAMAGED),
        (b"\x80\x02K\1K\1a.", DAMAGED),
        (b"\x80\x02]U\1xK\1s.", DAMAGED),
        (b"\x80\x02}K\7K\1s.", DAMAGED),
        (b"\x80\x02L" + b"9" * 100_000 + b"L\n.", DAMAGED),
    ],
)
def test_what_no_batch_holds_ends_the_reading(data: bytes, reason: str) -> None:
    with pytest.raises(Unreadable) as found:
        read_pickle(data)
    assert found.value.reason == reason


@pytest.mark.parametrize(
    "state",
    [
        b"K\1K\1K\1\x86cnumpy\ndtype\nU\2u1K\0K\1\x87R\x89U\2xx",
        b"K\1K\1J\xff\xff\xff\xff\x86cnumpy\ndtype\nU\2u1K\0K\1\x87R\x89U\1x",
        b"K\1J\xff\xff\xff\xffJ\xff\xff\xff\xff\x86cnumpy\ndtype\nU\2u1K\0K\1\x87R\x89U\1x",
        b"K\1" + b"\x8a\xff" + b"\x7f" * 255 + b"\x85cnumpy\ndtype\nU\2u1K\0K\1\x87R\x89U\1x",
        b"K\1U\1x\x85cnumpy\ndtype\nU\2u1K\0K\1\x87R\x89U\1x",
        b"K\1K\1K\1\x86U\2u1\x89U\1x",
        STATE + b"]",
    ],
    ids=["long", "negative", "negatives", "huge", "text", "dtype", "data"],
)
def test_an_array_that_does_not_fit_its_bytes_is_damaged(state: bytes) -> None:
    whole = read_pickle(b"\x80\x02" + NEW + b"(" + STATE + b"U\1\x07tb.")
    assert whole.pixels().tolist() == [[7]]
    with pytest.raises(Unreadable, match=DAMAGED):
        read_pickle(b"\x80\x02" + NEW + b"(" + state + b"tb.").pixels()


def bombs() -> dict[str, bytes]:
    """Small files that would grow, or never be done."""
    nested = b"\x80\x02K\1" + b"q\1h\1\x86" * 300  # a pair of a pair of … of 2 ** 300 numbers
    text = b"X" + struct.pack("<I", 20_000) + b"x" * 20_000
    encoded = b"c_codecs\nencode\nq\1" + text + b"X\6\0\0\0latin1\x86q\3"
    return {
        "memo": b"\x80\x02K\1" + b"".join(b"r" + struct.pack("<I", 2**32 - i) for i in range(1, 9)),
        "key": nested + b"}q\2h\2" + nested[2:] + b"K\1s",
        "name": nested + nested[2:] + b"\x93",
        "call": nested + nested[2:] + b"R",
        "state": b"\x80\x02" + NEW + nested[2:] + b"b",
        "encode": b"\x80\x02]q\4(" + encoded + b"h\1h\3R" * 5_000 + b"e",
        "frames": b"\x80\x04" + (b"\x95" + b"\xff" * 8) * 1_000 + b"K\1",
        "lists": b"\x80\x02" + b"]" * 3_000 + b"a" * 2_999,
    }


@pytest.mark.parametrize("name", list(bombs()))
def test_a_pickle_that_would_grow_takes_little_memory_and_time(tmp_path: Path, name: str) -> None:
    data = bombs()[name] + b"."
    (tmp_path / "x").mkdir()
    read_file(tmp_path / "x", "data_batch_1", pickled_batch(digits(1)), format="cifar")
    begin = time.process_time()
    tracemalloc.start()
    records, account = read_file(tmp_path, "data_batch_1", data, format="cifar")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (records, account.read, account.left_out.total()) == ([], 1, 1)
    assert peak < MAX_PEAK_BYTES
    assert time.process_time() - begin < MAX_CPU_S


def test_operations_and_bytes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = python2_pickle(list(range(100)))
    assert read_pickle(data) == list(range(100))
    monkeypatch.setattr(pickled, "MAX_OPERATIONS", 90)
    with pytest.raises(Unreadable, match="pickle of more than 90 operations"):
        read_pickle(data)
    monkeypatch.setattr(pickled, "MAX_PICKLE_BYTES", 90)
    with pytest.raises(Unreadable, match="pickle of more than 90 bytes"):
        read_pickle(data)


def test_the_largest_batch_stays_within_the_bounds() -> None:
    """50,000 images of CIFAR-100, as Python 3 writes what it has read."""
    names = [f"name_s_{i:06d}.png".encode() for i in range(5_000)]
    labels = {b"fine_labels": [7] * 5_000, b"coarse_labels": [1] * 5_000}
    data = pickle.dumps({b"filenames": names, **labels}, 2)
    operations = sum(1 for _ in pickletools.genops(data))
    assert operations * 10 < pickled.MAX_OPERATIONS
    assert read_pickle(data) == {b"filenames": names, **labels}


def array_operations(data: bytes) -> tuple[list[str], list[str]]:
    """What makes the first array of a pickle, and what makes its type."""
    names = [operation.name for operation, _, _ in pickletools.genops(data)]
    names = [name for name in names if name not in ("BINPUT", "LONG_BINPUT")]
    array = names.index("GLOBAL")
    dtype = names.index("GLOBAL", array + 2)
    return names[array : names.index("REDUCE", array) + 3], names[dtype : names.index("BUILD") + 2]


def test_numpy_of_python_2_pickles_as_the_tests_do() -> None:
    """NumPy keeps a pickle of that time: an array of objects, which goes beyond what is allowed."""
    path = Path(np.__file__).parent / "lib/tests/data/py2-objarr.npy"
    if not path.exists():
        pytest.skip("this NumPy comes without its tests")
    real = path.read_bytes().partition(b"\n")[2]
    assert array_operations(pickled_batch(digits(2))) == array_operations(real)
    with pytest.raises(Unreadable, match=FOREIGN):
        read_pickle(real)


def test_a_binary_batch_that_begins_like_a_pickle_is_none(tmp_path: Path) -> None:
    data = b"\x80\x02" + binary_batch(digits(2))[2:]
    _, account = read_file(tmp_path, "x.bin", data, format="cifar")
    assert account.left_out == {"image with a label beyond the classes": 1}
