"""A data set whose interactions a test can write, and its parts as tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import init_seed

from recbole_mm.paths import dataset_atomic_dir

Row = tuple[str, str, int]

LEAVE_ONE_OUT = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}
BY_RATIO = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", "mode": "full"}
OPTIONS: dict[str, Any] = {
    "state": "ERROR", "show_progress": False, "use_gpu": False,
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "metrics": ["Recall"], "topk": [5], "valid_metric": "Recall@5", "epochs": 1,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "BPR": {},
    "LightGCN": {},
    "MMGCN": {"embedding_size": 8},
    "SASRec": {"train_neg_sample_args": None, "hidden_size": 8, "inner_size": 8, "n_layers": 1},
    "GRU4Rec": {"train_neg_sample_args": None, "embedding_size": 8, "hidden_size": 8},
    "MML": {
        "embedding_size": 8, "n_layers": 1, "inner_size": 8, "MAX_ITEM_LIST_LENGTH": 8, "fusion_hidden_size": 4,
        "modalities": ["text"], "warmup_epochs": 1, "generator_epochs": 1, "fusion_epochs": 1, "adapt_steps": 1,
        "inner_steps": 1,
    },
}  # fmt: skip
SEQUENTIAL = {"SASRec", "GRU4Rec", "MML"}


def toy_rows() -> list[Row]:
    """The interactions of mm-toy."""
    lines = (dataset_atomic_dir() / "mm-toy" / "mm-toy.inter").read_text(encoding="utf-8").splitlines()[1:]
    return [(cells[0], cells[1], int(cells[3])) for cells in (line.split("\t") for line in lines)]


def write(folder: Path, rows: list[Row], name: str = "mm-toy.inter") -> None:
    """Write the interactions as ``mm-toy/mm-toy.inter`` in RecBole's ``data_path`` (the features are the packaged)."""
    (folder / "mm-toy").mkdir(parents=True, exist_ok=True)
    lines = ["user_id:token\titem_id:token\ttimestamp:float", *("\t".join(map(str, row)) for row in rows)]
    (folder / "mm-toy" / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def config(model: str, folder: Path | None = None, **options: Any) -> Config:
    """RecBole's Config for a small model."""
    place = {} if folder is None else {"data_path": str(folder)}
    order = {"eval_args": LEAVE_ONE_OUT if model in SEQUENTIAL else BY_RATIO}
    return Config(model, "mm-toy", config_dict={**OPTIONS, **order, **MODELS[model], **place, **options})


def loaders(made: Config) -> tuple[Any, Any, Any]:
    """The three loaders, from RecBole's own seeded state."""
    init_seed(made["seed"], made["reproducibility"])
    return data_preparation(made, create_dataset(made))


def pairs(dataset: Any, rows: Any = None) -> list[tuple[str, str]]:
    """User and item tokens of each row."""
    rows = dataset.inter_feat if rows is None else rows
    return list(
        zip(
            *(dataset.id2token(field, rows[field].numpy()).tolist() for field in (dataset.uid_field, dataset.iid_field))
        )
    )


def sequences(dataset: Any, rows: Any = None) -> set[tuple[str, str, tuple[str, ...]]]:
    """User, target and history of each row of a sequential data set, as tokens."""
    rows = dataset.inter_feat if rows is None else rows
    histories = [tuple(items[items > 0]) for items in rows["item_id_list"].numpy()]
    tokens = np.asarray(dataset.field2id_token[dataset.iid_field])
    return {(*pair, tuple(tokens[list(items)])) for pair, items in zip(pairs(dataset, rows), histories)}
