"""The fused optimizers: asked for, equal within rounding, and none where torch has no such form."""

from __future__ import annotations

import pytest
import torch
from recbole.trainer import Trainer
from torch import nn

import recbole_mm
from recbole_mm.host.optimizer import _can_fuse
from tests.options import QUICK


def trained(model="VBPR", **options):
    return recbole_mm.run(model, "mm-toy", config_dict={**QUICK, **options})


def optimizer_of(result):
    state = torch.load(result["checkpoint"], weights_only=False)
    return state["optimizer"]["param_groups"][0], state["state_dict"]


def test_a_run_has_the_form_that_is_asked_for(tmp_path):
    results = []
    for fused in ("auto", "never"):
        options = {"optimizer_fused": fused, "checkpoint_dir": str(tmp_path / fused)}
        group, parameters = optimizer_of(trained(**options, epochs=1))
        assert bool(group["fused"]) == (fused == "auto")
        results.append(parameters)
    for name, table in results[0].items():
        assert torch.allclose(table, results[1][name], atol=1e-5), name


class Fake:
    def __init__(self, model, enable_scaler=False, **options):
        self.model, self.enable_scaler = model, enable_scaler
        self.config = {"reg_weight": None, "optimizer_fused": None, **options}
        self.learner, self.learning_rate, self.weight_decay = "adam", 0.1, 0.01


@pytest.mark.parametrize("learner", ["adam", "adamw", "sgd", "adagrad"])
def test_equal_within_rounding_with_a_rate_for_each_group(learner):
    results = []
    for fused in (None, "never", "auto"):
        torch.manual_seed(0)
        tables = nn.ModuleList([nn.Embedding(5, 3), nn.Embedding(4, 3)])
        groups = [{"params": tables[0].parameters(), "lr": 0.01}, {"params": tables[1].parameters()}]
        optimizer = Trainer._build_optimizer(Fake(tables, optimizer_fused=fused), learner=learner, params=groups)
        assert [bool(group["fused"]) for group in optimizer.param_groups] == [fused == "auto"] * 2
        assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.1]
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.01]
        for _ in range(4):
            optimizer.zero_grad()
            sum((table.weight**3).sum() for table in tables).backward()
            optimizer.step()
        results.append(torch.cat([table.weight for table in tables]))
    assert torch.equal(results[0], results[1]) and torch.allclose(results[2], results[0], atol=1e-6)


def test_what_has_no_fused_form_keeps_its_own():
    table = nn.Embedding(3, 2)
    assert _can_fuse(Fake(table), torch.optim.Adam(table.parameters()))
    assert not _can_fuse(Fake(table, enable_scaler=True), torch.optim.Adam(table.parameters()))
    assert not _can_fuse(Fake(table), torch.optim.RMSprop(table.parameters()))
    sparse = nn.Embedding(3, 2, sparse=True)
    assert not _can_fuse(Fake(sparse), torch.optim.Adam(sparse.parameters()))
    wave = nn.ParameterList([nn.Parameter(torch.zeros(2, dtype=torch.complex64))])
    assert not _can_fuse(Fake(wave), torch.optim.Adam(wave.parameters()))
    elsewhere = nn.Embedding(3, 2, device="meta")
    assert not _can_fuse(Fake(elsewhere), torch.optim.Adam(elsewhere.parameters()))
