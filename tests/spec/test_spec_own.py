"""Parts of a user's own: where they are looked for, what is said of them, what they are made of."""

import sys
from pathlib import Path

import pytest

from raymodel.errors import SpecError
from raymodel.spec.own import check_reference, load_own, own_digest, own_files


def write(folder: Path, **files: str) -> None:
    """Modules: `pack__layers` is pack/layers.py, and `pack__` the package itself."""
    for name, text in files.items():
        file = folder / f"{name.replace('__', '/')}.py"
        file = file.with_name("__init__.py") if name.endswith("__") else file
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def test_a_part_is_found_in_the_working_directory_before_what_is_installed(own_folder):
    folder = own_folder()
    write(folder, mine_first="here = 1", pack__inner="class Part: pass")
    sys.path.append(str(folder / "elsewhere"))
    write(folder, elsewhere__mine_first="here = 2")
    assert load_own("mine_first:here") == 1
    assert load_own("pack.inner:Part").__name__ == "Part"
    assert load_own("json:dumps")([1]) == "[1]", "else among the installed ones"


@pytest.mark.parametrize("name", ["a:", ":b", "a b:c", "a.py:C", "a:b:c", "../a:C", "a..b:C"])
def test_what_is_no_reference_is_refused(name):
    with pytest.raises(ValueError, match=r"names no part of your own; write module\.path:Name"):
        check_reference(name)


@pytest.mark.parametrize(
    ("text", "reference", "said"),
    [
        ("x = 1", "part:y", r"part \(.*/part\.py\) has no 'y'"),
        ("def macro(): 1", "part:makro", "did you mean part:macro"),
        ("x = 1", "parts:x", "there is no module parts in the working directory .*mean part?"),
        ("import no_such_package", "part:x", "ModuleNotFoundError: No module named 'no_such_packa"),
        ("1 / 0", "part:x", "importing part ended in ZeroDivisionError: division by zero"),
        ("def f(:", "part:x", r"SyntaxError: .*part\.py:1"),
        ("raise SystemExit(3)", "part:x", "importing part ended in SystemExit: 3"),
    ],
)
def test_a_part_that_cannot_be_had_is_one_error_with_its_own_words(
    own_folder, text, reference, said
):
    write(own_folder(), part=text)
    sys.modules.pop("part", None)
    with pytest.raises(SpecError, match=said):
        load_own(reference)


def test_the_digest_follows_what_a_module_imports_of_the_working_directory(own_folder, monkeypatch):
    folder = own_folder()
    write(
        folder,
        model="from pack import layers\nimport json, torch",
        pack__="",
        pack__layers="from .base import Base",
        pack__base="import model",
        other="x = 1",
    )
    assert list(own_files("model:Net")) == ["model", "pack", "pack.base", "pack.layers"]
    before = own_digest("model:Net")
    write(folder, other="x = 2")
    assert own_digest("model:Net") == before
    write(folder, pack__base="import model  # changed")
    changed = own_digest("model:Net")
    assert changed != before
    assert "model" not in sys.modules, "nothing is imported for it"
    # A worker has the folder on its path and another one as its own.
    (folder / "worker").mkdir()
    monkeypatch.chdir(folder / "worker")
    monkeypatch.syspath_prepend(str(folder))
    assert own_digest("model:Net") == changed


def test_of_an_installed_package_its_own_modules_are_followed_alone(own_folder):
    own_folder()
    parts = ["json", "json.decoder", "json.encoder", "json.scanner"]
    assert list(own_files("json.decoder:JSONDecoder")) == parts
