"""Changes the source text of RecBole's functions in place, and refuses where it is another one."""

from __future__ import annotations

import inspect
import platform
import textwrap
import types
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

__all__ = ["RECBOLE_VERSION", "edit", "unexpected", "versions"]

RECBOLE_VERSION = "1.2.1"

_edited: dict[types.CodeType, tuple[str, frozenset[tuple[str, str]]]] = {}
"""Source text and changes of what was edited: another edit of the same function goes on from there."""


def versions() -> str:
    """Versions of what the repairs are about, for messages."""
    found = []
    for name in ("recbole", "torch", "numpy", "pandas", "scipy", "ray"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return f"Python {platform.python_version()}, " + ", ".join(found)


def edit(function: Callable[..., Any], changes: Mapping[str, str], count: int = 1) -> None:
    """Replace source text within a function, keeping the function object.

    Other modules hold RecBole's functions by value (``from recbole.utils import get_model``) and subclasses inherit its
    methods, so the code object is exchanged rather than the function. Line numbers stay those of the file.

    Args:
        function: Function of RecBole without free variables, but for the class that ``super()`` needs.
        changes: Old text to new text.
        count: How often each old text must occur.

    Raises:
        RuntimeError: The function is not the one that the change was written for.
    """
    function = inspect.unwrap(function)  # one that is wrapped is edited inside
    name = f"{function.__module__}.{function.__qualname__}"
    code = function.__code__
    try:
        source, done = _edited.get(code) or (textwrap.dedent(inspect.getsource(function)), frozenset())
    except OSError as error:
        raise unexpected(name, "readable source text") from error
    for old, new in changes.items():
        if (old, new) in done:
            continue
        if source.count(old) != count:
            raise unexpected(name, old.strip())
        source = source.replace(old, new)
    edited = [part for part in _compiled(source, code) if part.co_name == code.co_name]
    if len(edited) != 1 or edited[0].co_freevars != code.co_freevars:
        raise unexpected(name, "a plain function")
    function.__code__ = edited[0]
    _edited[edited[0]] = source, done | set(changes.items())


def _compiled(source: str, code: types.CodeType) -> list[types.CodeType]:
    """The functions in a text that stands where that of ``code`` stood."""
    lines = code.co_firstlineno - 1
    in_class = code.co_freevars == ("__class__",) and lines > 0
    text = "\n" * (lines - 1) + "class _:\n" + textwrap.indent(source, " ") if in_class else "\n" * lines + source
    module = compile(text, code.co_filename, "exec", dont_inherit=True)
    found = [part for part in module.co_consts if isinstance(part, types.CodeType)]
    return [part for part in found[0].co_consts if isinstance(part, types.CodeType)] if in_class else found


def unexpected(where: str, what: str) -> RuntimeError:
    """The error for code that is not what a repair was written for."""
    return RuntimeError(
        f"recbole_mm expected {what!r} in {where} and did not find it, so it cannot repair it ({versions()}). "
        f"It is written for an unchanged RecBole {RECBOLE_VERSION}; please report these versions."
    )
