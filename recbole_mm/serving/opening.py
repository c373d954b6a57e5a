"""Opens the folder of a saved model: every file is compared with its hash, and nothing in it is executed."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.utils import get_model, init_seed

from recbole_mm.host.checkpoint import nothing_executed
from recbole_mm.host.names import check_model_name
from recbole_mm.host.resumption import load_parameters
from recbole_mm.host.saved_config import build_config
from recbole_mm.host.skeleton import restore, why_not_saved
from recbole_mm.serving.encoding import join, read_json, read_tensors
from recbole_mm.serving.folder import FORMAT, check_files, find_features, read_ids

__all__ = ["open_folder"]


def open_folder(folder: str | os.PathLike[str], feature_path: str | None = None, device: str = "cpu") -> Any:
    """Make the model of a folder anew; the arguments of :class:`Recommender` come out.

    Args:
        folder: The folder.
        feature_path: See :func:`load`.
        device: See :func:`load`.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: A file was changed, or the model is not known here.
    """
    path = Path(folder)
    content = read_json(path / "config.json")
    if content.get("format") != FORMAT:
        raise ValueError(
            f"{path / 'config.json'}: expected the format {FORMAT!r}, got {content.get('format')!r}; it was written by "
            "another version, or by another program."
        )
    try:
        return _made_anew(path, content, feature_path, device)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(
            f"{path / 'config.json'} is not what recbole_mm.save wrote ({type(error).__name__}: {error}); it was "
            "damaged or changed. Save the model again."
        ) from error


def _made_anew(path: Path, content: Mapping[str, Any], feature_path: str | None, device: str) -> Any:
    check_files(path, content["files"])
    check_model_name(content["model"])
    data = read_tensors(path / "data.safetensors")
    config = build_config({key: join(content[key], data) for key in ("config", "options", "model_class")}, str(path))
    config.final_config_dict["device"] = torch.device(device)
    if content["model"] != config["model"] or why_not_saved(config) is not None:
        raise ValueError(f"{path / 'config.json'} was changed: {content['model']} cannot have been saved so.")
    ids = next((name for name in ("ids.parquet", "ids.json") if name in content["files"]), "")
    files = find_features(path, content["features"], feature_path)
    dataset = restore(config, join(content["parts"], data), read_ids(path, ids), files, content["modalities"])
    with _own_randomness(), nothing_executed():
        init_seed(config["seed"], config["reproducibility"])
        model = get_model(config["model"])(config, dataset).to(config["device"])
    tensors = read_tensors(path / "model.safetensors")
    load_parameters(model, {key: join(content[key], tensors) for key in ("state_dict", "other_parameter")}, str(path))
    served = join(content["served"], data)
    if not {"users", "items", "rows", "row_of"} <= set(served):
        raise KeyError("served")
    return config, model.eval(), dataset, served


@contextmanager
def _own_randomness() -> Iterator[None]:
    """Put the random states of the process back, so that loading a model changes nothing that comes after."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
