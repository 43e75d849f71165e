"""A user's own parts: what a job file names as `module.path:Name`.

A module is looked for in the working directory first, the folder in which the command runs (which
`submit` sends along), then among the installed packages, as Python does. It is imported only where
a part of it is needed; which parts decide a result, the text of its files says.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raymodel.errors import SpecError
from raymodel.spec.fields import nearest
from raymodel.spec.show import show

_PART = r"[^\W\d]\w*"
_REFERENCE = re.compile(rf"{_PART}(\.{_PART})*:{_PART}")


def is_own(name: str) -> bool:
    """Whether a name is meant as `module.path:Name`."""
    return ":" in name


def check_reference(name: str) -> str:
    """The name itself. Raises ValueError unless it is written as `module.path:Name`."""
    if not _REFERENCE.fullmatch(name) or name.partition(":")[0].endswith(".py"):
        raise ValueError(
            f"{show(name)} names no part of your own; write module.path:Name, such as parts:Mine "
            "for the class or function Mine in parts.py of the working directory"
        )
    return name


def working_folder() -> Path:
    """Where modules are looked for first."""
    return _chosen[-1] if _chosen else Path.cwd()


def use_folder(folder: Path) -> None:
    """Makes another folder this process's working folder, as to parts of the user's own."""
    _chosen.append(folder)


_chosen: list[Path] = []


def _put_first(folder: Path) -> None:
    """Of where Python looks for modules. Ray's workers have the driver's folder there already."""
    if sys.path[:1] != [str(folder)] and (sys.path[:1] != [""] or folder != Path.cwd()):
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()


def load_own(reference: str) -> Any:
    """What a reference names.

    Raises:
        SpecError: it cannot be imported, with the words of the import, or has no such name.
    """
    module_name, _, name = check_reference(reference).partition(":")
    if _in_folder(working_folder(), module_name) is not None:
        _put_first(working_folder())
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a user's module may end in anything
        raise _not_imported(reference, module_name, error) from error
    if hasattr(module, name):
        return getattr(module, name)
    known = [each for each in vars(module) if not each.startswith("_")]
    close = nearest(name, known)
    hint = f"; did you mean {module_name}:{close}?" if close else ""
    place = getattr(module, "__file__", None) or "built into Python"
    raise SpecError(f"{show(reference)}: {module_name} ({place}) has no {show(name)}{hint}")


def own_files(reference: str) -> dict[str, Path]:
    """Module → file of all that a part is made of: its module and, of those that this imports, by
    whatever path, the ones of the working directory, or of the same installed package.

    Nothing is imported for it but the packages around an installed module.

    Raises:
        SpecError: there is no such module, or its file is no Python text.
    """
    module_name = check_reference(reference).partition(":")[0]
    folder = working_folder()
    if _in_folder(folder, module_name) is None:
        folder = _root_of(reference, module_name)
    package = module_name.partition(".")[0] if _is_of_packages(folder) else ""
    found: dict[str, Path] = {}
    waiting = [module_name]
    while waiting:
        name = waiting.pop()
        file = _in_folder(folder, name)
        top = name.partition(".")[0]
        if name in found or file is None or package not in ("", top) or top == "raymodel":
            continue
        found[name] = file
        waiting += [name.rpartition(".")[0]] if "." in name else []
        waiting += _imported(reference, name, file)
    return dict(sorted(found.items()))


def own_digest(reference: str) -> str:
    """Stands for the text of `own_files`, wherever they lie: a part that changed makes another.

    Raises: as `own_files`.
    """
    digest = hashlib.sha256()
    for name, file in own_files(reference).items():
        data = file.read_bytes()
        digest.update(f"{name}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()[:16]


def _in_folder(folder: Path, module_name: str) -> Path | None:
    """The file of a module below a folder; None where it has none there."""
    stem = folder.joinpath(*module_name.split("."))
    for file in (stem / "__init__.py", stem.with_name(f"{stem.name}.py")):
        if file.is_file():
            return file
    return None


def _is_of_packages(folder: Path) -> bool:
    """Whether it holds what is installed, in which each package stands for itself."""
    return str(folder) in sysconfig.get_paths().values() or folder.name == "site-packages"


def _root_of(reference: str, module_name: str) -> Path:
    """The folder on `sys.path` that holds a module."""
    try:
        spec = importlib.util.find_spec(module_name)
    except (Exception, SystemExit) as error:  # of the packages around it
        raise _not_imported(reference, module_name, error) from error
    origin = spec.origin if spec is not None else None
    if origin is None or not origin.endswith(".py") or not Path(origin).is_file():
        absent = ModuleNotFoundError(f"No module named {module_name!r}", name=module_name)
        raise _not_imported(reference, module_name, absent)
    file = Path(origin)
    depth = module_name.count(".") + (1 if file.name == "__init__.py" else 0)
    return file.parents[depth]


def _imported(reference: str, module_name: str, file: Path) -> Iterator[str]:
    """Names that may be modules, of the imports in a file."""
    try:
        tree = ast.parse(file.read_bytes(), filename=str(file))
    except (SyntaxError, ValueError) as error:
        raise _not_imported(reference, module_name, error) from error
    package = module_name if file.name == "__init__.py" else module_name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: 1 - node.level or None] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (name for name in (base,) if name)
            yield from (f"{base}.{alias.name}" if base else alias.name for alias in node.names)


def _not_imported(reference: str, module_name: str, error: BaseException) -> SpecError:
    is_absent = isinstance(error, ModuleNotFoundError) and error.name is not None
    if is_absent and f"{module_name}.".startswith(f"{getattr(error, 'name', '')}."):
        close = nearest(module_name, [file.stem for file in working_folder().glob("*.py")])
        hint = f"; did you mean {close}?" if close else ""
        return SpecError(
            f"{show(reference)}: there is no module {module_name} in the working directory "
            f"{working_folder()}, nor among the installed packages{hint}"
        )
    where = f" ({error.filename}:{error.lineno})" if isinstance(error, SyntaxError) else ""
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    return SpecError(
        f"{show(reference)}: importing {module_name} ended in {type(error).__name__}: "
        f"{' '.join(str(said).split())}{where}; mend the module, or install what it needs"
    )
