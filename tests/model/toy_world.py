"""The toy world in which the baselines' numbers were computed by hand, and their common pieces as float64 loops.

Three users, four items (the last is new), five pairs, two to three modalities of which one lacks an item. Ids have no
padding here; a model has one more user and item, in front, that must change nothing.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from torch import Tensor
from torch.nn import functional as F

from tests.model.tiny import tiny_model

PAIRS = [(0, 0), (0, 1), (1, 1), (1, 2), (2, 0)]
TRIPLES = [(0, 0, 2), (1, 2, 3), (0, 1, 3), (1, 1, 0)]  # users 0 and 1 and item 1 come twice
USERS = [[1.0, 0.0], [0.0, 2.0], [-1.0, 1.0]]
ITEMS = [[1.0, 1.0], [0.0, 1.0], [2.0, -1.0], [1.0, 0.0]]
LACKING = [float("nan")] * 2
FEATURES = {
    "audio": [[3.0, 1.0], [1.0, 0.0], LACKING, [1.0, 1.0]],
    "image": [[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [2.0, 1.0]],
    "text": [[1.0, 2.0], [2.0, 1.0], [0.0, 1.0], [1.0, 0.0]],
}
ONE, SWAP, SHEAR = [[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]], [[1.0, 1.0], [0.0, 1.0]]
MAPS = {"audio": [[1.0, 0.0], [1.0, 1.0]], "image": ONE, "text": SWAP}
BIASES = {"audio": [0.0, 0.0], "image": [0.0, 0.0], "text": [0.5, -0.5]}
WEIGHTS = {"audio": 0.5, "image": 1.0, "text": 1.5}


def toy(name: str, case: str, **options: Any) -> Any:
    """``name`` in case A (image and text) or B (audio as well, unequal weights), in float64, with the toy's ids."""
    features = {m: np.array(f, dtype=np.float32) for m, f in FEATURES.items() if case == "B" or m != "audio"}
    weights = {"modality_weight": WEIGHTS} if case == "B" else {}
    model = tiny_model(
        name, PAIRS, features, **{"embedding_size": 2, "feature_norm": "none", "knn_k": 2, **weights, **options}
    ).double()
    if hasattr(model, "user_embedding"):
        put(model.user_embedding, [[7.0, -3.0], *USERS])  # the padding rows must change nothing
        put(model.item_embedding, [[-5.0, 2.0], *ITEMS])
    return model


def put(parameter: Tensor, value: Any) -> None:
    """Overwrite a parameter."""
    with torch.no_grad():
        parameter.copy_(torch.as_tensor(value, dtype=torch.float64))


def put_linear(layer: Any, weight: Any, bias: Any = None) -> None:
    """Make a layer compute ``x W + c``."""
    put(layer.weight, torch.tensor(weight).T)
    if bias is not None:
        put(layer.bias, bias)


def put_projections(model: Any) -> None:
    """The toy's maps of features."""
    for modality in model.features:
        put_linear(model.project[modality], MAPS[modality], BIASES[modality])


def batch_of(triples: list[tuple[int, int, int]]) -> Interaction:
    """A batch of triples whose ids have no padding."""
    ids = torch.tensor(triples).T + 1
    return Interaction({"user_id": ids[0], "item_id": ids[1], "neg_item_id": ids[2]})


def scores(model: Any) -> Tensor:
    """Scores of the real users and items."""
    n_users, n_items = model.n_users, model.n_items
    with torch.no_grad():
        table = model.eval().full_sort_predict(Interaction({"user_id": torch.arange(n_users)}))
    return table.view(n_users, n_items)[1:, 1:]


def assert_golden(actual: Any, expected: Any, tolerance: float = 6e-9) -> None:
    """Equal to the printed digits."""
    actual = torch.as_tensor(actual).detach().double()
    torch.testing.assert_close(actual, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=tolerance)


def random_world(seed: int, n_modalities: int) -> tuple[list[tuple[int, int]], dict[str, np.ndarray]]:
    """Pairs of six users (the second has none), features of nine items; the last is new, some lack some."""
    random = np.random.default_rng(seed)
    pairs = [(u, int(i)) for u in (0, 2, 3, 4, 5) for i in random.choice(8, size=1 + u % 4, replace=False)]
    names = ("audio", "image", "text", "title")[:n_modalities]
    features = {m: random.normal(size=(9, 2 + x)).astype(np.float32) for x, m in enumerate(names)}
    for x, table in enumerate(features.values()):
        table[2 + x] = np.nan
    return pairs, features


def random_batch(pairs: list[tuple[int, int]]) -> Interaction:
    """Triples of a random world; a user and an item come twice, negatives lack modalities or are new."""
    return batch_of([(0, pairs[0][1], 8), (2, 3, 4), (5, 1, 2), (5, 2, 3), (0, 3, 5)])


# --- the definitions, one node and one edge at a time; ids with padding -----------------------------------------------


def neighbours(model: Any, pairs: Any = None) -> tuple[list[list[int]], list[list[int]]]:
    """Items of every user and users of every item."""
    pairs = list(zip(*(t.tolist() for t in model.training_pairs))) if pairs is None else pairs
    of_user = [[i for u, i in pairs if u == a] for a in range(model.n_users)]
    return of_user, [[u for u, i in pairs if i == b] for b in range(model.n_items)]


def hop(near: Any, users: Tensor, items: Tensor, norm: str) -> tuple[Tensor, Tensor]:
    """One hop of the user-item graph."""
    of_user, of_item = near
    new = []
    for mine, own, other, others_near in ((of_user, users, items, of_item), (of_item, items, users, of_user)):
        rows = []
        for node, adjacent in enumerate(mine):
            row = torch.zeros(other.shape[1], dtype=other.dtype)
            for x in adjacent:
                root = math.sqrt(len(adjacent) * len(others_near[x]))
                row = row + other[x] / (root if norm == "sym" else len(adjacent) + 1)
            rows.append(row if norm == "sym" else row + own[node] / (len(adjacent) + 1))
        new.append(torch.stack(rows))
    return new[0], new[1]


def loop_lightgcn(near: Any, users: Tensor, items: Tensor, n_layers: int, norm: str = "sym") -> tuple[Tensor, Tensor]:
    """Mean over layers."""
    totals = users, items
    for _ in range(n_layers):
        users, items = hop(near, users, items, norm)
        totals = totals[0] + users, totals[1] + items
    return totals[0] / (n_layers + 1), totals[1] / (n_layers + 1)


def loop_edges(table: Tensor, observed: Tensor, k: int, weighted: bool) -> Tensor:
    """Cosines (or ones) of the k nearest rows, itself first; not normalised. Shape ``(n, n)``."""
    n, rows = len(table), []
    for i in range(n):
        row = [torch.zeros((), dtype=torch.float64)] * n
        if observed[i]:
            cosine = {
                j: F.cosine_similarity(table[i].double(), table[j].double(), dim=0, eps=1e-12)
                for j in range(n)
                if observed[j]
            }
            for j in sorted(cosine, key=lambda j: (j != i, -round(cosine[j].item(), 9), j))[:k]:
                row[j] = cosine[j].clamp(min=0) if weighted else torch.ones((), dtype=torch.float64)
        rows.append(torch.stack(row))
    return torch.stack(rows)


def both_row_sums(edges: Tensor) -> Tensor:
    """Divide by the roots of the row sums of both ends."""
    total = edges.sum(dim=1)
    root = torch.where(total > 0, total, torch.ones_like(total)).rsqrt() * (total > 0)
    return root[:, None] * edges * root[None, :]


def loop_shares(base: list[Any], model: Any) -> Tensor:
    """Shares of each item over the modalities that it has. Shape ``(n_items, M)``."""
    rows = []
    for item in range(model.n_items):
        raw = [
            b * model.features.weight[m] * float(model.features.observed[m][item]) for b, m in zip(base, model.features)
        ]
        total = sum(raw)
        rows.append(torch.stack([torch.as_tensor(x, dtype=torch.float64) / (total if total > 0 else 1.0) for x in raw]))
    return torch.stack(rows)


def loop_bpr(users: Tensor, items: Tensor, triples: list[tuple[int, int, int]]) -> Tensor:
    """Mean of -ln sigma of the gaps; 0 for no triple."""
    gaps = [users[u] @ (items[p] - items[n]) for u, p, n in triples]
    return torch.stack([-torch.log(torch.sigmoid(g)) for g in gaps]).mean() if gaps else users.new_zeros(())


def loop_half_squares(users: Tensor, items: Tensor, triples: list[tuple[int, int, int]]) -> Tensor:
    """Half the sum of squares, by the batch."""
    parts = [users[u] @ users[u] + items[p] @ items[p] + items[n] @ items[n] for u, p, n in triples]
    return torch.stack(parts).sum() / (2 * len(triples))


def loop_contrast(anchors: Tensor, others: Tensor, ids: list[int], temperature: float, distinct: bool) -> Tensor:
    """In-batch softmax in one direction."""
    ids = sorted(set(ids)) if distinct else ids
    losses = []
    for b, x in enumerate(ids):
        row = [F.cosine_similarity(anchors[x], others[y], dim=0, eps=1e-12) / temperature for y in ids]
        losses.append(torch.stack(row).logsumexp(dim=0) - row[b])
    return torch.stack(losses).mean()


def padded(triples: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """The triples with the ids of the model."""
    return [(u + 1, p + 1, n + 1) for u, p, n in triples]
