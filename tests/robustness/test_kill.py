"""Real processes, killed at seeded moments and started again: the quick form of ``benchmarks/kill.py``."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "kill.py"


@pytest.fixture(scope="module")
def kill():
    spec = importlib.util.spec_from_file_location("kill", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.OPTIONS["epochs"] = 4
    module.STAGED["MCPTR"] = module.SMALL["MCPTR"] = {"pretrain_epochs": 2, "epochs": 2}
    module.warm_up()
    return module


@pytest.mark.parametrize(
    ("work", "count"), [("train:VBPR", 1), ("train:MCPTR", 1), ("compare", 1), ("search", 1), ("export", 1)]
)
def test_killed_and_started_again(work, count, kill, tmp_path):
    found = kill.kill_work(work, tmp_path, kill.moments(count, f"quick {work}"))
    assert found["kills"] and set(found["gaps"].values()) == {0.0}, found


def test_differences_are_seen(kill):
    import torch

    one = {"a": [1.0, torch.ones(2)], "time": 1, "text": "x"}
    assert kill.difference(one, {"a": [1.0, torch.ones(2)], "time": 2, "text": "x"}) == 0
    assert kill.difference(one, {"a": [1.0, torch.tensor([1.0, 1.25])], "time": 1, "text": "x"}) == 0.25
    for other in ({"a": [1.0], "text": "x"}, {"a": [1.0, torch.ones(2)], "text": "y"}, {}):
        assert kill.difference(one, other) == float("inf")
