"""New users: MML stage by stage, with and without adaptation, beside RecBole's SASRec and GRU4Rec.

    python benchmarks/new_users.py --dataset=ml-100k [--support=1,2,3,5,10,all] [--seeds=3] [--epochs=30]
        [--output=new_users] [--key=value ...]

A fifth of the users is new (``properties/experiment/cold-users.yaml``), the same for all seeds and models: nothing of
theirs is trained on. At evaluation the first ``support`` of their interactions are known (all: all but the last two),
and the last one but validation is ranked among all items: a model is trained once and tested with every size of what
is known. It is validated with the first size that is given. MML is trained once per seed with its own number of
epochs; after each stage it is tested with the ``adapt_steps`` of its options and with none. Every result is appended to
``<output>/<dataset>.jsonl`` as it comes; what is there is not run again. ``cpu_seconds`` are those of the whole run of
a model, of all stages of MML. Options of RecBole and of MML are ``--key=value`` arguments.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import recbole_mm  # first: it repairs what RecBole needs repaired

# isort: split
import pandas as pd
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed

from recbole_mm.trainer.checkpoint import read_checkpoint

ROOT = Path(__file__).resolve().parents[1]
STAGES = {"meta": "MML, meta-learners", "generator": "MML, and generator", "fusion": "MML, and fusion"}
BASELINES = ("SASRec", "GRU4Rec")
NEW_USERS = {"entity": "user", "by": "ratio", "ratio": 0.2, "evaluate": "cold", "seed": 2020}


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30, help="at most, of the baselines")
    parser.add_argument("--support", default="all", help="interactions of a new user that are known, or all")
    parser.add_argument("--output", type=Path, default=Path("new_users"))
    arguments, rest = parser.parse_known_args()
    sys.argv = sys.argv[:1] + rest  # RecBole reads --key=value itself
    arguments.output.mkdir(parents=True, exist_ok=True)
    file = arguments.output / f"{arguments.dataset}.jsonl"
    for seed in range(2020, 2020 + arguments.seeds):
        for model in (*BASELINES, "MML"):
            known = read(file)
            if len(known) and ((known["run"] == model) & (known["seed"] == seed)).any():
                continue
            rows = [{"run": model, "seed": seed, **row} for row in measure(model, seed, arguments)]
            with file.open("a") as stream:
                stream.writelines(json.dumps(row) + "\n" for row in rows)
            print(*rows, sep="\n", flush=True)
    print(table(read(file)))


def measure(model: str, seed: int, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Train a model and test it with every size of support; MML after every stage."""
    sizes = [None if size == "all" else int(size) for size in arguments.support.split(",")]
    options = {
        "seed": seed, "metrics": ["Recall", "NDCG", "MRR"], "topk": [10, 20], "valid_metric": "NDCG@10",
        "checkpoint_dir": str(arguments.output / "saved"), "show_progress": False, "state": "ERROR",
        "cold_start": {**NEW_USERS, "support": sizes[0]},
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
    }  # fmt: skip
    if model in BASELINES:
        options |= {"epochs": arguments.epochs, "stopping_step": 3, "train_neg_sample_args": None}
    start = time.process_time()
    found = recbole_mm.run(model, arguments.dataset, config_dict=options)
    seconds = time.process_time() - start
    base = found["checkpoint"].rsplit("-", 1)[0]
    stages = {model: found["checkpoint"]}
    if model == "MML":
        stages = {label: f"{base}-{stage}.pth" for stage, label in STAGES.items()}
    for size in sizes:
        options["cold_start"]["support"] = size
        config = Config(model=model, dataset=arguments.dataset, config_dict=options)
        init_seed(seed, True)
        train, _, test = data_preparation(config, create_dataset(config))
        for label, file in stages.items():
            for result in tested(label, file, config, train.dataset, test):
                yield {"support": size or "all", "cpu_seconds": seconds, **result}


def tested(label: str, file: str, config: Any, dataset: Any, test: Any) -> Iterator[dict[str, Any]]:
    """Results of the parameters in a file; of MML with and without adaptation."""
    network = get_model(config["model"])(config, dataset)
    network.load_state_dict(read_checkpoint(file)["state_dict"])
    for steps in (network.settings.adapt_steps, 0) if config["model"] == "MML" else (None,):
        if steps is not None:
            network.learners.steps = steps
        trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, network)
        with torch.no_grad():
            result = trainer.evaluate(test, load_best_model=False, show_progress=False)
        yield {"model": label, "adapt_steps": steps, **result}


def read(file: Path) -> pd.DataFrame:
    """The results so far."""
    return pd.read_json(file, lines=True) if file.exists() else pd.DataFrame()


def table(rows: pd.DataFrame) -> str:
    """Mean and standard deviation over the seeds."""
    metrics = [name for name in rows.columns if "@" in name]
    groups = rows.groupby(["support", "model", "adapt_steps"], dropna=False, sort=False)
    text = groups[metrics].mean().map("{:.4f}".format) + " ± " + groups[metrics].std().map("{:.4f}".format)
    return text.assign(seeds=groups["seed"].nunique(), cpu_seconds=groups["cpu_seconds"].mean().round()).to_string()


if __name__ == "__main__":
    main()
