"""Scores that are computed while they are ranked give the metrics of whole matrices of scores."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from recbole.model.general_recommender import BPR
from recbole.trainer import Trainer
from recbole.utils import get_model, get_trainer

import recbole_mm.model.mmgcn
from recbole_mm.host import evaluation, products
from recbole_mm.host.deferred import Deferred
from recbole_mm.host.evaluation import rank, top_hits
from recbole_mm.host.products import Product, Table, scores_of
from tests.host import cold_data
from tests.host.cold_data import config, loaders

NEW = {"cold_start": {"entity": "item", "ratio": 0.3, "candidates": "cold"}}
METRICS = {"metrics": ["Recall", "NDCG", "MAP"], "topk": [5, 10], "slices": ["warm_items", "cold_items"]}
SMALL = {"embedding_size": 8}
MODELS: dict[str, dict[str, Any]] = {
    "BPR": SMALL,
    "LightGCN": SMALL,
    "SASRec": {},
    "GRU4Rec": {},
    "MMGCN": {"new_item_neighbours": 3},
    "UVCAN": {},
    "CMBF": {},
    "SASRecContent": {"hidden_size": 8, "inner_size": 8, "n_layers": 1, "train_neg_sample_args": None},
    "ItemKNNCBF": {"topk": [5, 60]},
}


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Options of the models that no other test of cold starts has."""
    monkeypatch.setattr(cold_data, "MODELS", {**dict.fromkeys(MODELS, {}), **cold_data.MODELS})
    monkeypatch.setattr(cold_data, "SEQUENTIAL", {*cold_data.SEQUENTIAL, "SASRecContent"})


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was found of every batch's scores."""
    found = []

    def note(*args: Any) -> Any:
        found.append(scores_of(*args))
        return found[-1]

    monkeypatch.setattr(evaluation, "scores_of", note)
    return found


def both_ways(name: str, watched: list[Any], **options: Any) -> tuple[Any, Any, list[Any]]:
    """Metrics of a model that was not trained, computed while ranking and from whole matrices; and what was found."""
    made = config(name, **{**METRICS, **MODELS[name], **options})
    train, valid, test = loaders(made)
    model = get_model(name)(made, train._dataset).to(made["device"])
    trainer = get_trainer(made["MODEL_TYPE"], name)(made, model)
    trainer.eval_collector.data_collect(train)
    ours = [trainer.evaluate(part, load_best_model=False) for part in (valid, test)]
    found = list(watched)
    trainer.eval_collector.eval_batch_collect = trainer.eval_collector.eval_batch_collect  # somebody looks at scores
    whole = [trainer.evaluate(part, load_best_model=False) for part in (valid, test)]
    assert len(watched) == len(found)
    return ours, whole, found


@pytest.mark.parametrize("protocol", [{}, NEW], ids=["all items", "new items"])
@pytest.mark.parametrize("name", MODELS)
def test_metrics_and_slices_are_those_of_whole_matrices(name: str, protocol: Any, watched: list[Any]) -> None:
    ours, whole, found = both_ways(name, watched, **protocol)
    assert ours == whole
    assert all(dict(one) for one in ours)
    if name in ("UVCAN", "CMBF", "ItemKNNCBF"):
        assert all(isinstance(one, Table) if protocol else one is None for one in found)
    else:
        assert all(isinstance(one, Product) for one in found)


def test_only_the_candidates_are_scored(watched: list[Any]) -> None:
    made = config("BPR", **NEW, **METRICS)
    train, valid, _ = loaders(made)
    trainer = Trainer(made, get_model("BPR")(made, train._dataset))
    trainer.eval_collector.data_collect(train)
    trainer.evaluate(valid, load_best_model=False)
    n_new = len(valid._dataset.cold_start.items)
    assert 0 < n_new < train._dataset.item_num / 2
    assert {len(one.items) for one in watched} == {n_new}
    assert valid.collate_fn([0])[1].dtype == torch.bool  # others still find all that is masked


class Scaled(BPR):
    """Its scores are no product: something is done to the product."""

    def full_sort_predict(self, interaction: Any) -> Any:
        return super().full_sort_predict(interaction).mul_(2)


class Sigmoid(BPR):
    def full_sort_predict(self, interaction: Any) -> Any:
        return super().full_sort_predict(interaction).sigmoid()


class Noisy(BPR):
    def full_sort_predict(self, interaction: Any) -> Any:
        scores = super().full_sort_predict(interaction)
        return scores + torch.rand(scores.shape)


@pytest.mark.parametrize("kind", [Scaled, Sigmoid, Noisy])
def test_what_is_no_product_is_left_alone(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_PACKAGES", ("recbole.model.", __name__))
    made = config("BPR", **SMALL)
    train, valid, _ = loaders(made)
    model = kind(made, train._dataset).eval()
    batch = next(iter(valid))[0]
    before = torch.random.get_rng_state()
    assert scores_of(model, batch, None) is None
    assert torch.equal(torch.random.get_rng_state(), before)
    assert scores_of(BPR(made, train._dataset), batch, None) is not None


def test_a_score_of_ones_own_is_asked_for(watched: list[Any]) -> None:
    """A class that scores in another way than the one it builds on."""

    class Own(recbole_mm.model.mmgcn.MMGCN):
        def full_sort_predict(self, interaction: Any) -> Any:
            return -super().full_sort_predict(interaction)

    made = config("MMGCN", **SMALL, new_item_neighbours=0)
    train, valid, _ = loaders(made)
    batch = next(iter(valid))[0]
    assert scores_of(Own(made, train._dataset).eval(), batch, None) is None
    assert scores_of(get_model("MMGCN")(made, train._dataset).eval(), batch, None) is not None


def case(n_columns: int | None, ties: bool) -> tuple[Deferred, torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """Random factors of 150 users and 3,001 items with a history, and the masked scores as RecBole makes them."""
    generator = torch.Generator().manual_seed(3)
    users, items = (torch.randn(n, 4, generator=generator) for n in (150, 3001))
    if ties:
        users, items = users.round(), items.round()
    row = torch.randint(0, 150, (4000,), generator=generator)
    item = torch.randint(1, 3001, (4000,), generator=generator)
    columns = None if n_columns is None else torch.randperm(3000, generator=generator)[:n_columns].sort().values + 1
    scores = users @ items.T
    scores[:, 0] = -torch.inf
    scores[row, item] = -torch.inf
    if columns is not None:
        left = torch.ones(3001, dtype=torch.bool)
        left[columns] = False
        scores[:, left] = -torch.inf
    product = Product(users, items if columns is None else items[columns], "torch")
    positives = torch.arange(150), torch.randint(1, 3001, (150,), generator=generator)
    return Deferred(None, product, 3001, columns, (row, item)), scores, positives


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("n_columns", [None, 2900, 400, 12, 3])
def test_lists_and_candidates_are_those_of_the_masked_matrix(n_columns: int | None, ties: bool) -> None:
    deferred, scores, positives = case(n_columns, ties)
    expected, found = rank(scores, 10, *positives), rank(deferred, 10, *positives)
    assert all(torch.equal(one, other) for one, other in zip(found, expected))
    assert torch.equal(top_hits(found), top_hits(expected))
    assert torch.equal(deferred.candidates(), scores.isfinite().sum(dim=1))
    assert torch.equal(deferred.is_candidate(*positives), scores[positives].isfinite())


def test_scores_that_are_not_finite_are_refused() -> None:
    table = torch.randn(5, 40)
    table[3, 7] = torch.nan
    with pytest.raises(ValueError, match="NaN or infinite"):
        Deferred(torch.nn.Identity(), Table(table), 40, None, None).lists(3)
    table[3, 7], table[:, 0] = 0, torch.nan  # the padding's score means nothing
    assert Deferred(torch.nn.Identity(), Table(table), 40, None, None).lists(3).min() > 0
