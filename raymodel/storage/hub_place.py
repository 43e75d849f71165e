"""`hf://datasets/OWNER/NAME[@REVISION]/path`: what of the Hugging Face Hub is read, and whether it
can be asked. Nothing here loads its client."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace

from raymodel.errors import LocationError, MissingSourceError

SCHEME = "hf://"
_DATASETS = f"{SCHEME}datasets/"
_DEFAULT_ENDPOINT = "https://huggingface.co"
_DEFAULT_REVISION = "main"
_WAIT_S = 5.0
"""For an answer of any kind. Who has a network has it sooner; who has none waits for a name server
no longer than this."""
_PLACE = re.compile(
    # Names of the Hub hold no other characters. A revision has a slash only in these two kinds of
    # references, which the Hub makes itself; others are written with %2F, as its client does.
    r"hf://datasets/(?P<repository>[\w.-]+/[\w.-]+)"
    r"(@(?P<revision>refs/(convert|pr)/[^/?]+|[^/@?]+))?(/(?P<path>[^?]*))?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubPlace:
    """A data set, or something in it, at a revision."""

    repository: str
    """`OWNER/NAME`."""
    revision: str
    """A branch, a tag, or a commit in 40 digits; a slash in it is `%2F`."""
    path: str
    """In the data set; empty for all of it. May be a pattern."""

    @classmethod
    def parse(cls, uri: str) -> HubPlace:
        """Reads what a person writes.

        Raises:
            LocationError: it is not written so.
        """
        found = _PLACE.fullmatch(uri)
        if found is None:
            raise LocationError(
                f"{uri!r} names no data set of the Hugging Face Hub; write "
                f"{_DATASETS}OWNER/NAME/path, or {_DATASETS}OWNER/NAME@REVISION/path with a "
                "branch, a tag or a commit (a slash in its name is %2F)"
            )
        revision = found["revision"] or _DEFAULT_REVISION
        return cls(found["repository"], revision, (found["path"] or "").strip("/"))

    def at(self, commit: str) -> HubPlace:
        """The same of a commit."""
        return replace(self, revision=commit)

    @property
    def is_pinned(self) -> bool:
        """Whether it is always the same: of a commit, which nobody can move."""
        return _COMMIT.fullmatch(self.revision) is not None

    @property
    def branch(self) -> str:
        """The data set at this revision, without a path."""
        return f"{_DATASETS}{self.repository}@{self.revision}"

    @property
    def uri(self) -> str:
        return f"{self.branch}/{self.path}" if self.path else self.branch

    @property
    def advice(self) -> str:
        """What to do where the Hub cannot be asked."""
        name = self.repository.rpartition("/")[2]
        return (
            f"Fetch it elsewhere (hf download {self.repository} --repo-type dataset --local-dir "
            f"{name}) and give that folder"
        )


def is_on_hub(uri: str) -> bool:
    """Whether a source is to be read there."""
    return uri.startswith(SCHEME)


def endpoint() -> str:
    """Where the Hub is asked: its own address, or a mirror of it."""
    return (os.environ.get("HF_ENDPOINT") or _DEFAULT_ENDPOINT).rstrip("/")


def check_may_ask(place: HubPlace) -> None:
    """Raises MissingSourceError where the environment says that there is no network."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise MissingSourceError(
            f"{place.uri!r} lies on the Hugging Face Hub, which is not asked while HF_HUB_OFFLINE "
            f"is set. {place.advice}"
        )


def check_can_ask(place: HubPlace) -> None:
    """Raises MissingSourceError where the Hub gives no answer at all; any answer is one."""
    import urllib.error
    import urllib.request

    check_may_ask(place)
    request = urllib.request.Request(endpoint(), method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=_WAIT_S):
            pass
    except urllib.error.HTTPError:
        pass
    except (OSError, ValueError) as error:
        raise MissingSourceError(
            f"{place.uri!r} lies on the Hugging Face Hub, and {endpoint()} does not answer "
            f"({getattr(error, 'reason', error)}). {place.advice}"
        ) from error
