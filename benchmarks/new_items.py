"""Who finds the buyers of new products? Recall of the planted taste of mm-shop on products that nobody clicked.

    python benchmarks/new_items.py --shop=FOLDER [--models=VBPR,GRCN,...] [--output=FILE.csv] [--key=value ...]

FOLDER holds what ``dataset_atomic/mm-shop/make_mm_shop.py`` wrote and what ``recbole-mm import`` and ``extract`` made
of it (README of that folder). Every model that says that it ranks new items is trained with its defaults (or the
options given); then its lists of 20 items are compared with ``wanted.csv``, which no model reads:

- ``new_recall``: the share of the wanted new products in lists of known and new products, and ``times_random``,
  that over the share in random lists;
- ``new_share``: the share of new products in those lists (random lists: 40 of some 289);
- ``among_new``: the share in the first 5 of lists that hold new products only (``--export_items=@new.txt``);
- ``recall``: Recall@20 of the test, on known products.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import recbole_mm  # it repairs what RecBole needs repaired

# isort: split
import pandas as pd
import torch

from benchmarks.rows import read_command_line
from recbole_mm.experiment.commit import commit
from recbole_mm.experiment.job import machine
from recbole_mm.experiment.store import neutral_settings
from recbole_mm.host.tags import tags_of

K, AMONG = 20, 5
OPTIONS = {
    "state": "WARNING",
    "show_progress": False,
    "use_gpu": False,
    "epochs": 100,
    "eval_step": 2,
    "stopping_step": 8,
    "topk": [K],
    "valid_metric": "Recall@20",
}


def measure(model: str, shop: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Train a model in the present folder and compare its lists with what customers want."""
    begin = time.process_time()
    result = recbole_mm.run(model, "shop", config_dict={**OPTIONS, "data_path": str(shop / "dataset"), **options})
    seconds = time.process_time() - begin
    wanted = pd.read_csv(shop / "wanted.csv", dtype=str)
    new = (shop / "new.txt").read_text(encoding="utf-8").split()
    lists = {}
    for name, k, items in (("mixed", K, None), ("new", AMONG, new)):
        file = Path(f"lists-{name}.csv")
        recbole_mm.export(result["checkpoint"], file, topk=k, items=items, progress=False)
        lists[name] = pd.read_csv(file, dtype={"user_id": str, "item_id": str})
    os.unlink(result["checkpoint"])
    mixed, among = (_recall(wanted, lists[name]) for name in ("mixed", "new"))
    products = len(pd.read_csv(shop / "products.csv"))
    left = products - 11  # a list leaves out what the customer had: eleven products on average
    return {
        "model": model,
        "variant": variant(options),
        "new_recall": mixed,
        "times_random": mixed / (K / left),
        "new_share": float(lists["mixed"]["new"].mean()),
        "among_new": among,
        "recall": float(result["test_result"]["recall@20"]),
        "cpu_seconds": seconds,
        "dataset": "mm-shop (synthetic)",
        "split": result["split"],
        "seeds": result["config"]["seed"],
        "options": json.dumps(neutral_settings({**OPTIONS, **options}), sort_keys=True),
        "commit": commit(),
        "machine": "{device} ({threads} threads)".format(**machine(torch.device("cpu"))),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def variant(options: dict[str, Any]) -> str:
    """What the table calls a model with options of its own."""
    return ", ".join(f"{name}={value}" for name, value in options.items())


def _recall(wanted: pd.DataFrame, lists: pd.DataFrame) -> float:
    shown = set(zip(lists["user_id"], lists["item_id"]))
    return sum(pair in shown for pair in zip(wanted["customer"], wanted["sku"])) / len(wanted)


def claiming() -> list[str]:
    """The models that say that they rank new items."""
    return sorted(name for name, cls in recbole_mm.registered_models().items() if tags_of(cls).ranks_new_items)


def main() -> None:
    """Print a line as each model is done, and add it to the output."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    parser.add_argument("--shop", type=Path, required=True, help="folder of the shop")
    parser.add_argument("--models", help="names, separated by commas (default: all that rank new items)")
    parser.add_argument("--output", type=Path, help="CSV to which a row per model is added")
    arguments, given = read_command_line(parser)
    shop, output = arguments.shop.resolve(), arguments.output and arguments.output.resolve()
    there = pd.read_csv(output, keep_default_na=False) if output and output.is_file() else pd.DataFrame()
    done = set(there["model"][there["variant"] == variant(given)]) if len(there) else set()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for model in arguments.models.split(",") if arguments.models else claiming():
            if model in done:
                continue
            row = measure(model, shop, given)
            print(
                *(f"{name} {value:.3f}" for name, value in row.items() if isinstance(value, float)), model, flush=True
            )
            if output:
                pd.DataFrame([row]).to_csv(output, index=False, mode="a", header=not output.is_file())


if __name__ == "__main__":
    main()
