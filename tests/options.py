"""Options that make a run take a second."""

from __future__ import annotations

from typing import Any

QUICK: dict[str, Any] = {
    "epochs": 2,
    "state": "ERROR",
    "show_progress": False,
    "use_gpu": False,
    "metrics": ["Recall", "NDCG"],
    "topk": [5, 10],
    "valid_metric": "Recall@10",
}
SEQUENTIAL = {"train_neg_sample_args": None, "hidden_size": 16, "inner_size": 16, "n_layers": 1}
