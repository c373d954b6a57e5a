"""What ten trials of a search gain over the defaults: ``python benchmarks/searches.py planted-content lfm2k-sparse``.

Every model is searched over its own space (``properties/search/``) on the sets of ``portfolio_data.py``; trial 0 has
the defaults, and a trial that is behind the median of the others is ended early. A row a model and set: validation
Recall@20 of the defaults and of the best trial, what that one has, how many trials ended and how many failed. Started
again, it goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import recbole_mm  # it repairs what RecBole needs repaired

# isort: split
from benchmarks.rows import append, read

MODELS = (
    "BPR,VBPR,FREEDOM,BM3,SLMRec,MGCN,LATTICE,LGMRec,DRAGON,SMORE,MMGCN,GRCN,DualGNN,MMGCL,MGAT,HCGCN,MCPTR,LightGCN"
)


def measure(model: str, dataset: str, trials: int, output: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Search, and tell what was found."""
    begin = time.perf_counter()
    found = recbole_mm.tune(model, dataset, config_dict=options, trials=trials, output=output / dataset, verbose=False)
    ended = [trial for trial in found.trials if trial["state"] == "complete"]
    return {
        "defaults": ended[0]["value"] if ended and ended[0]["index"] == 0 else None,
        "best": found.value,
        "params": found.params,
        "ended": len(ended),
        "failed": sum(trial["state"] == "fail" for trial in found.trials),
        "trials": len(found.trials),
        "seconds": round(time.perf_counter() - begin, 1),
    }


def main() -> None:
    """Search what was not searched yet."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("datasets", nargs="+")
    parser.add_argument("--data_path", required=True, help="the folder that portfolio_data.py wrote")
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--output", type=Path, default=Path("comparison/searches"))
    parser.add_argument("--rows", type=Path, required=True, help="append the figures to this file")
    arguments = parser.parse_args()
    sys.argv = sys.argv[:1]  # RecBole reads --key=value itself
    options = {
        "data_path": arguments.data_path, "epochs": arguments.epochs, "eval_step": 2, "stopping_step": 5,
        "metrics": ["Recall", "NDCG"], "topk": [20], "valid_metric": "Recall@20",
    }  # fmt: skip
    known = {(row["dataset"], row["model"]) for row in read(arguments.rows)}
    for dataset in arguments.datasets:
        for model in arguments.models.split(","):
            if (dataset, model) in known:
                continue
            metrics = measure(model, dataset, arguments.trials, arguments.output, options)
            chosen = metrics.pop("params")
            row = {"model": model, "dataset": dataset, "seed": 2020, "metrics": metrics}
            append(arguments.rows, row, {**options, "chosen": chosen})
            print(metrics, chosen, model, dataset, flush=True)


if __name__ == "__main__":
    main()
