from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.quick_start import quick_start as recbole_run
from recbole.trainer import Trainer

import recbole_mm
from tests.options import QUICK


def test_two_runs_at_once_are_told_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Both have begun before either makes its data, and both have a trainer before either trains."""
    both = threading.Barrier(2)
    create, fit = recbole_run.create_dataset, Trainer.fit

    def create_together(config: Any) -> Any:
        both.wait(timeout=120)
        return create(config)

    def fit_together(self: Any, *args: Any, **kwargs: Any) -> Any:
        both.wait(timeout=120)
        found = fit(self, *args, **kwargs)
        both.wait(timeout=120)
        return found

    monkeypatch.setattr(recbole_run, "create_dataset", create_together)
    monkeypatch.setattr(Trainer, "fit", fit_together)

    def run(size: int) -> dict[str, Any]:
        options = {**QUICK, "epochs": 1, "embedding_size": size, "checkpoint_dir": str(tmp_path / str(size))}
        return recbole_mm.run("BPR", "mm-toy", config_dict={**options, "seed": size})

    sizes = (4, 8)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(run, sizes))
    for size, result in zip(sizes, found):
        assert result["config"]["embedding_size"] == result["config"]["seed"] == size
        assert Path(result["checkpoint"]).parent == tmp_path / str(size)
        weights = torch.load(result["checkpoint"], weights_only=False)["state_dict"]
        assert weights["user_embedding.weight"].shape[1] == size
