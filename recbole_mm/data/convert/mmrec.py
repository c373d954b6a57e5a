"""From the folder layout of the MMRec toolbox to atomic files and feature files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from recbole_mm.data.convert.mmrec_layout import COLUMNS, PARTS, column_role, feature_files
from recbole_mm.data.convert.untyped import check_finite, read_untyped
from recbole_mm.data.convert.vectors import read_array
from recbole_mm.data.features.files import check_dataset_name
from recbole_mm.data.features.names import check_new_modality
from recbole_mm.folders import replacing_folder

__all__ = ["from_mmrec"]


def from_mmrec(
    source: Path,
    target: Path,
    name: str,
    features: Mapping[str, str] | None = None,
    user_features: Mapping[str, str] | None = None,
    columns: Mapping[str, str] | None = None,
    memory_map: bool = False,
    force: bool = False,
    drop_unseen: bool = False,
) -> list[str]:
    """Convert a folder of the MMRec toolbox to atomic files, feature files and a configuration.

    ``target/name`` gets ``name.inter`` (every interaction), ``name.train.inter``, ``name.valid.inter`` and
    ``name.test.inter`` (the split of ``x_label``, without validation and test rows of users that training never sees,
    as that toolbox leaves them out; items that it never sees stay, are ranked, and make the slice ``cold_items``),
    ``name.item.<modality>.npz`` and ``name.yaml``, to be passed to RecBole as a config file.

    Args:
        source: Folder with one ``.inter`` file and the ``.npy`` features, whose row k belongs to id k.
        target: Folder of data sets (RecBole's ``data_path``).
        name: Name of the data set.
        features: Modality to file, for items; by default every ``<modality>_feat.npy`` of the folder.
        user_features: The same, for users; by default every ``user_<modality>_feat.npy``, which are no item features.
        columns: ``user``, ``item``, ``rating``, ``time`` or ``split`` to the name of that column, where it is unusual.
        memory_map: Write ``.npy`` with ``.ids`` instead of ``.npz``.
        force: Overwrite the files of an earlier conversion.
        drop_unseen: Leave out validation and test rows of items that training never sees, too.

    Returns:
        What was done, a line each.

    Raises:
        FileNotFoundError: No interactions or feature file.
        FileExistsError: The folder is there already, and not ``force``.
        ValueError: A file is not what it should be.
    """
    check_dataset_name(name)
    report = []
    path = _interaction_file(source, name)
    frame, unused = _read_interactions(path, columns or {})
    report.append(
        f"{path}: {frame.user_id.nunique():,} users, {frame.item_id.nunique():,} items, {len(frame):,} interactions"
    )
    if unused:
        report.append(f"columns left out: {', '.join(unused)}")
    repeated = int(frame.duplicated(["user_id", "item_id"]).sum())
    if repeated:
        report.append(f"{repeated:,} interactions repeat a (user, item) pair of an earlier line; kept as they are")
    parts = _split(frame, drop_unseen, report)
    found = feature_files(file.name for file in source.iterdir())
    if features is None:
        features = found["item"]
    if user_features is None:
        user_features = {modality: file for modality, file in found["user"].items() if file not in features.values()}
    for modality, file in [*features.items(), *user_features.items()]:
        check_new_modality(modality, file)
    if not features and not user_features:
        raise FileNotFoundError(f"{source} has no <modality>_feat.npy; name the files: --feature text=FILE.")
    with replacing_folder(target / name, force, report) as folder:
        _write_atomic(frame, folder / f"{name}.inter")
        for part, rows in parts.items():
            _write_atomic(rows, folder / f"{name}.{part}.inter")
        for entity, files, ids in (("item", features, frame.item_id), ("user", user_features, frame.user_id)):
            for modality, file in sorted(files.items()):
                matrix = _read_matrix(source, file, max(map(int, ids)) + 1, entity, report)
                _write_features(folder / f"{name}.{entity}.{modality}", matrix, entity, memory_map)
                size = " x ".join(str(length) for length in matrix.shape)
                report.append(f"{entity} modality {modality}: {size} {matrix.dtype} from {file}")
        (folder / f"{name}.yaml").write_text(_configuration(frame, name), encoding="utf-8")
    return report


def _interaction_file(source: Path, name: str) -> Path:
    if not source.is_dir():
        raise FileNotFoundError(f"{source} is no folder.")
    if (source / f"{name}.inter").is_file():
        return source / f"{name}.inter"
    found = sorted(source.glob("*.inter"))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise FileNotFoundError(f"{source}: expected {name}.inter or exactly one .inter file, found {names}.")
    return found[0]


def _read_interactions(path: Path, columns: Mapping[str, str]) -> tuple[pd.DataFrame, list[str]]:
    raw = read_untyped(path)
    chosen = {}
    for role, known in COLUMNS.items():
        if role in columns:
            matches = [column for column in raw.columns if column == columns[role]]
        else:
            matches = [column for column in raw.columns if column_role(column) == role]
        option = f"--{role}-column"
        if len(matches) > 1:
            raise ValueError(
                f"{path}: {' and '.join(matches)} could both be the {role} column; choose one with {option}."
            )
        if matches:
            chosen[matches[0]] = known.name
        elif role in columns or role in ("user", "item", "split"):
            wanted = columns.get(role) or " or ".join(known.names)
            raise ValueError(
                f"{path}: no {role} column ({wanted}) among {', '.join(raw.columns)}; name it with {option}. "
                "The file must be separated by tabs."
            )
    frame = raw[list(chosen)].rename(columns=chosen)
    for field in frame.columns:
        pattern = (
            r"\d+"
            if field in ("user_id", "item_id")
            else r"[012]"
            if field == "x_label"
            else r"[-+]?[\d.]+(?:[eE][-+]?\d+)?"
        )
        wrong = frame.index[~frame[field].str.fullmatch(pattern)]
        if len(wrong):
            kind = {"x_label": "0, 1 or 2"}.get(field, "a whole number" if field.endswith("_id") else "a number")
            raise ValueError(
                f"{path}: {field} should be {kind}, got {frame.loc[wrong[0], field]!r} in line {wrong[0] + 2} "
                f"({len(wrong):,} such lines)."
            )
    for field in ("user_id", "item_id"):
        frame[field] = frame[field].map(int).astype(str)  # MMRec reads numbers: 007 is 7, as in the ids of the features
    return frame, [column for column in raw.columns if column not in chosen]


def _split(frame: pd.DataFrame, drop_unseen: bool, report: list[str]) -> dict[str, pd.DataFrame]:
    rows = {part: frame[frame.x_label == str(label)].drop(columns="x_label") for label, part in enumerate(PARTS)}
    users, items = set(rows["train"].user_id), set(rows["train"].item_id)
    for part in ("valid", "test"):
        new_user, new_item = ~rows[part].user_id.isin(users), ~rows[part].item_id.isin(items)
        cold_users, cold_items = rows[part].user_id[new_user].nunique(), rows[part].item_id[new_item].nunique()
        dropped = new_user | new_item if drop_unseen else new_user
        also = f" and {cold_items:,} items" if drop_unseen else ""
        report.append(
            f"{part}: {int(dropped.sum()):,} of {len(dropped):,} interactions dropped, of {cold_users:,} users{also} "
            "that training never sees"
        )
        if not drop_unseen:
            report.append(
                f"{part}: {int((new_item & ~new_user).sum()):,} interactions kept, of {cold_items:,} items that "
                "training never sees (--drop_unseen drops them)"
            )
        rows[part] = rows[part][~dropped]
    for part, selected in rows.items():
        if selected.empty:
            raise ValueError(
                f"x_label leaves no interaction for {part}; 0 is train, 1 valid, 2 test, and each needs some."
            )
    report.append("split: " + ", ".join(f"{part} {len(selected):,}" for part, selected in rows.items()))
    return rows


def _read_matrix(source: Path, file: str, n: int, entity: str, report: list[str]) -> np.ndarray:
    path = source / file if (source / file).is_file() else Path(file)
    if not path.is_file():
        raise FileNotFoundError(
            f"No feature file {file} in {source}; it has {', '.join(sorted(p.name for p in source.glob('*.npy')))}."
        )
    matrix = read_array(path)
    if matrix.ndim not in (2, 3) or 0 in matrix.shape:
        raise ValueError(
            f"{path}: expected a numeric matrix, a row per {entity}, got {matrix.dtype} of shape {matrix.shape}."
        )
    if len(matrix) < n:
        raise ValueError(
            f"{path}: {len(matrix):,} rows for {entity} ids up to {n - 1:,}; row k must belong to {entity} k."
        )
    option = "user-feature" if entity == "user" else "feature"
    zero = int((~matrix.reshape(len(matrix), -1).any(axis=1)).sum())
    if zero:
        report.append(
            f"{file}: {zero:,} rows are all zero; they count as features, since the layout knows no missing rows"
        )
    if matrix.dtype not in (np.float16, np.float32):
        with np.errstate(over="ignore"):  # told below
            matrix = matrix.astype(np.float32)
    check_finite(matrix, path, f"repair them, or name the features that are to be converted with --{option}")
    return matrix


def _write_features(stem: Path, matrix: np.ndarray, entity: str, memory_map: bool) -> None:
    ids = np.arange(len(matrix)).astype(str)
    if memory_map:
        np.save(f"{stem}.npy", np.ascontiguousarray(matrix))
        Path(f"{stem}.ids").write_text("\n".join([f"{entity}_id:token", *ids, ""]), encoding="utf-8")
    else:
        np.savez(f"{stem}.npz", id=ids, feature=matrix)


def _write_atomic(frame: pd.DataFrame, path: Path) -> None:
    types = {column.name: column.field for column in COLUMNS.values()}
    frame.rename(columns=types).to_csv(path, sep="\t", index=False, encoding="utf-8")


def _configuration(frame: pd.DataFrame, name: str) -> str:
    fields = [field for field in ("user_id", "item_id", "timestamp") if field in frame]
    settings: dict[str, object] = {"field_separator": "\t", "USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id"}
    settings.update(
        {key: field for key, field in (("RATING_FIELD", "rating"), ("TIME_FIELD", "timestamp")) if field in frame}
    )
    settings.update({"load_col": {"inter": fields}, "benchmark_filename": list(PARTS)})
    head = (
        f"# Data set {name}: the split that came with it. Pass this file to RecBole as a config file.\n"
        "# With benchmark_filename: ~ (a sequential model needs that) RecBole splits the .inter file by eval_args.\n"
    )
    return head + yaml.safe_dump(settings, sort_keys=False)
