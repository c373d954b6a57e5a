"""Which model names exist, ours and RecBole's, and what to say about one that does not."""

from __future__ import annotations

import difflib
import functools
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = [
    "check_model_name",
    "known_bases",
    "not_installed",
    "recbole_folder",
    "recbole_model_files",
    "recbole_models",
    "recbole_name",
    "registered",
]

#: Models made known to RecBole by :func:`recbole_mm.host.registry.register`, by name.
registered: dict[str, type] = {}


def check_model_name(name: Any) -> None:
    """Stop unless ``name`` is a model that RecBole's ``get_model`` can find.

    Raises:
        ValueError: No such model; the message has the nearest names.
    """
    if not isinstance(name, str):
        raise ValueError(f"A model name is a text such as 'BPR', got {name!r} ({type(name).__name__}).")
    if name in registered or name in recbole_models():
        return
    # RecBole's manual tells users to put their model file into its own folders; such a file is not in our list.
    if name.lower() in recbole_model_files() - {known.lower() for known in recbole_models()}:
        return
    spelt = {known.lower(): known for known in sorted({*recbole_models(), *registered})}
    near = [spelt[match] for match in difflib.get_close_matches(name.lower(), spelt, n=3, cutoff=0.6)]
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise ValueError(
        f"There is no model named {name!r}.{hint} Models of recbole_mm and your own: "
        f"{', '.join(sorted(registered)) or '(none)'}; RecBole has {len(recbole_models())} more, such as BPR, LightGCN "
        "and SASRec. A model class of your own is made known with recbole_mm.register."
    )


def known_bases(cls: type) -> list[type]:
    """The models that a class derives from: registered ones and RecBole's, nearest first.

    Args:
        cls: Class of a model; its bases of another kind (general, sequential, ...) do not count.
    """
    bases = [base for base in cls.__mro__[1:] if getattr(base, "type", None) == getattr(cls, "type", None)]
    return [base for base in bases if _is_registered(base) or _is_recboles(base)]


def recbole_name(name: str) -> str:
    """The model of RecBole whose name stands for a registered one: the one that it derives from, or ``name`` itself.

    RecBole chooses loaders and options by the names of its models.
    """
    bases = known_bases(registered[name]) if name in registered else []
    return next((base.__name__ for base in bases if _is_recboles(base)), name)


def _is_registered(cls: type) -> bool:
    # By name, as a notebook cell that runs twice makes another class of it.
    known = registered.get(cls.__name__)
    return known is not None and (known.__module__, known.__qualname__) == (cls.__module__, cls.__qualname__)


def _is_recboles(cls: type) -> bool:
    return cls.__module__.startswith("recbole.model.") and cls.__name__ in recbole_models()


def recbole_folder() -> Path:
    """Folder of the installed RecBole package."""
    spec = find_spec("recbole")
    if spec is None or spec.origin is None:
        raise FileNotFoundError(not_installed())
    return Path(spec.origin).parent


def not_installed() -> str:
    """What to say where RecBole is missing, as it is after an installation on Python 3.12 or newer."""
    if sys.version_info >= (3, 12):
        return (
            "RecBole is not installed; its requirement ray<=2.6.3 has no files for this Python, so it comes without "
            "its requirements: pip install --no-deps recbole==1.2.1 (all that it needs was installed with recbole-mm)."
        )
    return "RecBole is not installed: pip install 'recbole>=1.2.1,<1.3'."


@functools.cache
def recbole_models() -> frozenset[str]:
    """Names of RecBole's own models, read from its package files without importing them (one wants lightgbm)."""
    return frozenset(
        name
        for file in recbole_folder().glob("model/*_recommender/__init__.py")
        for name in re.findall(r"^from \S+ import (\w+)", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    )


def recbole_model_files() -> set[str]:
    """Names of the model files in RecBole's folders, which are its models' names in lower case."""
    return {file.stem for file in recbole_folder().glob("model/*_recommender/*.py")} - {"__init__"}
