"""Next items: SASRec and GRU4Rec beside SASRecContent in each fusion, UniSRec and MML; whole, cold and long-tail items.

    python benchmarks/sequential.py --dataset=ml-100k [--runs=SASRec,add,content] [--seeds=3] [--epochs=30]
        [--output=sequential] [--key=value ...]
    python benchmarks/sequential.py --dataset=ml-100k --time            # seconds of an epoch instead

The last item of each user is for the test, the one before for validation, by time. Every result is appended to
``<output>/<dataset>.jsonl`` as it comes; what is there is not run again. ``pretrained`` is UniSRec, first pre-trained
on ``--pretrain_datasets=[a,b]``, which other runs do not read. Other options of RecBole and of the models are arguments
``--key=value``, such as ``--data_path`` and ``--feature_path``. Data sets need times: one that came with a split of its
own is split anew.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import recbole_mm  # first: it repairs what RecBole needs repaired

# isort: split
import pandas as pd
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, init_seed

from recbole_mm.model.sasreccontent.items import FUSIONS

CROSS_ENTROPY = {"train_neg_sample_args": None}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "SASRec": ("SASRec", CROSS_ENTROPY),
    "GRU4Rec": ("GRU4Rec", CROSS_ENTROPY),
    **{fusion: ("SASRecContent", {"fusion": fusion}) for fusion in FUSIONS},
    "UniSRec": ("UniSRec", {"train_stage": "transductive_ft"}),
    "UniSRec-inductive": ("UniSRec", {"train_stage": "inductive_ft"}),
    "pretrained": ("UniSRec", {"train_stage": "both"}),
    "MML": ("MML", {}),
}
SLICES = ["cold_items", "tail_items"]
STEPS = 8


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--runs", default=",".join(name for name in RUNS if name != "pretrained"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30, help="at most, except of MML")
    parser.add_argument("--pretrain_datasets", help="of the run 'pretrained'")
    parser.add_argument("--output", type=Path, default=Path("sequential"))
    parser.add_argument("--time", action="store_true", help="print the seconds of an epoch of training")
    arguments, rest = parser.parse_known_args()
    sys.argv = sys.argv[:1] + rest  # RecBole reads --key=value itself
    names = [name.strip() for name in arguments.runs.split(",")]
    if arguments.time:
        for name in names:
            print(f"{name:16} {seconds_of_an_epoch(name, arguments):8.2f} s", flush=True)
        return
    arguments.output.mkdir(parents=True, exist_ok=True)
    file = arguments.output / f"{arguments.dataset}.jsonl"
    for seed in range(2020, 2020 + arguments.seeds):
        for name in names:
            known = read(file)
            if len(known) and ((known["run"] == name) & (known["seed"] == seed)).any():
                continue
            row = {"run": name, "seed": seed, **measure(name, seed, arguments)}
            with file.open("a") as stream:
                stream.write(json.dumps(row) + "\n")
            print(row, flush=True)
    print(table(read(file)))


def options_of(name: str, seed: int, arguments: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """The model of a run and its options."""
    model, own = RUNS[name]
    options = {
        "seed": seed, "metrics": ["Recall", "NDCG"], "topk": [10, 20], "valid_metric": "NDCG@10",
        "checkpoint_dir": str(arguments.output / "saved"), "show_progress": False, "state": "ERROR",
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "slices": SLICES, "benchmark_filename": None, **own,
    }  # fmt: skip
    if model != "MML":
        options |= {"epochs": arguments.epochs, "stopping_step": 5}
    if name == "pretrained" and arguments.pretrain_datasets:
        options["pretrain_datasets"] = arguments.pretrain_datasets.strip("[]").split(",")
    return model, options


def measure(name: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train a model and test it."""
    model, options = options_of(name, seed, arguments)
    start = time.process_time()
    found = recbole_mm.run(model, arguments.dataset, config_dict=options)
    return {"cpu_seconds": round(time.process_time() - start, 1), **found["test_result"]}


def seconds_of_an_epoch(name: str, arguments: argparse.Namespace) -> float:
    """CPU seconds of an epoch of training: the median of some steps, times their number."""
    model, options = options_of(name, 2020, arguments)
    config = Config(model=model, dataset=arguments.dataset, config_dict=options)
    init_seed(config["seed"], config["reproducibility"])
    train, _, _ = data_preparation(config, create_dataset(config))
    network = get_model(model)(config, train.dataset).to(config["device"]).train()
    optimizer, found = torch.optim.Adam(network.parameters()), []
    for batch in islice(train, STEPS):
        start = time.process_time()
        optimizer.zero_grad()
        losses = network.calculate_loss(batch.to(config["device"]))
        (sum(losses) if isinstance(losses, tuple) else losses).backward()
        optimizer.step()
        found.append(time.process_time() - start)
    return statistics.median(found) * len(train)


def read(file: Path) -> pd.DataFrame:
    """The results so far."""
    return pd.read_json(file, lines=True) if file.exists() else pd.DataFrame()


def table(rows: pd.DataFrame) -> str:
    """Mean and standard deviation over the seeds."""
    metrics = [name for name in rows.columns if "ndcg@10" in name or "recall@20" in name]
    groups = rows.groupby("run", sort=False)
    spread = groups[metrics].std().fillna(0).map("{:.4f}".format)
    text = groups[metrics].mean().map("{:.4f}".format) + " ± " + spread
    return text.assign(seeds=groups["seed"].nunique(), cpu_seconds=groups["cpu_seconds"].mean().round()).to_string()


if __name__ == "__main__":
    main()
