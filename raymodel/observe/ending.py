"""How a command ends: one message and an exit code. A traceback goes to a file.

Also what a command writes to: a reader that leaves (`raymodel schema | head`), a stream that was
closed before it began, and a terminal that lacks a character end none with a traceback. What only a
failure needs is imported there, since `raymodel check` answers at once.
"""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

from raymodel.errors import RaymodelError

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
READER_LEFT = 141  # 128 + SIGPIPE, as of every command whose reader ends first
# Set, it shows on the screen what else goes to the file.
SHOW_TRACEBACK = "RAYMODEL_TRACEBACK"
_SHOWN = 500  # characters of a message; some libraries put a whole log into theirs


def run_command(call: Callable[[], int]) -> int:
    """Calls a command, whatever comes of it. Returns its exit code.

    0 done, 1 the run failed, 2 the job file or an input is wrong, 3 an evaluation gate was not met,
    130 interrupted, 141 nobody reads on. `argparse` ends the process itself, with 0 or 2.
    """
    _prepare_streams()
    try:
        return _call(call)
    finally:
        for stream in (sys.stdout, sys.stderr):
            _flush(stream)


def _call(call: Callable[[], int]) -> int:
    try:
        return call()
    except RaymodelError as error:
        _log_traceback()
        _tell(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        _tell("interrupted; run the same command again to go on")
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - whatever it is, it has a message and an exit code
        if isinstance(error, BrokenPipeError) and not _has_reader(sys.stdout):
            return READER_LEFT
        _tell(_unexpected(error))
        return 1


def _unexpected(error: Exception) -> str:
    """What the user reads of an error that nobody foresaw: a fault of ours, or of the machine."""
    import traceback

    whole = traceback.format_exc()
    if os.environ.get(SHOW_TRACEBACK):
        return whole
    words = _words(error)
    file = _log_traceback() or _keep(whole)
    if file is None:
        return whole  # there is no place for it but the screen
    return (
        f"error: {type(error).__name__}{': ' + words if words else ''}\n"
        f"  the whole traceback: {file} (or set {SHOW_TRACEBACK}=1)\n"
        "  run the same command again: what is complete is skipped. If this comes again, the "
        "file says where"
    )


def _words(error: Exception) -> str:
    """The message of an error on one line; of a traceback in it, as Ray makes one, its end."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if any(line.startswith(("Traceback (", 'File "')) for line in lines):
        lines = lines[-1:]
    seen = " ".join(lines)
    return seen if len(seen) <= _SHOWN else seen[:_SHOWN] + " …"


def _log_traceback() -> str | None:
    """Writes the error at hand to the log of the run; None when the command has none."""
    import traceback

    from raymodel.observe.quiet import find_log_file

    file = find_log_file()
    if file is None:
        return None
    try:
        with open(file, "a", encoding="utf-8", errors="replace") as log:
            log.write(f"{traceback.format_exc()}\n")
    except OSError:  # such as a full disk, which may be the error at hand
        return None
    return str(file)


def _keep(text: str) -> str | None:
    """A new file that only this user reads, beside other temporary ones; None without a place."""
    import tempfile

    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="raymodel-", suffix=".log", delete=False, encoding="utf-8", errors="replace"
        ) as file:
            file.write(text)
    except OSError:
        return None
    return file.name


# ---- the streams ---------------------------------------------------------------------------------


def _prepare_streams() -> None:
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by who started the command: `>&-`
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - to the end
        elif isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            # A terminal of another encoding, or the name of a file that is no text.
            stream.reconfigure(errors="replace")


def _tell(text: str) -> None:
    with suppress(OSError):  # nobody is there to read it, and the exit code says it too
        sys.stderr.write(text.rstrip("\n") + "\n")


def _flush(stream: TextIO) -> None:
    """Writes out what is left; lets it go when its reader has, as Python would complain of it."""
    try:
        stream.flush()
    except OSError:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, stream.fileno())
        os.close(devnull)


def _has_reader(stream: TextIO) -> bool:
    """Whether somebody may still read what goes to this stream."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), select.POLLOUT)
    except (OSError, ValueError):  # no stream of the operating system
        return True
    return not any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
