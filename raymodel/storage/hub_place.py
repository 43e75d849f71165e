"""What of the Hugging Face Hub is read, and whether it can be asked.

`hf://OWNER/NAME[@REVISION]` is a model, `hf://datasets/OWNER/NAME[@REVISION]/path` data. Nothing
here loads the client of the Hub.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from typing import Literal

from raymodel.errors import LocationError, MissingSourceError

SCHEME = "hf://"
Kind = Literal["dataset", "model"]
_WORDS: dict[Kind, str] = {"dataset": "data set", "model": "model"}
_BEFORE: dict[Kind, str] = {"dataset": f"{SCHEME}datasets/", "model": SCHEME}
_NO_OWNERS = ("datasets", "models", "spaces", "buckets", "kernels")
"""What stands where an owner does, and is none."""
_DEFAULT_ENDPOINT = "https://huggingface.co"
_DEFAULT_REVISION = "main"
_WAIT_S = 5.0
"""For an answer of any kind. Who has a network has it sooner; who has none waits for a name server
no longer than this."""
_PLACE = re.compile(
    # Names of the Hub hold no other characters. A revision has a slash only in these two kinds of
    # references, which the Hub makes itself; others are written with %2F, as its client does.
    r"hf://(?P<data>datasets/)?(?P<repository>(?P<owner>[\w.-]+)/[\w.-]+)"
    r"(@(?P<revision>refs/(convert|pr)/[^/?]+|[^/@?]+))?(/(?P<path>[^?]*))?"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubPlace:
    """A repository, or something in it, at a revision."""

    repository: str
    """`OWNER/NAME`."""
    revision: str
    """A branch, a tag, or a commit in 40 digits; a slash in it is `%2F`."""
    path: str
    """In the repository; empty for all of it. Of a data set it may be a pattern."""
    kind: Kind = "dataset"

    @classmethod
    def parse(cls, uri: str, kind: Kind | None = None) -> HubPlace:
        """Reads what a person writes.

        Args:
            kind: of the repository that it must name; either when None.

        Raises:
            LocationError: it is not written so.
        """
        found = _PLACE.fullmatch(uri)
        seen: Kind = "dataset" if found and found["data"] else "model"
        is_wrong = found is None or found["owner"] in _NO_OWNERS or kind not in (None, seen)
        if found is None or is_wrong:
            raise LocationError(f"{uri!r} names no {_how_to_write(kind or 'model')}")
        revision = found["revision"] or _DEFAULT_REVISION
        return cls(found["repository"], revision, (found["path"] or "").strip("/"), seen)

    def at(self, commit: str) -> HubPlace:
        """The same of a commit."""
        return replace(self, revision=commit)

    @property
    def is_pinned(self) -> bool:
        """Whether it is always the same: of a commit, which nobody can move."""
        return _COMMIT.fullmatch(self.revision) is not None

    @property
    def branch(self) -> str:
        """The repository at this revision, without a path."""
        return f"{_BEFORE[self.kind]}{self.repository}@{self.revision}"

    @property
    def uri(self) -> str:
        return f"{self.branch}/{self.path}" if self.path else self.branch

    @property
    def name(self) -> str:
        """That of the folder in the repository, else of the repository, without its owner."""
        return (self.path or self.repository).rpartition("/")[2]

    @property
    def words(self) -> str:
        """Of what kind the repository is, in words."""
        return _WORDS[self.kind]

    @property
    def advice(self) -> str:
        """What to do where the Hub cannot be asked."""
        name = self.repository.rpartition("/")[2]
        of_kind = " --repo-type dataset" if self.kind == "dataset" else ""
        return (
            f"Fetch it elsewhere (hf download {self.repository}{of_kind} --local-dir {name}) and "
            "give that folder"
        )


def is_on_hub(uri: str) -> bool:
    """Whether a source, or a model, is to be read there."""
    return uri.startswith(SCHEME)


def _how_to_write(kind: Kind) -> str:
    path = "/path" if kind == "dataset" else ""
    place = f"{_BEFORE[kind]}OWNER/NAME"
    return (
        f"{_WORDS[kind]} of the Hugging Face Hub; write {place}{path}, or {place}@REVISION{path} "
        "with a branch, a tag or a commit (a slash in its name is %2F)"
    )


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
