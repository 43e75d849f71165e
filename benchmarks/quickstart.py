"""Time of the quickstart job, of a second run, and of `check`; peak memory of the driver; how long
training waits for data.

`python benchmarks/quickstart.py`
"""

import json
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


def data_wait_share(folder: Path) -> float:
    """Share of the steps' time that pretraining waited for data, once the stream had begun."""
    (metrics,) = folder.glob("runs/quickstart/pretrain/*/metrics.jsonl")
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    steps = [record for record in records if "step_time_s" in record][1:]
    return sum(step["data_wait_s"] for step in steps) / sum(step["step_time_s"] for step in steps)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        job = shutil.copy(ROOT / "jobs/quickstart.yaml", folder)
        first_s, peak_bytes, output = timed("run", job, cwd=folder)
        print(output)
        again_s, _, _ = timed("run", job, cwd=folder)
        waiting = data_wait_share(Path(folder))
        checks = sorted(timed("check", job, cwd=folder)[0] for _ in range(5))
    table = output[output.index("\nstage ") :]
    stages = dict(re.findall(r"^(\w+) +((?:\d+m)?[\d.]+s) ", table, flags=re.MULTILINE))
    print(f"quickstart {first_s:.0f} s {stages}")
    print(f"driver's peak memory {peak_bytes / 2**20:.0f} MiB")
    print(f"waiting for data {waiting:.2%} of a step after the first record")
    print(f"second run {again_s:.1f} s")
    print(f"check {checks[2]:.2f} s (median of 5)")


if __name__ == "__main__":
    main()
