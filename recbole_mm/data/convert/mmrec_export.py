"""From atomic files and feature files to the folder layout of the MMRec toolbox."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_mm.data.convert.mmrec_layout import COLUMNS, PARTS, feature_file, mapping_file
from recbole_mm.data.convert.untyped import check_finite, read_untyped
from recbole_mm.data.features.files import FeatureFile, check_dataset_name, discover
from recbole_mm.data.features.store import check_length
from recbole_mm.folders import replacing_folder

__all__ = ["to_mmrec"]


def to_mmrec(source: Path, target: Path, name: str, force: bool = False) -> list[str]:
    """Convert atomic files with a fixed split and feature files to a folder of the MMRec toolbox.

    The split is the column ``x_label`` of ``name.inter`` if it has one, otherwise the files ``name.train.inter`` and so
    on. Tokens that are whole numbers stay as they are; others are numbered in the order in which they appear, and
    ``i_id_mapping.csv`` or ``u_id_mapping.csv`` says how. Items without a feature get zeros, as MMRec knows no missing
    rows.

    Args:
        source: Folder with the atomic files and the feature files.
        target: Folder of data sets; ``target/name`` is written.
        name: Name of the data set.
        force: Overwrite the files of an earlier conversion.

    Returns:
        What was done, a line each.

    Raises:
        FileNotFoundError: No interactions or feature file.
        FileExistsError: The folder is there already, and not ``force``.
        ValueError: No split, or a file that is not what it should be.
    """
    check_dataset_name(name)
    report: list[str] = []
    files = discover(name, [source])
    frame = _read_split(source, name)
    tokens = {
        entity: {modality: file.tokens()[0] for modality, file in files[entity].items()} for entity in ("item", "user")
    }
    with replacing_folder(target / name, force, report) as folder:
        for entity in ("user", "item"):
            field = COLUMNS[entity].name
            known = pd.unique(
                np.concatenate([frame[field].to_numpy(dtype=object), *map(_objects, tokens[entity].values())])
            )
            number = _numbering(known)
            if any(token != str(index) for token, index in number.items()):
                pd.DataFrame({field: list(number), COLUMNS[entity].written: list(number.values())}).to_csv(
                    folder / mapping_file(entity), sep="\t", index=False
                )
                report.append(f"{len(number):,} {entity} tokens are numbered in {mapping_file(entity)}")
            frame[field] = frame[field].map(number)
            for modality, file in files[entity].items():
                matrix = _by_number(file, tokens[entity][modality], number, report)
                np.save(folder / feature_file(entity, modality), matrix)
        written = frame.rename(columns={column.name: column.written for column in COLUMNS.values()})
        written.to_csv(folder / f"{name}.inter", sep="\t", index=False)
    sizes = ", ".join(f"{part} {int((frame.x_label == str(label)).sum()):,}" for label, part in enumerate(PARTS))
    report.append(f"{len(frame):,} interactions: {sizes}")
    for modality in files["inter"]:
        report.append(f"interaction modality {modality} is left out: MMRec has no place for it")
    return report


def _read_split(source: Path, name: str) -> pd.DataFrame:
    whole, parts = source / f"{name}.inter", [source / f"{name}.{part}.inter" for part in PARTS]

    def read(path: Path) -> pd.DataFrame:
        frame = read_untyped(path)
        frame.columns = [column.split(":")[0] for column in frame.columns]
        missing = [field for field in ("user_id", "item_id") if field not in frame]
        if missing:
            raise ValueError(f"{path}: no column {' and '.join(missing)} among {', '.join(frame.columns)}.")
        return frame[[column.name for column in COLUMNS.values() if column.name in frame]]

    if whole.is_file():
        frame = read(whole)
        if "x_label" in frame:
            wrong = frame.x_label[~frame.x_label.isin([str(label) for label in range(len(PARTS))])]
            if len(wrong):
                raise ValueError(
                    f"{whole}: x_label should be 0, 1 or 2 (train, valid, test), got {wrong.iloc[0]!r} ({len(wrong):,} "
                    "such lines)."
                )
            return frame
    if not all(path.is_file() for path in parts):
        raise ValueError(
            f"{source}: MMRec needs a split: a column x_label (0, 1, 2) in {whole.name}, or the files "
            f"{', '.join(path.name for path in parts)}."
        )
    return pd.concat([read(path).assign(x_label=str(label)) for label, path in enumerate(parts)], ignore_index=True)


def _objects(tokens: np.ndarray) -> np.ndarray:
    return np.array(tokens.tolist(), dtype=object)


def _numbering(tokens: np.ndarray) -> dict[str, int]:
    """Number of every token: itself if all are whole numbers without large gaps, otherwise its place."""
    if all(re.fullmatch(r"0|[1-9]\d{0,15}", token) for token in tokens):
        numbers = {token: int(token) for token in tokens}
        if max(numbers.values()) < 2 * len(numbers):
            return numbers
    return {token: index for index, token in enumerate(tokens)}


def _by_number(file: FeatureFile, tokens: np.ndarray, number: Mapping[str, int], report: list[str]) -> np.ndarray:
    source = file.matrix()
    check_length(file, source, len(tokens))
    matrix = np.zeros((max(number.values()) + 1, *source.shape[1:]), dtype=source.dtype)
    rows = source.read(np.arange(len(tokens)))
    check_finite(rows, file.path, "repair them, or leave these rows out, which become zeros")
    matrix[[number[token] for token in tokens.tolist()]] = rows
    report.append(
        f"{file.entity} modality {file.modality}: {len(tokens):,} rows, {len(matrix) - len(tokens):,} rows of zeros"
    )
    return matrix
