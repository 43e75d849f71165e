"""Environment variables that a submitted job gets by name, secrets among them.

They do not travel in Ray's `env_vars`: Ray shows these in its job table and writes them into
`runtime_env_agent.log` on every node. They travel as a small package of their own, which the driver
and each worker process of the job read when they start.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from raymodel.errors import RequestError

PACKAGE = "raymodel_job_variables"
# What Ray calls in each worker process before anything else of the job runs there.
SETUP_HOOK = f"{__name__}.load_variables"
_FILE = "values.json"


def take_variables(names: Iterable[str]) -> dict[str, str]:
    """The values of these variables here. No message shows a value.

    Raises:
        RequestError: a name is not set, or came with a value.
    """
    variables = {}
    for name in names:
        if "=" in name:
            raise RequestError(
                f"--env {name.partition('=')[0]}=…: a value on a command line is seen by everyone "
                "on this machine; export the variable and give only its name"
            )
        if name not in os.environ:
            raise RequestError(
                f"--env {name}: not set in this environment; export it, or leave the option out"
            )
        variables[name] = os.environ[name]
    return variables


def write_package(variables: Mapping[str, str], folder: Path) -> Path:
    """Writes a Python package that holds the values, for Ray's `py_modules`.

    Args:
        variables: values by name.
        folder: the package is made in it; who calls deletes it after it was sent.
    """
    package = folder / PACKAGE
    package.mkdir(mode=0o700)
    (package / "__init__.py").touch()
    (package / _FILE).write_text(json.dumps(variables), encoding="utf-8")
    return package


def has_variables() -> bool:
    """Whether this process runs in a job that was given variables."""
    return importlib.util.find_spec(PACKAGE) is not None


def load_variables() -> None:
    """Puts the job's variables into this process's environment; nothing where there are none."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is not None and spec.origin is not None:
        text = Path(spec.origin).with_name(_FILE).read_text(encoding="utf-8")
        os.environ.update(json.loads(text))
