"""The option ``new_items``: items that only the ``.item`` file or a feature file knows join the vocabulary."""

from __future__ import annotations

from collections.abc import Iterable
from logging import getLogger
from pathlib import Path
from typing import Any

import pandas as pd
from recbole.data.dataset import Dataset
from recbole.utils import FeatureType

from recbole_mm.data.atomic import READ_AS_MISSING
from recbole_mm.data.features.files import discover, search_folders
from recbole_mm.host.wrapping import wrap
from recbole_mm.paths import dataset_atomic_dir

__all__ = ["install"]


def install() -> None:
    """Wrap the steps in which RecBole filters and numbers what it has read; a second call does nothing."""
    wrap(Dataset, "_data_processing", _data_processing)
    wrap(Dataset, "_filter_by_inter_num", _filter_by_inter_num)
    wrap(Dataset, "_remap_ID_all", _remap_ids)


def _data_processing(process: Any, self: Any) -> None:
    """Remember who was there before the filters: what they take away is not new."""
    if not self.config["new_items"]:
        process(self)
        return
    loaded = () if self.item_feat is None else self.item_feat[self.iid_field].dropna()
    self._items_read = frozenset(self.inter_feat[self.iid_field].dropna()), frozenset(loaded)
    try:
        process(self)
    finally:
        del self._items_read


def _filter_by_inter_num(filter_items: Any, self: Any) -> None:
    """A lower bound of interactions takes the new items out of the item table, so they are put back."""
    clicked = getattr(self, "_items_read", ((), ()))[0]
    table = self.item_feat
    unclicked = None if table is None or not clicked else table[~table[self.iid_field].isin(clicked)].copy()
    filter_items(self)
    if unclicked is not None and len(unclicked):
        lost = unclicked[~unclicked[self.iid_field].isin(self.item_feat[self.iid_field])]
        self.item_feat = pd.concat([self.item_feat, lost], ignore_index=True)


def _remap_ids(remap: Any, self: Any) -> None:
    """Number the new items after those that RecBole numbers, as one more table with the item field."""
    read = getattr(self, "_items_read", None)
    tokens = [] if read is None else _new_tokens(self, *read)
    if not tokens:
        remap(self)
        return
    listed = self._get_remap_list
    table = pd.DataFrame({self.iid_field: pd.Series(tokens, dtype=self.inter_feat[self.iid_field].dtype)})

    def with_new(fields: Any) -> list[Any]:
        more = [(table, self.iid_field, FeatureType.TOKEN)] if self.iid_field in fields else []
        return [*listed(fields), *more]

    self._get_remap_list = with_new
    try:
        remap(self)
    finally:
        del self._get_remap_list


def _new_tokens(dataset: Any, clicked: frozenset[str], loaded: frozenset[str]) -> list[str]:
    """Raw ids of the new items in the order of their files, without those that a filter took away."""
    kept = () if dataset.item_feat is None else dataset.item_feat[dataset.iid_field]
    # Rows of an id that reads as missing are left out of what is read.
    gone = clicked.union(loaded - frozenset(kept), READ_AS_MISSING)
    in_table, in_features = _of_table(dataset), _of_features(dataset)
    known = frozenset(in_features)
    if dataset.config["missing_feature"] == "drop":
        in_table, in_features = ([t for t in tokens if t in known] for tokens in (in_table, in_features))
    new = [token for token in dict.fromkeys([*in_table, *in_features]) if token not in gone]
    getLogger().info(
        f"new_items: {len(new):,} items without an interaction join the {len(clicked):,} of the .inter file "
        f"({sum(token in known for token in new):,} of them have features)."
    )
    return new


def _of_table(dataset: Any) -> list[str]:
    """Item ids of the ``.item`` file, also where ``load_col`` leaves its columns out."""
    file = Path(dataset.dataset_path) / f"{dataset.dataset_name}.item"
    if not file.is_file():
        return []
    separator, encoding = dataset.config["field_separator"], dataset.config["encoding"]
    with file.open(encoding=encoding) as stream:
        header = stream.readline().rstrip("\r\n").split(separator)
    column = next((name for name in header if name.partition(":")[0] == dataset.iid_field), None)
    if column is None:
        raise ValueError(f"{file}: expected the column {dataset.iid_field}:token, got {', '.join(header)}.")
    found = pd.read_csv(file, sep=separator, usecols=[column], dtype=str, encoding=encoding, engine="python")
    return list(map(str, found[column].dropna()))


def _of_features(dataset: Any) -> list[str]:
    """Item ids of the feature files; with ``missing_feature: drop`` those that have every modality in use.

    All files count, whichever modalities a model reads: every model ranks the same items.
    """
    name = dataset.dataset_name
    folders = search_folders(name, dataset.dataset_path, dataset_atomic_dir(), dataset.config["feature_path"])
    try:
        files = discover(name, folders)["item"]
    except FileNotFoundError:
        return []
    if dataset.config["missing_feature"] == "drop" and hasattr(dataset, "_feature_files"):
        files = dataset._feature_files()["item"]
        return _in_all([file.tokens()[0].tolist() for file in files.values()])
    return [str(token) for file in files.values() for token in file.tokens()[0].tolist()]


def _in_all(columns: list[Iterable[str]]) -> list[str]:
    kept = set.intersection(*map(set, columns)) if columns else set()
    return [str(token) for token in (columns[0] if columns else ()) if token in kept]
