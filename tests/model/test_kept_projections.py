"""``outer_projections: kept`` of every model that samples neighbours: which items are projected, resuming, refusals."""

from __future__ import annotations

import pytest
import torch
from recbole.trainer import Trainer

from recbole_mm import processes
from recbole_mm.host.registry import registered_models
from recbole_mm.model.sampled_graph import SamplesGraph
from tests.model.conftest import build, check_repeats_and_resumes, total_loss
from tests.options import QUICK

SAMPLING = sorted(name for name, cls in registered_models().items() if cls.samples_graph)
OPTIONS = {"graph_batch": "sampled", "fanout": 2, "outer_projections": "kept"}
#: MMGCN takes vectors as narrow as those of mm-toy as they are, if not told otherwise.
PROJECTED = {"MMGCN": {"projection_dim": 6}}


def projections(model):
    """Projected features of all items, by modality."""
    with torch.no_grad():
        return {m: model.features.projected(m, model.project[m], None) for m in model.features}


def projected_anew(monkeypatch, part_of):
    """Let every model project all items of a step, those outside the batch without gradients; the plain reference."""

    def project_items(self, modality, part):
        rows = self.features.projected(modality, self.project[modality], part.items)
        part_of.append(part)
        near = torch.arange(len(rows)).unsqueeze(1) < part.n_batch_items
        return torch.where(near, rows, rows.detach())

    monkeypatch.setattr(SamplesGraph, "project_items", project_items)


@pytest.mark.parametrize("name", SAMPLING)
def test_a_first_step_is_that_of_fresh_projections_whose_outer_rows_are_constants(name, monkeypatch):
    built = build(name, **OPTIONS, **PROJECTED.get(name, {}))
    model, batch, parts = built.model.double().train(), built.batch(8), []
    found = []
    for _ in ("kept", "reference"):
        torch.manual_seed(3)
        model.zero_grad()
        loss = total_loss(model, batch)
        loss.backward()
        found.append((loss.item(), {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}))
        projected_anew(monkeypatch, parts)
    assert any(part.n_batch_items < len(part.items) for part in parts), "nothing lies outside the batch"
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-12)
    assert found[0][1].keys() == found[1][1].keys()
    for key, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][key], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", SAMPLING)
def test_items_of_a_batch_are_kept_as_they_are_and_others_as_they_were(name):
    built = build(name, **OPTIONS, **PROJECTED.get(name, {}))
    model = built.model.train()
    optimizer = Trainer(built.config, model).optimizer
    start = projections(model)
    for seed in range(2):
        torch.manual_seed(seed)
        before, batch = projections(model), built.batch(8)
        optimizer.zero_grad()
        total_loss(model, batch).backward()
        optimizer.step()
    own = torch.cat([batch[model.ITEM_ID], batch[model.NEG_ITEM_ID]]).unique()
    others = torch.ones(model.n_items, dtype=torch.bool)
    others[own] = False
    assert list(model.kept_projections._tables) == list(model.features)
    for modality, table in model.kept_projections._tables.items():
        torch.testing.assert_close(table[own], before[modality][own])
        torch.testing.assert_close(table[others], start[modality][others])  # both batches are the same


def test_an_epoch_begins_with_projections_of_its_parameters():
    built = build("GRCN", **OPTIONS, train_batch_size=512)
    model = built.model.train()
    steps = model.kept_projections.clock.steps_per_epoch
    assert steps == len(built.train_data)
    for _ in range(steps + 1):
        with torch.no_grad():
            for layer in model.project.values():
                layer.weight.mul_(1.5)
        begin = projections(model)
        total_loss(model, built.batch(8))
    for modality, table in model.kept_projections._tables.items():
        torch.testing.assert_close(table, begin[modality])


def test_rankings_take_the_projections_of_today():
    built = build("GRCN", **OPTIONS)
    model = built.model.train()
    total_loss(model, built.batch(8))
    with torch.no_grad():
        for table in model.kept_projections._tables.values():
            table.fill_(100.0)
    items = model.eval().representations()[1]
    model.kept_projections._tables.clear()
    assert torch.equal(items, model.representations()[1])


def test_a_training_repeats_itself_and_goes_on_where_it_stopped(tmp_path):
    options = {**QUICK, **OPTIONS, "table_updates": "touched", "train_batch_size": 256}
    check_repeats_and_resumes("DualGNN", options, tmp_path)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"graph_batch": "full"}, "outer_projections: kept does not go with graph_batch: full"),
        ({"compile": True}, "compile"),
        ({"outer_projections": "old"}, "expected one of fresh, kept"),
    ],
)
def test_what_kept_projections_do_not_go_with_is_said(options, message):
    with pytest.raises(ValueError, match=message):
        build("GRCN", **{**OPTIONS, **options})


def test_several_processes_are_refused(monkeypatch):
    built = build("GRCN", **OPTIONS)
    monkeypatch.setattr(processes, "world", lambda: 2)
    with pytest.raises(ValueError, match="outer_projections: kept trains in one process"):
        Trainer(built.config, built.model)


def test_features_that_are_not_projected_are_not_kept():
    built = build("MMGCN", **OPTIONS, projection_dim={"image": 0, "text": 6, "audio": 6})
    model = built.model.train()
    total_loss(model, built.batch(8))
    assert sorted(model.kept_projections._tables) == ["audio", "text"]
