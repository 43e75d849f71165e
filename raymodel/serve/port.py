"""Is the port free? Asked before anything is started, and after it has ended."""

from __future__ import annotations

import errno
import socket
import time

from raymodel.errors import PortError


def check_port(host: str, port: int, section: str = "serve") -> None:
    """Raises PortError when this machine cannot listen on `host:port`, which a section of the job
    file names."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            # As servers do: connections that linger after a server's end do not count as taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        raise PortError(_message(host, port, error, section)) from error


def wait_for_port(host: str, port: int, timeout_s: float) -> bool:
    """Whether the port became free: a server that was told to end holds it a moment longer."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        try:
            check_port(host, port)
        except PortError:
            time.sleep(0.05)
        else:
            return True
    return False


def _message(host: str, port: int, error: OSError, section: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} on {host} is taken by another program; serving needs a free one. "
            f"Stop that program, or set {section}.port to another number"
        )
    if error.errno == errno.EACCES:
        return (
            f"port {port} on {host} may not be opened by this user ({error.strerror}); ports below "
            f"1024 need rights. Set {section}.port to 1024 or more"
        )
    return (
        f"{host!r} is not an address that this machine can listen on ({error.strerror}); "
        f"set {section}.host to 127.0.0.1, or to an address of this machine"
    )
