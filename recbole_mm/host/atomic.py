"""RecBole's data sets check an atomic file before they read it, and the columns that their kind of model needs."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from recbole.data.dataset import Dataset, KnowledgeBasedDataset, SequentialDataset
from recbole.data.dataset import dataset as recbole_dataset
from recbole.utils import FeatureSource, FeatureType, InputType

from recbole_mm.config.names import suggest
from recbole_mm.data.atomic import check_atomic, check_columns, check_numbers, read_header
from recbole_mm.host import fast_csv
from recbole_mm.host.editing import edit
from recbole_mm.host.wrapping import wrap

__all__ = ["install"]


def install() -> None:
    """Make the changes; calling it again does nothing."""
    if "_recbole_mm_read" not in vars(recbole_dataset):
        vars(recbole_dataset)["_recbole_mm_read"] = _read_csv
        edit(Dataset._load_feat, {"pd.read_csv(": "_recbole_mm_read("})
    wrap(Dataset, "_get_download_url", _get_download_url)
    wrap(Dataset, "_load_feat", _load_feat)
    wrap(Dataset, "_load_inter_feat", _load_inter_feat)
    wrap(Dataset, "_load_user_or_item_feat", _load_user_or_item_feat)
    wrap(Dataset, "_set_alias", _set_alias)
    wrap(Dataset, "_set_label_by_threshold", _set_label_by_threshold)
    wrap(KnowledgeBasedDataset, "_check_kg", _check_graph("kg", ("head_id", "relation_id", "tail_id")))
    wrap(KnowledgeBasedDataset, "_check_link", _check_graph("link", ("item_id", "entity_id")))


def _get_download_url(find: Callable[..., Any], self: Any, *args: Any, **kwargs: Any) -> Any:
    """RecBole asks for it where there is no folder; a name that it cannot fetch is a mistake."""
    try:
        return find(self, *args, **kwargs)
    except ValueError as error:
        name, folder = self.dataset_name, Path(self.dataset_path)
        near = suggest(name, [path.name for path in folder.parent.glob("*/")] if folder.parent.is_dir() else [])
        raise ValueError(
            f"There is no data set {name!r} in {folder.parent}: expected {folder / (name + '.inter')}, and RecBole "
            f"fetches none of this name.{near} data_path (--data_path) names the folder of data sets."
        ) from error


_ready: ContextVar[pd.DataFrame | None] = ContextVar("frame that RecBole's reader need not read", default=None)


def _read_csv(*args: Any, **options: Any) -> pd.DataFrame:
    """What RecBole calls in place of ``pandas.read_csv``."""
    frame = _ready.get()
    return pd.read_csv(*args, **options) if frame is None else frame


def _load_feat(original: Callable[..., Any], dataset: Any, filepath: str, source: Any) -> Any:
    """RecBole's reader, after a look at the file; what it cannot read all the same is looked for line by line.

    A file that pyarrow is sure to read alike is read by it; lines are looked at one by one where it is not.
    """
    asked = dataset._get_load_and_unload_col(source)
    if asked[0] == set():  # nothing of it is loaded
        return original(dataset, filepath, source)
    config, path = dataset.config, Path(filepath)
    separator, encoding = str(config["field_separator"]), str(config["encoding"] or "utf-8")
    header, needed = read_header(path, separator, encoding), _needed(dataset, source)
    check_columns(path, header, needed)
    load, unload = asked
    columns = [name for name in header if (load is None or name in load) and name not in (unload or ())]
    _check_shared(dataset, path, source, {name: header[name] for name in columns})
    frame = fast_csv.read(path, header, columns, separator, encoding)
    if frame is None:
        check_atomic(path, separator, encoding, needed)
    _warn_about_columns(path, header, asked)
    token = _ready.set(frame)
    try:
        return original(dataset, filepath, source)
    except (ValueError, TypeError) as error:
        check_numbers(path, separator, encoding, str(config["seq_separator"]))
        raise ValueError(f"{path} cannot be read: {error}") from error
    finally:
        _ready.reset(token)


def _check_shared(dataset: Any, path: Path, source: Any, columns: dict[str, str]) -> None:
    """RecBole knows a column by its name alone, whichever file it is in."""
    ids = (dataset.uid_field, dataset.iid_field)
    for name, kind in columns.items():
        other = dataset.field2source.get(name)
        if name in ids or other in (None, source) or not isinstance(source, FeatureSource):
            continue
        text = (
            f"{path}: the column {name} is also one of .{other.value}, and RecBole takes columns of one name for one. "
            f"Rename it, or leave it out with unload_col: {{{source.value}: [{name}]}}."
        )
        if kind.startswith("token"):  # one of the two would never become numbers
            raise ValueError(text)
        getLogger().warning(f"{text} In batches these values stand in the place of the others.")


def _warn_about_columns(path: Path, header: dict[str, str], asked: tuple[set[str] | None, set[str] | None]) -> None:
    """RecBole passes over names in ``load_col`` and ``unload_col`` that no column has."""
    for option, names in zip(("load_col", "unload_col"), asked):
        unknown = sorted(str(name) for name in (names or ()) if name not in header)
        if unknown:
            getLogger().warning(
                f"{option} names {', '.join(unknown)}, and {path} has no such column: it is passed over."
                f"{suggest(unknown[0], header)} There is {', '.join(header)}."
            )


def _load_user_or_item_feat(
    original: Callable[..., Any], dataset: Any, token: str, folder: str, source: Any, field_name: str
) -> Any:
    """RecBole passes over columns of a file that is not there, too."""
    path, names = Path(folder) / f"{token}.{source.value}", (dataset.config["load_col"] or {}).get(source.value)
    if names and names != "*" and not path.is_file():
        names = ", ".join(map(str, names))
        getLogger().warning(f"load_col names {names} of {source.value}, and there is no file {path}.")
    return original(dataset, token, folder, source, field_name)


def _needed(dataset: Any, source: Any) -> list[tuple[str, str]]:
    names = {
        FeatureSource.INTERACTION: ("USER_ID_FIELD", "ITEM_ID_FIELD"),
        FeatureSource.USER: ("USER_ID_FIELD",),
        FeatureSource.ITEM: ("ITEM_ID_FIELD",),
        FeatureSource.KG: ("HEAD_ENTITY_ID_FIELD", "RELATION_ID_FIELD", "TAIL_ENTITY_ID_FIELD"),
        "link": ("ITEM_ID_FIELD", "ENTITY_ID_FIELD"),
    }
    fields = ((dataset.config[option], option) for option in names.get(source, ()))
    return [(field, option) for field, option in fields if field]


def _load_inter_feat(original: Callable[..., Any], dataset: Any, token: str, folder: str) -> Any:
    result = original(dataset, token, folder)
    _check_columns(dataset, token, Path(folder))
    _check_time(dataset, token, Path(folder))
    return result


def _check_columns(dataset: Any, token: str, folder: Path) -> None:
    """Users and items that ``load_col`` leaves out are missed by RecBole in the middle of something else."""
    for field in (dataset.uid_field, dataset.iid_field):
        if field and (dataset.inter_feat is None or field not in dataset.inter_feat):
            raise ValueError(
                f"load_col leaves out {field} of {token}.inter: got {dataset.config['load_col']!r}. Name it there, "
                "such as load_col: {inter: [user_id, item_id]}."
            )


def _check_time(dataset: Any, token: str, folder: Path) -> None:
    """Sequential models, and a split by time, sort by a column that the default ``load_col`` does not load."""
    config, field = dataset.config, dataset.time_field
    if config["benchmark_filename"] is not None or (field and field in dataset.inter_feat):
        return
    if isinstance(dataset, SequentialDataset):
        why = f"{config['model']} is a sequential model and needs the time field"
    elif (config["eval_args"] or {}).get("order") == "TO":
        why = "eval_args with order: TO needs the time field"
    else:
        return
    header = read_header(folder / f"{token}.inter", str(config["field_separator"]), str(config["encoding"] or "utf-8"))
    if not field:
        raise ValueError(f"{why}: set TIME_FIELD to the column that holds it (there is {', '.join(header)}).")
    if field in header:
        columns = [str(column) for column in dataset.inter_feat.columns]
        wanted = f"load_col: {{inter: [{', '.join([*columns, field])}]}}"
        raise ValueError(f"{why} {field!r}, and load_col does not load it; set {wanted}.")
    raise ValueError(
        f"{why} {field!r}, and {folder / token}.inter has no such column (there is {', '.join(header)}). Add it, as "
        f"{field}:float, or name another one with TIME_FIELD."
    )


def _set_alias(original: Callable[..., Any], dataset: Any, alias_name: str, default_value: Any) -> None:
    """Histories in the files hold items: their column gets the vocabulary of the items, declared or not.

    RecBole gives every column a vocabulary of its own unless ``alias_of_item_id`` names it, so that the items of a
    history would be other items.
    """
    original(dataset, alias_name, default_value)
    for name in dataset.alias[alias_name]:
        if name not in dataset.field2type:
            known = [field for field, kind in dataset.field2type.items() if "token" in kind.value]
            raise ValueError(
                f"alias_of_{alias_name} names {name}, and no loaded column has this name.{suggest(str(name), known)} "
                f"Loaded are {', '.join(known)}; see load_col."
            )
    column = f"{dataset.iid_field}{dataset.config['LIST_SUFFIX'] or '_list'}"
    if alias_name != "item_id" or dataset.field2type.get(column) != FeatureType.TOKEN_SEQ:
        return
    if column not in dataset.alias[alias_name]:
        getLogger().warning(
            f"The histories in {column} hold items, and alias_of_item_id does not name the column: taken as "
            f"alias_of_item_id: [{column}], so that they have the ids of {dataset.iid_field}."
        )
        dataset.alias[alias_name] = np.append(dataset.alias[alias_name], column)


def _check_graph(part: str, columns: tuple[str, ...]) -> Callable[..., Any]:
    """The columns of a knowledge graph are there, but ``load_col`` may leave them out."""

    def check(original: Callable[..., Any], dataset: Any, frame: Any) -> None:
        needed = [field for field, _ in _needed(dataset, FeatureSource.KG if part == "kg" else part)]
        if frame is None or any(field not in frame for field in needed):
            raise ValueError(
                f"{dataset.config['model']} reads the knowledge graph, and load_col leaves out columns of the .{part} "
                f"file: got {dataset.config['load_col']!r}. Add {part}: [{', '.join(needed or columns)}] to it."
            )
        original(dataset, frame)

    return check


def _set_label_by_threshold(original: Callable[..., Any], dataset: Any) -> None:
    """A threshold makes labels, which are read only where pairs are classified; elsewhere it does nothing."""
    config, threshold = dataset.config, dataset.config["threshold"]
    if threshold:
        sampled = (config["train_neg_sample_args"] or {}).get("distribution", "none") not in ("none", "None", None)
        trained = config["MODEL_INPUT_TYPE"] == InputType.POINTWISE and not sampled
        if not trained or any(mode != "labeled" for mode in config["eval_args"]["mode"].values()):
            who = f"{config['model']} is not trained on" if not trained else "a ranking of items does not read"
            field, value = next(iter(threshold.items()))
            getLogger().warning(
                f"threshold={threshold} makes labels, which {who}: pairs below it count as liked ones. To leave them "
                f"out, set val_interval: {{{field}: '[{value},inf)'}} in its place."
            )
    original(dataset)
