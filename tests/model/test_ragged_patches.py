"""Items with one to four pictures, in models that read each of them: what an item does not have is not read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction

from recbole_mm.data.features.moments import mean_cosine, scale_warning
from recbole_mm.data.features.prepare import prepare
from recbole_mm.data.features.table import FeatureTable
from recbole_mm.model.feature_bank import FeatureBank
from tests.model.tiny import tiny_model

RANDOM = np.random.default_rng(0)
COUNT = [1, 4, 2, 3]
PICTURES = [RANDOM.normal(loc=1, size=(count, 3)).astype(np.float32) for count in COUNT]
FEATURES = {"image": PICTURES, "text": RANDOM.normal(size=(4, 2)).astype(np.float32)}
PAIRS = [(0, 0), (0, 1), (1, 2), (2, 2), (2, 0), (2, 3)]
SMALL: dict[str, dict[str, Any]] = {
    "UVCAN": {"embedding_size": 8, "attn_size": 6, "mlp_hidden": 5},
    "CMBF": {"embedding_size": 4, "n_image_layers": 1, "n_text_layers": 1, "n_cross_layers": 2, "n_heads": 2},
}
MODELS = [("UVCAN", {}), ("UVCAN", {"contrastive_weight": 0.1}), ("CMBF", {}), ("CMBF", {"contrastive_weight": 0.1}),
          ("CMBF", {"image_pool": "flatten"}), ("CMBF", {"image_modality": "text"})]  # fmt: skip
USERS, ITEMS = (part.flatten() + 1 for part in np.indices((3, 4)))
GRID = Interaction({"user_id": torch.tensor(USERS), "item_id": torch.tensor(ITEMS)})
BATCH = Interaction(
    {
        "user_id": torch.tensor([1, 1, 2, 3]),
        "item_id": torch.tensor([1, 2, 3, 4]),
        "neg_item_id": torch.tensor([3, 4, 1, 2]),
        "label": torch.tensor([1.0, 0.0, 1.0, 1.0]),
    }
)


def made(name: str, norm: str = "zscore_l2", **options: Any) -> Any:
    more = {**SMALL[name], "feature_norm": norm, "dropout": 0.0, **options}
    model = tiny_model(name, PAIRS, FEATURES, **more).double()
    assert model.features.own("image").sum(dim=1).tolist() == [4, *COUNT]  # the padding row has them all
    return model


def other_places(bank: FeatureBank, fill: Any) -> None:
    """Write something else into the places that no picture of the item's own holds."""
    feature, own = bank["image"], bank.own("image")
    feature[~own] = torch.as_tensor(fill(feature[~own]))


@pytest.mark.parametrize(("name", "options"), MODELS)
def test_places_without_a_picture_are_never_read(name: str, options: dict[str, Any]) -> None:
    results = []
    for fill in (lambda rest: rest, lambda rest: torch.full_like(rest, 1e3)):
        model = made(name, **options)
        other_places(model.features, fill)
        loss = model.train().calculate_loss(BATCH)
        torch.stack([torch.as_tensor(part) for part in loss]).sum().backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        model.eval()
        scores = model.predict(GRID), model.full_sort_predict(Interaction({"user_id": torch.tensor([1, 2, 3])}))
        results.append([*loss, *gradients, *scores])
    for left, right in zip(*results):
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-14)
    assert all(part.isfinite().all() for part in results[0])


@pytest.mark.parametrize("norm", ["none", "zscore_l2"])
@pytest.mark.parametrize("name", ["UVCAN", "CMBF"])
def test_an_item_with_one_of_four_pictures_is_the_item_alone_with_one(name: str, norm: str) -> None:
    """The same parameters, read with as many places as the item has pictures, and no mask at all."""
    model = made(name, norm).eval()
    whole = model.predict(GRID)
    sorted_whole = model.full_sort_predict(Interaction({"user_id": torch.tensor([1, 2, 3])})).view(3, -1)
    for item, count in enumerate(COUNT, start=1):
        tables = {
            m: FeatureTable(m, "item", f[:, :count] if m == "image" else f, model.features.observed[m])
            for m, f in model.features.items()
        }
        alone = made(name, norm).eval()
        bank = FeatureBank(tables, model.features.weight)
        assert bank.own("image") is None
        for part in (getattr(alone, "image_tokens", None), alone.item_tokens):
            if part is not None:
                part.features = bank
        rows = GRID["item_id"] == item
        torch.testing.assert_close(alone.predict(GRID)[rows], whole[rows], rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(sorted_whole[:, item].sigmoid() if name == "CMBF" else sorted_whole[:, item],
                                   whole[rows], rtol=1e-9, atol=1e-12)  # fmt: skip


@pytest.mark.parametrize("name", ["UVCAN", "CMBF"])
def test_the_order_of_pictures_says_nothing(name: str) -> None:
    model, other = made(name).eval(), made(name).eval()
    feature = other.features["image"]
    feature[2], feature[3, :2], feature[4, :3] = feature[2].flip(0), feature[3, :2].flip(0), feature[4, :3].flip(0)
    torch.testing.assert_close(model.predict(GRID), other.predict(GRID), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("norm", ["none", "l2", "zscore", "zscore_l2", "auto"])
def test_statistics_are_those_of_pictures(norm: str) -> None:
    """As of a table that has every picture in a row of its own; the places beyond hold the mean of the result."""
    feature = torch.zeros(5, 4, 3)
    for row, pictures in enumerate(PICTURES, start=1):
        feature[row, : len(pictures)] = torch.from_numpy(pictures)
        feature[row, len(pictures) :] = torch.from_numpy(pictures).mean(dim=0)
    observed = torch.tensor([False, True, True, True, True])
    table = FeatureTable("image", "item", feature, observed, torch.tensor([4, *COUNT]))
    flat = torch.cat([torch.zeros(1, 3), torch.from_numpy(np.concatenate(PICTURES))])
    rows = FeatureTable("image", "item", flat, torch.arange(len(flat)) > 0)
    assert mean_cosine(table) == pytest.approx(mean_cosine(rows), abs=1e-12)
    assert scale_warning(table) == scale_warning(rows)
    ready, expected = prepare(table, norm, "zero"), prepare(rows, norm, "zero").feature[1:].split(COUNT)
    for row, own in enumerate(expected, start=1):
        torch.testing.assert_close(ready.feature[row, : len(own)], own)
        torch.testing.assert_close(ready.feature[row].mean(dim=0), own.mean(dim=0))
