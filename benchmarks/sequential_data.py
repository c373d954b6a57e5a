"""Sequences of a data set with a split of its own and no times: ``python benchmarks/sequential_data.py SOURCE TARGET``.

SOURCE is a data set in atomic files with parts ``train``, ``valid`` and ``test``, such as portfolio_data.py writes;
TARGET is the folder of the new one, named as the folder. Its parts have a history and a next item in every row, as
RecBole wants them of a sequential model with ``benchmark_filename``:

- a user's training items in an order that is drawn once, each but the first after those before it;
- the validation items after all training items, and the test items after training and validation.

Nobody knows in which order a user met the training items. With a drawn one a model learns which item goes with a set of
others, and positions say nothing; the targets of validation and test are those of the split. The order of the file must
not stand in for time where it is the order of the ids: the next item of a training row would always have the larger id.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

PARTS = ("train", "valid", "test")
COLUMNS = ("user_id:token", "item_id_list:token_seq", "item_id:token")


def main() -> None:
    """Write the data set."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--length", type=int, default=20, help="longest history")
    parser.add_argument("--seed", type=int, default=2020, help="of the order of the training items")
    options = parser.parse_args()
    name = options.source.name
    parts = {part: pd.read_csv(options.source / f"{name}.{part}.inter", sep="\t", dtype=str) for part in PARTS}
    options.target.mkdir(parents=True, exist_ok=True)
    for part, rows in sequences(parts, options.length, options.seed).items():
        rows.to_csv(options.target / f"{options.target.name}.{part}.inter", sep="\t", index=False)
        print(f"{part}: {len(rows):,} rows")
    for file in options.source.glob(f"{name}.item.*"):
        shutil.copy(file, options.target / file.name.replace(name, options.target.name, 1))


def sequences(parts: dict[str, pd.DataFrame], length: int, seed: int) -> dict[str, pd.DataFrame]:
    """Rows of a history and a next item.

    Args:
        parts: Interactions of each part, with the columns ``user_id:token`` and ``item_id:token``.
        length: Longest history; the latest items stay.
        seed: Of the order of each user's training items.

    Returns:
        The rows of each part.
    """
    generator = np.random.default_rng(seed)
    items = {part: frame.groupby(COLUMNS[0], sort=True)[COLUMNS[2]].agg(list) for part, frame in parts.items()}
    rows: dict[str, list[tuple[str, str, str]]] = {part: [] for part in PARTS}
    for user, known in items["train"].items():
        known = [known[place] for place in generator.permutation(len(known))]
        for place in range(1, len(known)):
            rows["train"].append((user, " ".join(known[max(0, place - length) : place]), known[place]))
        for part in PARTS[1:]:
            targets = items[part].get(user, [])
            rows[part] += [(user, " ".join(known[-length:]), target) for target in targets]
            known = known + targets
    return {part: pd.DataFrame(found, columns=COLUMNS) for part, found in rows.items()}


if __name__ == "__main__":
    main()
