"""What is wrong with a job file, in the author's words: one line a problem.

Pydantic reports in Python's words, and once for every member of a union. Here each report becomes
a `Problem`: where it stands, the value seen, the rule, and the nearest name that would be right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from raymodel.errors import SpecError
from raymodel.spec.base import Spec
from raymodel.spec.document import Path, Position, dotted
from raymodel.spec.fields import Field, find_field, in_words, nearest, walk_fields
from raymodel.spec.show import number_text, shorten, show

MOST_SHOWN = 20
"""Problems that one error lists: who must mend more begins with these."""
# Characters of a problem's message; the longest rules list the fields of a section.
_MAX_LINE = 1000

_COMPARED = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong at one place."""

    path: Path
    rule: str | Callable[[], str]
    """What is wrong, or who says it when asked: of ten thousand problems twenty are shown, and to
    look for the nearest right name takes time."""

    @property
    def message(self) -> str:
        """The value seen, the rule, and the fix where one is known."""
        return self.rule if isinstance(self.rule, str) else self.rule()

    def text(self, positions: Mapping[Path, Position]) -> str:
        """`jobs/x.yaml:12: pretrain.duration: …`, or `--set pretrain.duration: …`."""
        position, field = str(self.position(positions) or ""), dotted(self.path)
        if position.endswith(f" {field}"):
            field = ""
        message = shorten(self.message, _MAX_LINE)
        return ": ".join(part for part in (position, field, message) if part)

    def position(self, positions: Mapping[Path, Position]) -> Position | None:
        """Where the path, or the nearest section around it, was written.

        A check across a section names the field that it is about as its first word; then that
        field's line is more help than the section's.
        """
        first = self.rule.split(maxsplit=1)[:1] if isinstance(self.rule, str) else []
        subject = (*self.path, *(name for word in first for name in word.split(".")))
        if subject in positions:
            return positions[subject]
        for end in range(len(self.path), -1, -1):
            if self.path[:end] in positions:
                return positions[self.path[:end]]
        return None


def spec_error(problems: Sequence[Problem], positions: Mapping[Path, Position]) -> SpecError:
    """One error for all problems, in the order of the file; it lists the first of very many."""
    distinct = list(dict.fromkeys(problems))
    distinct.sort(key=lambda problem: _line(problem, positions))
    lines = dict.fromkeys(problem.text(positions) for problem in distinct[:MOST_SHOWN])
    hidden = len(distinct[MOST_SHOWN:])
    head = [f"{len(lines) + hidden:,} problems"] if len(lines) + hidden > 1 else []
    tail = [f"and {hidden:,} more"] if hidden else []
    return SpecError("\n".join([*head, *lines, *tail]))


def find_problems(error: ValidationError, model: type[Spec], data: Any) -> list[Problem]:
    """The problems behind pydantic's errors for `data` read as `model`."""
    reports = [_Report.of(detail, data) for detail in error.errors(include_url=False)]
    return [_problem(report, model) for report in _without_union_noise(reports)]


def unknown_key(path: Path, model: type[Spec], member: str | int | None = None) -> str:
    """The key at the end of `path` is not a field; names the one that was probably meant.

    Args:
        member: the name of the section that holds it, where several are told apart by their name.
    """
    *parents, name = path
    holder = find_field(model, tuple(parents))
    section = holder.section_called(member) if holder else None
    known = list(section.model_fields) if section else []
    close = nearest(str(name), known) or (_deeper(section).get(str(name)) if section else None)
    return f"unknown key {show(name)}{_suggest(close)} (known keys: {', '.join(known)})"


@dataclass(frozen=True)
class _Report:
    """One of pydantic's errors, its location split into the path and the union's member."""

    kind: str
    path: Path
    union: Path | None
    """Path of the field whose type is a union, when the error comes from one of its members."""
    at_member: bool
    """Whether the value is not of the member's type at all."""
    member: str | int | None
    """What pydantic calls that member."""
    written: Any
    """The value as the file has it, where pydantic compares what a unit made of it."""
    detail: ErrorDetails

    @property
    def is_consequence(self) -> bool:
        """Pydantic counts only a list's valid items; a bad item makes the list seem too short."""
        value, context = self.detail["input"], self.detail.get("ctx", {})
        return self.kind == "too_short" and len(value) >= context["min_length"]

    @classmethod
    def of(cls, detail: ErrorDetails, data: Any) -> _Report:
        path: list[str | int] = []
        union: Path | None = None
        member: str | int | None = None
        here, location = data, detail["loc"]
        for i, part in enumerate(location):
            is_missing = detail["type"] == "missing" and i == len(location) - 1
            if is_missing or _holds(here, part):
                path.append(part)
                here = None if is_missing else here[part]
            elif union is None:  # not in the data: the name of a union's member
                union, member = tuple(path), part
        at_member = tuple(path) == union and detail["type"].endswith("_type")
        return cls(detail["type"], tuple(path), union, at_member, member, here, detail)


def _holds(data: Any, part: str | int) -> bool:
    if isinstance(data, dict):
        return part in data
    return isinstance(data, list | tuple) and isinstance(part, int) and part < len(data)


def _without_union_noise(reports: Iterable[_Report]) -> list[_Report]:
    """Of a union's members, keep the one that the value was meant as; else one for the union."""
    reports = [report for report in reports if not report.is_consequence]
    meant = {report.union for report in reports if report.union and not report.at_member}
    kept, collapsed = [], set()
    for report in reports:
        if not report.at_member:
            kept.append(report)
        elif report.union not in meant and report.union not in collapsed:
            collapsed.add(report.union)
            kept.append(report)
    return kept


def _problem(report: _Report, model: type[Spec]) -> Problem:
    if report.kind == "value_error":  # its first word may be the field that it is about
        return Problem(report.path, str(report.detail["ctx"]["error"]))
    path = report.path[:-1] if report.kind == "missing" else report.path
    return Problem(path, partial(_rule, report, model))


def _rule(report: _Report, model: type[Spec]) -> str:
    path, value = report.path, report.detail["input"]
    field = find_field(model, path)
    context = report.detail.get("ctx", {})
    if report.kind == "extra_forbidden":
        return unknown_key(path, model, report.member)
    if report.kind == "missing":
        return _missing(path, field)
    if report.kind == "literal_error" and field:
        return _wrong_choice(value, field)
    if report.kind in _COMPARED:
        bound, words = _COMPARED[report.kind]
        unit = field.quantity.unit if field and field.quantity else ""
        return f"{show(report.written)} must be {words} {number_text(context[bound])}{unit}"
    if report.kind in ("too_short", "too_long"):
        return _wrong_length(report.kind, len(value), context)
    if report.kind == "string_too_short":
        return f"{show(value)} is empty; write {field.in_words if field else 'text'}"
    if report.kind == "string_pattern_mismatch" and field:
        return f"{show(value)} does not fit; wanted: {field.description}"
    if field and (report.kind.endswith("_type") or report.kind == "int_from_float"):
        return f"{show(value)} is not {field.in_words}{_hint(value, field)}"
    return f"{show(value)}: {report.detail['msg']}"


def _missing(path: Path, field: Field | None) -> str:
    message = f"`{path[-1]}` is missing"
    if field:
        meaning = field.description.split(". ")[0].rstrip(".")
        message += f" ({meaning}); write {field.in_words}"
    return message


def _wrong_choice(value: Any, field: Field) -> str:
    choices = in_words(field.annotation).removeprefix("one of ")
    close = nearest(str(value), choices.split(", "))
    return f"unknown value {show(value)}{_suggest(close)} (known values: {choices})"


def _suggest(close: str | None) -> str:
    return f"; did you mean {close!r}?" if close else ""


def _wrong_length(kind: str, num_items: int, context: Mapping[str, Any]) -> str:
    least, most = context.get("min_length"), context.get("max_length")
    rule = f"at least {least:,}" if kind == "too_short" else f"at most {most:,}"
    return f"{num_items:,} given; give {rule}"


def _hint(value: Any, field: Field) -> str:
    """What to type instead, where the value shows what was meant."""
    wanted = field.in_words
    if wanted.startswith("text") and isinstance(value, bool | int | float):
        return f'; quote it: "{show(value)}"'
    if wanted.startswith("a list") and not isinstance(value, dict | list | None):
        return f"; write [{shorten(str(value))}]"
    if wanted.startswith("true or false") and str(value).lower() in ("yes", "no", "on", "off"):
        return f"; write {'true' if str(value).lower() in ('yes', 'on') else 'false'}"
    return ""


@cache
def _deeper(section: type[Spec]) -> dict[str, str]:
    """Name of a field somewhere below `section` → its dotted path; of two, the first."""
    found: dict[str, str] = {}
    for path in walk_fields(section):
        if len(path) > 1:
            found.setdefault(str(path[-1]), dotted(path))
    return found


def _line(problem: Problem, positions: Mapping[Path, Position]) -> float:
    position = problem.position(positions)
    return position.line if position and position.line else float("inf")
