"""A job that waits for places says what it waits for, and since when."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from raymodel.cluster.capacity import Shortage, find_shortage
from raymodel.cluster.room import ask_status, count_train_workers, free_resources, wait_for_room
from raymodel.cluster.spec import ClusterSpec
from raymodel.errors import ClusterError
from raymodel.observe.story import Story

_POLL_S = 2.0


def await_room(cluster: ClusterSpec, story: Story, what: str) -> None:
    """Returns once the smallest size of `cluster` has places, at once when they are there.

    Args:
        cluster: what is asked for.
        story: told while it takes long.
        what: is waited for, in few words.

    Raises:
        ClusterError: no node type of the cluster can ever give them.
    """
    newest: deque[Shortage] = deque(maxlen=1)
    with story.waiting(what, lambda: str(newest[0]) if newest else ""):
        wait_for_room(cluster, newest.append)


@contextmanager
def watch_room(cluster: ClusterSpec, story: Story) -> Iterator[None]:
    """While the block trains, tells when all workers are gone and there is no room for new ones."""
    done = threading.Event()
    thread = threading.Thread(target=_watch, args=(cluster, story, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _watch(cluster: ClusterSpec, story: Story, done: threading.Event) -> None:
    newest: deque[Shortage] = deque(maxlen=1)
    while not done.wait(_POLL_S):
        if not (shortage := _find_lack(cluster)):
            continue
        newest.append(shortage)
        with story.waiting("places for the workers", lambda: str(newest[0])):
            while not done.wait(_POLL_S) and (shortage := _find_lack(cluster)):
                newest.append(shortage)


def _find_lack(cluster: ClusterSpec) -> Shortage | None:
    """What keeps Ray Train from starting workers again; None while there are workers."""
    if count_train_workers():
        return None
    try:
        return find_shortage(cluster, free_resources(ask_status()))
    except ClusterError as error:  # the run itself will find out whether the head is gone
        return Shortage(str(error))
