"""Values with units: `"2h"`, `"64GiB"`, `"5%"`, `"2M tokens"`, `"100 steps"`.

Each parses from the string a person writes and prints back as one, so that a resolved spec reads
like the job file it came from.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PlainSerializer,
)
from pydantic_core import core_schema

from raymodel.spec.show import show

_NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
_SCALE = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40
}  # fmt: skip
_SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_UNITS = {"step": "steps", "token": "tokens", "epoch": "epochs", "row": "rows"}

MAX_COUNT = 10**15
"""Of anything: a thousand times the tokens of the largest runs, and whole as a float too."""
MAX_SECONDS = 365 * 86400
"""The operating system's timers take no more than a few hundred years."""


def parse_bytes(value: object) -> int:
    """`"64GiB"` → bytes. A bare number is refused: its unit would be a guess."""
    match = _match(r"([KMGT]?i?B)", value)
    if match and match[2] in _BYTES:
        size = Decimal(match[1]) * _BYTES[match[2]]
        if size <= MAX_COUNT:
            return int(size)
        raise _too_large(value, f"{MAX_COUNT // 10**12:,}TB")
    raise ValueError(
        f'{show(value)} is not a size; write a number with a unit, like "64MiB" or "2GB"'
    )


def parse_seconds(value: object) -> float:
    """`"2h"`, `"90s"`, `"10min"` → seconds."""
    match = _match(r"(ms|s|min|h|d)", value)
    if match:
        seconds = float(match[1]) * _SECONDS[match[2]]
        if seconds <= MAX_SECONDS:
            return seconds
        raise _too_large(value, f"{MAX_SECONDS // 86400}d")
    raise ValueError(f'{show(value)} is not a time; write a number with a unit, like "90s" or "2h"')


def parse_fraction(value: object) -> float:
    """`"5%"` or `0.05` → 0.05."""
    number = value
    match = _match("%", value)
    if match:
        number = float(match[1]) / 100
    if isinstance(number, int | float) and not isinstance(number, bool) and 0 <= number <= 1:
        return float(number)
    raise ValueError(
        f'{show(value)} is not a fraction; write "5%" or a number from 0 to 1, like 0.05'
    )


def parse_count(value: object) -> int:
    """`10000`, `"10K"`, `"2M"` → int."""
    count: Decimal | int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        count = value
    elif match := _match("([KMBT]?)", value):
        count = Decimal(match[1]) * _SCALE[match[2]]
    if count is not None and count > MAX_COUNT:
        raise _too_large(value, f"{MAX_COUNT:,}")
    if count is not None and count >= 0 and count == int(count):
        return int(count)
    raise ValueError(
        f'{show(value)} is not a count; write a whole number, or one like "10K" or "2M"'
    )


def plain_number(value: float) -> str:
    """Digits without an exponent, which no quantity takes: 1e15 → `1000000000000000`."""
    return format(Decimal(f"{value:.15g}"), "f")


def _match(unit: str, value: object) -> re.Match[str] | None:
    return re.fullmatch(rf"{_NUMBER}\s*{unit}", value.strip()) if isinstance(value, str) else None


def _too_large(value: object, most: str) -> ValueError:
    return ValueError(f"{show(value)} is too large; write at most {most}")


@dataclass(frozen=True)
class Quantity:
    """How a quantity is written: its words for people, its JSON Schema for editors."""

    words: str
    examples: tuple[str | int | float, ...]
    json_types: tuple[str, ...] = ("string",)
    unit: str = ""
    """Of its bounds."""

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        types = self.json_types[0] if len(self.json_types) == 1 else list(self.json_types)
        return {"type": types, "examples": list(self.examples)}


Bytes = Annotated[
    int,
    BeforeValidator(parse_bytes),
    PlainSerializer(lambda v: f"{v}B"),
    Quantity('a size, like "64MiB" or "2GB"', ("64MiB", "2GB"), unit="B"),
]
Seconds = Annotated[
    float,
    BeforeValidator(parse_seconds),
    PlainSerializer(lambda v: f"{plain_number(v)}s"),
    Quantity('a time, like "90s" or "2h"', ("90s", "10min", "2h"), unit="s"),
]
Fraction = Annotated[
    float,
    BeforeValidator(parse_fraction),
    Quantity('a fraction, like "5%" or 0.05', ("5%", 0.05), ("string", "number")),
]
Count = Annotated[
    int,
    BeforeValidator(parse_count),
    Quantity(
        'a whole number, or one like "10K" or "2M"', (512, "10K", "2M"), ("integer", "string")
    ),
]


@dataclass(frozen=True)
class Amount:
    """A number of steps, tokens, epochs or rows: how long to train, or how often to act."""

    value: float
    unit: Literal["steps", "tokens", "epochs", "rows"]

    quantity: ClassVar[Quantity] = Quantity(
        'an amount, like "100 steps", "2M tokens" or "3 epochs"',
        ("100 steps", "2M tokens", "3 epochs"),
    )

    @classmethod
    def parse(cls, text: object) -> Amount:
        """`"2M tokens"` → Amount(2e6, "tokens"). Raises ValueError with the rule."""
        if isinstance(text, cls):
            return text
        match = _match(r"([KMBT]?)\s*(step|token|epoch|row)s?", text)
        if match and (value := Decimal(match[1]) * _SCALE[match[2]]) > 0:
            if value > MAX_COUNT:
                raise _too_large(text, f"{MAX_COUNT // 10**12:,}T {_UNITS[match[3]]}")
            return cls(float(value), _UNITS[match[3]])  # type: ignore[arg-type]
        raise ValueError(
            f"{show(text)} is not an amount above zero; "
            'write "100 steps", "2M tokens" or "3 epochs"'
        )

    def __str__(self) -> str:
        return f"{plain_number(self.value)} {self.unit}"

    def steps(self, *, tokens_per_step: float, rows_per_step: int, rows_per_epoch: int) -> int:
        """The whole number of steps that covers this amount (at least one)."""
        per_step = {
            "steps": 1.0,
            "tokens": tokens_per_step,
            "rows": rows_per_step,
            "epochs": rows_per_step / rows_per_epoch,
        }[self.unit]
        return max(1, math.ceil(self.value / per_step - 1e-9))

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(
            cls.parse, serialization=core_schema.plain_serializer_function_ser_schema(str)
        )

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return cls.quantity.__get_pydantic_json_schema__(schema, handler)


def parse_part(value: object) -> float | Amount:
    """`"2%"` or `0.02` → 0.02; `"200 steps"` → Amount(200, "steps")."""
    try:
        if isinstance(value, Amount) or _match(r"[KMBT]?\s*[a-z]+", value):
            amount = Amount.parse(value)
            if amount.unit == "steps":
                return amount
        else:
            return parse_fraction(value)
    except ValueError as error:
        if "too large" in str(error):
            raise
    raise ValueError(
        f'{show(value)} is not a fraction or a number of steps; write "5%", a number from 0 to 1, '
        'like 0.05, or "200 steps"'
    )


Part = Annotated[
    float | Amount,
    BeforeValidator(parse_part),
    PlainSerializer(lambda v: str(v) if isinstance(v, Amount) else v),
    Quantity(
        'a fraction or steps, like "5%", 0.05 or "200 steps"',
        ("5%", 0.05, "200 steps"),
        ("string", "number"),
    ),
]
"""Of a run: a share of its steps, or a number of them."""
