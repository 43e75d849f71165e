"""Story: what the user sees while a job runs. Everything else goes to log files.

On a terminal the progress of a stage is one live line; elsewhere (a log, `ray job logs`) it is a
plain line every ten seconds at most. That of training says step, rate, loss, MFU and the time left,
that of preparing data files, MB, rate and the time left.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from raymodel.observe.text import count_text, duration_text, table_text

WAIT_BEFORE_SAYING_S = 5.0
WAIT_BETWEEN_SAYING_S = 30.0  # doubles each time: a wait for a node may take hours
WAIT_BETWEEN_SAYING_MAX_S = 600.0
PLAIN_PROGRESS_EVERY_S = 10.0

_SHOWN: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "loss": "loss {loss:.4f}".format_map,
    "validation_loss": "validation loss {validation_loss:.4f}".format_map,
    "tokens_per_s": lambda record: (
        f"{count_text(record['tokens_per_s'])} {record.get('unit', 'tokens')}/s"
    ),
    "mfu": "MFU {mfu:.1%}".format_map,
    "goodput": "goodput {goodput:.0%}".format_map,
}


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """`raymodel run JOB | head`: the job goes on, unseen. Rich itself would end the process."""
        self.quiet = True
        self.file = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - to the end


class Story:
    """Writes to one stream; safe to call from several threads."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        """Begins a story on `stream`, standard output when None."""
        # No markup: a path in brackets is text. No wrapping: lines must stay whole for grep.
        self._console = _Console(file=stream or sys.stdout, markup=False, highlight=False)
        self._lock = threading.RLock()
        self._live: Live | None = None
        self._last_plain_s = float("-inf")
        self._last_line = ""

    def say(self, text: str) -> None:
        """One line (or several) of the story."""
        self._write(text)

    def stage(self, name: str, text: str) -> None:
        """A stage begins, or is skipped."""
        self.end_progress()
        self._write(f"{name:<9} {text}", style="bold")

    def warn(self, text: str) -> None:
        """Something went wrong that the run survives."""
        self._write(f"warning: {text}", style="yellow")

    def table(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Rows of equal keys as aligned columns."""
        self.end_progress()
        if rows:
            self._write(table_text(rows))

    @contextmanager
    def waiting(self, what: str, detail: Callable[[], str] = str) -> Iterator[None]:
        """Says what it waits for, and since when, after five seconds and then more and more rarely.

        Args:
            what: in few words.
            detail: asked each time for what is seen of it; empty when there is nothing to say.
        """
        done, start_s = threading.Event(), time.monotonic()
        thread = threading.Thread(target=self._say_waiting, args=(what, detail, done), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
        took_s = time.monotonic() - start_s
        if took_s > WAIT_BEFORE_SAYING_S:
            self._write(f"          {what}: there after {duration_text(took_s)}", style="dim")

    def progress(
        self, stage: str, record: Mapping[str, Any], total_steps: int | None = None
    ) -> None:
        """Shows the newest record of `metrics.jsonl`."""
        is_last = total_steps is not None and record["step"] >= total_steps
        self.progress_line(progress_text(stage, record, total_steps), is_last=is_last)

    def progress_line(self, line: str, *, is_last: bool = False) -> None:
        """Shows one line of progress: live on a terminal, else every ten seconds at most.

        Args:
            line: takes the place of the one before.
            is_last: show it in any case.
        """
        with self._lock:
            if self._console.is_terminal:
                self._show_live(line)
                return
            is_due = time.monotonic() - self._last_plain_s >= PLAIN_PROGRESS_EVERY_S
            if (is_last or is_due) and line != self._last_line:
                self._last_plain_s = time.monotonic()
                self._last_line = line
                self._write(line)

    def end_progress(self) -> None:
        """Leaves the live line as it is, so that the story goes on below it."""
        with self._lock:
            if self._live is not None:
                self._live.stop()
                self._live = None
            self._last_plain_s = float("-inf")

    def _show_live(self, line: str) -> None:
        if self._live is None:
            # Refreshed by hand: a thread that redraws would cost time and gain nothing.
            self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False)
            self._live.start()
        self._live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)

    def _say_waiting(self, what: str, detail: Callable[[], str], done: threading.Event) -> None:
        since, start_s, wait_s = time.strftime("%H:%M:%S"), time.monotonic(), WAIT_BEFORE_SAYING_S
        next_wait_s = WAIT_BETWEEN_SAYING_S
        while not done.wait(wait_s):
            words = ": ".join(part for part in (what, detail()) if part)
            waited = duration_text(time.monotonic() - start_s)
            self._write(f"          waiting for {words} ({waited}, since {since})", style="dim")
            wait_s, next_wait_s = next_wait_s, min(2 * next_wait_s, WAIT_BETWEEN_SAYING_MAX_S)

    def _write(self, text: str, style: str | None = None) -> None:
        with self._lock:
            self._console.print(text, style=style, soft_wrap=True)
            self._console.file.flush()


def progress_text(stage: str, record: Mapping[str, Any], total_steps: int | None) -> str:
    """One line: stage, step, time left, rate, loss, MFU; what a record lacks is left out."""
    step = int(record["step"])
    parts = [f"step {step}/{total_steps}" if total_steps else f"step {step}"]
    for name, show in _SHOWN.items():
        if record.get(name) is not None:
            parts.append(show(record))
    step_time_s = record.get("step_time_s")
    if total_steps and step_time_s and step < total_steps:
        parts.append(f"{duration_text((total_steps - step) * step_time_s)} left")
    return f"{stage:<9} " + " · ".join(parts)
