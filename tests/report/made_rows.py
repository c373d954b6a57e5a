"""Rows of a comparison that never ran: made-up metrics with known order."""

from __future__ import annotations

import numpy as np

from recbole_mm.report.table import Row

METRICS = ("recall@10", "ndcg@10")


def row(model, quality, seeds=(1, 2, 3), variant="", users=60, **options):
    """A model whose per-user metrics scatter around ``quality``."""
    made = Row(model, variant, **options)
    for seed in seeds:
        generator = np.random.default_rng([seed, len(model), len(variant)])
        values = {
            metric: np.clip(generator.normal(quality * factor, 0.1, users), 0, 1)
            for metric, factor in zip(METRICS, (1.0, 0.6))
        }
        made.users[seed] = {"user": np.arange(users).astype(str), **values}
        made.records[seed] = {
            "test": {metric: round(float(value.mean()), 4) for metric, value in values.items()},
            "valid_metric": "recall@10",
            "curve": [
                {"epoch": e, "valid": {"recall@10": quality * (1 - 0.5**e) + 0.01 * seed}} for e in range(1, 9 + seed)
            ],
            "epochs": 8 + seed,
            "time": {"train": 10.0 * seed, "train_cpu": 9.0, "epoch": 1.5, "test": 0.1},
            "memory_mib": {"process": 500.0, "device": None},
            "parameters": 1000,
        }
    return made
