"""CPU seconds from an atomic file to loaders: ``python benchmarks/loading.py --pairs=3000000``.

Writes **synthetic** pairs (users, items and pairs in the proportion of 200,000 x 60,000 x 3 million) to a temporary
folder and lets RecBole make data set, split, samplers and loaders of them, with a 5-core filter, in a process with one
thread. ``--tree`` takes the package from another checkout, to compare two versions.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
USERS, ITEMS = 200 / 3000, 60 / 3000
NAME = "pairs"


def write(folder: Path, n_pairs: int) -> None:
    """Write the pairs and a feature file for their items."""
    folder.mkdir()
    users, items = round(n_pairs * USERS), round(n_pairs * ITEMS)
    generator = np.random.default_rng(0)
    user = generator.integers(0, users, round(n_pairs * 1.15))
    item = np.minimum((generator.random(len(user)) ** 2 * items).astype(int), items - 1)
    keys = generator.permutation(np.unique(user * items + item))[:n_pairs]
    seconds = generator.integers(10**9, 2 * 10**9, len(keys))
    with (folder / f"{NAME}.inter").open("w", encoding="utf-8") as file:
        file.write("user_id:token\titem_id:token\trating:float\ttimestamp:float\n")
        for key, second in zip(keys.tolist(), seconds.tolist()):
            file.write(f"u{key // items}\ti{key % items}\t{key % 5 + 1}.0\t{second}\n")
    feature = generator.standard_normal((items, 64)).astype(np.float16)
    np.savez(folder / f"{NAME}.item.text.npz", id=np.array([f"i{number}" for number in range(items)]), feature=feature)


def measure(folder: Path, model: str) -> str:
    """Load them; CPU seconds of the parts."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import init_seed

    import recbole_mm  # noqa: F401  it repairs what RecBole needs repaired

    options = {
        "data_path": str(folder), "state": "ERROR", "use_gpu": False, "user_inter_num_interval": "[5,inf)",
        "item_inter_num_interval": "[5,inf)", "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    }  # fmt: skip
    config = Config(model=model, dataset=NAME, config_dict=options)
    init_seed(1, True)
    marks = [time.process_time()]
    data = create_dataset(config)
    marks.append(time.process_time())
    data_preparation(config, data)
    marks.append(time.process_time())
    made, prepared = np.diff(marks)
    parts = f"data set {made:.1f}, split and loaders {prepared:.1f} CPU s, {marks[-1] - marks[0]:.1f} in all"
    return f"{len(data):,} pairs left: {parts}"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=300_000)
    parser.add_argument("--model", default="GRCN")
    parser.add_argument("--tree", type=Path, default=ROOT, help="checkout whose package is measured")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        sys.path.insert(0, str(options.tree))
        print(measure(options.child, options.model))
        return
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / NAME, options.pairs)
        child = [f"--child={folder}", f"--model={options.model}", f"--tree={options.tree}"]
        single = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, __file__, *child], check=True, env=single, cwd=folder)


if __name__ == "__main__":
    main()
