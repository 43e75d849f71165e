"""Ctrl-C and SIGTERM to the command: the work is asked to end well before the command ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def run_interruptibly(work: Callable[[], None], ask_to_end: Callable[[], None]) -> None:
    """Runs `work` in a thread, while the main thread takes the signals.

    Args:
        work: what is to be done.
        ask_to_end: called once, at the first signal; `work` should then return or raise soon.

    Raises:
        KeyboardInterrupt: a signal came; at the second one at once, whatever `work` does.
    """
    if threading.current_thread() is not threading.main_thread():
        work()  # signals are another's
        return
    signals: list[int] = []
    errors: list[BaseException] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        signals.append(number)

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again in the main thread
            errors.append(error)

    thread = threading.Thread(target=run, name="interruptible", daemon=True)
    before = {number: signal.signal(number, on_signal) for number in _SIGNALS}
    asked = False
    try:
        thread.start()
        while thread.is_alive() and len(signals) < 2:
            if signals and not asked:
                asked = True
                ask_to_end()
            thread.join(0.1)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if signals:
        raise KeyboardInterrupt
    if errors:
        raise errors[0]
