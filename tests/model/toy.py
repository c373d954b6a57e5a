"""The toy world of the golden numbers: 3 users, 4 items (the last one new), three modalities, audio missing once."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction

from tests.model.tiny import tiny_model

PAIRS = [(0, 0), (0, 1), (1, 1), (1, 2), (2, 0)]
BATCH = [(0, 0, 2), (1, 2, 3), (0, 1, 3), (1, 1, 0)]
MISSING = np.array([np.nan, np.nan])
FEATURES = {
    "audio": np.array([[3.0, 1.0], [1.0, 0.0], MISSING, [1.0, 1.0]]),
    "image": np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [2.0, 1.0]]),
    "text": np.array([[1.0, 2.0], [2.0, 1.0], [0.0, 1.0], [1.0, 0.0]]),
}
USERS = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 1.0]], dtype=torch.float64)
ITEMS = torch.tensor([[1.0, 1.0], [0.0, 1.0], [2.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
ONE, SWAP, SHEAR = np.eye(2), np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([[1.0, 1.0], [0.0, 1.0]])
MAPS = {
    "audio": (np.array([[1.0, 0.0], [1.0, 1.0]]), [0.0, 0.0]),
    "image": (ONE, [0.0, 0.0]),
    "text": (SWAP, [0.5, -0.5]),
}


def toy_model(name: str, case: str, **options: Any) -> Any:
    """The model in float64, with the toy's ids and maps, on image and text (case A) or all three, weighed (case B)."""
    names = ["image", "text"] if case == "A" else ["audio", "image", "text"]
    weight = None if case == "A" else {"audio": 0.5, "image": 1.0, "text": 1.5}
    features = {m: FEATURES[m] for m in names}
    options = {"embedding_size": 2, "feature_norm": "none", "modality_weight": weight, **options}
    model = tiny_model(name, PAIRS, features, **options).double()
    for table, value in (("user_embedding", USERS), ("item_embedding", ITEMS)):
        if hasattr(model, table):
            put(getattr(model, table), value)
    for modality in names:
        layer = model.project[modality]
        if isinstance(layer, torch.nn.Linear):
            put_map(layer, *MAPS[modality])
    return model


def put(parameter: torch.Tensor, value: Any) -> None:
    """Write a table that has no padding row."""
    with torch.no_grad():
        parameter[len(parameter) - len(value) :] = torch.as_tensor(np.asarray(value))


def put_map(layer: torch.nn.Linear, weight: Any, bias: Any = (0.0, 0.0)) -> None:
    """Write ``x W + c``."""
    put(layer.weight, np.asarray(weight).T)
    if layer.bias is not None:
        put(layer.bias, bias)


def toy_batch(negatives: bool = True) -> Interaction:
    """The batch of the golden numbers; users 0 and 1 and item 1 are repeated."""
    users, positives, negative = (torch.tensor(ids) + 1 for ids in zip(*BATCH))
    batch = {"user_id": users, "item_id": positives, "neg_item_id": negative}
    return Interaction(batch if negatives else {k: v for k, v in batch.items() if k != "neg_item_id"})


def scores(model: Any) -> torch.Tensor:
    """Scores of the real users and items in evaluation."""
    with torch.no_grad():
        users, items = model.eval().forward()
    return users[1:] @ items[1:].T


def assert_golden(actual: Any, expected: Any) -> None:
    """Equal to the eight digits that are written down."""
    actual, expected = (torch.as_tensor(x, dtype=torch.float64).detach() for x in (actual, expected))
    torch.testing.assert_close(actual, expected, rtol=0, atol=6e-9)


def dense_graph(model: Any) -> torch.Tensor:
    """``D^-1/2 A D^-1/2`` over users then items, one pair at a time."""
    pairs = list(zip(*(ids.tolist() for ids in model.training_pairs)))
    size = model.n_users + model.n_items
    matrix = torch.zeros(size, size, dtype=torch.float64)
    for user, item in pairs:
        degrees = sum(u == user for u, _ in pairs) * sum(i == item for _, i in pairs)
        matrix[user, model.n_users + item] = matrix[model.n_users + item, user] = degrees**-0.5
    return matrix


def dense_hops(matrix: torch.Tensor, users: torch.Tensor, items: torch.Tensor, n_layers: int) -> list[torch.Tensor]:
    """States of all nodes after 0, 1, ... hops."""
    states = [torch.cat([users, items])]
    for _ in range(n_layers):
        states.append(matrix @ states[-1])
    return states
