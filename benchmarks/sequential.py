"""Next items: SASRec and GRU4Rec beside SASRecContent in each fusion, UniSRec and MML; whole, cold and long-tail items.

    python benchmarks/sequential.py --dataset=ml-100k [--runs=SASRec,add,content] [--seeds=3] [--epochs=30]
        [--output=sequential] [--key=value ...]
    python benchmarks/sequential.py --dataset=ml-100k --protocol=new-items     # a fifth of the items is in no training
    python benchmarks/sequential.py --dataset=microlens-own --protocol=own     # a split that came as benchmark files
    python benchmarks/sequential.py --dataset=ml-100k --protocol=time          # seconds of an epoch instead

The last item of each user is for the test, the one before for validation, by time; with ``new-items`` new ones alone
are ranked. Every result is appended to ``<output>/<dataset>-<protocol>.jsonl`` as it comes, with commit, machine, split
and options; what is there is not run again. ``tools/result_tables.py add NAME FILE ...`` makes a table of such files.
``pretrained`` is UniSRec, first pre-trained on ``--pretrain_datasets=[a,b]``, which others do not read. Other options
of RecBole and of the models are arguments ``--key=value``, such as ``--data_path`` and ``--feature_path``.
``sequential_data.py`` writes sequences where a data set has a split of its own and no times.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import recbole_mm  # first: it repairs what RecBole needs repaired

# isort: split
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, init_seed

from benchmarks.rows import append, read, read_command_line
from recbole_mm.experiment.split import describe_split
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
BY_TIME = {
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "benchmark_filename": None,
    "slices": ["all", "cold_items", "tail_items"],
}  # fmt: skip
NEW_ITEMS = {"entity": "item", "ratio": 0.2, "candidates": "cold", "seed": 2020}
OWN_SPLIT = {
    "load_col": {"inter": ["user_id", "item_id_list", "item_id"]}, "alias_of_item_id": ["item_id_list"],
    "benchmark_filename": ["train", "valid", "test"], "slices": ["all", "cold_items", "tail_items"],
}  # fmt: skip
PROTOCOLS: dict[str, dict[str, Any]] = {
    "leave-one-out": BY_TIME,
    "new-items": {**BY_TIME, "cold_start": NEW_ITEMS, "slices": ["cold_items"]},
    "own": OWN_SPLIT,
    "time": BY_TIME,
}
STEPS = 7


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--runs", default=",".join(name for name in RUNS if name != "pretrained"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="at most; 30 by default, and MML's own of MML")
    parser.add_argument("--pretrain_datasets", help="of the run 'pretrained'")
    parser.add_argument("--output", type=Path, default=Path("sequential"))
    parser.add_argument("--protocol", choices=PROTOCOLS, default="leave-one-out")
    arguments, given = read_command_line(parser)
    names = [name.strip() for name in arguments.runs.split(",")]
    unknown = [name for name in names if name not in RUNS]
    if unknown:
        parser.error(f"runs: unknown {', '.join(unknown)}; there is {', '.join(RUNS)}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    file = arguments.output / f"{arguments.dataset}-{arguments.protocol}.jsonl"
    for seed in range(2020, 2020 + (1 if arguments.protocol == "time" else arguments.seeds)):
        for name in names:
            model = RUNS[name][0]
            row = {"model": model, "variant": "" if name == model else name.removeprefix(f"{model}-"), "seed": seed}
            row |= {"dataset": arguments.dataset, "protocol": arguments.protocol}
            if any(row.items() <= known.items() for known in read(file)):
                continue
            start = time.process_time()
            row |= timed(name, arguments) if arguments.protocol == "time" else measured(name, seed, arguments)
            row["metrics"]["cpu_seconds"] = round(time.process_time() - start, 1)
            for known in read(file):  # how many times RecBole's takes, where that was timed before
                if arguments.protocol == "time" and known["model"] == "SASRec":
                    row["metrics"]["times_sasrec"] = row["metrics"]["epoch_seconds"] / known["metrics"]["epoch_seconds"]
            print(append(file, row, {**options_of(name, seed, arguments)[1], **given}), flush=True)


def options_of(name: str, seed: int, arguments: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """The model of a run and its options."""
    model, own = RUNS[name]
    options = {
        "seed": seed, "metrics": ["Recall", "NDCG"], "topk": [10, 20], "valid_metric": "NDCG@10",
        "checkpoint_dir": str(arguments.output / "saved"), "show_progress": False, "state": "ERROR",
        **PROTOCOLS[arguments.protocol], **own,
    }  # fmt: skip
    if model != "MML":
        options |= {"epochs": arguments.epochs or 30, "stopping_step": 5}
    elif arguments.epochs:
        options["epochs"] = arguments.epochs
    if name == "pretrained" and arguments.pretrain_datasets:
        options["pretrain_datasets"] = arguments.pretrain_datasets.strip("[]").split(",")
    return model, options


def measured(name: str, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train a model and test it."""
    model, options = options_of(name, seed, arguments)
    found = recbole_mm.run(model, arguments.dataset, config_dict=options)
    return {"split": found["split"], "metrics": dict(found["test_result"])}


def timed(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """CPU seconds of an epoch of training: the median of some steps, times their number."""
    model, options = options_of(name, 2020, arguments)
    config = Config(model=model, dataset=arguments.dataset, config_dict=options)
    init_seed(config["seed"], config["reproducibility"])
    train, valid, test = data_preparation(config, create_dataset(config))
    network = get_model(model)(config, train.dataset).to(config["device"]).train()
    optimizer, found = torch.optim.Adam(network.parameters()), []
    for batch in islice(train, STEPS):
        start = time.process_time()
        optimizer.zero_grad()
        losses = network.calculate_loss(batch.to(config["device"]))
        (sum(losses) if isinstance(losses, tuple) else losses).backward()
        optimizer.step()
        found.append(time.process_time() - start)
    metrics = {"epoch_seconds": statistics.median(found) * len(train)}
    return {"split": describe_split(train, valid, test)["hash"], "metrics": metrics}


if __name__ == "__main__":
    main()
