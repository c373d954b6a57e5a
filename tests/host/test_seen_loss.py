"""Cross entropy of RecBole's own sequential models over the items that training has seen."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from recbole_mm.host.seen_loss import SeenCrossEntropy
from tests.model.conftest import build

SMALL = {
    "train_neg_sample_args": None, "hidden_size": 8, "inner_size": 8, "embedding_size": 8, "n_layers": 1,
    "MAX_ITEM_LIST_LENGTH": 10, "train_batch_size": 64,
}  # fmt: skip
MODELS = ("SASRec", "GRU4Rec", "BERT4Rec", "NARM")


def table_of(model):
    return next(p for name, p in model.named_parameters() if name.endswith("item_embedding.weight"))


@pytest.mark.parametrize("name", MODELS)
def test_items_without_training_interaction_have_no_logit(name):
    built = build(name, **SMALL)
    model, batch = built.model.eval(), built.batch()
    unseen = torch.ones(model.n_items, dtype=torch.bool)
    unseen[built.train_data.dataset.negative_items] = unseen[0] = False
    assert unseen.any()
    table = table_of(model)
    before = model.calculate_loss(batch)
    before.backward()
    assert before.isfinite()
    assert table.grad[: model.n_items][unseen].eq(0).all() and table.grad.abs().sum() > 0
    with torch.no_grad():
        table[: model.n_items][unseen] += 9.0
    assert torch.equal(model.calculate_loss(batch), before)
    # They are ranked all the same.
    assert model.full_sort_predict(batch).isfinite().all()


@pytest.mark.parametrize("name", MODELS)
def test_where_every_item_may_be_drawn_the_loss_is_recboles(name):
    built = build(name, **SMALL, negative_items="all")
    model = built.model.eval()
    assert built.train_data.dataset.negative_items is None
    assert not [module for module in model.modules() if isinstance(module, SeenCrossEntropy)]
    model.calculate_loss(built.batch()).backward()
    assert table_of(model).grad[1 : model.n_items].abs().sum(dim=1).gt(0).all()


def test_the_state_dict_is_recboles():
    keys = [set(build("SASRec", **SMALL, negative_items=items).model.state_dict()) for items in ("seen", "all")]
    assert keys[0] == keys[1]


def test_a_loss_of_its_own_is_said_to_rank_all_items(caplog):
    with caplog.at_level("WARNING"):
        build("SASRecCPR", **SMALL, n_facet_all=5, n_facet=1, n_facet_window=0, state="WARNING")
    assert "SASRecCPR has a cross entropy of its own" in caplog.text


def test_it_is_cross_entropy_without_some_columns():
    logits, target = torch.randn(3, 4), torch.tensor([1, 3, 1])
    loss = SeenCrossEntropy(torch.tensor([False, False, True, False]))
    torch.testing.assert_close(loss(logits, target), F.cross_entropy(logits[:, [0, 1, 3]], torch.tensor([1, 2, 1])))
    other = torch.randn(3, 5)
    assert torch.equal(loss(other, target), nn.CrossEntropyLoss()(other, target))
