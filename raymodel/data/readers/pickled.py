"""Pickles of lists, texts and arrays of bytes, read without the power that a pickle has.

A pickle is a program, and Python's own reader runs it: it imports and calls what the pickle names.
This one knows only the operations that build plain values. A call builds a `PickledArray` or turns
a text into bytes, whatever the file; everything else that a pickle can ask for ends the reading.
What it makes is bounded by the size of the file: an operation makes one small object, and no text
becomes bytes more often than it was written.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raymodel.data.readers.content import Unreadable

MAX_PICKLE_BYTES = 2**28
"""Of a pickle; CIFAR-100's, the largest, has 155 MB."""
MAX_OPERATIONS = 1_000_000
"""Of a pickle: CIFAR-100's has about 200,000, for two labels and a name of 50,000 images, and
500,000 once Python 3 has written it again. Each takes a few hundred bytes of memory at most."""
_DAMAGED = "damaged pickle"
_FOREIGN = "pickle of more than lists, texts and arrays of bytes"


class PickledArray:
    """A NumPy array of bytes with two axes, as a pickle describes it."""

    state: Any = None

    def pixels(self) -> NDArray[np.uint8]:
        """The array, without a copy.

        Raises:
            Unreadable: what the pickle says of it does not fit together.
        """
        match self.state:
            case (_, (int(rows), int(columns)), _Dtype(), bool(is_fortran), bytes(data)):
                if rows >= 0 and columns >= 0 and rows * columns == len(data):
                    flat = np.frombuffer(data, np.uint8)
                    return flat.reshape((rows, columns), order="F" if is_fortran else "C")
        raise Unreadable(_DAMAGED)


class _Dtype:
    """NumPy's `uint8`: there is no other in such a file."""

    state: Any = None


@dataclass(frozen=True)
class _Name:
    """What a pickle asks to be imported, which it is not."""

    module: str
    name: str


_ARRAY, _DTYPE = _Name("numpy", "ndarray"), _Name("numpy", "dtype")
_ENCODE = _Name("_codecs", "encode")
_NEW_ARRAY = {
    _Name("numpy.core.multiarray", "_reconstruct"),
    _Name("numpy._core.multiarray", "_reconstruct"),
}
_ALLOWED = {_ARRAY, _DTYPE, _ENCODE, *_NEW_ARRAY}


def read_pickle(data: bytes) -> Any:
    """What a pickle of protocols 2 to 4 holds: dictionaries, lists, texts, numbers, arrays.

    Texts of Python 2 are bytes.

    Raises:
        Unreadable: it is damaged, too large, or holds anything else.
    """
    if len(data) > MAX_PICKLE_BYTES:
        raise Unreadable(f"pickle of more than {MAX_PICKLE_BYTES:,} bytes")
    machine = _Machine(len(data))
    try:
        for count, (operation, argument, _) in enumerate(pickletools.genops(data)):
            run = _OPERATIONS.get(operation.name)
            if run is None:
                raise Unreadable(_FOREIGN, operation.name)
            if count == MAX_OPERATIONS:
                raise Unreadable(f"pickle of more than {MAX_OPERATIONS:,} operations")
            run(machine, argument)
        return machine.stack.pop()
    except (ValueError, LookupError) as error:
        raise Unreadable(_DAMAGED, str(error)) from error


class _Machine:
    """The stack on which a pickle builds its values, and what it has put aside."""

    def __init__(self, num_bytes: int) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self._room = num_bytes
        """Bytes that may still be made of texts."""

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def pop(self, count: int) -> tuple[Any, ...]:
        """The last values, in their order."""
        if count > len(self.stack):
            raise IndexError("a pickle that takes more than it has put down")
        taken = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        return taken

    def pop_mark(self) -> tuple[Any, ...]:
        """The values behind the last mark."""
        return self.pop(len(self.stack) - self.marks.pop())

    def remember(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def append(self, values: tuple[Any, ...]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise ValueError("a pickle that appends to what is no list")
        target.extend(values)

    def set_items(self, values: tuple[Any, ...]) -> None:
        target, keys = self.stack[-1], values[::2]
        # Other keys could take hours to be told apart: tuples of tuples, numbers of one hash.
        if type(target) is not dict or any(type(key) not in (str, bytes) for key in keys):
            raise ValueError("a pickle that sets what is no text of a dictionary")
        target.update(zip(keys, values[1::2], strict=True))

    def name(self, module: Any, name: Any) -> None:
        # Their type first: to write or to hash what a pickle nests can take for ever.
        if type(module) is not str or type(name) is not str:
            raise ValueError("a pickle that imports what has no name")
        if _Name(module, name) not in _ALLOWED:
            raise Unreadable(_FOREIGN, f"{module}.{name}")
        self.push(_Name(module, name))

    def call(self, function: Any, arguments: Any) -> None:
        match function, arguments:
            case _Name(), (_Name() as kind, *_) if function in _NEW_ARRAY and kind == _ARRAY:
                self.push(PickledArray())
            case _Name(), ("u1" | b"u1", *_) if function == _DTYPE:
                self.push(_Dtype())
            case _Name(), (str(text), "latin1") if function == _ENCODE:
                self._room -= len(text)
                if self._room < 0:
                    raise ValueError("a pickle that makes more bytes than it has")
                self.push(text.encode("latin-1"))
            case _:
                raise Unreadable(_FOREIGN, "a call")

    def build(self, state: Any) -> None:
        target = self.stack[-1]
        if not isinstance(target, PickledArray | _Dtype):
            raise Unreadable(_FOREIGN, "the state of an object")
        target.state = state


_Run = Callable[[_Machine, Any], None]


def _push(machine: _Machine, value: Any) -> None:
    machine.push(value)


def _nothing(machine: _Machine, value: Any) -> None:
    """Protocol, frames and the end: what they say, the file shows."""


_OPERATIONS: dict[str, _Run] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), _nothing),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1"), _push),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINUNICODE", "SHORT_BINUNICODE"), _push),
    # Texts of Python 2, which are bytes.
    "BINSTRING": lambda machine, text: machine.push(text.encode("latin-1")),
    "SHORT_BINSTRING": lambda machine, text: machine.push(text.encode("latin-1")),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "MARK": _Machine.mark,
    "TUPLE": lambda machine, _: machine.push(machine.pop_mark()),
    "TUPLE1": lambda machine, _: machine.push(machine.pop(1)),
    "TUPLE2": lambda machine, _: machine.push(machine.pop(2)),
    "TUPLE3": lambda machine, _: machine.push(machine.pop(3)),
    "APPEND": lambda machine, _: machine.append(machine.pop(1)),
    "APPENDS": lambda machine, _: machine.append(machine.pop_mark()),
    "SETITEM": lambda machine, _: machine.set_items(machine.pop(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_mark()),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine.remember),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda machine, i: machine.push(machine.memo[i])),
    "GLOBAL": lambda machine, named: machine.name(*named.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.name(*machine.pop(2)),
    "REDUCE": lambda machine, _: machine.call(*machine.pop(2)),
    "BUILD": lambda machine, _: machine.build(*machine.pop(1)),
}
"""What a pickle may do."""
