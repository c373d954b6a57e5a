"""Models in a caller's own files: imported here, and again in every process that is started for a run."""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path

__all__ = ["import_module", "imported_modules"]

_imported: list[str] = []


def import_module(name: str) -> str:
    """Import a file or a module, which registers its models with :func:`recbole_mm.register`.

    The folder of a file joins the places where Python looks for modules, so that a checkpoint of the model, which holds
    its class by reference, and the processes of a comparison find it again.

    Args:
        name: A file such as ``my_models.py``, or the name of a module such as ``lab.models``.

    Returns:
        The name of the module.

    Raises:
        FileNotFoundError: There is no such file or module.
        ValueError: The file cannot be imported under its name, which is not one or belongs to another module.
    """
    module = _module_of(Path(name)) if name.endswith(".py") else name
    here = str(Path.cwd())
    if here not in sys.path:  # an installed command, unlike a script, does not look in the folder where it is called
        sys.path.append(here)
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # one that the module itself wants
        raise FileNotFoundError(
            f"import: there is no module {name!r}; give the path of a file that ends in .py, or a module that Python "
            f"finds from {here}."
        ) from error
    if getattr(found, "__file__", None) is None and hasattr(found, "__path__"):
        raise ValueError(f"import: {name} is a folder without code of its own; name one of its .py files.")
    if module not in _imported:
        _imported.append(module)
    return module


def imported_modules() -> list[str]:
    """The modules imported so far, for a process that has to know the same models."""
    return list(_imported)


def _module_of(file: Path) -> str:
    path = file.resolve()
    if not path.is_file():
        raise FileNotFoundError(f"import: there is no file {str(file)!r} in {Path.cwd()}.")
    if not path.stem.isidentifier():
        raise ValueError(
            f"import: {path.name} is no name that Python can import; rename the file, to my_models.py say."
        )
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    loaded = sys.modules.get(path.stem)
    origin = getattr(loaded, "__file__", None) if loaded is not None else getattr(find_spec(path.stem), "origin", None)
    if origin is None or Path(origin).resolve() != path:
        raise ValueError(
            f"import: the name {path.stem!r} belongs to another module ({origin or 'part of Python'}), so a process of "
            f"its own would not find {file}; rename the file."
        )
    return path.stem
