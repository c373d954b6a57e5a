"""The portfolio's data sets: real ones converted, a thinned one, and two that are planted; and three to try it on.

``python benchmarks/portfolio_data.py TARGET [NAME ...]`` writes those that are named, by default the portfolio's. On
the sets of :data:`HELD_OUT` no default was chosen.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recbole_mm.data.convert.mmrec import from_mmrec

ROOT = Path(__file__).resolve().parents[1]
SEED = 2020
MLLS = {"text": "text_feat.npy", "image": "image_feat.npy"}
LFM2K = {"text": "all-MiniLM-L6-v2.npy", "audio": "vggish.npy"}
THINNED_SEED, HEAVY_SEED = 7, 11
MICROLENS_USERS = 3000  # of 46,420: a graph model's epoch on all of them takes minutes on a core


def source_folder() -> Path:
    """Where the real data are: ``$RECBOLE_MM_DATA``, or ``../shared/data`` beside the checkout."""
    return Path(os.environ.get("RECBOLE_MM_DATA", ROOT.parent / "shared" / "data"))


def thinned(frame: pd.DataFrame, generator: np.random.Generator) -> pd.DataFrame:
    """A sparse and skewed copy: 9 of 10 users keep 1 to 3 training pairs, 1 of 20 keeps all, the others a half.

    Validation and test pairs stay as they are, so that there is as much to be ranked as before.
    """
    kept = []
    for _, rows in frame[frame.x_label == 0].groupby("userID"):
        kind = generator.random()
        count = int(generator.integers(1, 4)) if kind < 0.9 else len(rows) if kind < 0.95 else -(-len(rows) // 2)
        kept.append(rows.iloc[generator.permutation(len(rows))[:count]])
    return pd.concat([*kept, frame[frame.x_label > 0]])


def planted(n_users: int, n_items: int, pairs: int, informative: bool, seed: int) -> tuple[pd.DataFrame, dict]:
    """Users with a taste in a latent space of eight dimensions, who choose among items by it.

    With ``informative`` features the latent vectors of the items are in both modalities, behind a random map and noise;
    the image vectors have a common shift besides, so that their mean cosine with their mean is about .92, as those of
    pretrained networks often have. Otherwise the features are noise of the same shape, shift included.
    """
    generator = np.random.default_rng(seed)
    latent = generator.normal(size=(n_items, 8))
    taste = generator.normal(size=(n_users, 8)) * 1.5
    rows = []
    for user in range(n_users):
        score = latent @ taste[user] + generator.gumbel(size=n_items)  # a draw without replacement by softmax
        chosen = generator.permutation(np.argsort(-score)[: pairs + 4])
        rows += [(user, item, max(0, (place - pairs) // 2 + 1)) for place, item in enumerate(chosen)]
    features = {}
    for modality, width, shift in (("image", 64, 2.4), ("text", 32, 0.0)):
        signal = latent if informative else generator.normal(size=latent.shape)
        matrix = signal @ generator.normal(size=(8, width)) / np.sqrt(8) + 0.3 * generator.normal(size=(n_items, width))
        features[modality] = (matrix + shift * generator.normal(size=width)).astype(np.float32)
    return pd.DataFrame(rows, columns=["userID", "itemID", "x_label"]), features


def heavy(seed: int) -> tuple[pd.DataFrame, dict]:
    """Short videos: 9,000 users with 1 to 3 training pairs, and 103 with 300 to 600, who have three quarters of all.

    Users choose by popularity and by taste in a latent space of twelve dimensions, heavy ones less by taste. Features
    are the latent vectors behind a random map, with as much noise and a common shift.
    """
    n_users, n_items, n_heavy, dim = 9100, 6244, 103, 12
    generator = np.random.default_rng(seed)
    latent, popularity = generator.normal(size=(n_items, dim)), generator.normal(size=n_items) * 1.3
    many = set(generator.choice(n_users, n_heavy, replace=False).tolist())
    rows = []
    for user in range(n_users):
        pairs = int(generator.integers(300, 601)) if user in many else int(generator.integers(1, 4))
        taste = generator.normal(size=dim) * (0.5 if user in many else 1.0)
        score = popularity + latent @ taste + generator.gumbel(size=n_items)
        chosen = generator.permutation(np.argsort(-score)[: pairs + 2])  # a partition has an order of its CPU
        rows += [(user, item, max(0, place - pairs + 1)) for place, item in enumerate(chosen)]
    features = {}
    for modality, shift in (("image", 2.4), ("audio", 1.0)):
        matrix = latent @ generator.normal(size=(dim, 128)) / np.sqrt(dim) * 0.8
        matrix = matrix + 0.8 * generator.normal(size=(n_items, 128))
        features[modality] = (matrix + shift * generator.normal(size=128)).astype(np.float32)
    return pd.DataFrame(rows, columns=["userID", "itemID", "x_label"]), features


def _read(name: str) -> pd.DataFrame:
    return pd.read_csv(source_folder() / name / f"{name}.inter", sep="\t")


def _sparse(target: str, name: str, files: dict[str, str], seed: int) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        features = {modality: np.load(source_folder() / name / file) for modality, file in files.items()}
        _write(folder, target, thinned(_read(name), np.random.default_rng(seed)), features)

    return write


def _microlens(folder: Path) -> None:
    frame, generator = _read("microlens-neighbours"), np.random.default_rng(SEED)
    users = generator.choice(frame.userID.unique(), MICROLENS_USERS, replace=False)
    frame = frame[frame.userID.isin(users)]
    items, place = np.unique(frame.itemID, return_inverse=True)
    frame = frame.assign(itemID=place, userID=np.unique(frame.userID, return_inverse=True)[1])
    place_of = source_folder() / "microlens-neighbours"
    features = {m: np.load(place_of / f"{m}_feat.npy")[items] for m in ("image", "text")}
    _write(folder, "microlens-sample", frame, features)


def _planted(name: str, *sizes: int, informative: bool) -> Callable[[Path], None]:
    return lambda folder: _write(folder, name, *planted(*sizes, informative=informative, seed=SEED))


def _real(name: str) -> Callable[[Path], None]:
    features = LFM2K if name == "lfm2k" else None
    return lambda folder: _converted(source_folder() / name, folder, name, features)


#: Name of the data set to what writes it into a folder of data sets.
DATASETS: dict[str, Callable[[Path], None]] = {
    "lfm2k": _real("lfm2k"),
    "lfm2k-sparse": _sparse("lfm2k-sparse", "lfm2k", LFM2K, SEED),
    "ml-latest-small-mm": _real("ml-latest-small-mm"),
    "microlens-sample": _microlens,
    "mmgcl-sample-tiktok": _real("mmgcl-sample-tiktok"),
    "planted-content": _planted("planted-content", 800, 600, 4, informative=True),
    "planted-noise": _planted("planted-noise", 800, 300, 16, informative=False),
}

#: Sets that no default was chosen on.
HELD_OUT: dict[str, Callable[[Path], None]] = {
    "mmgcl-sample-movielens": _real("mmgcl-sample-movielens"),
    "mlls-sparse": _sparse("mlls-sparse", "ml-latest-small-mm", MLLS, THINNED_SEED),
    "video-heavy": lambda folder: _write(folder, "video-heavy", *heavy(HEAVY_SEED)),
}


def _write(folder: Path, name: str, frame: pd.DataFrame, features: dict) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary)
        frame[["userID", "itemID", "x_label"]].to_csv(source / f"{name}.inter", sep="\t", index=False)
        for modality, matrix in features.items():
            np.save(source / f"{modality}_feat.npy", matrix)
        _converted(source, folder, name, None)


def _converted(source: Path, folder: Path, name: str, features: dict[str, str] | None) -> None:
    print("\n".join(from_mmrec(source, folder, name, features, force=True)))


def make(name: str, folder: Path) -> Path:
    """Write a data set unless it is there.

    Args:
        name: One of :data:`DATASETS` or :data:`HELD_OUT`.
        folder: Folder of data sets.

    Returns:
        Its configuration.
    """
    configuration = folder / name / f"{name}.yaml"
    if not configuration.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        {**DATASETS, **HELD_OUT}[name](folder)
    return configuration


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path, help="folder of data sets")
    parser.add_argument("names", nargs="*", default=list(DATASETS), help="data sets (default: the portfolio's)")
    arguments = parser.parse_args()
    for dataset in arguments.names:
        make(dataset, arguments.target)
