from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from recbole.quick_start import quick_start
from recbole.trainer import Trainer
from recbole.utils import ModelType

from recbole_mm.host.watching import _data_preparation, install, watch_run


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainers that only remember what they were made with."""
    monkeypatch.setattr(Trainer, "__init__", lambda self, config, model: setattr(self, "model", model))


def make(model: Any) -> Any:
    """What ``run_recbole`` does to get a trainer."""
    return quick_start.get_trainer(ModelType.GENERAL, "BPR")(SimpleNamespace(), model)


def test_two_threads_see_their_own_trainers(light: None) -> None:
    both, prepared = threading.Barrier(2), []

    def run(name: str) -> list[str]:
        with watch_run(after=lambda trainer: prepared.append((name, trainer.model))) as made:
            for step in range(3):
                both.wait(timeout=30)  # both watch now, and neither stops watching before the other has made its own
                make(f"{name}-{step}")
                both.wait(timeout=30)
        return [trainer.model for trainer in made]

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(run, "ab"))
    assert found == [[f"{name}-{step}" for step in range(3)] for name in "ab"]
    assert all(model.startswith(name) for name, model in prepared) and len(prepared) == 6


def test_both_blocks_are_told_and_nobody_outside(light: None) -> None:
    install()
    with watch_run() as made:
        first = make(1)
        with watch_run() as inner:
            second = make(2)
    assert quick_start.get_trainer(ModelType.GENERAL, "BPR") is Trainer
    make(3)
    assert made == [first, second] and inner == [second]


def test_a_check_comes_before_the_trainer(light: None) -> None:
    def refuse(config: Any, model: Any) -> None:
        raise ValueError(f"no trainer for {model}")

    with watch_run(before=refuse) as made, pytest.raises(ValueError, match="no trainer for 7"):
        make(7)
    assert made == []


def test_an_error_ends_the_watch(light: None) -> None:
    with pytest.raises(KeyError), watch_run():
        raise KeyError
    assert quick_start.get_trainer(ModelType.GENERAL, "BPR") is Trainer


def test_the_data_are_told_before_the_trainer(light: None) -> None:
    told: list[Any] = []
    with watch_run(data=lambda *made: told.append(made), after=lambda trainer: told.append(trainer.model)):
        # What it was wrapped around makes the loaders; here nothing needs to.
        _data_preparation(lambda config, dataset: (1, 2, 3), "config", "data set")
        make("model")
    _data_preparation(lambda config, dataset: (1, 2, 3), "config", "data set")
    assert told == [("config", 1, 2, 3), "model"]
