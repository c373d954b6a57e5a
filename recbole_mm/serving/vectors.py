"""Vectors of users and items that stand for a model: found in it, and compared with its scores before they are used."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from logging import getLogger
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_mm.serving.scoring import Scorer
from recbole_mm.trainer.finite import parameters_not_finite

__all__ = ["score_vectors"]

_USERS = 64
_SLACK = 1e-3  # of the range of a user's scores: what rounding may exchange


def score_vectors(model: Any, dataset: Any, scorer: Scorer) -> dict[str, Tensor]:
    """The vectors that a model scores with.

    Every place where a model may keep them is tried, and what is found there is compared with the scores of a sample of
    users: the inner products must order all items as the model does. Where only items have vectors (a sequential
    model), some vector of the user must reproduce the scores.

    Args:
        model: The trained model, in evaluation mode.
        dataset: Its data set.
        scorer: Scores of the model.

    Returns:
        Entity to a table with a row per internal id.

    Raises:
        ValueError: There are no vectors, none that rank as the model does, or some that are not finite.
    """
    sizes = {"user": dataset.user_num, "item": dataset.item_num}
    users = np.arange(1, dataset.user_num)
    users = users[scorer.can_score(users)]
    users = np.sort(np.random.default_rng(0).permutation(users)[:_USERS])
    # All users first: what some models keep of it (restored embeddings) is one of the places.
    parts = [scorer.raw_scores(users[k : k + scorer.batch_users]) for k in range(0, len(users), scorer.batch_users)]
    if not parts:
        raise ValueError(
            f"{type(model).__name__}: no user of the data set can be scored, so no vectors can be checked."
        )
    scores = torch.cat(parts)[:, 1:].double().cpu()
    found = False
    for tables in _places(model, sizes):
        found = True
        _check_finite(model, tables)
        if _ranks(tables, scores, users):
            return tables
    if found:
        raise ValueError(
            f"{type(model).__name__} has tables of users or items, but their inner products do not order the items as "
            "the model's own scores do (it scores with a network, propagated vectors or biases beside them), so a "
            "search among them would recommend something else. Export the lists instead (--export=FILE)."
        )
    raise ValueError(
        f"{type(model).__name__} has no user or item embeddings that could be exported: neither a forward() that gives "
        "both, nor get_user_embedding and get_item_embedding, nor tables user_embedding and item_embedding. Export the "
        "lists instead (--export=FILE)."
    )


def _places(model: Any, sizes: dict[str, int]) -> Iterator[dict[str, Tensor]]:
    """Tables of users and items, from where a model is most likely to keep what it scores with."""
    pairs: list[Callable[[], Any]] = []
    forward_needs = [
        parameter
        for parameter in inspect.signature(model.forward).parameters.values()
        if parameter.default is parameter.empty and parameter.kind in (0, 1)
    ]
    if not forward_needs:
        pairs.append(getattr(model, "representations", model.forward))
    # RecBole's graph models keep what they propagated for a full ranking.
    pairs.append(lambda: (getattr(model, "restore_user_e", None), getattr(model, "restore_item_e", None)))
    if hasattr(model, "get_user_embedding") and hasattr(model, "get_item_embedding"):
        every = {entity: torch.arange(size, device=model.device) for entity, size in sizes.items()}
        pairs.append(lambda: (model.get_user_embedding(every["user"]), model.get_item_embedding(every["item"])))
    for pair in pairs:
        try:
            found = pair()
        except Exception as error:  # a method of the same name for something else fails in ways of its own
            getLogger().debug(f"{type(model).__name__}: no vectors from {pair}: {error}")
            continue
        if isinstance(found, Sequence) and len(found) == 2 and all(map(_is_table, found, sizes.values())):
            yield dict(zip(sizes, found))
    tables: dict[str, Tensor] = {}
    for entity, size in sizes.items():
        module = getattr(model, f"{entity}_embedding", None)
        table: Any = getattr(module, "weight", module)
        if _is_table(table, size):
            tables[entity] = table
    if tables:
        yield tables


def _is_table(table: Any, rows: int) -> bool:
    return isinstance(table, Tensor) and table.dim() == 2 and len(table) >= rows


def _ranks(tables: dict[str, Tensor], scores: Tensor, users: np.ndarray) -> bool:
    """Whether inner products order the items as ``scores``, ``(n, n_items - 1)``, do, up to rounding."""
    if "item" not in tables:
        return False
    items = tables["item"][1 : scores.shape[1] + 1].double().cpu()
    if "user" not in tables:
        solution = torch.linalg.lstsq(items, scores.T, driver="gelsd").solution
        return bool(((items @ solution - scores.T).abs().amax(dim=0) <= _SLACK * _range(scores)).all())
    if tables["user"].shape[1] != items.shape[1]:
        return False
    products = tables["user"][torch.from_numpy(users).to(tables["user"].device)].double().cpu() @ items.T
    by_product = scores.gather(1, products.argsort(dim=1, descending=True, stable=True))
    own = scores.sort(dim=1, descending=True).values
    return bool(((by_product - own).abs().amax(dim=1) <= _SLACK * _range(scores)).all())


def _range(scores: Tensor) -> Tensor:
    return scores.amax(dim=1) - scores.amin(dim=1) + 1e-12


def _check_finite(model: Any, tables: dict[str, Tensor]) -> None:
    for entity, table in tables.items():
        bad = int((~torch.isfinite(table[1:])).any(dim=1).sum())
        if bad:
            raise ValueError(
                f"{type(model).__name__}: the vectors of {bad:,} of {len(table) - 1:,} {entity}s hold NaN or infinity; "
                f"nothing is exported. {parameters_not_finite(model)}Was its training stable?"
            )
