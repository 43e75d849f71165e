"""A command that is watched while it runs: CPU seconds and memory of all that it starts."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import psutil

_LOOK_S = 0.25


class Watched:
    """Runs a command to its end.

    Attributes:
        seconds: from its start to its end.
        cpu_s: of it and all below it, as far as they lived for a quarter of a second.
        peak_bytes: of the sum of their proportional set sizes, in which what several of them share,
            such as Ray's object store, is counted once.
        peaks: the most that each kind of process took, by its name, all of that kind together.
    """

    def __init__(
        self,
        command: Sequence[str],
        each_line: Callable[[str, float], None] | None = None,
        each_look: Callable[[], None] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Ends the benchmark where the command fails.

        Args:
            each_line: is called with each line of its output, and the seconds since it started.
            each_look: is called whenever it is looked at.
            environment: of the command; by default this one's.
        """
        self.peak_bytes, self.peaks = 0, dict[str, int]()
        self._cpu_s = dict[tuple[int, float], float]()
        self._each_look = each_look
        began = time.monotonic()
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        over = threading.Event()
        watch = threading.Thread(target=self._watch, args=(process.pid, over))
        watch.start()
        assert process.stdout is not None
        lines = list[str]()
        for line in process.stdout:
            lines.append(line)
            if each_line:
                each_line(line, time.monotonic() - began)
        code = process.wait()
        self.seconds = time.monotonic() - began
        over.set()
        watch.join()
        if code != 0:
            sys.exit("".join(lines))

    @property
    def cpu_s(self) -> float:
        return sum(self._cpu_s.values())

    def _watch(self, pid: int, over: threading.Event) -> None:
        while not over.wait(_LOOK_S):
            if self._each_look:
                self._each_look()
            by_name = dict[str, int]()
            with suppress(psutil.NoSuchProcess):
                root = psutil.Process(pid)
                for each in [root, *root.children(recursive=True)]:
                    with suppress(psutil.NoSuchProcess):
                        self._look(each, by_name)
            for name, size in by_name.items():
                self.peaks[name] = max(self.peaks.get(name, 0), size)
            self.peak_bytes = max(self.peak_bytes, sum(by_name.values()))

    def _look(self, process: psutil.Process, by_name: dict[str, int]) -> None:
        with process.oneshot():
            times = process.cpu_times()
            self._cpu_s[process.pid, process.create_time()] = times.user + times.system
            size = process.memory_full_info().pss
            words = " ".join(process.cmdline()).split()
        name = words[0].rpartition("/")[2] if words else process.name()
        by_name[name] = by_name.get(name, 0) + size
