"""A job that waits for places says what it waits for, and since when."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from raymodel.cluster.capacity import Shortage
from raymodel.cluster.places import count_train_workers, find_lack, wait_for_places
from raymodel.cluster.spec import ClusterSpec
from raymodel.observe.story import Story
from raymodel.observe.waiting import WaitingNote
from raymodel.storage.uri import Location

_POLL_S = 2.0


def await_places(cluster: ClusterSpec, story: Story, what: str, execution: Location) -> None:
    """Returns once the smallest size of `cluster` has places, at once when they are there.

    Args:
        cluster: what is asked for.
        story: told while it takes long.
        what: is waited for, in few words.
        execution: of the stage that waits, for `raymodel status`.

    Raises:
        ClusterError: no node type of the cluster can ever give them.
    """
    newest: deque[Shortage] = deque(maxlen=1)
    note = WaitingNote(execution)

    def tell(shortage: Shortage) -> None:
        newest.append(shortage)
        note.tell(str(shortage))

    try:
        with story.waiting(what, lambda: str(newest[0]) if newest else ""):
            wait_for_places(cluster, tell)
    finally:
        note.clear()


@contextmanager
def watch_places(cluster: ClusterSpec, story: Story, execution: Location) -> Iterator[None]:
    """While the block trains, tells when all workers are gone and there is no room for new ones."""
    done = threading.Event()
    thread = threading.Thread(target=_watch, args=(cluster, story, execution, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _watch(cluster: ClusterSpec, story: Story, execution: Location, done: threading.Event) -> None:
    newest: deque[Shortage] = deque(maxlen=1)
    while not done.wait(_POLL_S):
        if not (shortage := _find_lack(cluster)):
            continue
        newest.append(shortage)
        note = WaitingNote(execution)
        with story.waiting("places for the workers", lambda: str(newest[0])):
            while not done.wait(_POLL_S) and (shortage := _find_lack(cluster)):
                newest.append(shortage)
                note.tell(str(shortage))
        note.clear()


def _find_lack(cluster: ClusterSpec) -> Shortage | None:
    """What keeps Ray Train from starting workers again; None while there are workers."""
    return None if count_train_workers() else find_lack(cluster)
