"""Watches the trainers that RecBole's ``run_recbole`` makes, which it neither returns nor lets a caller prepare."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from recbole.quick_start import quick_start

from recbole_mm.host.wrapping import wrap

__all__ = ["install", "watch_trainers"]


class _Watcher(NamedTuple):
    before: Callable[[Any, Any], object] | None
    after: Callable[[Any], object]


# A variable of the thread (and of the asyncio task): runs at the same time must not be told of each other's trainers.
_watcher: ContextVar[_Watcher | None] = ContextVar("recbole_mm_trainer_watcher", default=None)


def install() -> None:
    """Let RecBole's quick start tell of its trainers; calling it again does nothing."""
    wrap(quick_start, "get_trainer", _get_trainer)


@contextmanager
def watch_trainers(
    check: Callable[[Any, Any], object] | None = None, prepare: Callable[[Any], object] | None = None
) -> Iterator[list[Any]]:
    """Collect the trainers that ``run_recbole`` makes while the block lasts, in this thread only.

    Args:
        check: Called with the Config and the model before their trainer is made.
        prepare: Called with every trainer before it trains.

    Yields:
        The trainers made so far, the latest last.
    """
    made: list[Any] = []

    def note(trainer: Any) -> None:
        made.append(trainer)
        if prepare is not None:
            prepare(trainer)

    token = _watcher.set(_Watcher(check, note))
    try:
        yield made
    finally:
        _watcher.reset(token)


def _get_trainer(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    trainer_class, watcher = original(*args, **kwargs), _watcher.get()
    if watcher is None:
        return trainer_class

    def build(config: Any, model: Any) -> Any:
        if watcher.before is not None:
            watcher.before(config, model)
        trainer = trainer_class(config, model)
        watcher.after(trainer)
        return trainer

    return build
