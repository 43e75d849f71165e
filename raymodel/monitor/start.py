"""Starts the monitor of a job: its state, its sources, the server that it asks."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from raymodel.job.spec import Job
from raymodel.monitor.classifier import Classifier
from raymodel.monitor.follow import Source
from raymodel.monitor.loop import Monitor
from raymodel.monitor.post import Log, Post, Webhook
from raymodel.monitor.state import State
from raymodel.remote import Remote
from raymodel.storage.uri import Location

_STATE, _LOG = "state.sqlite", "alerts.jsonl"


def monitor_folder(job: Job, base_dir: Path) -> Path:
    """Where what a monitor knows lies."""
    assert job.monitor is not None, "the caller looked"
    if job.monitor.folder is not None:
        return base_dir / job.monitor.folder
    return (Location.parse(job.storage) / job.name / "monitor").local_path


def run_monitor(
    job: Job,
    base_dir: Path,
    say: Callable[[str], object],
    *,
    token: str | None = None,
    to_the_end: bool = False,
) -> dict[str, int]:
    """Monitors until Ctrl-C or SIGTERM; what was counted, since the monitor's first start.

    Args:
        job: with a section `monitor`.
        base_dir: where relative paths begin.
        say: is told what happens.
        token: of the server; by default what the environment holds.
        to_the_end: of what is there now, and no longer.

    Raises:
        RequestError: the server serves no classifier, or not of these classes.
        RaymodelError: at the start it does not answer; or the state is in use.
        SpecError: the webhook's variable, or the inbox' token, is not set.
    """
    spec = job.monitor
    assert spec is not None, "the caller looked"
    with ExitStack() as stack:
        webhook = None if spec.webhook is None else Webhook(spec.webhook)
        folder = monitor_folder(job, base_dir)
        state = State(folder / _STATE)
        stack.callback(state.close)
        remote = Remote(server_url(job), token_env=spec.token_env, token=token, say=say)
        stack.callback(remote.close)
        classifier = Classifier(remote, spec.model)
        for label in dict.fromkeys(label for rule in spec.alerts for label in rule.labels):
            classifier.check_label(label)
        most = spec.max_text
        sources = [Source(each, base_dir, state, most, say) for each in spec.follow]
        log = Log(folder / _LOG)
        post = Post(state, log, webhook, lambda text: say(f"warning: {text}"))
        monitor = Monitor(spec, state, sources, classifier, post, say)
        if spec.http is not None and not to_the_end:
            from raymodel.monitor.inbox import Inbox

            stack.callback(Inbox(spec.http, state, most, monitor.wake).close)
        say(_beginning(job, classifier, log.path, is_open=not to_the_end))
        with suppress(KeyboardInterrupt):
            monitor.run(to_the_end=to_the_end)
        counts = state.counts()
        say(counts_text(counts))
        return counts


def monitor_alone(job: Job, say: Callable[[str], object]) -> None:
    """`raymodel monitor`. Raises as `run_monitor`."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):  # before it has begun
        run_monitor(job, Path.cwd(), say)


def server_url(job: Job) -> str:
    """The server that is asked."""
    assert job.monitor is not None, "the caller looked"
    if job.monitor.url is not None:
        return job.monitor.url
    assert job.serve is not None, "the job was checked"
    return job.serve.url


def counts_text(counts: dict[str, int]) -> str:
    """What was counted, in a line."""
    told = [f"{counts.get('texts', 0):,} texts", f"{counts.get('alerts', 0):,} alerts"]
    others = sorted(counts.keys() - {"texts", "alerts"})
    return ", ".join([*told, *(f"{counts[name]:,} {name}" for name in others)])


def _beginning(job: Job, classifier: Classifier, log: Path, *, is_open: bool) -> str:
    spec = job.monitor
    assert spec is not None, "the caller looked"
    read = [each.path for each in spec.follow]
    if spec.http is not None and is_open:
        read.append(f"{spec.http.url}/texts")
    labels = sorted({label for rule in spec.alerts for label in rule.labels})
    place = server_url(job)
    return (
        f"reads {', '.join(read) or 'nothing'}; asks {classifier.name} at {place} for "
        f"{', '.join(labels)}; tells {log}"
    )
