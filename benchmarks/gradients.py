"""Which part of the loss moves a parameter? Gradient lengths of each part beside those of the first, the ranking's.

    python benchmarks/gradients.py --models=LGMRec --dataset=microlens-sample --contrastive_weight=1e-4

A line per step (0, 20, 100 and 300 of a training with Adam) and parameter that the ranking moves. The data set is one
of the portfolio's (``portfolio_data.py``). Adam follows directions alone: a part whose gradient is many times that of
the ranking decides what is learned.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from itertools import chain, islice, repeat
from pathlib import Path

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
from recbole_mm.nn.diagnosis import gradient_shares

STEPS = (0, 20, 100, 300)
ROUNDING = 1e-6
"""Share of the ranking up to which it does not move a parameter, such as a bias that all items have."""
OPTIONS = {"benchmark_filename": ["train", "valid", "test"], "use_gpu": False, "state": "ERROR"}


def ratios(losses: Sequence[Tensor], model: nn.Module) -> dict[str, list[float]]:
    """Per parameter the gradient lengths of the second part of the loss and the following, over that of the first."""
    found = {}
    for name, parameter in model.named_parameters():
        shares = gradient_shares(losses, [parameter]) if parameter.requires_grad else None
        if shares is not None and shares[0] > ROUNDING:
            found[name] = [share / shares[0] for share in shares[1:]]
    return found


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
        for step, batch in enumerate(islice(chain.from_iterable(repeat(train)), STEPS[-1] + 1)):
            losses = model.calculate_loss(batch)
            if not isinstance(losses, tuple):
                sys.exit(f"{name}: its loss has one part, so there is nothing to compare.")
            if step in STEPS:
                for parameter, others in ratios(losses, model).items():
                    print(name, step, parameter, *(f"{value:.3g}" for value in others), flush=True)
            optimizer.zero_grad()
            sum(losses).backward()
            optimizer.step()


if __name__ == "__main__":
    main()
