"""Finds the models of this package, so that adding one means adding its file."""

from __future__ import annotations

import inspect
from importlib import import_module
from pkgutil import iter_modules

from recbole_mm import model as package
from recbole_mm import trainer as trainers
from recbole_mm.data import dataset as datasets
from recbole_mm.host.registry import register
from recbole_mm.model import base

__all__ = ["register_package_models"]


def register_package_models() -> None:
    """Register every model class that a module of ``recbole_mm.model`` lists in its ``__all__``.

    Its trainer and data set are the classes ``<Model>Trainer`` of ``recbole_mm.trainer`` and ``<Model>Dataset`` of
    ``recbole_mm.data.dataset`` where these exist.
    """
    for found in iter_modules(package.__path__, f"{package.__name__}."):
        if found.name == base.__name__:
            continue
        module = import_module(found.name)
        for name in getattr(module, "__all__", ()):
            cls = getattr(module, name)
            if isinstance(cls, type) and issubclass(cls, base.MultimodalModelMixin):
                _show_example(cls)
                register(
                    cls,
                    dataset=getattr(datasets, f"{name}Dataset", None),
                    trainer=getattr(trainers, f"{name}Trainer", None),
                )


_EXAMPLE = """

Example:
    >>> import recbole_mm
    >>> result = recbole_mm.run("{name}", "mm-toy", config_dict={{"epochs": 1}})
    >>> print(result["test_result"]["recall@10"] > 0)
    True
"""


def _show_example(cls: type) -> None:
    """Let ``help`` of a model end with an example that runs; most are run in the same way."""
    if "Example:" not in (cls.__doc__ or ""):
        cls.__doc__ = inspect.cleandoc(cls.__doc__ or "") + _EXAMPLE.format(name=cls.__name__)
