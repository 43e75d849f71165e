"""Commands of `raymodel`, one after another, in one process and on one Ray.

A command starts a Ray of its own, which takes longer than what a tiny job does on it. Here that Ray
is started once, as a command starts it, and each command finds it started.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from raymodel.testing.distributed import free_port


class OneRay:
    """The process; ends with the block. Commands run in `folder`."""

    def __init__(self, folder: Path) -> None:
        """Args:
        folder: on the search path for packages too, as the job's working directory is.
        """
        # Ray makes sockets there, whose paths may not be longer than 107 characters.
        self._ray_folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
        self._errors = folder / "one-ray.txt"
        self._is_free = threading.Lock()
        self.port = free_port()
        """Where its Ray Serve listens, which is one for all jobs."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        paths = (str(folder), own.get("PYTHONPATH", ""))
        environment = own | {
            "RAY_TMPDIR": str(self._ray_folder),
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # it sees only then that a training ended
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        }
        with open(self._errors, "w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(self.port)],
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def __enter__(self) -> OneRay:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.stdin.close()  # type: ignore[union-attr]  # a pipe
        try:
            self._process.wait(60)  # its Ray ends with it
        finally:
            self._process.kill()
            self._process.wait()
            shutil.rmtree(self._ray_folder, ignore_errors=True)

    def run(self, *arguments: str, code: int = 0) -> str:
        """The output of one command, which must end with this code."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        with self._is_free:
            stdin.write(json.dumps(arguments) + "\n")
            stdin.flush()
            answer = stdout.readline()
        assert answer, f"the process ended:\n{self._errors.read_text()}"
        ended, output = json.loads(answer)
        assert ended == code, f"raymodel {' '.join(arguments)} ended with {ended}:\n{output}"
        return str(output)


def answer_commands() -> None:
    """Runs a command for each line of arguments; answers with its exit code and output."""
    from raymodel import cli
    from raymodel.cluster.connect import connect
    from raymodel.cluster.spec import ClusterSpec
    from raymodel.job import pipeline
    from raymodel.model import examine

    def ask_here(questions: Sequence[examine.Question]) -> list[dict[str, Any]]:
        from raymodel.model import examiner

        return [examiner.answer(question.to_dict()) for question in questions]

    # A process of its own for each job would import transformers, for five seconds.
    examine.ask_apart = ask_here
    answers = sys.stdout
    with connect(None, ClusterSpec(workers=2)) as connection:
        pipeline.connect = lambda *_, **__: nullcontext(connection)  # type: ignore[assignment]
        _start_serve(int(sys.argv[1]))
        for line in sys.stdin:
            output = io.StringIO()
            with redirect_stdout(output), redirect_stderr(output):
                code = cli.main(json.loads(line))
            answers.write(json.dumps([code, output.getvalue()]) + "\n")
            answers.flush()


def _start_serve(port: int) -> None:
    """Ray Serve as `serve/run.py` starts it: one that is there already takes on the models."""
    from ray import serve

    from raymodel.serve.deployment import LOGGING
    from raymodel.serve.run import _http_options
    from raymodel.serve.spec import ServeSpec

    serve.start(http_options=_http_options(ServeSpec(port=port)), logging_config=LOGGING)


if __name__ == "__main__":
    answer_commands()
