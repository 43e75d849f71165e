"""Goodput: where every second of a run went, over all its attempts. Pure.

An attempt is one start of the worker group. Rank 0 writes its clock's books into `events.jsonl`
while it trains; Ray's controller writes failures into `failures.jsonl`. Between two attempts the
time from the last sign of life to the failure's notice is detection, the rest until the first step
of the next attempt is restart (also when it was the command that was away). Training time of steps
that a later attempt does again is lost work. The books add up to the wall time from the first
request for workers to the last sign of life.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from raymodel.observe.text import duration_text

ACTIVITIES = {
    "train": "productive steps",
    "lost_work": "steps that were done again",
    "start_up": "start-up",
    "data_wait": "waiting for data",
    "checkpoint_stall": "checkpoints that stopped training",
    "validation": "validation",
    "detection": "until a failure was noticed",
    "restart": "restarting",
    "other": "export and other",
}


_SHOWN_S = 0.05  # less would be shown as 0.0s


@dataclass
class Attempt:
    """One start of the worker group, as far as its events tell."""

    workers: int
    start_step: int
    asked_at: float
    """Unix time at which the command asked for workers."""
    began_at: float
    """Unix time at which rank 0's clock began."""
    booked_s: dict[str, float]
    marks: list[tuple[int, float]]
    """(step, seconds of training until then), rising."""
    left: str = ""
    """Why it left by itself; empty when it did not."""

    @property
    def ended_at(self) -> float:
        return self.began_at + sum(self.booked_s.values())

    def book(self, step: int, booked_s: Mapping[str, float]) -> None:
        """Takes the newest books. A step that went back takes later marks with it."""
        self.booked_s = dict(booked_s)
        self.marks = [mark for mark in self.marks if mark[0] <= step]
        if not self.marks or self.marks[-1][0] < step:  # at the same step, more is of the next one
            self.marks.append((step, self.booked_s.get("train", 0.0)))

    def train_s_after(self, step: int) -> float:
        """Seconds of training spent on later steps than this one; linear between two marks."""
        train_s = self.booked_s.get("train", 0.0)
        if step <= self.start_step:
            return train_s
        for (first, first_s), (last, last_s) in pairwise(self.marks):
            if step < last:
                return train_s - first_s - (last_s - first_s) * (step - first) / (last - first)
        return train_s - self.marks[-1][1] if step == self.marks[-1][0] else 0.0


@dataclass(frozen=True)
class Loss:
    """What one interruption cost."""

    cause: str
    lost_work_s: float
    detection_s: float
    restart_s: float


@dataclass(frozen=True)
class Books:
    """The time of a run."""

    seconds: dict[str, float]
    losses: list[Loss] = field(default_factory=list)

    @property
    def total_s(self) -> float:
        return sum(self.seconds.values())

    @property
    def goodput(self) -> float | None:
        """The productive share of all time; None before any time has passed."""
        return self.seconds["train"] / self.total_s if self.total_s > 0 else None


class Ledger:
    """The attempts of a run, from its events in their order."""

    def __init__(
        self, events: Iterable[Mapping[str, Any]] = (), failures: Iterable[Mapping[str, Any]] = ()
    ) -> None:
        """Args:
        events: the records of `events.jsonl`.
        failures: the records of `failures.jsonl`.
        """
        self.attempts: list[Attempt] = []
        self._failures = sorted((record["time_s"], record["cause"]) for record in failures)
        for event in events:
            self.add(event)

    def add(self, event: Mapping[str, Any]) -> None:
        """Takes one event; those that say nothing about time are passed over."""
        if event["event"] == "attempt":
            self.attempts.append(
                Attempt(
                    workers=event["workers"],
                    start_step=event["step"],
                    asked_at=event["asked_at"],
                    began_at=event["began_at"],
                    booked_s=dict(event["booked_s"]),
                    marks=[(event["step"], 0.0)],
                )
            )
        elif self.attempts and event["event"] == "books":
            self.attempts[-1].book(event["step"], event["booked_s"])
        elif self.attempts and event["event"] == "left":
            self.attempts[-1].left = event["cause"]

    def books(self) -> Books:
        """Books the time of all attempts so far."""
        seconds = dict.fromkeys(ACTIVITIES, 0.0)
        losses = []
        for place, attempt in enumerate(self.attempts):
            for activity, spent_s in attempt.booked_s.items():
                # A later attempt starts up because the one before it ended: part of that loss.
                if place == 0 or activity != "start_up":
                    seconds[activity] += spent_s
            if place == 0:
                seconds["start_up"] += max(0.0, attempt.began_at - attempt.asked_at)
            loss = self._loss_after(place)
            if loss is not None:
                losses.append(loss)
                seconds["train"] -= loss.lost_work_s
                seconds["lost_work"] += loss.lost_work_s
                seconds["detection"] += loss.detection_s
                seconds["restart"] += loss.restart_s
        return Books(seconds, losses)

    def _loss_after(self, place: int) -> Loss | None:
        """What it cost that this attempt ended; None for the last one, unless it failed."""
        ended = self.attempts[place]
        later = self.attempts[place + 1 :]
        until = later[0].began_at if later else float("inf")
        failures = [failure for failure in self._failures if ended.began_at <= failure[0] < until]
        if not later and not failures:
            return None
        gap_s = max(0.0, (later[0].began_at if later else failures[-1][0]) - ended.ended_at)
        noticed_at = failures[0][0] if failures else ended.ended_at
        detection_s = min(gap_s, max(0.0, noticed_at - ended.ended_at))
        start_up_s = later[0].booked_s.get("start_up", 0.0) if later else 0.0
        resumed_at = min((attempt.start_step for attempt in later), default=None)
        return Loss(
            cause="; ".join(dict.fromkeys(cause for _, cause in failures))
            or _cause_without_failure(ended, later[0]),
            lost_work_s=0.0 if resumed_at is None else ended.train_s_after(resumed_at),
            detection_s=detection_s,
            restart_s=gap_s - detection_s + start_up_s,
        )


def _cause_without_failure(ended: Attempt, following: Attempt) -> str:
    if ended.left:
        return ended.left
    if following.asked_at > ended.began_at:
        return "the command ended and was started again"
    return f"resized from {ended.workers} to {following.workers} workers"


def activity_rows(books: Books) -> list[dict[str, object]]:
    """A table for people: each activity that took time."""
    return [
        {
            "where the time went": ACTIVITIES[activity],
            "time": duration_text(spent_s),
            "share": f"{spent_s / books.total_s:.1%}",
        }
        for activity, spent_s in books.seconds.items()
        if spent_s >= _SHOWN_S
    ]


def loss_rows(books: Books) -> list[dict[str, object]]:
    """A table for people: what each interruption cost, and its cause."""
    return [
        {
            "interruption": number,
            "lost work": duration_text(loss.lost_work_s),
            "detection": duration_text(loss.detection_s),
            "restart": duration_text(loss.restart_s),
            "cause": loss.cause,
        }
        for number, loss in enumerate(books.losses, start=1)
    ]
