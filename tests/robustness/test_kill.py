"""Real processes, killed at seeded moments and started again: the quick form of ``benchmarks/kill.py``."""

from __future__ import annotations

import pytest
import torch

from benchmarks import kill, kill_work


@pytest.fixture(scope="module", autouse=True)
def short():
    staged = {"pretrain_epochs": 2, "epochs": 2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(kill_work.OPTIONS, "epochs", 4)
        patch.setitem(kill_work.STAGED, "MCPTR", staged)
        patch.setitem(kill_work.SMALL, "MCPTR", staged)
        kill_work.warm_up()
        yield


@pytest.mark.parametrize(
    ("work", "count"), [("train:VBPR", 1), ("train:MCPTR", 1), ("compare", 1), ("search", 1), ("export", 1)]
)
def test_killed_and_started_again(work, count, tmp_path):
    # In the first half: a run may take less time than the one that it is measured by, and end before a later kill.
    shares = [share / 2 for share in kill.moments(count, f"quick {work}")]
    found = kill.kill_work(work, tmp_path, shares)
    assert found["kills"] and set(found["gaps"].values()) == {0.0}, found


def test_differences_are_seen():
    one = {"a": [1.0, torch.ones(2)], "time": 1, "text": "x"}
    assert kill_work.difference(one, {"a": [1.0, torch.ones(2)], "time": 2, "text": "x"}) == 0
    assert kill_work.difference(one, {"a": [1.0, torch.tensor([1.0, 1.25])], "time": 1, "text": "x"}) == 0.25
    for other in ({"a": [1.0], "text": "x"}, {"a": [1.0, torch.ones(2)], "text": "y"}, {}):
        assert kill_work.difference(one, other) == float("inf")
