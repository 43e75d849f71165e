"""Which names a server without a token answers to.

A page on the web can point its own name at 127.0.0.1 and then ask what listens there (DNS
rebinding); the browser sends that name as `Host`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from raymodel.serve.refusal import Refusal


def check_host(given: Sequence[str], bound: str) -> None:
    """Raises Refusal (403) for a name that is neither this machine's own nor the bound address.

    Args:
        given: the values of `Host`; one, where all is well.
        bound: the address that the server listens on.
    """
    if len(given) == 1 and _is_own(_name(given[0]), bound):
        return
    seen = ascii(given[0])[:80] if given else "missing"
    raise Refusal(
        403,
        f"the header Host is {seen}; without a token this server answers only to localhost and "
        f"{bound}. Ask it by one of these, or set serve.token_env",
        code="foreign_host",
    )


def _name(host: str) -> str:
    """Without the port, and without the brackets of an IPv6 address."""
    name = host.strip().lower()
    if name.startswith("["):
        return name[1:].partition("]")[0]
    return name.partition(":")[0].removesuffix(".")


def _is_own(name: str, bound: str) -> bool:
    if name in ("localhost", bound.lower()):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
