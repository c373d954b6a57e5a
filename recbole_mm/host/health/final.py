"""What is measured of a trained model: the lists of some validation users, its representations and its parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from logging import getLogger
from typing import Any

import numpy as np
import torch
from recbole.utils import ModelType, get_model
from torch import Tensor, nn

from recbole_mm.data.features.permute import permute_modality
from recbole_mm.host.health.aside import aside, ranks_all
from recbole_mm.host.loaders import dataset_of
from recbole_mm.nn.diagnosis import concentration, coverage_and_gini, effective_rank, idle, overlap

__all__ = ["measure"]

_USERS = 32
_LENGTH = 20
_ROWS = 512
_SEED = 2020
_FEWEST_ROWS = 8
_SHORTEST = 5
# Share of the training's seconds that building a model anew may take, and seconds that are too few to matter.
_SHARE, _LITTLE = 0.01, 0.1


def measure(trainer: Any, train_data: Any, valid_data: Any, seconds: float) -> dict[str, Any]:
    """Measures of the model as it is after the last epoch.

    Args:
        trainer: A RecBole trainer.
        train_data: Its training data.
        valid_data: Its validation data, or nothing.
        seconds: Of a processor that the training took, of which building a model anew may take a hundredth.

    Returns:
        ``concentration``, ``same_items``, ``coverage`` and ``gini`` of lists, ``effective_rank`` of what there is,
        ``permuted`` (modality to the share of lists that a permutation of its rows keeps) and ``idle`` (part of the
        model to the reason why it does nothing); what cannot be measured is missing.
    """
    found: dict[str, Any] = {"effective_rank": {}}
    if (
        trainer.config["MODEL_TYPE"] == ModelType.TRADITIONAL
        or getattr(trainer.model, "type", 0) == ModelType.TRADITIONAL
    ):
        return found
    with aside(trainer, (train_data, valid_data)) as model:
        for name, rows in _representations(model):
            found["effective_rank"][name] = effective_rank(_some(rows))
        parts = model.diagnostics() if hasattr(model, "diagnostics") else {}
        found["idle"] = {name: why for name, part in parts.items() if (why := idle(part)) is not None}
        if valid_data and ranks_all(valid_data):
            batch = _sample(valid_data).to(trainer.device)
            scores = _scores(model, batch)
            if scores is not None and len(scores) >= _FEWEST_ROWS:
                found.update(_lists(scores))
                found["effective_rank"]["the scores of different users"] = effective_rank(scores[:, 1:])
                rebuilt = getattr(model, "building_seconds", 0.0) <= max(_SHARE * seconds, _LITTLE)
                found["permuted"] = _permuted(trainer, model, dataset_of(train_data), batch, _top(scores), rebuilt)
    return found


def _sample(loader: Any) -> Any:
    index = np.unique(np.linspace(0, loader.sample_size - 1, _USERS).astype(int))
    return loader.collate_fn(index)[0]


def _scores(model: Any, batch: Any) -> Tensor | None:
    try:
        scores = model.full_sort_predict(batch)
    except NotImplementedError:  # RecBole scores pair by pair then, which would take as long as an evaluation
        return None
    return scores.detach().float().view(len(batch), -1).cpu()


def _top(scores: Tensor) -> Tensor:
    return torch.topk(scores[:, 1:], min(_LENGTH, max((scores.shape[1] - 1) // 12, 1))).indices + 1


def _lists(scores: Tensor) -> dict[str, Any]:
    """Of lists without a mask, so that different histories do not hide that the order is the same."""
    lists, n_items = _top(scores), scores.shape[1]
    if lists.shape[1] < _SHORTEST:  # of a small catalogue, whose lists cannot but have much in common
        return {}
    coverage, gini = coverage_and_gini(lists, n_items)
    return {
        "concentration": concentration(lists), "same_items": lists.shape[1], "coverage": coverage, "gini": gini,
    }  # fmt: skip


def _representations(model: Any) -> Iterator[tuple[str, Tensor]]:
    """What users and items are for the model: its representations, or its tables of embeddings."""
    if getattr(model, "type", None) == ModelType.SEQUENTIAL:  # its users are histories, given with the questions
        return
    if hasattr(model, "representations"):
        pair = model.representations()
        named = list(zip(("user representations", "item representations"), pair))
    else:
        tables = [(f"{side} embeddings", getattr(model, f"{side}_embedding", None)) for side in ("user", "item")]
        named = [(name, table.weight) for name, table in tables if isinstance(table, nn.Embedding)]
    for name, rows in named:
        if isinstance(rows, Tensor) and rows.dim() == 2 and rows.shape[1] > 1 and len(rows) > _FEWEST_ROWS:
            yield name, rows[1:]  # the first is the padding


def _some(rows: Tensor) -> Tensor:
    step = max(len(rows) // _ROWS, 1)
    return rows[::step][:_ROWS].detach().float().cpu()


def _permuted(trainer: Any, model: Any, dataset: Any, batch: Any, lists: Tensor, rebuilt: bool) -> dict[str, float]:
    """Modality to the share of the lists that stays when its rows are permuted, where that is known."""
    bank: Any = getattr(model, "features", None)
    store = getattr(dataset, "features", None)
    same: dict[str, float] = {}
    if store is None or not hasattr(bank, "observed"):
        return same
    for modality in getattr(model, "ranked_modalities", ()):
        if int(bank.observed[modality].sum()) < 2:  # there is nothing to exchange
            continue
        trained = _trained_tables(model, bank, modality)
        with _exchanged(bank, modality, trained):
            scores = _scores(model, batch)
        same[modality] = 1.0 if scores is None else overlap(lists, _top(scores))
        if same[modality] >= 0.99 and not trained:
            # What the model derived from the features when it was made (item graphs) has not been permuted.
            if not rebuilt:
                del same[modality]
                getLogger().info(
                    f"health: dead_modality is not looked for in {modality}: {type(model).__name__} would have to be "
                    f"built anew, which takes {model.building_seconds:.0f} s, over a hundredth of the training."
                )
                continue
            scores = _scores(_built_anew(trainer, model, dataset, modality), batch)
            same[modality] = 1.0 if scores is None else overlap(lists, _top(scores))
    return same


def _trained_tables(model: Any, bank: Any, modality: str) -> list[Tensor]:
    """Copies of a modality's vectors that the model trains and reads in their place (``train_features``)."""
    named, shape = model.named_parameters(), bank[modality].shape
    return [table.data for name, table in named if modality in name.split(".") and table.shape == shape]


@contextmanager
def _exchanged(bank: Any, modality: str, trained: Sequence[Tensor]) -> Iterator[None]:
    """The rows of a modality permuted among the items that have it, in trained tables too, while the block lasts."""
    name = f"feature_{bank.keys().index(modality)}"
    kept = bank._buffers[name]
    rows = bank.observed[modality].nonzero().squeeze(1)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(_SEED)).to(rows.device)
    changed = kept.clone()
    changed[rows] = kept[rows[order]]
    before = [table.clone() for table in trained]
    bank._buffers[name] = changed
    for table, old in zip(trained, before):
        table[rows] = old[rows[order]]
    try:
        yield
    finally:
        bank._buffers[name] = kept
        for table, old in zip(trained, before):
            table.copy_(old)


def _built_anew(trainer: Any, model: Any, dataset: Any, modality: str) -> Any:
    config = trainer.config
    permuted = dataset.with_features(permute_modality(dataset.features, modality, _SEED))
    other: Mapping[str, Any] | None = model.other_parameter()
    made = get_model(config["model"])(config, permuted).to(config["device"])
    made.load_state_dict(model.state_dict())
    made.load_other_parameter(other)
    return made.eval()
