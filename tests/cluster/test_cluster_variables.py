import os
import sys
from pathlib import Path

import pytest

from raymodel.cluster.variables import (
    PACKAGE,
    SETUP_HOOK,
    has_variables,
    load_variables,
    write_package,
)


def test_without_a_package_there_is_nothing_to_load() -> None:
    before = dict(os.environ)
    assert not has_variables()
    load_variables()
    assert dict(os.environ) == before


def test_what_is_written_here_is_loaded_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = write_package({"RM_SECRET": 'a "b"\n é'}, tmp_path)
    assert package.stat().st_mode & 0o077 == 0  # nobody else on this machine reads it
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setenv("RM_SECRET", "another")
    assert has_variables()
    load_variables()
    assert os.environ["RM_SECRET"] == 'a "b"\n é'
    sys.modules.pop(PACKAGE, None)


def test_the_hook_is_the_path_of_a_function() -> None:
    module, _, name = SETUP_HOOK.rpartition(".")
    assert getattr(sys.modules[module], name) is load_variables
