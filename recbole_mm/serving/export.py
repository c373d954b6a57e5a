"""Writes what a trained model recommends, and its embeddings, with the raw ids of the data set."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, init_seed
from torch import Tensor

from recbole_mm.data.fingerprint import data_fingerprint
from recbole_mm.host.checkpoint import as_plain, check_data, no_pickles
from recbole_mm.host.loaders import dataset_of
from recbole_mm.host.resumption import load_parameters
from recbole_mm.host.saved_config import build_config, move
from recbole_mm.serving.asked import check_ids, check_length
from recbole_mm.serving.lists import export_lists
from recbole_mm.serving.masking import SEEN, left_out
from recbole_mm.serving.scoring import Scorer, last_rows
from recbole_mm.serving.tables import (
    EMBEDDING_FORMATS,
    TOPK_FORMATS,
    Table,
    check_format,
    write_embeddings,
)
from recbole_mm.serving.vectors import score_vectors
from recbole_mm.trainer.checkpoint import read_checkpoint

__all__ = ["check_targets", "export", "load"]

Loaded = tuple[Any, Any, Any, Any, Any, Any]


def export(
    source: str | os.PathLike[str] | Loaded,
    file: str | os.PathLike[str] | None = None,
    topk: int = 20,
    users: Iterable[Any] | None = None,
    embeddings: str | os.PathLike[str] | None = None,
    seen: str | None = None,
    progress: bool = True,
    places: Mapping[str, Any] | None = None,
    trust: bool = False,
    items: Iterable[Any] | None = None,
) -> dict[str, Any]:
    """Write recommendations and embeddings of a trained model.

    Users are scored in batches that fit into ``eval_memory_mb`` and written as they come, so the files may be larger
    than memory.

    Args:
        source: Checkpoint of a training, or what RecBole's ``load_data_and_model`` returns (config, model, data set,
            three loaders).
        file: Where the recommendations go: ``.parquet`` or ``.csv`` (a row per recommendation: ``user_id``, ``rank``,
            ``item_id``, ``score``, ``known_items``, ``new``, ``ranked_by``) or ``.npz`` (matrices). ``known_items`` is
            the number of items that the model knew of the user from training; with 0 the list is nobody's own. ``new``
            marks items without a training interaction. ``ranked_by`` is the model, or ``popularity`` where it has
            nothing to go on from: then the list is that of the most popular candidates, and ``score`` counts their
            training interactions.
        topk: How many items per user.
        users: Raw ids of the users, a list or the like; all when not given. Ids that the data set does not have are
            counted and named in the log, and get the most popular candidates.
        embeddings: Where the user and item embeddings go (``.npz`` or ``.parquet``), for models that have them.
        seen: Which items are left out: ``all`` that the user has interacted with; ``history``, those of training and
            validation; ``none``. When not given, the lists are those that RecBole's test evaluates: a general model's
            without the history, a sequential one's (and with ``repeatable``) with it. Items that ``cold_start`` does
            not rank are in no list.
        progress: Whether to show a progress bar.
        places: Where the data are here, see :func:`load`.
        trust: Whether a pickle of RecBole's is read, see :func:`load`.
        items: Raw ids of the candidates (what is new, in stock, of a category); all when not given. Unknown ids are
            counted and named in the log.

    Returns:
        ``users`` (number of users written), ``popular`` (those of them with a list by popularity), ``unknown`` (those
        that the model ranked and knew nothing of), ``recommendations``, ``new`` (recommendations of items without a
        training interaction), ``embeddings`` (entity to shape).

    Raises:
        ValueError: Nothing to write, no candidate that is known, a format that cannot be written, scores that are not
            finite, or a model without embeddings whose inner products rank as it does.
        FileNotFoundError: No checkpoint, or no folder to write to.

    Example:
        >>> import recbole_mm
        >>> trained = recbole_mm.run("MMGCN", "mm-toy", config_dict={"epochs": 1})
        >>> report = recbole_mm.export(trained["checkpoint"], "lists.csv", topk=5, users=["u41", "u102"])
        >>> report["users"], report["recommendations"]
        (2, 10)
        >>> with open("lists.csv") as lists:
        ...     print(lists.readline().strip())
        user_id,rank,item_id,score,known_items,new,ranked_by
    """
    topk_file, embedding_file = check_targets(file, embeddings, topk, seen)
    whose, candidates = check_ids("users", users), check_ids("items", items)
    loaded = source if isinstance(source, tuple) else load(source, places, trust)
    loaded[1].eval()
    report: dict[str, Any] = dict.fromkeys(("users", "popular", "unknown", "recommendations", "new"), 0)
    report["embeddings"] = {}
    with torch.no_grad():
        if topk_file is not None:
            report.update(export_lists(loaded, topk_file, topk, whose, candidates, seen, progress))
        if embedding_file is not None:
            tables = _embeddings(loaded)
            write_embeddings(embedding_file, tables)
            report["embeddings"] = {entity: (len(ids), width) for entity, (ids, _, width) in tables.items()}
    return report


def check_targets(
    file: str | os.PathLike[str] | None,
    embeddings: str | os.PathLike[str] | None,
    topk: int = 20,
    seen: str | None = None,
) -> tuple[Path | None, Path | None]:
    """Check the arguments of :func:`export`, for callers who would train first.

    Raises:
        ValueError: No file at all, a format that cannot be written, or another argument with a wrong value.
        FileNotFoundError: No folder to write to.
    """
    if file is None and embeddings is None:
        raise ValueError("export: give a file for the recommendations, or embeddings=FILE, or both.")
    if seen is not None and seen not in SEEN:
        raise ValueError(
            f"seen: expected one of {', '.join(SEEN)} (when not given: what the test leaves out), got {seen!r}."
        )
    check_length("topk", topk)
    if file is not None and embeddings is not None and Path(file).absolute() == Path(embeddings).absolute():
        raise ValueError(f"export: {file} would hold the recommendations and the embeddings; give two files.")
    return (
        check_format(file, TOPK_FORMATS) if file is not None else None,
        check_format(embeddings, EMBEDDING_FORMATS) if embeddings is not None else None,
    )


@no_pickles()
def load(checkpoint: str | os.PathLike[str], places: Mapping[str, Any] | None = None, trust: bool = False) -> Loaded:
    """Load a trained model with its data, as RecBole's ``load_data_and_model`` does.

    Unlike there, nothing in the file is executed, the data must be those of the training, and a model that was trained
    on a GPU is loaded on a machine without one.

    Args:
        checkpoint: The file.
        places: Where things are here: ``data_path``, ``feature_path``, ``feature_disk``, ``gpu_id`` and
            ``eval_memory_mb``.
        trust: Whether to read a pickle of RecBole's, which may run code that is in it.

    Returns:
        Config, model, data set, and the loaders of training, validation and test.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Not a checkpoint, a damaged one, one of other data, or an option that is no place.
    """
    source = str(checkpoint)
    content = read_checkpoint(checkpoint, trust)
    config = build_config(as_plain(content), source)
    move(config, places or {}, source)
    init_seed(config["seed"], config["reproducibility"])
    dataset = create_dataset(config)
    loaders = data_preparation(config, dataset)
    if content.get("fingerprint"):
        check_data(content["fingerprint"], data_fingerprint(*map(dataset_of, loaders[:2])), source)
    else:
        getLogger().warning(
            f"{source} does not say which data it was trained on; if the files have changed since, its lists are wrong."
        )
    init_seed(config["seed"], config["reproducibility"])
    model = get_model(config["model"])(config, dataset_of(loaders[0])).to(config["device"])
    load_parameters(model, content, source)
    return (config, model, dataset, *loaders)


def _embeddings(loaded: Loaded) -> dict[str, Table]:
    config, model, _, *loaders = loaded
    dataset = dataset_of(loaders[0])
    sizes = {"user": dataset.user_num, "item": dataset.item_num}
    fields = {"user": dataset.uid_field, "item": dataset.iid_field}
    tables: dict[str, Table] = {}
    known, masked = left_out(config, loaders, "none")
    scorer = Scorer(config, model, dataset, masked, last_rows(config, known))
    for entity, matrix in score_vectors(model, dataset, scorer).items():
        ids = np.asarray(dataset.field2id_token[fields[entity]])[1:].astype(str)

        def rows(part: slice, matrix: Tensor = matrix[1 : sizes[entity]]) -> np.ndarray:
            return matrix[part].float().cpu().numpy()

        tables[entity] = ids, rows, int(matrix.shape[1])
    return tables
