"""A Ray of some tests alone, on this machine."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import ModuleType

from raymodel.cluster.connect import OWN_RAY_ENVIRONMENT


@contextmanager
def local_ray(num_cpus: int) -> Iterator[ModuleType]:
    """The module, connected to a Ray that ends with the block.

    Its files lie below a short path: it holds Unix sockets, whose names may have only 107 bytes.
    """
    os.environ["RAY_AUTH_MODE"] = "disabled"  # read when ray is imported
    for name, value in OWN_RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    with tempfile.TemporaryDirectory(prefix="raymodel-", ignore_cleanup_errors=True) as folder:
        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,
            _temp_dir=folder,
            object_store_memory=200_000_000,
            logging_level=logging.WARNING,
            log_to_driver=False,
        )
        try:
            yield ray
        finally:
            ray.shutdown()


class Silent:
    """A story that keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def waiting(self, what: str) -> nullcontext[None]:
        return nullcontext()
