"""Which cluster a command talks to: its `--address`, or Ray's own variables. Loads no Ray."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from raymodel.errors import RequestError

# In this order, as `ray job` reads them. For a driver `RAY_ADDRESS` is `host:port` instead.
DASHBOARD_VARIABLE = "RAY_API_SERVER_ADDRESS"
_VARIABLES = (DASHBOARD_VARIABLE, "RAY_ADDRESS")
_SCHEMES = ("http://", "https://")


def dashboard_url(given: str | None) -> str:
    """The URL of the dashboard that a command means.

    Raises:
        RequestError: none is named, or what is named is no address of a dashboard.
    """
    address = given or find_dashboard()
    if address is None:
        raise RequestError(
            "no cluster is named; give the dashboard of its head, --address http://HEAD:8265, or "
            f"set {DASHBOARD_VARIABLE}"
        )
    url = address if "://" in address else f"http://{address}"
    if not url.startswith(_SCHEMES):
        raise RequestError(f"{address!r} is not the address of a dashboard; write http://HEAD:8265")
    return url.rstrip("/")


def find_dashboard() -> str | None:
    """The dashboard that the environment names; None without one."""
    if named := os.environ.get(DASHBOARD_VARIABLE):
        return named
    address = os.environ.get("RAY_ADDRESS", "")
    return address if address.startswith(_SCHEMES) else None


def means_dashboard(given: str | None) -> bool:
    """Whether a command that takes either kind of address was given a dashboard's."""
    return given.startswith(_SCHEMES) if given else find_dashboard() is not None


@contextmanager
def no_variables() -> Iterator[None]:
    """Hides the variables while the block runs: Ray's client lets them win over its argument."""
    hidden = {name: os.environ.pop(name) for name in _VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)
