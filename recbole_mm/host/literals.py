"""Keeps RecBole from running values of options as code: they are read as literals, or stay the text that they are."""

from __future__ import annotations

import ast
from typing import Any

from recbole.config import Config
from recbole.trainer import HyperTuning

from recbole_mm.config.reading import OptionLoader
from recbole_mm.host.editing import edit

__all__ = ["install", "literal"]


def literal(text: str) -> Any:
    """The value that a text spells: a number, a quoted text, a truth value, ``None``, or a collection of these.

    Args:
        text: The text of an option, from a command line, a file, a dict or a database.

    Raises:
        SyntaxError: It spells no such value, and is meant as it is.

    Example:
        >>> literal("[64, 32]"), literal("1e-3")
        ([64, 32], 0.001)
    """
    try:
        return ast.literal_eval(text)
    except (ValueError, TypeError, MemoryError, RecursionError) as error:
        raise SyntaxError(f"{text!r} is no literal") from error


def install() -> None:
    """Let RecBole's ``Config`` read values in this way; a second call does nothing.

    It evaluates every text as Python, with its own modules in scope, whether it comes from the command line, from a
    dict or, by way of these, from a yaml file, a search space, a study or a result; the values in the file of its
    hyper-parameter search, too. Of these, what is no literal is refused.
    """
    function = Config._convert_config_dict
    if "_recbole_mm_literal" in function.__globals__:
        return
    function.__globals__["_recbole_mm_literal"] = literal
    edit(function, {"value = eval(param)": "value = _recbole_mm_literal(param)"})
    # A yaml file may name Python objects by tags, which the loader of RecBole's choice looks up.
    Config._build_yaml_loader.__globals__["_recbole_mm_loader"] = OptionLoader
    edit(Config._build_yaml_loader, {"loader = yaml.FullLoader": "loader = _recbole_mm_loader"})
    build = HyperTuning._build_space_from_file
    build.__globals__["_recbole_mm_literal"] = literal
    edit(build, {"para_value = eval(para_value)": "para_value = _recbole_mm_literal(para_value)"})
