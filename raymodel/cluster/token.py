"""The token of a cluster that asks for one: where it is found, and what is said without it.

Loads no Ray, which reads the variables once, when it is imported.
"""

from __future__ import annotations

import os
from pathlib import Path

from raymodel.errors import RequestError

MODE = "RAY_AUTH_MODE"
_FIX = "set RAY_AUTH_TOKEN to the cluster's token, or put it into ~/.ray/auth_token"


def find_token() -> str | None:
    """The bearer token where Ray itself looks for it; None when there is none.

    Raises:
        RequestError: the file that is named cannot be read, or what was found is no token.
    """
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return _checked(token, "RAY_AUTH_TOKEN")
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    try:
        path = Path(named) if named else Path.home() / ".ray" / "auth_token"
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, RuntimeError, UnicodeDecodeError) as error:  # RuntimeError: nobody's home
        if named:
            raise RequestError(
                f"RAY_AUTH_TOKEN_PATH is {named!r}, which cannot be read ({error}); it must be the "
                "file of the cluster's token"
            ) from None
        return None
    return _checked(token, str(path)) if token else None


def send_token() -> None:
    """Has the Ray that is imported next send the token that is there, as the commands that ask a
    dashboard do: by itself Ray sends none before it is told to. An open cluster takes no offence.

    Raises:
        RequestError: a token is asked for here, and there is none, where Ray would abort.
    """
    mode, token = os.environ.get(MODE), find_token()
    if mode is None and token is not None:
        os.environ[MODE] = "token"
    elif mode is not None and mode.lower() == "token" and token is None:
        raise RequestError(f"{MODE} is {mode!r}, and no token was found; {_FIX}, or unset {MODE}")


def token_refused(head: str, told: str = "") -> RequestError:
    """What to say of a head that does not take what was sent, or not sent.

    Args:
        head: its address.
        told: what it answered, in brackets.
    """
    mode = os.environ.get(MODE, "token")
    if mode.lower() != "token" and not told:  # HTTP is not asked by Ray
        seen, fix = f"asks for a token, and {MODE} is {mode!r}, so that Ray sends none", "unset it"
        return RequestError(f"the Ray head at {head} {seen}; {fix}")
    seen = "refused the token" if find_token() else "asks for a token, and none was found"
    return RequestError(f"the Ray head at {head} {seen}{told}; {_FIX}")


def _checked(token: str, where: str) -> str:
    # A header can hold no other characters, and neither can one of gRPC.
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise RequestError(
            f"what {where} holds is no token: it has blanks, line ends or other characters that "
            "cannot be sent; it must be the cluster's token alone"
        )
    return token
