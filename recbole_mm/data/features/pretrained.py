"""Pre-trained tables as feature files, for any other pipeline."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from recbole_mm.files import replacing

__all__ = ["write_pretrained"]


def write_pretrained(
    model: Any, dataset: Any, folder: str | os.PathLike[str], modality: str = "mcptr"
) -> tuple[Path, Path]:
    """Write a pre-trained model's tables as ``<dataset>.user.mcptr.npz`` and ``<dataset>.item.mcptr.npz``.

    The files are feature files like any other: every multimodal model finds them with ``feature_path`` (or beside the
    atomic files), by ``modalities: [mcptr]``. They belong to the split that the model was trained on: in another
    split, its test interactions may have been pre-trained on.

    During training the option ``pretrained_feature_path`` does this at the end of pre-training; afterwards

        >>> from recbole.quick_start import load_data_and_model
        >>> _, model, dataset, *_ = load_data_and_model("saved/MCPTR-ml-100k-...-pretrain.pth")  # doctest: +SKIP
        >>> write_pretrained(model, dataset, "features")  # doctest: +SKIP

    Args:
        model: A model with ``pretrained()``, which gives the tables of users and items.
        dataset: Its RecBole data set, for the raw ids.
        folder: Where the files go; made if it is not there. A file is replaced at once, never half written.
        modality: Name of the modality.

    Returns:
        The two files.

    Raises:
        ValueError: The model has no pre-trained tables (any more).
    """
    tables = dict(zip(("user", "item"), model.pretrained()))
    fields = {"user": dataset.uid_field, "item": dataset.iid_field}
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    files = []
    for entity, table in tables.items():
        tokens = np.asarray(dataset.field2id_token[fields[entity]])[1:].astype(str)
        file = target / f"{dataset.dataset_name}.{entity}.{modality}.npz"
        with replacing(file, "choose another pretrained_feature_path") as temporary:
            np.savez(temporary, id=tokens, feature=table[1:].float().cpu().numpy())
        files.append(file)
    return files[0], files[1]
