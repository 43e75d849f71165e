"""What the command does once its model is served."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from io import StringIO
from types import SimpleNamespace
from typing import Any

import pytest

from raymodel.job import run as job_run
from raymodel.observe.story import Story
from raymodel.serve.spec import ServeSpec
from raymodel.storage.registry import Run
from raymodel.storage.uri import Location


@pytest.mark.parametrize("interrupted", ["while it waits", "while it asks"])
@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("address", [None, "a:1"])
def test_a_server_that_is_interrupted_ends_its_answers_before_ray_ends(
    address: str | None, keeps: bool, interrupted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a cluster the server stays, whatever happens to the command."""
    kept: list[bool] = []

    def interrupt(*_: object) -> Any:
        raise KeyboardInterrupt

    class Served:
        url, name, task = "http://127.0.0.1:8000", "tiny", "causal_lm"

        def ask(self, values: Any) -> str:
            return interrupt() if interrupted == "while it asks" else "yes"

        def health(self) -> dict[str, Any]:
            return {"slow_paths": []}

    @contextmanager
    def run_serve(*_: Any, keep: bool, **__: Any) -> Iterator[Served]:
        kept.append(keep)  # else it is stopped where the block ends, however that is
        yield Served()

    import raymodel.serve.run

    monkeypatch.setattr(raymodel.serve.run, "run_serve", run_serve)
    monkeypatch.setattr(job_run.time, "sleep", interrupt)
    out = StringIO()
    pipeline: Any = SimpleNamespace(
        job=SimpleNamespace(serve=ServeSpec(grace="7s"), name="tiny", cluster=None, monitor=None),
        run=Run(Location.parse("runs/tiny")),
        address=address,
        connection=SimpleNamespace(started_here=address is None),
        story=Story(out),
        told={},
        connect=lambda: None,
        stages=SimpleNamespace(
            serve=lambda model: None,
            embedder=lambda: None,
            draft=lambda: None,
            members=lambda: [],
            classifiers=lambda: [],
        ),
        execute=lambda stage, work: work(None),
    )
    monkeypatch.setattr(job_run, "_question", lambda *_: ("a", {"prompt": "a"}))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    model: Any = SimpleNamespace(artifact=None, location=Location.parse("model"))
    with pytest.raises(KeyboardInterrupt) if interrupted == "while it asks" else nullcontext():
        job_run._serve(pipeline, model, keep_serving=keeps)
    assert kept == [address is not None]
    waited = keeps and address is None and interrupted == "while it waits"
    assert ("answers under way have 7 s" in out.getvalue()) == waited
