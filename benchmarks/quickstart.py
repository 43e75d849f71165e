"""Time of the quickstart job, of a second run, and of `check`; peak memory of the driver.

`python benchmarks/quickstart.py`
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]


def timed(*arguments: str, cwd: str) -> tuple[float, int, str]:
    """Seconds, peak resident bytes of the process itself, and output."""
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "raymodel", *arguments],
        cwd=cwd, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, output
    return time.monotonic() - started, usage.ru_maxrss * 1024, output


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        job = shutil.copy(ROOT / "jobs/quickstart.yaml", folder)
        first_s, peak_bytes, output = timed("run", job, cwd=folder)
        print(output)
        again_s, _, _ = timed("run", job, cwd=folder)
        checks = sorted(timed("check", job, cwd=folder)[0] for _ in range(5))
    table = output[output.index("\nstage ") :]
    stages = dict(re.findall(r"^(\w+) +((?:\d+m)?[\d.]+s) ", table, flags=re.MULTILINE))
    print(f"quickstart {first_s:.0f} s {stages}")
    print(f"driver's peak memory {peak_bytes / 2**20:.0f} MiB")
    print(f"second run {again_s:.1f} s")
    print(f"check {checks[2]:.2f} s (median of 5)")


if __name__ == "__main__":
    main()
