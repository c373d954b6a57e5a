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
import statistics
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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rows import append, read, read_command_line
from recbole_mm.trainer.checkpoint import read_checkpoint

STAGES = {"meta": "MML, meta-learners", "generator": "MML, and generator", "fusion": "MML, and fusion"}
BASELINES = ("SASRec", "GRU4Rec")
NEW_USERS = {"entity": "user", "by": "ratio", "ratio": 0.2, "evaluate": "cold", "seed": 2020}


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--models", default="SASRec,GRU4Rec,MML")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30, help="at most, of the baselines")
    parser.add_argument("--support", default="all", help="interactions of a new user that are known, or all")
    parser.add_argument("--output", type=Path, default=Path("new_users"))
    arguments, given = read_command_line(parser)
    file = arguments.output / f"{arguments.dataset}.jsonl"
    for seed in range(2020, 2020 + arguments.seeds):
        for model in arguments.models.split(","):
            run = {"dataset": arguments.dataset, "run": model, "seed": seed}
            if any(run.items() <= known.items() for known in read(file)):
                continue
            rows = list(measure(model, seed, arguments))  # all of a run or none, so that what is missing is run again
            for row in rows:
                print(append(file, {**run, **row}, given), flush=True)
    print(table(read(file)))


def options_of(model: str, seed: int, arguments: argparse.Namespace, support: str) -> dict[str, Any]:
    """The options of a run for a size of support."""
    options = {
        "seed": seed, "metrics": ["Recall", "NDCG", "MRR"], "topk": [10, 20], "valid_metric": "NDCG@10",
        "checkpoint_dir": str(arguments.output / "saved"), "show_progress": False, "state": "ERROR",
        "cold_start": {**NEW_USERS, "support": None if support == "all" else int(support)},
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
    }  # fmt: skip
    if model in BASELINES:
        options |= {"epochs": arguments.epochs, "stopping_step": 3, "train_neg_sample_args": None}
    return options


def measure(model: str, seed: int, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Train a model and test it with every size of support; MML after every stage."""
    sizes = arguments.support.split(",")
    start = time.process_time()
    found = recbole_mm.run(model, arguments.dataset, config_dict=options_of(model, seed, arguments, sizes[0]))
    seconds = round(time.process_time() - start, 1)
    stages = {model: found["checkpoint"]}
    if model == "MML":
        base = found["checkpoint"].rsplit("-", 1)[0]
        stages = {label: f"{base}-{stage}.pth" for stage, label in STAGES.items()}
    for size in sizes:
        options = options_of(model, seed, arguments, size)
        config = Config(model=model, dataset=arguments.dataset, config_dict=options)
        init_seed(seed, True)
        train, _, test = data_preparation(config, create_dataset(config))
        for label, file in stages.items():
            for variant, metrics in tested(file, config, train.dataset, test):
                metrics["cpu_seconds"] = seconds
                yield {"model": label + variant, "protocol": f"support {size}", "metrics": metrics}


def tested(file: str, config: Any, dataset: Any, test: Any) -> Iterator[tuple[str, dict[str, float]]]:
    """Results of the parameters in a file; of MML with and without adaptation."""
    network = get_model(config["model"])(config, dataset)
    network.load_state_dict(read_checkpoint(file)["state_dict"])
    variants: dict[str, int | None] = {"": None}
    if config["model"] == "MML":
        variants = {", adapted": network.settings.adapt_steps, ", not adapted": 0}
    for variant, steps in variants.items():
        if steps is not None:
            network.learners.steps = steps
        trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, network)
        with torch.no_grad():
            yield variant, dict(trainer.evaluate(test, load_best_model=False, show_progress=False))


def table(rows: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over the seeds."""
    frame = pd.json_normalize(rows)
    metrics = [name for name in frame.columns if "@" in name]
    groups = frame.groupby(["protocol", "model"], sort=False)[metrics]
    return groups.agg(lambda values: f"{values.mean():.4f} ± {statistics.pstdev(values):.4f}").to_string()


if __name__ == "__main__":
    main()
