"""Models on hand-made graphs: a few pairs and a few vectors, written as atomic and feature files."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset
from recbole.utils import get_model, init_seed


def tiny_dataset(
    model: str,
    pairs: list[tuple[int, int]],
    features: Mapping[str, Any],
    user_features: dict[str, np.ndarray] | None = None,
    **options: Any,
) -> tuple[Config, Any]:
    """A data set whose training split is ``pairs``; user ``u`` and item ``i`` get internal ids ``u + 1``, ``i + 1``.

    Args:
        model: Name of the model that will read it.
        pairs: Training pairs, numbered from 0; repeated pairs are kept.
        features: Item features, one row per item; a row of NaN is left out of the file. A list has several vectors
            per item in varying number, an array ``(R_i, d)`` for each.
        user_features: User features, one row per user.
        options: Config options.
    """
    n_users, n_items = max(u for u, _ in pairs) + 1, max(len(f) for f in features.values())
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "tiny"
        folder.mkdir()
        # The first rows make RecBole number users and items in order; they are no training pairs.
        order = [(u, i) for u in range(n_users) for i in range(n_items)]
        rows = [f"{u}\t{i}\t{t}" for t, (u, i) in enumerate(order + list(pairs))]
        (folder / "tiny.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n" + "\n".join(rows) + "\n")
        for entity, tables in (("item", features), ("user", user_features or {})):
            for modality, feature in tables.items():
                if isinstance(feature, list):
                    arrays = {"feature": np.concatenate(feature), "count": np.array([len(part) for part in feature])}
                    np.savez(folder / f"tiny.{entity}.{modality}.npz", id=np.arange(len(feature)).astype(str), **arrays)
                    continue
                there = np.flatnonzero(~np.isnan(feature).reshape(len(feature), -1).any(axis=1))
                ids = np.array([str(index) for index in there])
                np.savez(folder / f"tiny.{entity}.{modality}.npz", id=ids, feature=feature[there])
        defaults = {"data_path": root, "state": "ERROR", "use_gpu": False, "show_progress": False}
        config = Config(model=model, dataset="tiny", config_dict={**defaults, **options})
        dataset = create_dataset(config)
        _ = dataset.features
    dataset._change_feat_format()
    return config, dataset.copy(dataset.inter_feat[len(order) :])


def assert_same_function(actual: torch.Tensor, expected: torch.Tensor, model: torch.nn.Module) -> None:
    """Equal values, and equal gradients with respect to every trainable parameter, to float64 accuracy."""
    torch.testing.assert_close(actual, expected, rtol=1e-11, atol=1e-12)
    weight = torch.randn_like(actual)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = [
        torch.autograd.grad((result * weight).sum(), parameters, allow_unused=True, retain_graph=True)
        for result in (actual, expected)
    ]
    for left, right in zip(*gradients):
        if left is not None or right is not None:
            torch.testing.assert_close(left, right, rtol=1e-8, atol=1e-10)


def tiny_model(model: str, pairs: list[tuple[int, int]], features: Mapping[str, Any], **options: Any) -> Any:
    """``model`` built on :func:`tiny_dataset`; it ranks items without a training interaction as its paper does."""
    options = {"new_item_neighbours": 0, **options}
    config, dataset = tiny_dataset(model, pairs, features, **options)
    init_seed(config["seed"], True)
    built = get_model(model)(config, dataset)
    assert torch.equal(built.training_pairs[0].unique(), torch.tensor(sorted({u + 1 for u, _ in pairs})))
    return built
