"""Multimodal recommenders for RecBole.

Importing this package is all there is to do: afterwards RecBole's own entry points know the models.

    import recbole_mm
    from recbole.quick_start import run_recbole

    run_recbole(model="MMGCN", dataset="ml-100k")
"""

from __future__ import annotations

from recbole_mm.host import compat as _compat

# Everything below imports RecBole, which may need repair before some of its modules can be imported.
_compat.install()

from recbole_mm.host.discovery import register_package_models as _register_package_models  # noqa: E402
from recbole_mm.host.registry import install as _install  # noqa: E402
from recbole_mm.host.registry import register, registered_models  # noqa: E402

_install()
_register_package_models()

__version__ = "0.1.0"

_LAZY = {
    "run": "recbole_mm.experiment.quick_start",
    "compare": "recbole_mm.comparison.compare",
    "tune": "recbole_mm.search.search",
    "export": "recbole_mm.serving.export",
}

__all__ = ["register", "registered_models", *sorted(_LAZY), *sorted(registered_models())]


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    models = registered_models()
    if name in models:
        return models[name]
    raise AttributeError(f"module 'recbole_mm' has no attribute {name!r}.")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
