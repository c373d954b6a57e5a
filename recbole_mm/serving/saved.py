"""Keeping a trained model: a folder of numbers and plain text that needs no data set and executes nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_mm.data.fingerprint import file_hash
from recbole_mm.experiment.job import versions
from recbole_mm.experiment.split import describe_split, known_pairs
from recbole_mm.experiment.store import to_json
from recbole_mm.files import check_writable
from recbole_mm.folders import replacing_folder
from recbole_mm.host.loaders import dataset_of
from recbole_mm.host.saved_config import plain_config
from recbole_mm.host.skeleton import skeleton_of, why_not_saved
from recbole_mm.serving.encoding import separate, write_tensors
from recbole_mm.serving.export import Loaded, load
from recbole_mm.serving.folder import FORMAT, card, feature_entries, write_ids
from recbole_mm.serving.opening import open_folder
from recbole_mm.serving.recommender import Recommender
from recbole_mm.serving.scoring import Scorer, last_rows
from recbole_mm.trainer.checkpoint import read_checkpoint

__all__ = ["check_folder", "save"]

_CHECKED = 4  # users whose scores are compared
_SLACK = 1e-4  # of the range of a user's scores


def save(
    source: Mapping[str, Any] | str | os.PathLike[str] | Loaded,
    folder: str | os.PathLike[str],
    with_features: bool = False,
    places: Mapping[str, Any] | None = None,
    trust: bool = False,
) -> Path:
    """Keep a trained model in a folder that can be loaded without its data set.

    The folder holds ``model.safetensors`` (parameters), ``data.safetensors`` (what the model reads of the data when it
    is made, and who had what), ``config.json``, ``ids.parquet`` (``ids.json`` without pyarrow), ``metrics.json`` and
    ``README.md``, a model card. Before the folder appears the model is loaded from it, and must score as before.

    Args:
        source: What :func:`recbole_mm.run` returned, a checkpoint, or what :func:`recbole_mm.serving.export.load`
            returned.
        folder: The folder; made if it is missing, and empty.
        with_features: Whether the feature files are copied into it. Without, their places and hashes are kept.
        places: Where the data of a checkpoint are here, see :func:`recbole_mm.serving.export.load`.
        trust: Whether a checkpoint that is a pickle of RecBole's is read, which runs the code in it.

    Returns:
        The folder.

    Raises:
        ValueError: Nothing was saved by the run, or the model cannot be kept without its data set; the message says
            why.
        FileExistsError: The folder is not empty.

    Example:
        >>> import recbole_mm
        >>> result = recbole_mm.run("VBPR", "mm-toy", config_dict={"epochs": 1})
        >>> folder = recbole_mm.save(result, "vbpr", with_features=True)
        >>> sorted(file.name for file in folder.iterdir())[:4]
        ['README.md', 'config.json', 'data.safetensors', 'features']
    """
    target = check_folder(folder)
    checkpoint, metrics = _origin(source, trust)
    loaded: Any = source if isinstance(source, tuple) else load(checkpoint, places, trust)
    config, model, _, *loaders = loaded
    model.eval()
    reason = why_not_saved(config)
    if reason is not None:
        raise ValueError(f"The model cannot be kept without its data set: {reason}. Keep the checkpoint.")
    split = describe_split(*loaders)
    metrics = {"split": split["hash"], "sizes": split, **metrics, "versions": versions()}
    with replacing_folder(target, False, [], "another folder") as made:
        _write(made, loaded, with_features, metrics)
        _compare(made, loaded)
    return target


def check_folder(folder: str | os.PathLike[str]) -> Path:
    """Refuse a folder that :func:`save` would refuse, for callers who would train first.

    Raises:
        FileNotFoundError: The folder that it lies in is missing.
        FileExistsError: It is a file, or a folder that is not empty.
        WriteError: The folder that it lies in cannot be written to.
    """
    path = Path(folder)
    if not path.absolute().parent.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {path.absolute().parent}.")
    if path.is_symlink() and not path.exists():
        raise FileExistsError(f"{path} is a link that leads nowhere; remove it, or give another folder.")
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise FileExistsError(f"{path} is there already and not empty; remove it, or give another folder.")
    check_writable(path)
    return path


def _origin(source: Any, trust: bool) -> tuple[str, dict[str, Any]]:
    """Checkpoint and metrics of what :func:`save` was given."""
    if isinstance(source, tuple):
        return "", {"valid": None, "test": None}
    if isinstance(source, Mapping):
        if not source.get("checkpoint"):
            raise ValueError(
                "save: expected the result of recbole_mm.run with a checkpoint, got one without: the run had "
                "saved=False, or trained nothing. Run it with saved=True."
            )
        kept = {"valid": source.get("best_valid_result"), "test": source.get("test_result")}
        return str(source["checkpoint"]), to_json(kept)
    content = read_checkpoint(source, trust)
    score = content.get("best_valid_score")
    valid = None if score is None else {str(content["config"]["valid_metric"]).lower(): float(score)}
    return str(source), {"valid": valid, "test": None}


def _write(folder: Path, loaded: Any, with_features: bool, metrics: dict[str, Any]) -> None:
    config, model, _, *loaders = loaded
    train = dataset_of(loaders[0])
    files = train._feature_files() if hasattr(train, "_feature_files") else {}
    modalities = [str(name) for name in train._available_modalities] if files else None
    parameters: dict[str, Tensor] = {}
    data: dict[str, Tensor] = {}
    vocabularies = {str(field): np.asarray(tokens) for field, tokens in train.field2id_token.items()}
    content = {
        "format": FORMAT,
        "model": config["model"],
        "dataset": config["dataset"],
        "modalities": modalities,
        "features": feature_entries(folder, files, with_features),
        **separate(_parameters(model), "model", parameters),
        "parts": separate(skeleton_of(train), "parts", data),
        "served": separate(_served(config, loaders), "served", data),
        **{key: separate(part, key, data) for key, part in plain_config(config, modalities).items()},
        "versions": versions(),
    }
    write_tensors(folder / "model.safetensors", parameters)
    write_tensors(folder / "data.safetensors", data)
    (folder / "metrics.json").write_text(json.dumps(to_json(metrics), indent=1) + "\n", encoding="utf-8")
    names = ["model.safetensors", "data.safetensors", "metrics.json", write_ids(folder, vocabularies)]
    content["files"] = {name: file_hash(folder / name) for name in names}
    (folder / "config.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    about = {
        "model": config["model"],
        "dataset": config["dataset"],
        "users": train.user_num - 1,
        "items": train.item_num - 1,
        "pairs": metrics["sizes"]["train"],
        "modalities": sorted({entry["modality"] for entry in content["features"]}),
        "copied": with_features,
        "version": content["versions"]["recbole_mm"],
        "user": str(vocabularies[train.uid_field][1]),
    }
    (folder / "README.md").write_text(card(about, metrics), encoding="utf-8")


def _parameters(model: Any) -> dict[str, Any]:
    other = getattr(model, "other_parameter", lambda: None)()
    kept = {name: part for name, part in (other or {}).items() if not isinstance(part, torch.nn.Module)}
    return {"state_dict": dict(model.state_dict()), "other_parameter": kept if other is not None else None}


def _served(config: Any, loaders: Any) -> dict[str, Any]:
    """Who had what, and the histories after which a sequential model is asked."""
    users, items = known_pairs([dataset_of(loader) for loader in loaders[:2]])
    last = last_rows(config, loaders[:2])
    rows = None if last is None else {str(name): column for name, column in last.rows.interaction.items()}
    return {"users": users, "items": items, "rows": rows, "row_of": None if last is None else last.row_of}


def _compare(folder: Path, loaded: Any) -> None:
    """Load the folder, and refuse it where a user's scores are not those of the model."""
    config, model, _, *loaders = loaded
    name, train = config["model"], dataset_of(loaders[0])
    try:
        copy = Recommender(*open_folder(folder, device=str(config["device"])))
        own = Scorer(config, model, train, copy.had, last_rows(config, loaders[:2]))
        users = np.arange(1, train.user_num)
        users = users[own.can_score(users)][:_CHECKED]
        with torch.no_grad():
            here, there = own.raw_scores(users)[:, 1:], copy.scorer.raw_scores(users)[:, 1:]
    except Exception as error:
        raise ValueError(f"{name} cannot be kept without its data set: made anew from the folder, {error}") from error
    span = (here.amax(dim=1) - here.amin(dim=1)).clamp_min(1e-12)
    if not bool(((here - there).abs().amax(dim=1) <= _SLACK * span).all()):
        raise ValueError(
            f"{name} cannot be kept without its data set: made anew from the folder, it scores otherwise, because it "
            "reads more of its data or of chance than the folder holds. Keep the checkpoint."
        )
