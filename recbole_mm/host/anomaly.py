"""Keeps an import of RecBole from switching on a debugging mode that slows down everything."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

__all__ = ["install"]

_MODULE = "recbole.model.sequential_recommender.sine"


def install() -> bool:
    """Restore autograd's anomaly detection to what it was after RecBole's module ``sine`` is imported.

    That module switches the detection on for the whole process, and it is imported with any sequential model. Every
    operator then records a stack trace and every gradient is searched for NaN: training takes several times as long,
    that of other models too, and results are the same.

    Returns:
        Whether it was possible: not after the module is imported, as the user may have switched the detection on since.
    """
    if _MODULE in sys.modules or any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return False
    sys.meta_path.insert(0, _Finder())
    return True


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's own spec, whose loader puts the detection back."""
        spec = PathFinder.find_spec(fullname, path) if fullname == _MODULE else None
        if spec is None or spec.loader is None:
            return None
        sys.meta_path.remove(self)
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            import torch

            before = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
            try:
                execute(module)
            finally:
                torch.autograd.set_detect_anomaly(*before)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
