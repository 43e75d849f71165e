"""The monitor: the next texts, their classes, the windows, the alerts; again and again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from raymodel.errors import RaymodelError, UserError
from raymodel.monitor.follow import Source
from raymodel.monitor.lines import Mark
from raymodel.monitor.post import Post, notice_of
from raymodel.monitor.reading import Reading, UnreadError, read_line
from raymodel.monitor.rule import Rule
from raymodel.monitor.spec import AlertSpec, MonitorSpec
from raymodel.monitor.state import State

LOOK_S = 1.0
"""Between two looks at files that have nothing new."""
_MOST_WAIT_S = 60.0  # for a server that does not answer
REFUSED = "refused by the classifier"


class Classify(Protocol):
    """What is asked for the class of texts; see `Classifier`."""

    name: str

    def classify(self, texts: Sequence[str]) -> list[str | None]:
        """None of a text that is refused. Raises RaymodelError when it cannot be asked now."""


class Batch(NamedTuple):
    """Texts that are dealt with together, and what says that they were."""

    readings: list[Reading]
    left_out: list[str]
    """A reason for each line that is no text."""
    source: Source | None
    """None of texts that were sent."""
    marks: dict[str, Mark]
    last_letter: int


class Monitor:
    """Everything between texts and alerts.

    Args:
        spec: the section of the job file.
        state: what it knows of before.
        sources: where it reads, beside the letters in the state.
        classifier: is asked.
        post: tells.
        say: is told what happens.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        spec: MonitorSpec,
        state: State,
        sources: Sequence[Source],
        classifier: Classify,
        post: Post,
        say: Callable[[str], object],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._spec, self._state, self._sources = spec, state, sources
        self._classifier, self._post, self._say, self._clock = classifier, post, say, clock
        self._rules = [_rule(each, state) for each in spec.alerts]
        self._turn = 0
        self._woken = threading.Event()

    def wake(self) -> None:
        """Texts have come."""
        self._woken.set()

    def run(self, *, to_the_end: bool) -> None:
        """Until Ctrl-C, or until all that is there has been read and told.

        Raises:
            UserError: the classifier refuses all texts.
        """
        wait_s = LOOK_S
        while True:
            self._woken.clear()
            try:
                is_busy = self.step()
                wait_s = LOOK_S
            except UserError:
                raise
            except RaymodelError as error:
                if to_the_end:
                    raise
                self._say(f"warning: {error}; asked again in {wait_s:g} s")
                self._woken.wait(wait_s)
                wait_s = min(_MOST_WAIT_S, wait_s * 2)
                continue
            still_waits = self._post.deliver()
            if is_busy:
                continue
            if to_the_end and not still_waits:
                return
            self._woken.wait(LOOK_S)

    def step(self) -> bool:
        """Deals with the next texts; whether there were any.

        Raises:
            RaymodelError: the classifier does not answer. They are read again the next time.
        """
        batch = self._next()
        if batch is None:
            return False
        texts = [reading.text for reading in batch.readings]
        labels = self._classifier.classify(texts) if texts else []
        self._keep(batch, labels)
        return True

    # ---- what comes ----------------------------------------------------------------------------

    def _next(self) -> Batch | None:
        """Of one source after the other."""
        for _ in range(len(self._sources) + 1):
            self._turn = (self._turn + 1) % (len(self._sources) + 1)
            batch = self._take(self._sources[self._turn - 1]) if self._turn else self._letters()
            if batch is not None:
                return batch
        return None

    def _letters(self) -> Batch | None:
        letters = self._state.letters(self._spec.batch)
        if not letters:
            return None
        readings = [Reading(each.text, each.time_s) for each in letters if each.text.strip()]
        empty = ["an empty text"] * (len(letters) - len(readings))
        return Batch(readings, empty, None, {}, letters[-1].number)

    def _take(self, source: Source) -> Batch | None:
        now_s = self._clock()
        lines, marks = source.take(self._spec.batch, now_s)
        if not marks:
            return None
        readings, left_out = [], []
        for line in lines:
            try:
                reading = read_line(line, source.spec.fields, now_s)
            except UnreadError as error:
                left_out.append(str(error))
                continue
            if reading is not None:
                readings.append(reading)
        return Batch(readings, left_out, source, marks, 0)

    # ---- what follows from it ------------------------------------------------------------------

    def _keep(self, batch: Batch, labels: Sequence[str | None]) -> None:
        """All that a batch changes, in one transaction."""
        said: list[str] = []
        with self._state.transaction():
            for reading, label in zip(batch.readings, labels, strict=True):
                if label is None:
                    batch.left_out.append(REFUSED)
                else:
                    said += self._add(reading.time_s, label)
            for reason in batch.left_out:
                self._state.count(f"left out: {reason}")
            for rule in self._rules:
                self._state.put(rule.name, rule.save())
            if batch.source is not None:
                batch.source.keep(batch.marks)
            if batch.last_letter:
                self._state.drop_letters(batch.last_letter)
        for text in said:
            self._say(text)

    def _add(self, time_s: float, label: str) -> Iterator[str]:
        """Counts a text; what is said of it."""
        self._state.count("texts")
        if all(rule.is_old(time_s) for rule in self._rules):
            self._state.count("older than the baseline")
        for rule in self._rules:
            told = rule.add(time_s, label)
            if told is not None:
                event, alert = told
                self._state.count("alerts", int(event == "rise"))
                self._state.add_notice(notice_of(alert | {"model": self._classifier.name}))
                yield f"{'alert' if event == 'rise' else event}: {alert['text']}"


def _rule(spec: AlertSpec, state: State) -> Rule:
    rule = Rule(spec)
    return Rule(spec, state.get(rule.name))
