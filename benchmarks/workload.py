"""Data sets of the speed benchmarks: RecBole's ml-100k, and a synthetic graph of the shape of Amazon Baby."""

from __future__ import annotations

from pathlib import Path

import numpy as np

SHAPES = ("ml-100k", "baby")
USERS, ITEMS, PAIRS = 19_445, 7_050, 118_551
FEATURES = {"image": 4096, "text": 384}


def synthetic_pairs(
    users: int = USERS, items: int = ITEMS, pairs: int = PAIRS, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Distinct (user, item) pairs, sorted, with no isolated node.

    Items are popular by a power law (the share of rank r is about r ** -0.8); users differ by an exponential law.
    """
    generator = np.random.default_rng(seed)
    popularity = (np.arange(items) + 10.0) ** -0.8
    popularity = generator.permutation(popularity / popularity.sum())
    activity = 1 + generator.exponential(1.0, users)
    activity /= activity.sum()
    first_user = np.arange(users) * items + generator.choice(items, users, p=popularity)
    first_item = generator.choice(users, items, p=activity) * items + np.arange(items)
    keys = np.unique(np.concatenate([first_user, first_item]))
    while len(keys) < pairs:
        user, item = generator.choice(users, pairs, p=activity), generator.choice(items, pairs, p=popularity)
        fresh = np.setdiff1d(user * items + item, keys)
        keys = np.union1d(keys, generator.permutation(fresh)[: pairs - len(keys)])
    return keys // items, keys % items


def write_synthetic(folder: Path, seed: int = 0) -> None:
    """Write ``folder/baby``: 118,551 training pairs, one validation and one test pair a user, and random features."""
    target = folder / "baby"
    target.mkdir(parents=True)
    users, items = synthetic_pairs(seed=seed)
    generator = np.random.default_rng(seed + 1)
    held_out: list[np.ndarray] = []
    known = users * ITEMS + items
    for _ in range(2):
        choice = np.empty(USERS, dtype=np.int64)
        open_users = np.arange(USERS)
        while len(open_users):
            choice[open_users] = items[generator.integers(0, len(items), len(open_users))]
            open_users = open_users[np.isin(open_users * ITEMS + choice[open_users], known)]
        held_out.append(choice)
        known = np.concatenate([known, np.arange(USERS) * ITEMS + choice])
    parts = {"train": (users, items), "valid": (np.arange(USERS), held_out[0]), "test": (np.arange(USERS), held_out[1])}
    for name, (user, item) in parts.items():
        rows = "".join(f"u{u}\ti{i}\n" for u, i in zip(user.tolist(), item.tolist()))
        (target / f"baby.{name}.inter").write_text("user_id:token\titem_id:token\n" + rows, encoding="utf-8")
    tokens = np.array([f"i{k}" for k in range(ITEMS)])
    for modality, width in FEATURES.items():
        feature = generator.standard_normal((ITEMS, width), dtype=np.float32).astype(np.float16)
        np.savez(target / f"baby.item.{modality}.npz", id=tokens, feature=feature)


def recbole_options(shape: str, folder: Path, device: str) -> dict:
    """Options for RecBole's Config that read the data set and keep it quiet."""
    options = {
        "train_batch_size": 2048, "show_progress": False, "state": "ERROR", "save_dataset": False, "seed": 2020,
        "use_gpu": device == "cuda", "metrics": ["Recall", "NDCG"], "topk": [20], "valid_metric": "Recall@20",
        "checkpoint_dir": str(folder / "saved"),
    }  # fmt: skip
    if shape == "baby":
        options |= {
            "data_path": str(folder), "benchmark_filename": ["train", "valid", "test"],
            "load_col": {"inter": ["user_id", "item_id"]},
        }  # fmt: skip
    return options
