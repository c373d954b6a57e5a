"""LightGCN with and without MCPTR's pre-training, with the same options and the same learning rate.

    python benchmarks/pretraining.py --data_path=comparison/ml-latest-small-mm/data [--seeds=3] [--output=pretraining]

The data set is what ``benchmarks/compare.sh ml-latest-small-mm`` converts; the options are those that its searches
chose.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import recbole_mm

NAME = "ml-latest-small-mm"
LIGHTGCN = {"n_layers": 4, "reg_weight": 8.1e-3}
RATE = 4.8e-3
PRETRAINING = {"learning_rate": 1.1e-3, "graph_layers": 1, "contrastive_weight": 0.045}


def main() -> None:
    """Compare the two; ``recbole_mm.compare`` prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--data_path", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("pretraining"))
    arguments = parser.parse_args()
    sys.argv = sys.argv[:1]  # RecBole reads the rest of a command line itself
    recbole_mm.compare(
        ["LightGCN", "MCPTR"],
        NAME,
        config_file_list=[str(arguments.data_path / NAME / f"{NAME}.yaml")],
        config_dict={
            "data_path": str(arguments.data_path), "epochs": 40, "eval_step": 5, "stopping_step": 3,
            "metrics": ["Recall", "NDCG"], "topk": [10, 20], "valid_metric": "Recall@20",
        },
        seeds=arguments.seeds,
        baseline="LightGCN",
        output=arguments.output,
        model_settings={
            "LightGCN": {**LIGHTGCN, "learning_rate": RATE},
            "MCPTR": {**LIGHTGCN, **PRETRAINING, "finetune_learning_rate": RATE},
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
