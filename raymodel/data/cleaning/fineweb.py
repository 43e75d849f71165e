"""`fineweb`: lists, menus and what is put together of pieces."""

from __future__ import annotations

from typing import ClassVar

from raymodel.data.cleaning.base import Judge
from raymodel.data.cleaning.record import Whole, is_terminal, repeated_chars_frac, share
from raymodel.data.cleaning.spec import StepSpec
from raymodel.data.cleaning.spec.web import FineWebSpec


class FineWeb(Judge[FineWebSpec]):
    """arXiv:2406.17557, section 3.6, whose bounds are themselves left out."""

    spec_class: ClassVar[type[StepSpec]] = FineWebSpec

    def broken_rule(self, whole: Whole) -> str | None:
        """A text without lines breaks none: `clean` drops it as an empty document."""
        spec, lines = self.spec, whole.lines
        if not lines:
            return None
        ends = share(sum(is_terminal(line[-1]) for line in lines), len(lines))
        if spec.min_terminal_lines_frac is not None and ends <= spec.min_terminal_lines_frac:
            return "terminal_lines"
        short = share(sum(len(line) < spec.short_line_chars for line in lines), len(lines))
        if spec.max_short_lines_frac is not None and short >= spec.max_short_lines_frac:
            return "short_lines"
        most = spec.max_repeated_line_chars_frac
        if most is not None and repeated_chars_frac(lines) >= most:
            return "repeated_line_chars"
        return None
