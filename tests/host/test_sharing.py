"""Which models' batches are divided among processes, and what a process is told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from recbole.config import Config

from recbole_mm import processes
from recbole_mm.host import recovery
from recbole_mm.host.registry import registered_models
from recbole_mm.host.sharing import SharedLoss
from recbole_mm.processes import Place
from tests.model.conftest import build

#: Models whose rows meet in the loss, by default: in a contrast, or in a norm of the batch's distinct rows.
WHOLE = {"BM3", "FREEDOM", "HCGCN", "LATTICE", "LGMRec", "MCPTR", "MGCN", "MMGCL", "SLMRec", "SMORE"}


def shared_loss(name: str, size: int | None = 101, **options: Any) -> tuple[SharedLoss, Any]:
    built = build(name, **options)
    built.model.train()
    trainer = SimpleNamespace(model=built.model, config=built.config, device=torch.device("cpu"))
    loss = SharedLoss(trainer, built.model.calculate_loss, getattr(built.train_data, "times", 1))
    return loss, built.batch(size)


@pytest.mark.parametrize("name", [*sorted(registered_models()), "BPR", "LightGCN"])
def test_batches_are_divided_where_the_parts_have_the_gradient_of_the_whole(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "world", lambda: 2)
    loss, batch = shared_loss(name)
    state = torch.get_rng_state()
    reason = loss._why_not(batch)
    assert reason == ("its rows depend on each other" if name in WHOLE else None)
    assert torch.equal(torch.get_rng_state(), state), "nothing is drawn"
    assert all(parameter.grad is None for parameter in loss._trainer.model.parameters())


def test_a_model_that_counts_gets_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "world", lambda: 2)
    loss, batch = shared_loss("Pop")
    assert loss._why_not(batch) == "it has no gradient" and not loss._trainer.model.item_cnt.any()


def test_a_contrast_that_is_asked_for_is_not_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "world", lambda: 2)
    loss, batch = shared_loss("VBPR", contrastive_weight=0.1)
    assert loss._why_not(batch) == "its rows depend on each other"


def test_parts_are_all_rows_once_with_their_negatives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "world", lambda: 3)
    loss, batch = shared_loss("BPR", size=None, train_neg_sample_args={"distribution": "uniform", "sample_num": 2})
    n = len(batch) // 2
    parts = [loss._part(batch, rank) for rank in range(3)]
    assert sum(weight for _, weight in parts) == pytest.approx(1)
    positives = torch.cat([part["item_id"][: len(part) // 2] for part, _ in parts])
    assert sorted(positives.tolist()) == sorted(batch["item_id"][:n].tolist())
    for part, _ in parts:
        assert torch.equal(part["user_id"][: len(part) // 2], part["user_id"][len(part) // 2 :])
    last, weight = loss._part(batch[:1], 2)
    assert len(last) == 1 and weight == 0, "a row that counts nothing, where none is left"


@pytest.mark.parametrize("n", [1, 2, 7])
def test_shares_are_all_rows_once(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    index, counted = processes.share(n)
    assert index.tolist() == list(range(n)) and counted == n, "a single process has all"
    monkeypatch.setattr(processes, "world", lambda: 4)
    found = []
    for rank in range(4):
        monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
        index, counted = processes.share(n)
        assert len(index) == max(counted, 1), "a row that counts nothing, where none is left"
        found += index.tolist()[:counted]
    assert sorted(found) == list(range(n))


def test_a_process_takes_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    joined: list[bool] = []
    monkeypatch.setattr(processes, "join", joined.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    options = {"gpu_id": "4,7", "state": "ERROR", "log_wandb": True}
    monkeypatch.setattr(processes, "_place", Place(3, 4, 1, 2, "env://"))
    config = Config("BPR", "mm-toy", config_dict=options)
    assert (config["gpu_id"], config["device"].type, joined) == ("7", "cuda", [True])
    assert config["log_wandb"] is False and config["show_progress"] is False, "the first one does"
    monkeypatch.setattr(processes, "_place", Place(2, 3, 2, 3, "env://"))
    with pytest.raises(
        ValueError, match=r"gpu_id: 3 processes on this machine need as many devices, one each, got 4, 7"
    ):
        Config("BPR", "mm-toy", config_dict=options)


def test_other_data_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    recovery._check_same_data({"ids": {"user_id": "a"}})
    monkeypatch.setattr(processes, "gathered", lambda value: [value, {"ids": {"user_id": "b"}}])
    with pytest.raises(ValueError, match="Process 1 has other data than process 0: .*user_id"):
        recovery._check_same_data({"ids": {"user_id": "a"}})


def test_torchrun_says_which_process_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert processes.place_of_environment() is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("RANK", "5")
    with pytest.raises(ValueError, match="got none of WORLD_SIZE, LOCAL_RANK"):
        processes.place_of_environment()
    given = {"WORLD_SIZE": 8, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 4, "MASTER_ADDR": "a", "MASTER_PORT": 1}
    for name, value in given.items():
        monkeypatch.setenv(name, str(value))
    assert processes.place_of_environment() == Place(5, 8, 1, 4, "env://")
