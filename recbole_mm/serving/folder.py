"""Files of a saved model's folder: their names, hashes, raw ids and feature files, and the card for people."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recbole_mm.data.features.files import ENTITIES, FeatureFile
from recbole_mm.data.fingerprint import feature_hash, file_hash
from recbole_mm.serving.encoding import read_json

__all__ = ["FORMAT", "card", "check_files", "feature_entries", "find_features", "read_ids", "write_ids"]

FORMAT = "recbole_mm model 1"
_FEATURES = "features"


def write_ids(folder: Path, vocabularies: Mapping[str, np.ndarray]) -> str:
    """Write raw ids, a row for each with its ``field`` and internal ``id``, and return the name of the file.

    With pyarrow the file is ``ids.parquet``, without it ``ids.json``.

    Args:
        folder: The folder.
        vocabularies: Field to its raw ids by internal id.
    """
    tokens = {field: [str(token) for token in values.tolist()] for field, values in vocabularies.items()}
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        (folder / "ids.json").write_text(json.dumps(tokens, ensure_ascii=True), encoding="utf-8")
        return "ids.json"
    columns = {
        "field": pa.array([field for field, values in tokens.items() for _ in values], pa.string()),
        "id": pa.array([index for values in tokens.values() for index in range(len(values))], pa.int64()),
        "token": pa.array([token for values in tokens.values() for token in values], pa.string()),
    }
    pq.write_table(pa.table(columns), folder / "ids.parquet")
    return "ids.parquet"


def read_ids(folder: Path, name: str) -> dict[str, np.ndarray]:
    """What :func:`write_ids` wrote.

    Args:
        folder: The folder.
        name: Name of the file.

    Raises:
        ImportError: A parquet file without pyarrow.
        ValueError: Not such a file.
    """
    if name == "ids.json":
        return {field: np.array(values, dtype=object) for field, values in read_json(folder / name).items()}
    if name != "ids.parquet":
        raise ValueError(f"{folder}: expected ids.parquet or ids.json, got {name!r}.")
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError(
            f"{folder / name} needs pyarrow, which is not installed: pip install 'recbole-mm[parquet]'."
        ) from error
    table = pq.read_table(folder / name)
    fields = np.array(table["field"].to_pylist(), dtype=object)
    tokens = np.array(table["token"].to_pylist(), dtype=object)
    return {str(field): tokens[fields == field] for field in dict.fromkeys(fields.tolist())}


def feature_entries(folder: Path, files: Mapping[str, Mapping[str, FeatureFile]], copied: bool) -> list[dict[str, Any]]:
    """References to feature files, with their hashes; with ``copied`` the files are put into the folder, too.

    Args:
        folder: The folder.
        files: Entity to modality to its file.
        copied: Whether to copy them.
    """
    entries = []
    for entity, found in files.items():
        for modality, file in found.items():
            path = file.path.resolve()
            entries.append(
                {
                    "entity": entity,
                    "modality": modality,
                    "file": path.name,
                    "path": str(path),
                    "sha256": feature_hash(path),
                }
            )
            if copied:
                (folder / _FEATURES).mkdir(exist_ok=True)
                ids = path.with_suffix(".ids")
                for part in (path, ids) if path.suffix == ".npy" else (path,):
                    shutil.copyfile(part, folder / _FEATURES / part.name)
    return entries


def find_features(
    folder: Path, entries: list[dict[str, Any]], feature_path: str | None
) -> dict[str, dict[str, FeatureFile]]:
    """The feature files of a saved model: in ``feature_path``, in the folder itself, or where they were.

    Args:
        folder: The folder.
        entries: What :func:`feature_entries` returned.
        feature_path: A folder to look in first.

    Raises:
        FileNotFoundError: A file is nowhere.
        ValueError: A file has another content than at the training.
    """
    found: dict[str, dict[str, FeatureFile]] = {}
    for entry in entries:
        if entry.get("entity") not in ENTITIES or Path(entry["file"]).name != entry["file"]:
            raise ValueError(f"{folder}/config.json: {entry!r} is no feature file; it was damaged or changed.")
        places = [folder / _FEATURES / entry["file"], Path(entry["path"])]
        if feature_path is not None:
            places.insert(0, Path(feature_path).expanduser() / entry["file"])
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            raise FileNotFoundError(
                f"The {entry['modality']} features of the model in {folder} are gone: there is no file "
                f"{' nor '.join(map(str, places))}. Give their folder as feature_path, or save with features "
                "(with_features)."
            )
        if feature_hash(path) != entry["sha256"]:
            raise ValueError(
                f"{path} is not the file that the model in {folder} was trained on (its sha256 differs). Put that "
                "file back, or give its folder as feature_path."
            )
        found.setdefault(entry["entity"], {})[entry["modality"]] = FeatureFile(entry["entity"], entry["modality"], path)
    return found


def check_files(folder: Path, hashes: Mapping[str, str]) -> None:
    """Compare the files of a folder with their hashes.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file was changed.
    """
    for name, expected in hashes.items():
        file = folder / name
        if Path(name).name != name or not file.is_file():
            raise FileNotFoundError(f"{file} is missing; the folder is not whole.")
        if file_hash(file) != expected:
            raise ValueError(f"{file} is not the file that was saved (its sha256 differs); it was damaged or changed.")


def card(about: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """The text of README.md: what the model is, what it scored, how to load it.

    Args:
        about: ``model``, ``dataset``, ``users``, ``items``, ``pairs``, ``modalities``, ``copied`` and ``version``.
        metrics: ``valid``, ``test`` and ``split``.
    """
    rows = [
        f"| {name} | {(metrics['valid'] or {}).get(name, '-')} | {value} |"
        for name, value in (metrics["test"] or metrics["valid"] or {}).items()
    ]
    table = ["| metric | validation | test |", "|---|---|---|", *rows] if rows else ["No metrics were kept."]
    features = ", ".join(about["modalities"]) or "none"
    where = (
        "in the folder `features`" if about["copied"] else "not in this folder (`config.json` names them, with sha256)"
    )
    return "\n".join(
        [
            f"# {about['model']} on {about['dataset']}",
            "",
            f"A recommender trained with recbole_mm {about['version']} on the data set `{about['dataset']}`: "
            f"{about['users']:,} users, {about['items']:,} items, {about['pairs']:,} training interactions. "
            f"Features: {features}, {where if about['modalities'] else ''}".rstrip(", ")
            + ".",
            "",
            "## Metrics",
            *table,
            "",
            f"Hash of the split: `{metrics['split']}`. All of it is in `metrics.json`.",
            "",
            "## How to load it",
            "```python",
            "import recbole_mm",
            "",
            'recommender = recbole_mm.load("this folder")',
            f'print(recommender.recommend(["{about["user"]}"], k=10))',
            "```",
            "Nothing in the folder is executed when it is loaded. It holds who had what (`data.safetensors`, "
            "`ids.parquet` or `ids.json`): treat it as you treat the data.",
            "",
            "## Licence",
            "(fill in: of the model, and of the data that it was trained on)",
            "",
        ]
    )
