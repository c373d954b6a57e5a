"""The plain models that speed is measured against are still the models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, init_seed

from benchmarks.pyg_reference import reference
from tests.options import QUICK

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks" / "pyg_reference"
MODELS = [
    "BM3", "DRAGON", "DualGNN", "FREEDOM", "GRCN", "LATTICE", "LGMRec", "MGAT", "MGCN", "MMGCL", "MMGCN", "SLMRec",
    "SMORE", "VBPR",
]  # fmt: skip


def losses(name: str, plain: bool) -> list[float]:
    """Of some steps with Adam, from the same start and with the same random numbers.

    As on the data of the benchmark there are two modalities, and every item of a batch has both.
    """
    options = {**QUICK, "train_batch_size": 256, "modalities": ["image", "text"], "missing_feature": "drop"}
    config = Config(model=name, dataset="mm-toy", config_dict=options)
    init_seed(config["seed"], reproducibility=True)
    train = data_preparation(config, create_dataset(config))[0]
    init_seed(config["seed"], reproducibility=True)
    network = get_model(name)(config, train.dataset)
    if plain:
        network = reference(name)(network)
    network.train()
    optimizer, found = torch.optim.Adam(network.parameters(), lr=0.01), []
    for _, batch in zip(range(3), train):
        optimizer.zero_grad()
        loss = network.calculate_loss(batch)
        total = sum(loss) if isinstance(loss, tuple) else loss
        total.backward()
        optimizer.step()
        found.append(total.item())
    return found


def test_every_reference_is_tried() -> None:
    names = {name.lower() for name in MODELS} | {"__init__", "layers", "operators"}
    assert {file.stem for file in FOLDER.glob("*.py")} == names


@pytest.mark.parametrize("model", MODELS)
def test_the_plain_model_has_the_losses_of_ours(model: str) -> None:
    assert losses(model, plain=True) == pytest.approx(losses(model, plain=False), rel=1e-3)
