"""The check of trainings on ml-100k: is it silent where nothing is wrong, and what does it cost?

    python benchmarks/health.py [--models=BPR,LightGCN,...] [--dataset=ml-100k] [--rows=FILE.jsonl] [--key=value ...]
    python benchmarks/health.py --models=MMGCL --contrast_by_length=False --contrastive_weight=0.4

Every model is trained with its defaults (or the options given) and what was found is printed: the alarms, validation
beside that of a ranking by popularity, and the share of the whole run's seconds that the check took.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import recbole_mm  # it repairs what RecBole needs repaired

# isort: split
from benchmarks.rows import append, models_parser, read_command_line

FAST = "BPR,LightGCN,VBPR,MMGCN,GRCN,DualGNN,MMGCL,LGMRec,FREEDOM,BM3"


def measure(model: str, dataset: str, options: dict[str, Any]) -> dict[str, Any]:
    """Train a model and tell what was found."""
    begin = time.perf_counter()
    result = recbole_mm.run(model, dataset, config_dict=options)
    seconds, health = time.perf_counter() - begin, result["health"]
    return {
        "model": model,
        "split": result["split"],
        "alarms": "; ".join(f"{alarm['name']}: {alarm['text']}" for alarm in health["alarms"]),
        "valid": result["best_valid_score"],
        "pop": health["measures"].get("popularity_score"),
        "permuted": {name: round(same, 3) for name, same in (health["measures"].get("permuted") or {}).items()},
        "ranks": {name: round(rank, 1) for name, rank in health["measures"].get("effective_rank", {}).items()},
        "gradient_shares": health["measures"].get("gradient_shares"),
        "seconds": round(seconds, 1),
        "share": health["seconds"] / seconds,
    }


def main() -> None:
    """Print a line as each model is done."""
    arguments, given = read_command_line(models_parser(__doc__.split("\n")[0], FAST, "ml-100k"))
    options = {"state": "WARNING", "show_progress": False, "valid_metric": "Recall@10", "topk": [10]}
    for model in arguments.models.split(","):
        found = measure(model, arguments.dataset, options)
        print(*(f"{name} {value}" for name, value in found.items()), sep=" | ", flush=True)
        if arguments.rows:
            metrics = {"valid": found["valid"], "valid_of_popularity": found["pop"], "seconds": found["seconds"]}
            metrics |= {"alarms": found["alarms"].count("; ") + bool(found["alarms"]), "percent": 100 * found["share"]}
            row = {"model": model, "dataset": arguments.dataset, "split": found["split"], "metrics": metrics}
            append(arguments.rows, row, {**options, **given})


if __name__ == "__main__":
    main()
