"""The process of a replica that a test kills."""

import psutil


def replica_pid():
    for process in psutil.Process().children(recursive=True):
        words = " ".join(process.cmdline())
        if "ServeReplica:" in words and ":model" in words:
            return process.pid
    raise AssertionError("there is no replica")
