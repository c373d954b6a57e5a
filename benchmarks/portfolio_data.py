"""The portfolio's data sets: real ones converted, a thinned one, and two that are planted.

``python benchmarks/portfolio_data.py TARGET`` writes all of them; ``portfolio.py`` does so where one is missing.
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
LFM2K = {"text": "all-MiniLM-L6-v2.npy", "audio": "vggish.npy"}
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


def _read(name: str) -> pd.DataFrame:
    return pd.read_csv(source_folder() / name / f"{name}.inter", sep="\t")


def _lfm2k_sparse(folder: Path) -> None:
    frame = thinned(_read("lfm2k"), np.random.default_rng(SEED))
    _write(folder, "lfm2k-sparse", frame, {m: np.load(source_folder() / "lfm2k" / file) for m, file in LFM2K.items()})


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
    "lfm2k-sparse": _lfm2k_sparse,
    "ml-latest-small-mm": _real("ml-latest-small-mm"),
    "microlens-sample": _microlens,
    "mmgcl-sample-tiktok": _real("mmgcl-sample-tiktok"),
    "planted-content": _planted("planted-content", 800, 600, 4, informative=True),
    "planted-noise": _planted("planted-noise", 800, 300, 16, informative=False),
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
        name: One of :data:`DATASETS`.
        folder: Folder of data sets.

    Returns:
        Its configuration.
    """
    configuration = folder / name / f"{name}.yaml"
    if not configuration.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        DATASETS[name](folder)
    return configuration


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path, help="folder of data sets")
    target = parser.parse_args().target
    for dataset in DATASETS:
        make(dataset, target)
