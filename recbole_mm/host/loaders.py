"""What RecBole's loaders keep to themselves."""

from __future__ import annotations

from typing import Any

__all__ = ["dataset_of"]


def dataset_of(loader: Any) -> Any:
    """The part of a data set that one of RecBole's loaders draws from.

    ``loader.dataset`` is not it: some loaders put their own order of rows there.

    Args:
        loader: A loader of ``data_preparation``.
    """
    return loader._dataset
