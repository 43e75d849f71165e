"""`serve.watch`: which model the replicas of an application should have, and which of them changes.

One watcher looks at a run's `best`. A model that is new there goes to one replica first; once that
has loaded and probed it, the others follow one at a time, and replicas that start take it. A model
that does not load is told and left, and what was served goes on being served.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

from raymodel.errors import ArtifactError, RaymodelError
from raymodel.model.purpose import find_task
from raymodel.serve.spec import ServeSpec
from raymodel.storage.artifact import Artifact
from raymodel.storage.registry import Run
from raymodel.storage.uri import Location

log = logging.getLogger(__name__)

LOOK_S = 2.0
"""Between two looks at the storage, and between two questions of a replica."""
# A replica that loads asks on; one that is not heard of for so long is gone.
_GONE_AFTER_S = 60.0


class Version(NamedTuple):
    """A model that can be served."""

    name: str
    """The fingerprint of its artifact; of a plain folder, which is never followed, its name."""
    location: Location
    """Its Hugging Face folder."""
    task: str


class Refused(NamedTuple):
    """A model that was promoted and is not served."""

    version: str
    error: str


class Told(NamedTuple):
    """What a replica is told."""

    load: Version | None
    """What to load now; None when there is nothing to do."""
    refused: Refused | None
    """What no replica takes, for `/health`."""
    is_first: bool = False
    """Whether no replica has had that yet."""


def version_of(model: Artifact | Location) -> Version:
    """Raises ArtifactError: it is no model that can be served."""
    task = find_task(model)
    if isinstance(model, Artifact):
        return Version(model.fingerprint, model.location / "model", task)
    return Version(model.name, model, task)


def find_followed(spec: ServeSpec, storage: Location, job_name: str) -> Run | None:
    """The run whose `best` an application follows; None of one that follows none."""
    if spec.watch is None:
        return None
    return Run(storage / (spec.model.partition("/")[0] if spec.model else job_name))


class _Turn(NamedTuple):
    replica: str
    version: Version
    heard_s: float


class Watcher:
    """Decides; knows neither Ray nor the models.

    Args:
        run: whose `best` is followed.
        first: what the application was started with.
        clock: seconds.
    """

    def __init__(
        self, run: Run, first: Version, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._run, self._clock = run, clock
        self.good = first
        """What replicas that start load."""
        self._next: Version | None = None
        self._refused: Refused | None = None
        self._turn: _Turn | None = None
        self._failed: set[tuple[str, str]] = set()
        """Replicas that could not load what others could, and the name of that."""
        self._has_heard = False
        self._seen: str | None = None
        self._trouble = ""

    def look(self) -> None:
        """Looks at the pointer; a storage that does not answer is looked at again later."""
        try:
            named = self._run.best_name()
        except (OSError, RaymodelError) as error:
            if str(error) != self._trouble:
                log.warning(
                    "%s: its best cannot be read, and is asked again (%s)", self._run, error
                )
                self._trouble = str(error)
            return
        self._trouble = ""
        if named is None or named == self._seen:
            return
        try:
            best = self._run.best()
            assert best is not None, named
            version = version_of(best)
            self._seen = named
        except ArtifactError as error:
            self._seen = named
            self._refuse(named, str(error))
            return
        except (OSError, RaymodelError):
            return  # the next look sees it again
        self._take_up(version)

    def _take_up(self, version: Version) -> None:
        self._next = self._refused = None
        if version.name == self.good.name:
            return
        if version.task != self.good.task:
            self._refuse(
                version.name,
                f"it is a model for {version.task}, and what is served is one for "
                f"{self.good.task}; serve it as an application of its own",
            )
            return
        self._next = version

    def tell(self, replica: str, has: Version, *, is_loading: bool = False) -> Told:
        """What a replica should do.

        Args:
            replica: its name.
            has: what it answers with.
            is_loading: it is at what it was told before; says that it lives.
        """
        if not self._has_heard:
            # A watcher that was started anew learns what has been served meanwhile.
            self._has_heard, self.good = True, has
            if self._next is not None and self._next.name == has.name:
                self._next = None
        self._expire()
        if self._turn is not None and self._turn.replica == replica:
            self._turn = self._turn._replace(heard_s=self._clock()) if is_loading else None
        wanted = self._next or self.good
        is_due = has.name != wanted.name and (replica, wanted.name) not in self._failed
        if is_loading or self._turn is not None or not is_due:
            return Told(None, self._refused)
        self._turn = _Turn(replica, wanted, self._clock())
        return Told(wanted, self._refused, is_first=self._next is not None)

    def note(self, replica: str, version: Version, error: str | None) -> None:
        """A replica has loaded what it was told to, or could not."""
        if self._turn is not None and self._turn.replica == replica:
            self._turn = None
        if error is None:
            self.good = version
            if self._next == version:
                self._next = None
        elif self._next == version:
            self._next = None
            self._refuse(version.name, error)
        else:
            self._failed.add((replica, version.name))
            log.error("a replica goes on with what it has; of %s: %s", version.name, error)

    def _expire(self) -> None:
        turn = self._turn
        if turn is not None and self._clock() - turn.heard_s > _GONE_AFTER_S:
            self._turn = None
            if self._next == turn.version:
                self._next = None
                why = "the replica that loaded it is gone, perhaps for want of memory"
                self._refuse(turn.version.name, why)

    def _refuse(self, version: str, error: str) -> None:
        self._refused = Refused(version, error)
        log.error("the promoted model %s is not served: %s", version, error)
