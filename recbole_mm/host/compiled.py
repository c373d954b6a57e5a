"""Losses that torch compiles, where the option ``compile`` asks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["compiled"]

# What torch raises where it cannot build or run what it has made of a loss, by name: they lie in private modules.
_FAILURES = ("InvalidCxxCompiler", "CppCompileError", "TritonMissing", "BackendCompilerFailed", "InductorError")


def compiled(trainer: Any, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A loss as torch's compiler has it, once for each function of a trainer.

    Random numbers are those of the loss as it is (``fallback_random``), so that dropout drops the same. What the
    compiler cannot follow, such as sparse products with a backward pass of their own, is run as it is between what it
    can.

    Args:
        trainer: The trainer.
        function: The loss of an interaction.

    Returns:
        The compiled loss; the function itself where ``compile`` is not set.
    """
    if not trainer.config["compile"]:
        return function
    known: dict[Any, Callable[[Any], Any]] = vars(trainer).setdefault("_compiled", {})
    key = getattr(function, "__name__", ""), getattr(trainer, "stage_name", None)
    if key not in known:
        known[key] = _with_message(torch.compile(function, options={"fallback_random": True}))
    return known[key]


def _with_message(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def called(interaction: Any) -> Any:
        try:
            return function(interaction)
        except Exception as error:
            if type(error).__name__ not in _FAILURES:
                raise
            raise ValueError(
                f"compile: torch cannot compile this model here ({type(error).__name__}: {_first_line(error)}). It "
                "needs a C++ compiler on a processor and Triton on a GPU; set compile to False to train without."
            ) from error

    return called


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")
