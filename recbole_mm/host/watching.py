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
_watchers: ContextVar[tuple[_Watcher, ...]] = ContextVar("recbole_mm_watchers", default=())


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

    Within such a block there may be another one; both are told, the outer one first.

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

    token = _watchers.set((*_watchers.get(), _Watcher(data, before, note)))
    try:
        yield made
    finally:
        _watchers.reset(token)


def _data_preparation(original: Callable[..., Any], config: Any, dataset: Any) -> Any:
    loaders = original(config, dataset)
    for watcher in _watchers.get():
        watcher.data(config, *loaders)
    return loaders


def _get_trainer(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    trainer_class, watchers = original(*args, **kwargs), _watchers.get()
    if not watchers:
        return trainer_class

    def build(config: Any, model: Any) -> Any:
        for watcher in watchers:
            watcher.before(config, model)
        trainer = trainer_class(config, model)
        for watcher in watchers:
            watcher.after(trainer)
        return trainer

    return build
