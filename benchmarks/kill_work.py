"""The pieces of work that ``kill.py`` kills, and how far two outcomes of one are apart."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import recbole_mm  # first: it repairs what RecBole needs repaired

# isort: split
import numpy as np
import torch

__all__ = [
    "OPTIONS",
    "SMALL",
    "STAGED",
    "check_export",
    "compare",
    "difference",
    "export",
    "outcome",
    "search",
    "train",
    "trained",
    "warm_up",
]

OPTIONS: dict[str, Any] = {
    "epochs": 8, "stopping_step": 99, "train_batch_size": 512, "embedding_size": 16, "state": "ERROR",
    "show_progress": False, "use_gpu": False, "metrics": ["Recall", "NDCG"], "topk": [5, 10],
    "valid_metric": "Recall@10",
}  # fmt: skip
STAGED: dict[str, dict[str, Any]] = {
    "MCPTR": {"pretrain_epochs": 4, "epochs": 4},
    "MML": {"epochs": 1, "warmup_epochs": 1, "generator_epochs": 2, "fusion_epochs": 2},
    "UniSRec": {"train_stage": "both", "pretrain_epochs": 4, "epochs": 4},
}
#: What keeps a model from taking minutes, or what RecBole needs beside it.
SMALL: dict[str, dict[str, Any]] = {
    "CMBF": {"n_image_layers": 1, "n_text_layers": 1, "n_cross_layers": 1, "epochs": 3},
    "UVCAN": {"epochs": 3},
    **STAGED,
}
_NOT_COMPARED = {"time", "memory_mib", "checkpoint", "checkpoint_dir", "gpu_id", "seconds", "worker", "storage"}


def warm_up() -> None:
    """Import everything, so that no child has to."""
    with tempfile.TemporaryDirectory() as folder:
        here = os.getcwd()
        os.chdir(folder)
        how = {"trials": 1, "space": {"learning_rate": [0.1]}, "in_process": True, "verbose": False}
        recbole_mm.tune("MMGCN", "mm-toy", config_dict={**OPTIONS, "epochs": 1}, output="out", **how)
        os.chdir(here)


def train(folder: Path, model: str) -> dict[str, Any]:
    """Train and test, with the same command at every start."""
    options = {**OPTIONS, **SMALL.get(model, {}), "checkpoint_dir": str(folder / "saved")}
    result = recbole_mm.run(model, "mm-toy", config_dict=options, resume="auto")
    # A run that was killed before there was a state to go on with, or after its test, has left a file of its own.
    files = sorted((folder / "saved").glob(f"{model}*.pth"), key=lambda file: file.stat().st_mtime)
    stages = {file.stem.split("-")[-1] if model in STAGED else "": file for file in files}
    parameters = {stage: torch.load(file, weights_only=True)["state_dict"] for stage, file in stages.items()}
    kept = ("best_valid_score", "best_valid_result", "test_result", "split")
    return {"result": {key: result[key] for key in kept}, "parameters": parameters}


def compare(folder: Path, model: str) -> dict[str, Any]:
    """Compare three models, one of them in stages."""
    how = {"seeds": 1, "in_process": True, "verbose": False, "model_settings": {"MCPTR": STAGED["MCPTR"]}}
    table = recbole_mm.compare(["MMGCN", "MCPTR", "BPR"], "mm-toy", config_dict=OPTIONS, output=folder / "out", **how)
    runs = {}
    for file in sorted(folder.glob("out/runs/*/run.json")):
        with np.load(file.with_name("users.npz")) as users:
            metrics = {key: users[key].tolist() for key in users.files}
        runs[file.parent.name] = {"record": json.loads(file.read_text("utf-8")), "users": metrics}
    costs = [column for column in table if column.endswith(("_seconds", "_mib"))]
    return {"runs": runs, "table": table.drop(columns=costs).to_json()}


def search(folder: Path, model: str) -> dict[str, Any]:
    """Search the learning rate of a model in a few trials."""
    space = {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}}
    how = {"trials": 5, "space": space, "in_process": True, "verbose": False}
    found = recbole_mm.tune("MMGCN", "mm-toy", config_dict=OPTIONS, output=folder / "out", **how)
    return {"params": found.params, "value": found.value, "trials": found.trials}


def export(folder: Path, model: str) -> dict[str, Any]:
    """Export the lists of a trained model in the place of an old file."""
    files = [folder / f"lists.{kind}" for kind in ("csv", "parquet", "npz")]
    for file in files:
        if not file.exists():
            file.write_text("old")
    for file in files:
        recbole_mm.export(model, file, topk=10, progress=False)
    return {file.name: file.read_bytes() if file.suffix != ".npz" else arrays(file) for file in files}


def arrays(file: Path) -> dict[str, Any]:
    """The content of an archive, which has the time of its writing in it."""
    with np.load(file) as archive:
        return {key: archive[key].tolist() for key in archive.files}


def check_export(place: Path, whole: Path) -> None:
    """After a kill every file is the old one or the new one, and a process that reads it finds no part of one.

    Raises:
        RuntimeError: A file is neither.
    """
    for file in place.glob("lists.*"):
        if file.read_bytes() in (b"old", b""):  # the second: killed by this script between making and filling it
            continue
        new = whole / file.name
        same = arrays(file) == arrays(new) if file.suffix == ".npz" else file.read_bytes() == new.read_bytes()
        if not same:
            raise RuntimeError(f"{file} is neither the old nor the new one.")


def trained() -> str:
    """A trained model to export from."""
    folder = tempfile.mkdtemp()
    here = os.getcwd()
    os.chdir(folder)
    try:
        return os.path.abspath(recbole_mm.run("MMGCN", "mm-toy", config_dict={**OPTIONS, "epochs": 1})["checkpoint"])
    finally:
        os.chdir(here)


def outcome(folder: Path) -> Any:
    """What the work in a folder gave."""
    return torch.load(folder / "outcome.pt", weights_only=False)  # this script wrote it


def difference(one: Any, other: Any) -> float:
    """Largest difference between two outcomes; infinite where they differ in anything but numbers."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [{key for key in part if key not in _NOT_COMPARED} for part in (one, other)]
        if keys[0] != keys[1]:
            return float("inf")
        return max((difference(one[key], other[key]) for key in keys[0]), default=0.0)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        if len(one) != len(other):
            return float("inf")
        return max((difference(left, right) for left, right in zip(one, other)), default=0.0)
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.shape != other.shape:
            return float("inf")
        return float((one.double() - other.double()).abs().max()) if one.numel() else 0.0
    if isinstance(one, (int, float)) and isinstance(other, (int, float)) and not isinstance(one, bool):
        return 0.0 if one == other or (one != one and other != other) else abs(float(one) - float(other))
    return 0.0 if one == other else float("inf")
