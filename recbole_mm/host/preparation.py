"""Watches the data that RecBole's ``run_recbole`` prepares, which it does not return."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from recbole.quick_start import quick_start

from recbole_mm.host.wrapping import wrap

__all__ = ["watch_preparation"]

# A variable of the thread: runs at the same time must not be told of each other's data.
_watcher: ContextVar[Callable[..., Any] | None] = ContextVar("recbole_mm_preparation_watcher", default=None)


@contextmanager
def watch_preparation(tell: Callable[[Any, Any, Any, Any], object]) -> Iterator[None]:
    """Be told of the data of the runs that ``run_recbole`` starts while the block lasts, in this thread only.

    Args:
        tell: Called with the Config and the training, validation and test loader, before a model is made.
    """
    wrap(quick_start, "data_preparation", _prepare)
    token = _watcher.set(tell)
    try:
        yield
    finally:
        _watcher.reset(token)


def _prepare(original: Callable[..., Any], config: Any, dataset: Any) -> Any:
    loaders, tell = original(config, dataset), _watcher.get()
    if tell is not None:
        tell(config, *loaders)
    return loaders
