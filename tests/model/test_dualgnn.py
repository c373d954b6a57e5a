"""DualGNN against a plain reference and its hand cases."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.nn import functional as F

from recbole_mm.data.cooccurrence import cooccurrence
from recbole_mm.model.dualgnn import DualGNN
from recbole_mm.nn.graph.user_graph import neighbour_table
from tests.model.conftest import build
from tests.model.tiny import assert_same_function, tiny_model

FEATURES = {"image": np.arange(12, dtype=np.float32).reshape(4, 3) - 5, "text": np.eye(4, 2, dtype=np.float32) + 0.5}
PAIRS = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2), (3, 3)]
HAND = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]


@pytest.mark.parametrize(("k", "pairs", "warned"), [(3, PAIRS, False), (3, HAND[:2] + HAND[3:4], True)])
def test_as_many_peers_as_there_are_users_are_no_graph(k, pairs, warned, caplog):
    """``knn_k`` counts users here: three of four are some, and of two all."""
    tiny_model("DualGNN", pairs, {"image": FEATURES["image"]}, knn_k=k)
    assert ("every one is everybody's neighbour" in caplog.text) is warned


def _table(model, table):
    """Rows of a trained table as the model reads them."""
    return F.normalize(table) if model.normalize_tables else table


def reference_scores(model: DualGNN, k: int, aggregation: str) -> torch.Tensor:
    """DualGNN with a dense adjacency matrix and Python loops over users."""
    n_users, n_nodes = model.n_users, model.n_users + model.n_items
    adjacency = torch.zeros(n_nodes, n_nodes, dtype=torch.float64)
    liked = [set() for _ in range(n_users)]
    for user, item in zip(*(ids.tolist() for ids in model.training_pairs)):
        adjacency[user, n_users + item] = adjacency[n_users + item, user] = 1.0
        liked[user].add(item)
    degree = adjacency.sum(dim=1).clamp(min=1).rsqrt()
    propagate = degree[:, None] * adjacency * degree[None, :]
    branches = {}
    for modality, feature in model.features.items():
        items = F.normalize(model.project[modality](feature))
        state = torch.cat([_table(model, model.preference[modality]), items])
        branches[modality] = state
        for _ in range(model.n_layers):
            state = propagate @ state
            branches[modality] = branches[modality] + state
    weight = model.features.weight
    items = sum(weight[m] * branch[n_users:] for m, branch in branches.items())
    states = torch.stack([weight[m] * branch[:n_users] for m, branch in branches.items()], dim=1)
    if model.fusion == "mean":
        fused = states.mean(dim=1)
    elif model.fusion == "concat":
        alpha = model.alpha.softmax(dim=1) if model.normalize_alpha else model.alpha
        fused = model.merge((states * alpha[:, :, None]).flatten(start_dim=1))
    else:
        alpha = model.alpha.softmax(dim=1) if model.normalize_alpha else model.alpha
        weighted = alpha.unsqueeze(-1) * states
        fused = weighted.max(dim=1).values if model.fusion == "max" else weighted.sum(dim=1)
    rows = []
    for user in range(n_users):
        shared = {other: len(liked[user] & liked[other]) for other in range(n_users) if other != user}
        peers = sorted((other for other, count in shared.items() if count), key=lambda other: (-shared[other], other))[
            :k
        ]
        total = fused[user]
        if peers:
            counts = torch.tensor([float(shared[p]) for p in peers], dtype=torch.float64)
            beta = counts.softmax(dim=0) if aggregation == "softmax" else torch.full_like(counts, 1 / len(peers))
            for weight_of_peer, peer in zip(beta, peers):
                total = total + weight_of_peer * fused[peer]
        rows.append(total)
    return torch.stack(rows) @ items.T


@pytest.mark.parametrize("fusion", ["weighted_sum", "max", "concat", "mean"])
@pytest.mark.parametrize(
    "n_layers, k, aggregation, normalize",
    [(2, 1, "softmax", False), (3, 5, "mean", True), (1, 2, "softmax", False), (0, 40, "mean", False)],
)
def test_scores_and_gradients_equal_the_plain_reference(fusion, n_layers, k, aggregation, normalize):
    options = {"n_layers": n_layers, "knn_k": k, "user_aggregation": aggregation, "normalize_alpha": normalize}
    options["normalize_tables"] = n_layers == 1
    model = tiny_model("DualGNN", PAIRS, FEATURES, embedding_size=5, user_fusion=fusion, **options).double()
    users, items = model()
    assert_same_function(users @ items.T, reference_scores(model, k, aggregation), model)


def test_modality_weights_scale_both_fusions():
    model = tiny_model("DualGNN", PAIRS, FEATURES, embedding_size=5, modality_weight={"image": 3.0}).double()
    users, items = model()
    torch.testing.assert_close(users @ items.T, reference_scores(model, 40, "softmax"), rtol=1e-12, atol=1e-12)


def test_batch_rows_equal_the_full_forward():
    model = tiny_model("DualGNN", PAIRS, FEATURES).double()
    user = torch.tensor([2, 1])
    torch.testing.assert_close(model(user)[0], model()[0][user], rtol=1e-12, atol=1e-12)


def test_peers_by_hand():
    """Users with items {0, 1, 2}, {1, 2}, {2} share 2, 1 and 1 items."""
    matrix = sp.csr_matrix((np.ones(6), ([u for u, _ in HAND], [i for _, i in HAND])), shape=(3, 3))
    neighbours, beta = neighbour_table(cooccurrence(matrix, 2), "softmax")
    assert neighbours[0].tolist() == [1, 2]
    assert beta[0].tolist() == pytest.approx([0.7310585786, 0.2689414214])
    neighbours, beta = neighbour_table(cooccurrence(matrix, 2), "mean")
    assert beta.tolist() == [[0.5, 0.5]] * 3


def test_peer_weights_sum_to_one_or_zero_and_nobody_is_his_own_peer():
    model = build("DualGNN").model
    sums = model.beta.sum(dim=1)
    assert torch.all((sums - 1).abs().lt(1e-12) | sums.eq(0))
    own = model.neighbours == torch.arange(model.n_users)[:, None]
    assert not (own & (model.beta > 0)).any()


def test_peers_come_from_training_pairs_only():
    """Users 2 and 3 share no training item, whatever the rest of the data set says (it holds every pair)."""
    model = tiny_model("DualGNN", PAIRS, FEATURES)
    assert model.beta[4].sum() == 0 and not (model.neighbours[model.beta > 0] == 4).any()


def test_weight_zero_of_a_user_removes_the_modality_from_him():
    model = tiny_model("DualGNN", PAIRS, FEATURES).double()
    with torch.no_grad():
        model.alpha[:, 0] = 0

    def fused():
        part = model.neighbourhood()
        tables = model._tables(part)
        return model._fuse(model._propagate(part, tables)[0], tables.alpha)

    before = fused()
    with torch.no_grad():
        model.preference["image"].normal_()
    assert torch.equal(before, fused())


def test_fusion_weights_start_near_equal_and_single_modality_starts_at_one():
    assert tiny_model("DualGNN", PAIRS, {"text": FEATURES["text"]}).alpha.eq(1).all()
    torch.testing.assert_close(build("DualGNN").model.alpha.sum(dim=1), torch.ones(121))


def test_loss_terms_equal_their_formulas():
    built = build("DualGNN", reg_weight=0.5)
    model, batch = built.model.train(), built.batch(8)
    users, items = model()
    user, positive, negative = batch["user_id"], batch["item_id"], batch["neg_item_id"]
    gap = (users[user] * (items[positive] - items[negative])).sum(dim=1)
    ranking, penalty = model.calculate_loss(batch)
    torch.testing.assert_close(ranking, -F.logsigmoid(gap).mean() / math.log(2))
    squares = sum((table[user] ** 2).sum() for table in (*model.preference.values(), model.alpha))
    torch.testing.assert_close(penalty, 0.5 * squares / (2 * len(user)))
