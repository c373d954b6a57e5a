"""Multimodal recommenders for RecBole.

Importing this package is all there is to do: afterwards RecBole's own entry points know the models.

    import recbole_mm
    from recbole.quick_start import run_recbole

    run_recbole(model="MMGCN", dataset="ml-100k")
"""

from __future__ import annotations

import sys as _sys

# `python -m recbole_mm` imports this file before it runs the program, which answers --help and mistakes without torch:
# then only the name is there, and the program imports the package again, with all its models, once it needs them.
# (Python 3.9 does not tell how it was called; there the program starts as slowly as the package.)
_called = getattr(_sys, "orig_argv", [])
_ONLY_A_NAME = _sys.argv[:1] == ["-m"] and ("-m", "recbole_mm") in zip(_called, _called[1:])

if not _ONLY_A_NAME:
    from recbole_mm.host import compat as _compat

    # Everything below imports RecBole, which may need repair before some of its modules can be imported.
    _compat.install()

    from recbole_mm.host.discovery import register_package_models as _register_package_models
    from recbole_mm.host.registry import install as _install
    from recbole_mm.host.registry import register, registered_models

    _install()
    _register_package_models()

__version__ = "0.1.0"

# What a user may rely on, beside the models: read when it is asked for.
_LAZY = {
    "run": "recbole_mm.experiment.quick_start",
    "Interrupted": "recbole_mm.experiment.quick_start",
    "compare": "recbole_mm.comparison.compare",
    "tune": "recbole_mm.comparison.tune",
    "SearchResult": "recbole_mm.search.search",
    "export": "recbole_mm.serving.export",
    "save": "recbole_mm.serving.saved",
    "load": "recbole_mm.serving.recommender",
    "Recommender": "recbole_mm.serving.recommender",
    "import_tables": "recbole_mm.data.convert.tables",
    "ImportReport": "recbole_mm.data.convert.import_report",
    "tags_of": "recbole_mm.host.tags",
    "Tags": "recbole_mm.host.tags",
    "MultimodalRecommender": "recbole_mm.model.base",
    "MultimodalSequentialRecommender": "recbole_mm.model.base",
}

__all__ = ["register", "registered_models", *sorted(_LAZY)]
if not _ONLY_A_NAME:
    __all__ += sorted(registered_models())


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
