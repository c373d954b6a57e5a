"""Amazon Baby by the literature's protocol: does this evaluator, with RecBole's baselines, give the published figures?

    python benchmarks/amazon_baby.py [--models=BPR,LightGCN] [--trials=4] [--epochs=300] [--output=DIR] [--key=value]

The split is the one that multimodal papers tabulate (x_label, 118,551 / 20,559 / 21,682 pairs); items that training
lacks are kept, the test masks training items only (``mask_validation: False``). Width 64, batches of 2,048, Adam with
1e-3, as those papers have it. The search tries a few strengths of the penalty (and depths of LightGCN) and chooses by
validation. Published Recall@20: BPR .0575, LightGCN .0754. The data are read from ``$RECBOLE_MM_DATA``, or
``../shared/data``.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import recbole_mm  # it repairs what RecBole needs repaired

# isort: split
import pandas as pd

from benchmarks.rows import read_command_line

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = {"BPR": 0.0575, "LightGCN": 0.0754}
SPACES = {
    "BPR": {"weight_decay": [0.0, 1e-6, 1e-5, 1e-4]},
    "LightGCN": {"reg_weight": [1e-4, 1e-3, 1e-2], "n_layers": [2, 3]},
}
OPTIONS = {
    "embedding_size": 64, "learning_rate": 1e-3, "train_batch_size": 2048, "mask_validation": False, "eval_step": 5,
    "stopping_step": 4, "metrics": ["Recall", "NDCG"], "topk": [10, 20], "valid_metric": "Recall@20",
    "metric_decimal_place": 5, "user_inter_num_interval": None, "item_inter_num_interval": None,
}  # fmt: skip


def convert(folder: Path) -> None:
    """Import the split as it came, unless that was done."""
    if (folder / "amazon-baby").is_dir():
        return
    source = Path(os.environ.get("RECBOLE_MM_DATA", ROOT.parent / "shared" / "data")) / "amazon-baby"
    frame = pd.read_csv(source / "amazon-baby.inter", sep="\t", dtype=str)
    parts = {
        name: frame[frame.x_label == label].drop(columns="x_label")
        for name, label in (("train", "0"), ("valid", "1"), ("test", "2"))
    }
    print(recbole_mm.import_tables("amazon-baby", **parts, user="userID", item="itemID", data_path=folder))


def main() -> None:
    """Search and run, then print the published figures beside ours."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--models", default=",".join(PUBLISHED))
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--output", type=Path, default=Path("comparison/amazon-baby"))
    arguments, _ = read_command_line(parser)
    data = arguments.output.resolve() / "data"
    data.mkdir(parents=True, exist_ok=True)
    convert(data)
    models = arguments.models.split(",")
    options = {**OPTIONS, "epochs": arguments.epochs, "data_path": str(data)}
    table = recbole_mm.compare(
        models, "amazon-baby", config_dict=options, seeds=1, trials=arguments.trials, output=arguments.output,
        search_spaces={name: SPACES[name] for name in models},
    )  # fmt: skip
    for name, ours in zip(table["model"], table["recall@20"]):
        print(f"{name}: Recall@20 {ours:.4f}, published {PUBLISHED[name]:.4f}, {ours / PUBLISHED[name] - 1:+.1%}")


if __name__ == "__main__":
    main()
