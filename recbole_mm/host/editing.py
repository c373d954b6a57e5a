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
        function: Function of RecBole without free variables.
        changes: Old text to new text.
        count: How often each old text must occur.

    Raises:
        RuntimeError: The function is not the one that the change was written for.
    """
    function = inspect.unwrap(function)  # one that is wrapped is edited inside
    name = f"{function.__module__}.{function.__qualname__}"
    code = function.__code__
    try:
        source = textwrap.dedent(inspect.getsource(function))
    except OSError as error:
        raise unexpected(name, "readable source text") from error
    for old, new in changes.items():
        if source.count(old) != count:
            raise unexpected(name, old.strip())
        source = source.replace(old, new)
    module = compile("\n" * (code.co_firstlineno - 1) + source, code.co_filename, "exec", dont_inherit=True)
    edited = [part for part in module.co_consts if isinstance(part, types.CodeType) and part.co_name == code.co_name]
    if len(edited) != 1 or edited[0].co_freevars != code.co_freevars:
        raise unexpected(name, "a plain function")
    function.__code__ = edited[0]


def unexpected(where: str, what: str) -> RuntimeError:
    """The error for code that is not what a repair was written for."""
    return RuntimeError(
        f"recbole_mm expected {what!r} in {where} and did not find it, so it cannot repair it ({versions()}). "
        f"It is written for an unchanged RecBole {RECBOLE_VERSION}; please report these versions."
    )
