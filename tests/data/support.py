"""Small data sets on disk whose features are a function of the token, so that any misalignment shows."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from recbole.config import Config

from recbole_mm.data.dataset import MultimodalDataset, MultimodalSequentialDataset
from recbole_mm.paths import properties_dir


def vector(token: str, dim: int = 5) -> np.ndarray:
    """The features of a token: numbers drawn from a generator seeded by its spelling."""
    return np.random.default_rng(zlib.crc32(token.encode())).standard_normal(dim).astype(np.float16)


def vectors(tokens: list[str], dim: int = 5) -> np.ndarray:
    """The features of several tokens, a row each."""
    return np.array([vector(token, dim) for token in tokens], dtype=np.float16).reshape(len(tokens), dim)


def write_npz(folder: Path, stem: str, tokens: list[str], **arrays: np.ndarray) -> Path:
    """Write ``stem.npz`` for the tokens; ``arrays`` replace or add members."""
    path = folder / f"{stem}.npz"
    np.savez(path, **{"id": np.array(tokens, dtype=str), "feature": vectors(tokens), **arrays})
    return path


def write_npy(folder: Path, stem: str, tokens: list[str], header: str = "item_id:token") -> Path:
    """Write ``stem.npy`` with its ``.ids``."""
    np.save(folder / f"{stem}.npy", vectors(tokens))
    (folder / f"{stem}.ids").write_text("\n".join([header, *tokens, ""]), encoding="utf-8")
    return folder / f"{stem}.npy"


def write_inter(folder: Path, name: str, pairs: list[tuple[str, str]]) -> None:
    """Write an ``.inter`` file whose timestamps follow the order of the pairs."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{user}\t{item}\t{time}" for time, (user, item) in enumerate(pairs, start=1)]
    text = "\n".join(["user_id:token\titem_id:token\ttimestamp:float", *lines, ""])
    (folder / f"{name}.inter").write_text(text, encoding="utf-8")


def random_pairs(
    n_users: int = 12, n_items: int = 15, seed: int = 0, prefix: str = "", least: int = 3
) -> list[tuple[str, str]]:
    """Distinct (user, item) pairs in random order; every user has ``least`` to ``least + 4`` items."""
    generator = np.random.default_rng(seed)
    pairs = [
        (f"{prefix}u{user}", f"{prefix}i{item}")
        for user in range(n_users)
        for item in generator.choice(n_items, generator.integers(least, least + 5), replace=False)
    ]
    return [pairs[index] for index in generator.permutation(len(pairs))]


def make_config(folder: Path, name: str, sequential: bool = False, **options: Any) -> Config:
    """RecBole's Config for a data set in ``folder/name``, with the defaults that only registered models get."""
    defaults = yaml.safe_load((properties_dir() / "overall.yaml").read_text(encoding="utf-8"))
    settings: dict[str, Any] = {
        **{key: value for key, value in defaults.items() if not key.startswith("eval_")},
        "data_path": str(folder), "state": "ERROR", "use_gpu": False, "show_progress": False,
        "checkpoint_dir": str(folder / "saved"), "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    }  # fmt: skip
    if sequential:
        settings.update(train_neg_sample_args=None, loss_type="CE", MAX_ITEM_LIST_LENGTH=5)
    return Config(model="GRU4Rec" if sequential else "BPR", dataset=name, config_dict={**settings, **options})


def make_dataset(folder: Path, name: str = "tiny", sequential: bool = False, **options: Any) -> MultimodalDataset:
    """The data set in ``folder/name``, as RecBole would make it for one of our models."""
    config = make_config(folder, name, sequential, **options)
    return (MultimodalSequentialDataset if sequential else MultimodalDataset)(config)


def check_alignment(dataset: Any, having: dict[str, set[str]], entity: str = "item") -> None:
    """Every row of every table is the vector of its token, or zero and unobserved."""
    field = {"item": dataset.iid_field, "user": dataset.uid_field}[entity]
    tables = getattr(dataset.features, entity)
    tokens = [str(token) for token in dataset.field2id_token[field]]
    assert set(tables) == set(having)
    for modality, table in tables.items():
        assert table.feature.shape[0] == len(tokens) == table.observed.shape[0]
        assert not table.observed[0] and not table.feature[0].any()
        for index, token in enumerate(tokens[1:], start=1):
            assert bool(table.observed[index]) == (token in having[modality]), token
            expected = vector(token) if token in having[modality] else np.zeros(5)
            assert np.array_equal(table.feature[index].numpy(), expected.astype(np.float32)), token
