"""``table_updates: touched`` of every model that samples neighbours: rows that are read, equal gradients, resuming."""

from __future__ import annotations

import pytest
import torch
from recbole.trainer import Trainer

from recbole_mm.host.registry import registered_models
from recbole_mm.nn.row_adam import RowAdam
from tests.model.conftest import build, check_repeats_and_resumes, total_loss
from tests.options import QUICK

SAMPLING = sorted(name for name, cls in registered_models().items() if cls.samples_graph)
TOUCHED = {"graph_batch": "sampled", "fanout": [1], "table_updates": "touched"}


def tables_of(model):
    """Parameters with a row for every user, item or node."""
    sizes = (model.n_users, model.n_items, model.n_users + model.n_items)
    return {name: p for name, p in model.named_parameters() if p.dim() == 2 and len(p) in sizes}


@pytest.mark.parametrize("name", SAMPLING)
def test_a_step_changes_the_rows_that_it_reads_and_no_others(name):
    built = build(name, graph_batch="sampled", fanout=1, table_updates="touched")
    model = built.model.train()
    optimizer = Trainer(built.config, model).optimizer
    assert type(optimizer) is RowAdam
    before = {key: table.detach().clone() for key, table in tables_of(model).items()}
    total_loss(model, built.batch(4)).backward()
    optimizer.step()
    assert before
    for key, table in tables_of(model).items():
        read = set(table.grad.coalesce().indices()[0].tolist())
        changed = set((table != before[key]).any(dim=1).nonzero().flatten().tolist())
        assert changed and changed <= read and len(read) < len(table), key


@pytest.mark.parametrize("name", SAMPLING)
def test_sparse_gradients_are_the_dense_ones(name):
    gradients = []
    for updates in ("all", "touched"):
        built = build(name, graph_batch="sampled", fanout=2, table_updates=updates)
        torch.manual_seed(3)
        total_loss(built.model.train(), built.batch(32)).backward()
        gradients.append({key: p.grad.to_dense() for key, p in built.model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient, msg=lambda text, key=key: f"{key}: {text}")


def test_a_training_by_rows_repeats_itself_and_goes_on_where_it_stopped(tmp_path):
    options = {**QUICK, "graph_batch": "sampled", "fanout": 3, "table_updates": "touched", "train_batch_size": 256}
    check_repeats_and_resumes("MMGCL", options, tmp_path)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"graph_batch": "full"}, "graph_batch: full"),
        ({"learner": "sgd"}, "learner: sgd"),
        ({"clip_grad_norm": {"max_norm": 1}}, "clip_grad_norm"),
        ({"compile": True}, "compile"),
        ({"table_updates": "some"}, "expected one of all, touched"),
    ],
)
def test_what_updates_by_rows_do_not_go_with_is_said(options, message):
    with pytest.raises(ValueError, match=message):
        build("GRCN", **{**TOUCHED, "fanout": 2, **options})


def test_the_whole_graph_keeps_adam():
    built = build("GRCN", graph_batch="auto", fanout=10, table_updates="touched")
    assert type(Trainer(built.config, built.model).optimizer) is torch.optim.Adam
