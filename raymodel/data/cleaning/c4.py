"""`c4`: the sentences of a page, and pages without any."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

import regex

from raymodel.data.cleaning.base import CleaningStep
from raymodel.data.cleaning.record import Record, Whole, cut_words, is_terminal
from raymodel.data.cleaning.spec import StepSpec
from raymodel.data.cleaning.spec.base import UNSPACED
from raymodel.data.cleaning.spec.web import POLICIES, C4Spec
from raymodel.data.cleaning.terms import Terms

# The marks of scripts without spaces end a sentence wherever they stand.
_CLOSING = r"[\p{Pe}\p{Pf}\"']*"
_SENTENCE_END = regex.compile(rf"[。！？｡]+{_CLOSING}|\p{{STerm}}+{_CLOSING}(?=\s|$)")


class C4(CleaningStep[C4Spec]):
    """arXiv:1910.10683, section 2.2."""

    spec_class: ClassVar[type[StepSpec]] = C4Spec

    def __init__(self, spec: C4Spec) -> None:
        super().__init__(spec)
        self._bad_words = Terms(spec.bad_words)

    def clean(self, record: Record) -> None:
        """Pages are judged as they came; sentences are counted in the lines that are left."""
        rule = self._rule_of_page(record.whole)
        if rule is not None:
            raise self.leave_out(rule)
        counts = Counter[str]()
        texts = [self._without_lines(text, counts) for text in record.texts]
        if any(old.strip() and not new for old, new in zip(record.texts, texts, strict=True)):
            raise self.leave_out("no_lines")
        record.change(self.spec.name, texts, counts)
        if sum(map(num_sentences, record.whole.lines)) < self.spec.min_sentences:
            raise self.leave_out("min_sentences")

    def _rule_of_page(self, whole: Whole) -> str | None:
        if self.spec.unit == "words" and self.spec.min_line_words and whole.is_unspaced:
            return UNSPACED
        if self.spec.curly_brackets and "{" in whole.text:
            return "curly_brackets"
        if self.spec.lorem_ipsum and "lorem ipsum" in whole.text.lower():
            return "lorem_ipsum"
        return "bad_words" if self._bad_words.are_in(whole) else None

    def _without_lines(self, text: str, counts: Counter[str]) -> str:
        kept = []
        for line in text.split("\n"):
            why = self._why_dropped(line.strip())
            if why is None:
                kept.append(line)
            elif why:
                counts[why] += 1
        return "\n".join(kept)

    def _why_dropped(self, line: str) -> str | None:
        """What is counted of a line that goes, nothing of a blank one; None where it stays."""
        if not line:
            return "" if self.spec.terminal_lines else None
        if self.spec.terminal_lines and not is_terminal(line[-1]):
            return "lines without a terminal mark"
        least = self.spec.min_line_words
        if least and len(cut_words(line, self.spec.unit)) < least:
            return "lines of few words"
        small = line.lower()
        if self.spec.javascript_lines and "javascript" in small:
            return "lines on JavaScript"
        if self.spec.policy_lines and any(phrase in small for phrase in POLICIES):
            return "lines on policies"
        return None


def num_sentences(line: str) -> int:
    """Of a line that is not blank, at least one. It has no white space around it."""
    ends = [match.end() for match in _SENTENCE_END.finditer(line)]
    return len(ends) + (not ends or ends[-1] < len(line))
