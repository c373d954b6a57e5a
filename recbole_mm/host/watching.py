"""Watches the data and the trainers that ``run_recbole`` makes, which it neither returns nor lets a caller prepare."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from recbole.quick_start import quick_start

from recbole_mm.host.wrapping import wrap

__all__ = ["install", "watch_run"]


class _Watcher(NamedTuple):
    data: Callable[[Any, Any, Any, Any], object]
    before: Callable[[Any, Any], object]
    after: Callable[[Any], object]


# A variable of the thread (and of the asyncio task): runs at the same time must not be told of what others make.
_watcher: ContextVar[_Watcher | None] = ContextVar("recbole_mm_watcher", default=None)


def install() -> None:
    """Let RecBole's quick start tell of its data and its trainers; calling it again does nothing."""
    wrap(quick_start, "data_preparation", _data_preparation)
    wrap(quick_start, "get_trainer", _get_trainer)


def _nothing(*_: Any) -> None:
    pass


@contextmanager
def watch_run(
    *,
    data: Callable[[Any, Any, Any, Any], object] = _nothing,
    before: Callable[[Any, Any], object] = _nothing,
    after: Callable[[Any], object] = _nothing,
) -> Iterator[list[Any]]:
    """Be told of what ``run_recbole`` makes while the block lasts, in this thread only.

    Args:
        data: Called with the Config and the training, validation and test loader, before a model is made.
        before: Called with the Config and the model before their trainer is made.
        after: Called with every trainer before it trains.

    Yields:
        The trainers made so far, the latest last.
    """
    made: list[Any] = []

    def note(trainer: Any) -> None:
        made.append(trainer)
        after(trainer)

    token = _watcher.set(_Watcher(data, before, note))
    try:
        yield made
    finally:
        _watcher.reset(token)


def _data_preparation(original: Callable[..., Any], config: Any, dataset: Any) -> Any:
    loaders, watcher = original(config, dataset), _watcher.get()
    if watcher is not None:
        watcher.data(config, *loaders)
    return loaders


def _get_trainer(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    trainer_class, watcher = original(*args, **kwargs), _watcher.get()
    if watcher is None:
        return trainer_class

    def build(config: Any, model: Any) -> Any:
        watcher.before(config, model)
        trainer = trainer_class(config, model)
        watcher.after(trainer)
        return trainer

    return build
