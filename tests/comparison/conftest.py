"""What the tests of the comparison share: models trained once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import recbole_mm
from tests.comparison.options import QUICK


@pytest.fixture(scope="package")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Train a model on mm-toy once and return its checkpoint."""
    made: dict[str, str] = {}

    def train(model: str, **options: Any) -> str:
        key = f"{model} {sorted(options.items())}"
        if key not in made:
            torch.set_num_threads(1)
            folder = str(tmp_path_factory.mktemp("checkpoint"))
            result = recbole_mm.run(model, "mm-toy", config_dict={**QUICK, "checkpoint_dir": folder, **options})
            made[key] = result["checkpoint"]
        return made[key]

    return train
