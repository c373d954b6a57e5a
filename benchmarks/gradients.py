"""Which part of the loss moves a parameter? Gradient lengths of each part beside those of the first, the ranking's.

    python benchmarks/gradients.py --models=LGMRec --dataset=microlens-sample --contrastive_weight=1e-4

A line per step (0, 20, 100 and 300 of a training with Adam) and parameter that the ranking moves. The data set is one
of the portfolio's (``portfolio_data.py``). Adam follows directions alone: a part whose gradient is many times that of
the ranking decides what is learned.
"""

from __future__ import annotations

import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import recbole_mm  # noqa: F401  it repairs what RecBole needs repaired

# isort: split
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, init_seed
from torch import Tensor, nn

from benchmarks import portfolio_data
from benchmarks.rows import models_parser, read_command_line

STEPS = (0, 20, 100, 300)
OPTIONS = {"benchmark_filename": ["train", "valid", "test"], "use_gpu": False, "state": "ERROR"}


def shares(model: nn.Module, batch: Any) -> dict[str, list[float]]:
    """Per parameter the gradient lengths of the second part of the loss and the following, over that of the first."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    lengths = [_lengths(part, [parameter for _, parameter in named]) for part in model.calculate_loss(batch)]
    return {
        name: [other[index] / lengths[0][index] for other in lengths[1:]]
        for index, (name, _) in enumerate(named)
        if lengths[0][index] > 1e-6 * max(lengths[0])
    }


def _lengths(loss: Tensor, parameters: list[nn.Parameter]) -> list[float]:
    if not loss.requires_grad:
        return [0.0] * len(parameters)
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return [0.0 if gradient is None else float(gradient.norm()) for gradient in found]


def main() -> None:
    """Train each model for the steps and print what was found."""
    arguments, given = read_command_line(models_parser(__doc__.split("\n")[0], "LGMRec,MMGCL", "lfm2k"))
    for name in arguments.models.split(","):
        with tempfile.TemporaryDirectory() as data:
            portfolio_data.make(arguments.dataset, Path(data))
            config = Config(model=name, dataset=arguments.dataset, config_dict={**OPTIONS, "data_path": data, **given})
            init_seed(config["seed"], reproducibility=True)
            train = data_preparation(config, create_dataset(config))[0]
            model = get_model(name)(config, train.dataset).train()
        optimizer = torch.optim.Adam(model.parameters(), config["learning_rate"], weight_decay=config["weight_decay"])
        batches = (batch for _ in iter(int, 1) for batch in train)
        for step, batch in enumerate(islice(batches, STEPS[-1] + 1)):
            if step in STEPS:
                for parameter, others in shares(model, batch).items():
                    print(name, step, parameter, *(f"{value:.3g}" for value in others), flush=True)
            optimizer.zero_grad()
            sum(model.calculate_loss(batch)).backward()
            optimizer.step()


if __name__ == "__main__":
    main()
