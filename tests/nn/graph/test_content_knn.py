"""Ranking by content, against a plain reference in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_mm.nn.graph import content_knn
from recbole_mm.nn.graph.content_knn import content_rows, nearest_content, nearest_known, neighbour_scores
from recbole_mm.nn.graph.sparse import SparsePattern

N_USERS, N_ITEMS = 7, 23


def world(seed):
    """Features of two modalities, some missing, and histories of known items."""
    generator = np.random.default_rng(seed)
    features = {"image": generator.normal(size=(N_ITEMS, 4)), "text": generator.normal(size=(N_ITEMS, 6)) * 9}
    # Tables of features are float32; the reference computes with the same numbers in float64.
    features = {name: table.astype(np.float32).astype(np.float64) for name, table in features.items()}
    observed = {name: generator.random(N_ITEMS) > 0.2 for name in features}
    known = generator.random(N_ITEMS) > 0.3
    pairs = [(user, item) for user in range(N_USERS) for item in np.flatnonzero(known) if generator.random() < 0.3]
    return features, observed, known, pairs


def reference(features, observed, weight, known, pairs, k, of_candidate):
    """Loops over items, no library but NumPy, float64."""
    rows = []
    for item in range(N_ITEMS):
        parts = []
        for name, table in features.items():
            row = table[item] if observed[name][item] else np.zeros_like(table[item])
            parts.append(np.sqrt(weight[name]) * row / max(np.linalg.norm(row), 1e-300))
        whole = np.concatenate(parts)
        rows.append(whole / max(np.linalg.norm(whole), 1e-300))
    cosine = np.array(rows) @ np.array(rows).T
    real = [bool(row.any()) for row in rows]
    scores = np.zeros((N_USERS, N_ITEMS))
    for item in range(N_ITEMS):
        allowed = [j for j in range(N_ITEMS) if j != item and real[j] and real[item] and (known[j] or not of_candidate)]
        nearest = sorted(allowed, key=lambda j: -cosine[item, j])[:k]
        for user, other in pairs:
            if of_candidate and other in nearest:
                scores[user, item] += cosine[item, other]
            if not of_candidate and item == other:
                for neighbour in nearest:
                    scores[user, neighbour] += cosine[item, neighbour]
    return scores


@pytest.mark.parametrize("of_candidate", [True, False])
@pytest.mark.parametrize("k", [1, 5, N_ITEMS])
def test_scores_are_those_of_the_reference(k, of_candidate):
    for seed in range(3):
        features, observed, known, pairs = world(seed)
        weight = {"image": 0.7, "text": 1.3}
        tables = {name: torch.from_numpy(table).float() for name, table in features.items()}
        masks = {name: torch.from_numpy(mask) for name, mask in observed.items()}
        found = nearest_content(tables, masks, weight, k, torch.from_numpy(known), of_candidate)
        users, items = (torch.tensor(side) for side in zip(*pairs))
        history = SparsePattern.from_pairs(users, items, N_USERS, N_ITEMS)
        scores = neighbour_scores(history, *found)
        assert scores.dtype == torch.float64
        expected = reference(features, observed, weight, known, pairs, k, of_candidate)
        np.testing.assert_allclose(scores.numpy(), expected, rtol=0, atol=1e-9)


def test_inner_products_of_content_rows_are_mean_cosines():
    features, observed, _, _ = world(5)
    everywhere = {name: torch.ones(N_ITEMS).bool() for name in features}
    tables = {name: torch.from_numpy(table) for name, table in features.items()}
    rows = content_rows(tables, everywhere, {"image": 1.0, "text": 3.0})
    cosines = [table / np.linalg.norm(table, axis=1, keepdims=True) for table in features.values()]
    expected = (cosines[0] @ cosines[0].T + 3 * cosines[1] @ cosines[1].T) / 4
    np.testing.assert_allclose((rows @ rows.T).numpy(), expected, atol=1e-12)


def test_no_feature_no_score():
    table = {"text": torch.zeros(4, 3)}
    near, similarity = nearest_content(table, {"text": torch.zeros(4).bool()}, {"text": 1.0}, 2)
    assert near.n_edges == 0
    history = SparsePattern.from_pairs(torch.tensor([0]), torch.tensor([1]), 1, 4)
    assert not neighbour_scores(history, near, similarity).any()


def test_nearest_known_items_by_the_block_are_those_of_one_block(monkeypatch):
    """Large tables: neither the block of new items nor that of known ones changes what is nearest."""
    features, observed, known, _ = world(4)
    tables = {name: torch.from_numpy(table).float() for name, table in features.items()}
    masks = {name: torch.from_numpy(mask) for name, mask in observed.items()}
    weight, known = {"image": 0.7, "text": 1.3}, torch.from_numpy(known)
    seen = []
    for rows in (2**20, 10, 50):  # numbers: all items, one and five at a time
        monkeypatch.setattr(content_knn, "ROWS", rows)
        seen.append(nearest_known(tables, masks, weight, known, k=6))
    content = content_rows(tables, masks, weight)
    new, near = seen[0]
    assert len(new) > 2 and not known[new].any()
    old = (known & content.ne(0).any(dim=1)).nonzero().view(-1)
    assert torch.equal(near, old[(content[new] @ content[old].T).topk(6, dim=1).indices])
    for others in seen[1:]:
        assert torch.equal(others[0], new) and torch.equal(others[1], near)
