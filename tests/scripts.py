"""Files of the repository that belong to no package, such as those of ``tools/``, as modules."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]


def script(path: str) -> ModuleType:
    """A module of its own in every call, so that a test may change what stands in it.

    Args:
        path: The file, from the root of the repository.
    """
    spec = spec_from_file_location(path.removesuffix(".py").replace("/", "_").replace("-", "_"), ROOT / path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
