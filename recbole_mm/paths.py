"""Where the files that travel with the package lie: inside an installed package, beside it in a checkout."""

from __future__ import annotations

from pathlib import Path

__all__ = ["dataset_atomic_dir", "properties_dir"]

_PACKAGE = Path(__file__).resolve().parent


def properties_dir() -> Path:
    """Folder of the option defaults (``overall.yaml``, ``model/``, ``dataset/``)."""
    return _locate("properties")


def dataset_atomic_dir() -> Path:
    """Folder of the packaged data sets and feature files, one folder per data set."""
    return _locate("dataset_atomic")


def _locate(name: str) -> Path:
    # An editable install does not honour setup.py's mapping of these folders into the package, so both places count.
    for folder in (_PACKAGE / name, _PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"recbole_mm: no folder {name!r} in {_PACKAGE} or {_PACKAGE.parent}; the installation is incomplete, "
        "install the package again."
    )
