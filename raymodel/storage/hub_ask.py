"""What is asked of the Hugging Face Hub, and what its refusals become."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from huggingface_hub import DatasetInfo, HfApi, ModelInfo
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from raymodel.errors import LocationError, StorageError
from raymodel.storage.hub_place import HubPlace, Kind, check_may_ask, endpoint
from raymodel.storage.retry import first_line, with_retries

T = TypeVar("T")

_HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]
"""That of the library by which the client asks, which is another one from version to version. A
connection that breaks off is such an error and no OSError."""
_REFUSED = (401, 403)


def pin(uri: str, kind: Kind) -> str:
    """The same at the commit at which its branch or tag is now; a commit as it is.

    Raises:
        LocationError: there is no such repository of this kind, or no such revision.
        MissingSourceError: there is no network, by the environment.
        StorageError: the Hub refuses to tell.
        StorageUnavailableError: it cannot be asked at the moment.
    """
    place = HubPlace.parse(uri, kind)
    return place.uri if place.is_pinned else place.at(find_commit(place)).uri


def find_commit(place: HubPlace) -> str:
    """The commit at which a branch or tag is now, in 40 digits. Errors are those of `pin`."""
    check_may_ask(place)
    api = HfApi(endpoint=endpoint())

    def ask() -> str:
        revision = place.revision.replace("%2F", "/")
        name, kind = place.repository, place.kind
        found = api.repo_info(name, repo_type=kind, revision=revision, expand=["sha", "gated"])  # type: ignore[arg-type]
        assert isinstance(found, DatasetInfo | ModelInfo), kind
        assert found.sha is not None, "it was asked for"
        if found.gated:  # then anybody is told what files there are, and not what is in them
            api.auth_check(name, repo_type=kind)
        return found.sha

    return with_retries(lambda: asked(place.branch, ask), f"asking for {place.branch}")


def asked(uri: str, action: Callable[[], T]) -> T:
    """Asks the Hub, once; what it says against it becomes an error of ours, without a token.

    Raises:
        FileNotFoundError: the repository has no such file.
        LocationError: there is no such repository or revision.
        StorageError: it may not be read with this token, or without one.
        OSError: asking again may help.
    """
    try:
        return action()
    except (OSError, EntryNotFoundError, _HTTP_ERROR) as error:
        # Its file system tells all that is not there as a file that is not, and why as the cause.
        cause = error.__cause__ if type(error) is FileNotFoundError else error
        if cause is None or isinstance(cause, EntryNotFoundError):
            raise FileNotFoundError(uri) from error
        response = getattr(cause, "response", None)
        status = getattr(response, "status_code", None)
        if isinstance(cause, GatedRepoError | DisabledRepoError) or status in _REFUSED:
            raise StorageError(_refused_text(uri, cause, status)) from error
        if isinstance(cause, RevisionNotFoundError):
            place = HubPlace.parse(uri)
            raise LocationError(
                f"{uri!r}: the {place.words} {place.repository} on the Hugging Face Hub has no "
                f"revision {place.revision!r}; write a branch, a tag or a commit of it"
            ) from error
        if isinstance(cause, RepositoryNotFoundError) or status == 404:
            place = HubPlace.parse(uri)
            raise LocationError(
                f"{uri!r}: the Hugging Face Hub has no {place.words} {place.repository!r}; check "
                "its name"
            ) from error
        # Told anew: the client's errors hold requests, and these the token.
        raise OSError(f"{endpoint()}: {first_line(error)}") from error


def _refused_text(uri: str, cause: BaseException, status: int | None) -> str:
    from huggingface_hub import get_token

    if isinstance(cause, GatedRepoError):
        why = "its owner asks who reads it to accept conditions on its page"
    elif isinstance(cause, DisabledRepoError):
        why = "it was disabled"
    elif get_token() is None:
        why = "it does not exist or is private, and there is no token"
    else:
        why = "the token is wrong, or may not read this"
    return (
        f"{uri!r}: the Hugging Face Hub refuses to have it read (HTTP {status}): {why}. Set "
        "HF_TOKEN to one that may read it, on every machine that does, or log in (hf auth login)"
    )
