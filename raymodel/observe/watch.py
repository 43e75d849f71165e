"""Watching a training from the driver: its records become the progress line and trackers.

The workers may be on other machines; all that this thread reads is the files that they and
the controller store. Nothing here can stop or slow training.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from raymodel.observe.records import Follower, Record
from raymodel.observe.story import Story
from raymodel.observe.trackers import Tracker
from raymodel.storage.uri import Location

_POLL_LOCAL_S = 0.5
_POLL_BUCKET_S = 5.0  # as often as the writer puts the object


@contextmanager
def watch_training(
    location: Location, story: Story, total_steps: int | None, trackers: Sequence[Tracker] = ()
) -> Iterator[None]:
    """Follows `metrics.jsonl`, `events.jsonl` and `failures.jsonl` while the block runs.

    Args:
        location: the execution's folder; its parent's name is the stage.
        story: gets the newest record as progress, and every event that has a `message` (as a
            warning when its `level` is "warning"). Events of earlier starts are not told again.
        total_steps: the steps of the whole run, for the time left.
        trackers: get every record, those of earlier starts first; closed at the end.
    """
    watch = _Watch(location, story, total_steps, trackers)
    done = threading.Event()

    def follow() -> None:
        while not done.wait(_POLL_LOCAL_S if location.is_local else _POLL_BUCKET_S):
            watch.poll()

    thread = threading.Thread(target=follow, name="watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        watch.poll()
        watch.close()
        story.end_progress()


class _Watch:
    def __init__(
        self,
        location: Location,
        story: Story,
        total_steps: int | None,
        trackers: Sequence[Tracker],
    ) -> None:
        self._story = story
        self._stage = location.parent.name
        self._total_steps = total_steps
        self._trackers = list(trackers)
        self._metrics = Follower(location / "metrics.jsonl")
        self._events = [Follower(location / name) for name in ("events.jsonl", "failures.jsonl")]
        self._last_step = -1
        self._read_failed = False
        for follower in self._events:
            self._poll_file(follower)  # what was told at earlier starts

    def poll(self) -> None:
        records = self._poll_file(self._metrics)
        for record in records:
            self._track(record)
        for follower in self._events:
            for event in self._poll_file(follower):
                self._tell(event)
        if records:
            self._each_tracker("flush")
            self._story.progress(self._stage, _newest(records), self._total_steps)

    def close(self) -> None:
        self._each_tracker("close")

    def _poll_file(self, follower: Follower) -> list[Record]:
        try:
            records = follower.poll()
        except OSError as error:  # a hiccup of the storage; the next poll reads what this missed
            if not self._read_failed:
                self._story.warn(f"progress cannot be read for now: {error}")
            self._read_failed = True
            return []
        self._read_failed = False
        return records

    def _track(self, record: Record) -> None:
        step = record["step"]
        if step <= self._last_step:
            self._each_tracker("rewind", step)
        self._last_step = step
        self._each_tracker("log", record)

    def _each_tracker(self, method: str, *arguments: object) -> None:
        for tracker in list(self._trackers):
            try:
                getattr(tracker, method)(*arguments)
            except Exception as error:  # noqa: BLE001 - foreign code: lose the tracker, not the run
                self._trackers.remove(tracker)
                self._story.warn(f"the tracker {tracker.name} failed and is left out: {error!r}")

    def _tell(self, event: Record) -> None:
        if "message" in event:
            tell = self._story.warn if event.get("level") == "warning" else self._story.say
            tell(event["message"])


def _newest(records: Sequence[Record]) -> Record:
    """The last record, with the last validation loss among them if it has none itself."""
    newest: Record = {}
    for record in records:
        validation = record.get("validation_loss", newest.get("validation_loss"))
        newest = {**record, "validation_loss": validation}
    return newest
