"""``recbole-mm inspect``: one page about the feature files of a data set, and the same as a dict."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from recbole_mm.data.features.files import FeatureFile, discover, search_folders
from recbole_mm.data.features.store import check_length
from recbole_mm.extract.content import read_atomic, read_rows
from recbole_mm.host.names import recbole_folder
from recbole_mm.paths import dataset_atomic_dir
from recbole_mm.report.inspection import measures
from recbole_mm.report.inspection.suspicions import suspicions

__all__ = ["Inspection", "inspect"]

_HELD_OUT = 0.1
_USERS = 2000


@dataclass
class Inspection:
    """What :func:`inspect` found.

    Attributes:
        name: The data set.
        interactions: Users, items, interactions, degrees, the long tail, new items.
        modalities: Modality to its numbers.
        pairs: ``left/right`` to how alike two modalities are.
        warnings: Lines about what looks wrong.
        examples: Modality to random items with their nearest neighbours, raw ids.
        titles: Raw id to a title, for the examples.
        pictures: Pattern of the picture files, where known.
    """

    name: str
    interactions: dict[str, Any]
    modalities: dict[str, dict[str, Any]] = field(default_factory=dict)
    pairs: dict[str, dict[str, float]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    examples: dict[str, list[list[str]]] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    pictures: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, for machines."""
        keys = ("name", "interactions", "modalities", "pairs", "warnings", "examples")
        return {key: getattr(self, key) for key in keys}

    def __str__(self) -> str:
        counts = self.interactions
        lines = [
            f"{self.name}: {counts['users']:,} users, {counts['items']:,} items, {counts['interactions']:,} "
            f"distinct pairs; {counts['new_items_with_features']:,} items without an interaction have features",
            f"recall@{measures.LIST} of popularity on held-out interactions: {counts['popularity_recall']:.4f}",
        ]
        for modality, found in self.modalities.items():
            aligned = found["alignment"]
            lines += [
                f"{modality}: {found['with']:,} items with, {found['without']:,} without, {found['unmatched']:,} rows "
                f"match no item; width {found['width']:,}, effective rank {found['effective_rank']:.0f}, "
                f"{found['duplicate_rows']:,} duplicate rows, {found['constant_columns']:,} constant columns",
                f"  alignment z {aligned['z']:.1f} (cosine of items taken together {aligned['together']:.3f}, of "
                f"shuffled rows {aligned['shuffled']:.3f}); content kNN recall@{measures.LIST} "
                f"{found['content_recall']:.4f}; feature_norm: {found['feature_norm']}",
            ]
        for pair, numbers in self.pairs.items():
            lines.append(f"{pair}: linear CKA {numbers['cka']:.3f}, common neighbours {100 * numbers['overlap']:.0f} %")
        return "\n".join([*lines, *(f"WARNING: {line}" for line in self.warnings)])


def inspect(name: str, *, data_path: str | Path = "dataset", seed: int = 0, pictures: str | None = None) -> Inspection:
    """Measure whether the features of a data set are real and belong to its items.

    Args:
        name: The data set.
        data_path: Folder of data sets; the packaged ones are found without it.
        seed: Seed of samples and permutations.
        pictures: Pattern of picture files such as ``pictures/{item_id}.jpg``, for the page; found in what `extract`
            noted where not given.

    Returns:
        The findings; :func:`~recbole_mm.report.inspection.page.write_page` makes a page of them.

    Raises:
        FileNotFoundError: There is no such data set, or it has no feature file.
        ValueError: A feature file is damaged.

    Example:
        >>> found = inspect("mm-toy")
        >>> sorted(found.modalities)
        ['audio', 'image', 'text']
    """
    folder = _folder(name, Path(data_path).expanduser())
    rows = read_rows(folder, name, "item")
    ids = list(rows.index)
    number = {token: place for place, token in enumerate(ids)}
    users, items = _interactions(folder, name, number)
    matrix = sp.csr_matrix(
        (np.ones(len(users), dtype=np.float32), (users, items)), shape=(int(users.max()) + 1, len(ids))
    )
    matrix.data[:] = 1.0
    train, held_out = _hold_out(matrix, seed)
    found = Inspection(name, _describe(matrix, train, held_out), pictures=pictures)
    found.titles = _titles(rows)
    tables: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    folders = search_folders(name, folder, dataset_atomic_dir(), None)  # as a training looks for them
    for modality, file in discover(name, folders)["item"].items():
        places, vectors, unmatched = _read(file, number)
        tables[modality] = (places, vectors)
        found.modalities[modality] = _modality(
            places, vectors, unmatched, users, items, train, held_out, len(ids), seed
        )
        note = file.path.with_suffix(".json")
        if note.is_file():
            found.modalities[modality]["provenance"] = json.loads(note.read_text(encoding="utf-8"))
        found.examples[modality] = _examples(places, vectors, ids, seed)
    with_features = np.zeros(len(ids), dtype=bool)
    for places, _ in tables.values():
        with_features[places] = True
    clicked = np.asarray(matrix.sum(axis=0)).ravel() > 0
    found.interactions["new_items_with_features"] = int((with_features & ~clicked).sum())
    for (left, one), (right, other) in combinations(tables.items(), 2):
        _, at_left, at_right = np.intersect1d(one[0], other[0], return_indices=True)
        if len(at_left) > 2:
            common = np.sort(np.random.default_rng(seed).permutation(len(at_left))[:3000])
            sides = one[1][at_left[common]], other[1][at_right[common]]
            pair = {"cka": measures.linear_cka(*sides), "overlap": measures.neighbour_overlap(*sides)}
            found.pairs[f"{left}/{right}"] = pair
    found.warnings = suspicions(found.modalities)
    return found


def _folder(name: str, data_path: Path) -> Path:
    """Folder of the atomic files."""
    packaged = dataset_atomic_dir() / name
    for folder in (data_path / name, packaged, recbole_folder() / "dataset_example" / name):
        if (folder / f"{name}.inter").is_file():
            return folder
    raise FileNotFoundError(
        f"There is no data set {name!r} in {data_path.resolve()}: expected {data_path / name / (name + '.inter')}; "
        "data_path (--data_path) names the folder of data sets."
    )


def _interactions(folder: Path, name: str, number: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    frame = read_atomic(folder / f"{name}.inter", ["user_id", "item_id"])
    users, _ = pd.factorize(frame["user_id"])
    return users, frame["item_id"].map(number).to_numpy()


def _hold_out(matrix: sp.csr_matrix, seed: int) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """A tenth of the interactions, of at most 2,000 users with two items or more, for the content kNN to find."""
    generator = np.random.default_rng(seed)
    degree = np.diff(matrix.indptr)
    able = np.flatnonzero(degree >= 2)
    chosen = np.zeros(matrix.shape[0], dtype=bool)
    chosen[generator.permutation(able)[:_USERS]] = True
    coo = matrix.tocoo()
    out = chosen[coo.row] & (generator.random(coo.nnz) < max(_HELD_OUT, 0.0))
    # At least one for every chosen user, never all.
    order = generator.permutation(coo.nnz)
    _, first = np.unique(coo.row[order], return_index=True)
    one = order[first]
    left = degree - np.bincount(coo.row[out], minlength=matrix.shape[0])
    out[one[chosen[coo.row[one]] & (left[coo.row[one]] == degree[coo.row[one]])]] = True
    out[one[left[coo.row[one]] == 0]] = False

    def part(mask: np.ndarray) -> sp.csr_matrix:
        return sp.csr_matrix((coo.data[mask], (coo.row[mask], coo.col[mask])), shape=matrix.shape)

    return part(~out), part(out)


def _describe(matrix: sp.csr_matrix, train: sp.csr_matrix, held_out: sp.csr_matrix) -> dict[str, Any]:
    per_user, per_item = np.diff(matrix.indptr), np.asarray(matrix.sum(axis=0)).ravel().astype(int)
    clicked = np.sort(per_item[per_item > 0])[::-1]
    top = max(len(clicked) // 10, 1)
    bounds = [1, 2, 3, 5, 10, 20, 50, 100, 1000, 10**9]
    return {
        "users": int((per_user > 0).sum()),
        "items": int(len(clicked)),
        "interactions": int(matrix.nnz),
        "per_user": _histogram(per_user[per_user > 0], bounds),
        "per_item": _histogram(clicked, bounds),
        "share_of_top_tenth": float(clicked[:top].sum() / max(clicked.sum(), 1)),
        "items_without_interaction": int((per_item == 0).sum()),
        "popularity_recall": measures.popularity_recall(train, held_out),
    }


def _histogram(counts: np.ndarray, bounds: list[int]) -> dict[str, int]:
    found = {}
    for low, high in zip(bounds, bounds[1:]):
        label = str(low) if high == low + 1 else f"{low}-{high - 1}" if high < 10**9 else f"{low} and more"
        found[label] = int(((counts >= low) & (counts < high)).sum())
    return found


def _titles(rows: Any) -> dict[str, str]:
    columns = {str(column).lower(): column for column in reversed(rows.columns)}
    column = next((columns[name] for name in ("title", "movie_title", "name") if name in columns), None)
    return {} if column is None else {token: text for token, text in rows[column].items() if text}


def _read(file: FeatureFile, number: dict[str, int]) -> tuple[np.ndarray, np.ndarray, int]:
    """Places of the items with a row, their vectors (means where there are several), and rows that match no item."""
    tokens = file.tokens()[0]
    places = np.array([number.get(str(token), -1) for token in tokens])
    matrix = file.matrix()
    check_length(file, matrix, len(tokens))
    vectors = matrix.read(np.flatnonzero(places >= 0)).astype(np.float32)
    vectors = vectors.mean(axis=1) if vectors.ndim == 3 else vectors
    return places[places >= 0], vectors, int((places < 0).sum())


def _modality(
    places: np.ndarray,
    vectors: np.ndarray,
    unmatched: int,
    users: np.ndarray,
    items: np.ndarray,
    train: sp.csr_matrix,
    held_out: sp.csr_matrix,
    n_items: int,
    seed: int,
) -> dict[str, Any]:
    numbers = measures.describe_matrix(vectors)
    finite = np.isfinite(vectors).all(axis=1)
    places, vectors = places[finite], vectors[finite]
    row = np.full(n_items, -1)
    row[places] = np.arange(len(places))
    known = row[items] >= 0
    aligned = {"together": 0.0, "shuffled": 0.0, "z": 0.0}
    whole = np.zeros((n_items, vectors.shape[1]), dtype=np.float32)
    if len(vectors) > 1 and known.any():
        aligned = measures.alignment(vectors, row[items[known]], users[known], seed)
        whole[places] = vectors - vectors.mean(axis=0) if numbers["centre"] > measures.CENTRED else vectors
    recall = measures.content_recall(whole, train, held_out)
    with_rows = {"with": int(len(places)), "without": int(n_items - len(places)), "unmatched": unmatched}
    return {**with_rows, **numbers, "alignment": aligned, "content_recall": recall}


def _examples(places: np.ndarray, vectors: np.ndarray, ids: list[str], seed: int) -> list[list[str]]:
    """Eight random items, each with its five nearest."""
    if len(places) < 3:
        return []
    generator = np.random.default_rng(seed)
    unit = vectors - vectors.mean(axis=0)
    unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    rows = []
    for item in generator.permutation(len(places))[:8]:
        similarity = unit @ unit[item]
        similarity[item] = -np.inf
        near = np.argsort(-similarity, kind="stable")[: min(5, len(places) - 1)]
        rows.append([ids[places[item]], *(ids[places[other]] for other in near)])
    return rows
