"""Checks of `monitor:` that ask the other sections."""

from __future__ import annotations

from collections.abc import Iterator

from raymodel.job.spec import Job
from raymodel.spec.problems import Problem
from raymodel.spec.show import show
from raymodel.storage.uri import Location


def check_monitor(job: Job) -> Iterator[Problem]:
    """What is monitored is on this machine, and what is asked is a classifier of texts."""
    spec = job.monitor
    if spec is None:
        return
    for i, each in enumerate(spec.follow):
        if "://" in each.path or each.path.startswith("python:"):
            yield Problem(
                ("monitor", "follow", i, "path"),
                f"{show(each.path)} is no file of this machine, and others cannot be followed; "
                "mount it, or have its texts sent to `monitor.http`",
            )
    if spec.folder is None and "://" in job.storage:
        yield Problem(
            ("monitor",),
            f"what a monitor has read is written to a local disk, and storage is "
            f"{show(job.storage)}; set monitor.folder to a local folder",
        )
    elif spec.folder is not None and not Location.parse(spec.folder).is_local:
        yield Problem(("monitor", "folder"), f"{show(spec.folder)} is no local folder; give one")
    if spec.http and job.serve and spec.http.port == job.serve.port:
        yield Problem(
            ("monitor", "http", "port"),
            f"{spec.http.port} is the port of serve; give another one",
        )
    if spec.url is None and job.serve and job.serve.model is None:
        yield from _served(job)


def _served(job: Job) -> Iterator[Problem]:
    from raymodel.tasks import get_task

    task = get_task(job.task)
    needed = [name for name, f in task.fields.items() if not (f.is_target or f.is_optional)]
    if task.answers != "label" or needed != ["text"]:
        yield Problem(
            ("monitor",),
            f"the job serves a model for {job.task}, and what is monitored is the class of a text; "
            "take the task text_classification, or name a model for it in serve.model",
        )
