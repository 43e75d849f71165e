"""What the command does once its model is served."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest

from raymodel.job import run as job_run
from raymodel.observe.story import Story
from raymodel.serve.spec import ServeSpec


@pytest.mark.parametrize(("keeps", "stops"), [(True, 1), (False, 0)])
def test_a_server_that_is_interrupted_ends_its_answers_before_ray_ends(
    keeps: bool, stops: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[str] = []

    class Served:
        url, name = "http://127.0.0.1:8000", "tiny"

        def ask(self, values: Any) -> str:
            return "yes"

        def health(self) -> dict[str, Any]:
            return {"slow_paths": []}

        def stop(self) -> None:
            stopped.append(self.url)

    @contextmanager
    def run_serve(*_: Any, **__: Any) -> Iterator[Served]:
        yield Served()

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    import raymodel.serve.run

    monkeypatch.setattr(raymodel.serve.run, "run_serve", run_serve)
    monkeypatch.setattr(job_run.time, "sleep", interrupt)
    out = StringIO()
    pipeline: Any = SimpleNamespace(
        job=SimpleNamespace(serve=ServeSpec(grace="7s"), name="tiny", cluster=None),
        address=None,
        connection=SimpleNamespace(started_here=True),
        story=Story(out),
        told={},
        connect=lambda: None,
        stages=SimpleNamespace(serve=lambda model: None),
        execute=lambda stage, work: work(None),
    )
    monkeypatch.setattr(job_run, "_question", lambda p: ("a", {"prompt": "a"}))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    model: Any = SimpleNamespace(artifact=None, location="model")
    job_run._serve(pipeline, model, keep_serving=keeps)
    assert len(stopped) == stops
    assert ("answers under way have 7 s" in out.getvalue()) == keeps
