"""Watching a training from the driver: its records become the progress line and trackers.

The workers may be on other machines; all that this thread reads is the files that they and
the controller store. Nothing here can stop or slow training.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from raymodel.observe.records import Follower, Record
from raymodel.observe.story import Story, progress_text
from raymodel.observe.trackers import Tracker
from raymodel.storage.uri import Location

_POLL_LOCAL_S = 0.5
_POLL_BUCKET_S = 5.0  # as often as the writer puts the object
_TOLD_FILES = ("events.jsonl", "failures.jsonl")


@contextmanager
def watch_training(
    location: Location, story: Story, total_steps: int | None, trackers: Sequence[Tracker] = ()
) -> Iterator[None]:
    """Follows `metrics.jsonl`, `events.jsonl` and `failures.jsonl` while the block runs.

    Args:
        location: the execution's folder; its parent's name is the stage.
        story: gets the newest record as progress, and every event that has a `message` (as a
            warning when its `level` is "warning"). What earlier starts recorded is not told again.
        total_steps: the steps of the whole run, for the time left.
        trackers: get every record, those of earlier starts first; closed at the end.
    """
    watch = _Watch(location, story, total_steps, trackers)
    try:
        with _polling(watch.poll, location, story):
            yield
    finally:
        watch.close()


@contextmanager
def watch_trials(
    folder: Location, story: Story, total_steps: int, running: Callable[[], Mapping[str, int]]
) -> Iterator[None]:
    """Shows how far the running trials of a sweep are, and tells their warnings.

    Args:
        folder: holds a folder for each trial, named by its id.
        total_steps: of each trial.
        running: gives the ids of the trials that run now, and their numbers for people.
    """
    watch = _TrialsWatch(folder, story, total_steps, running)
    with _polling(watch.poll, folder, story):
        yield


@contextmanager
def _polling(poll: Callable[[], None], location: Location, story: Story) -> Iterator[None]:
    """Calls `poll` now and then while the block runs, and once after it."""
    done = threading.Event()

    def follow() -> None:
        while not done.wait(_POLL_LOCAL_S if location.is_local else _POLL_BUCKET_S):
            poll()

    thread = threading.Thread(target=follow, name="watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        poll()
        story.end_progress()


class _Reader:
    """Reads files whose storage may fail for a while, which is said once."""

    def __init__(self, story: Story) -> None:
        self._story = story
        self._failed = False

    def poll(self, follower: Follower) -> list[Record]:
        try:
            records = follower.poll()
        except OSError as error:  # a hiccup of the storage; the next poll reads what this missed
            if not self._failed:
                self._story.warn(f"progress cannot be read for now: {error}")
            self._failed = True
            return []
        self._failed = False
        return records


class _Watch:
    def __init__(
        self,
        location: Location,
        story: Story,
        total_steps: int | None,
        trackers: Sequence[Tracker],
    ) -> None:
        self._story, self._reader = story, _Reader(story)
        self._stage = location.parent.name
        self._total_steps = total_steps
        self._trackers = list(trackers)
        self._newest: Record = {}
        self._metrics = Follower(location / "metrics.jsonl")
        self._events = [Follower(location / name) for name in _TOLD_FILES]
        for follower in self._events:
            self._reader.poll(follower)  # what was told at earlier starts
        # Where those were is not where training is: it goes on from a checkpoint.
        self._reader.poll(self._metrics)
        self._track_anew()

    def poll(self) -> None:
        records = self._reader.poll(self._metrics)
        if self._metrics.was_cut:
            self._track_anew()
        else:
            self._track(records)
        for follower in self._events:
            for event in self._reader.poll(follower):
                self._tell(event)
        if records:
            self._each_tracker("flush")
            self._newest = _newest(records, self._newest)
            self._story.progress(self._stage, self._newest, self._total_steps)

    def close(self) -> None:
        self._each_tracker("close")

    def _track_anew(self) -> None:
        self._last: Record = {}
        self._each_tracker("begin")
        self._track(self._metrics.records)

    def _track(self, records: Sequence[Record]) -> None:
        """Gives the records to the trackers; of a second one of a step, only what is new in it."""
        for record in records:
            known = self._last if self._last.get("step") == record["step"] else {}
            new = {
                name: value
                for name, value in record.items()
                if name in ("step", "time_s") or name not in known or known[name] != value
            }
            self._last = {**known, **record}
            self._each_tracker("log", new)

    def _each_tracker(self, method: str, *arguments: object) -> None:
        for tracker in list(self._trackers):
            try:
                getattr(tracker, method)(*arguments)
            except Exception as error:  # noqa: BLE001 - foreign code: lose the tracker, not the run
                self._trackers.remove(tracker)
                self._story.warn(f"the tracker {tracker.name} failed and is left out: {error!r}")

    def _tell(self, event: Record) -> None:
        if event.get("event") == "attempt":
            # It says where training is; the line above it says where the attempt before was.
            self._story.end_progress()
        if "message" in event:
            tell = self._story.warn if event.get("level") == "warning" else self._story.say
            tell(event["message"])


class _TrialsWatch:
    def __init__(
        self,
        folder: Location,
        story: Story,
        total_steps: int,
        running: Callable[[], Mapping[str, int]],
    ) -> None:
        self._folder, self._story, self._reader = folder, story, _Reader(story)
        self._total_steps, self._running = total_steps, running
        self._stage = folder.parent.parent.name
        self._metrics: dict[str, Follower] = {}
        self._told: dict[str, list[Follower]] = {}
        self._newest: dict[str, Record] = {}

    def poll(self) -> None:
        running = dict(self._running())
        is_new = False
        for trial_id, number in running.items():
            is_new |= self._follow(trial_id, number)
        lines = [
            _trial_text(number, self._newest[trial_id], self._total_steps)
            for trial_id, number in running.items()
            if trial_id in self._newest
        ]
        if is_new and lines:
            self._story.progress_line(f"{self._stage:<9} " + " | ".join(lines))

    def _follow(self, trial_id: str, number: int) -> bool:
        """Whether the trial got on."""
        if trial_id not in self._metrics:
            self._metrics[trial_id] = Follower(self._folder / trial_id / "metrics.jsonl")
            self._told[trial_id] = [
                Follower(self._folder / trial_id / name) for name in _TOLD_FILES
            ]
            for follower in [self._metrics[trial_id], *self._told[trial_id]]:
                self._reader.poll(follower)  # of an earlier start, if the sweep goes on
        for follower in self._told[trial_id]:
            for event in self._reader.poll(follower):
                if event.get("level") == "warning":
                    self._story.warn(f"trial {number}: {event['message'].strip()}")
        records = self._reader.poll(self._metrics[trial_id])
        if records:
            self._newest[trial_id] = _newest(records, self._newest.get(trial_id, {}))
        return bool(records)


def _trial_text(number: int, record: Record, total_steps: int) -> str:
    """The most that leaves room for other trials on the line."""
    shown = {name: record.get(name) for name in ("step", "loss", "step_time_s")}
    return progress_text(f"trial {number}", shown, total_steps)


def _newest(records: Sequence[Record], before: Record) -> Record:
    """All that is known of the last step, with the last validation loss among these records.

    Args:
        records: at least one.
        before: what this gave for the records before them.
    """
    newest = before if before.get("step") == records[0]["step"] else {}
    for record in records:
        known = newest if newest.get("step") == record["step"] else {}
        validation = record.get("validation_loss", newest.get("validation_loss"))
        newest = {**known, **record, "validation_loss": validation}
    return newest
