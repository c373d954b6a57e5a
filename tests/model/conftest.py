"""What the model tests share: building any registered model on the synthetic mm-toy data, exactly as RecBole would."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import ModelType, get_model, init_seed

import recbole_mm
from recbole_mm.host.registry import registered_models

MODALITIES = ("audio", "image", "text")


@dataclass
class Built:
    """A model with the data that RecBole prepared for it."""

    config: Config
    model: Any
    train_data: Any
    valid_data: Any
    test_data: Any

    def rewind(self) -> None:
        """Make the next pass over the training data the same as the first, whoever used the loader before."""
        init_seed(self.config["seed"], True)
        self.train_data.generator.manual_seed(self.config["seed"])

    def batch(self, size: int | None = None) -> Any:
        """The first training batch, on the model's device."""
        self.rewind()
        interaction = next(iter(self.train_data))
        return (interaction if size is None else interaction[:size]).to(self.config["device"])


def config_for(model: str, dataset: str = "mm-toy", **options: Any) -> Config:
    """RecBole's Config for ``model``, quiet and on the CPU unless said otherwise."""
    defaults: dict[str, Any] = {"state": "ERROR", "show_progress": False, "use_gpu": False, "train_batch_size": 512}
    return Config(model=model, dataset=dataset, config_dict={**defaults, **options})


@lru_cache(maxsize=32)
def _prepared(model_type: ModelType, dataset: str, key: str, config_key: _Hashable) -> tuple:
    config = config_key.config
    init_seed(config["seed"], config["reproducibility"])
    data = create_dataset(config)
    return data_preparation(config, data)


class _Hashable:
    """Carries a Config past ``lru_cache`` without being part of the key."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashable)

    def __hash__(self) -> int:
        return 0


def build(model: str, dataset: str = "mm-toy", device: str = "cpu", **options: Any) -> Built:
    """Build ``model`` on ``dataset`` as ``run_recbole`` does; equal data options share one prepared dataset."""
    config = config_for(model, dataset, **options)
    data_options = {key: value for key, value in options.items() if key not in _model_keys(model)}
    loaders = _prepared(config["MODEL_TYPE"], dataset, f"{model} {sorted(data_options.items())}", _Hashable(config))
    train_data, valid_data, test_data = copy.copy(loaders)
    init_seed(config["seed"], config["reproducibility"])
    built = get_model(model)(config, train_data._dataset).to(device)
    return Built(config, built, train_data, valid_data, test_data)


def _model_keys(model: str) -> set[str]:
    from recbole_mm.config import properties_directory
    from recbole_mm.config.names import read_keys

    # The loaders depend on some options that a model's yaml may set.
    of_the_loaders = {"train_batch_size", "train_neg_sample_args", "eval_batch_size"}
    file = properties_directory() / "model" / f"{model}.yaml"  # RecBole's own models have theirs elsewhere
    return read_keys(file) - of_the_loaders if file.is_file() else set()


@pytest.fixture(params=sorted(registered_models()))
def name(request: pytest.FixtureRequest) -> str:
    """The name of each of our registered models in turn."""
    return request.param


def train_steps(built: Built, steps: int, learning_rate: float = 0.01) -> list[float]:
    """Train with Adam for ``steps`` batches and return the losses."""
    model, losses = built.model, []
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=learning_rate)
    built.rewind()
    model.train()
    while len(losses) < steps:
        for interaction in built.train_data:
            optimizer.zero_grad()
            loss = total_loss(model, interaction.to(built.config["device"]))
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if len(losses) == steps:
                break
    model.eval()
    return losses


def total_loss(model: Any, interaction: Any) -> torch.Tensor:
    """The sum of a model's loss terms."""
    loss = model.calculate_loss(interaction)
    return sum(loss) if isinstance(loss, tuple) else loss


def stirred(built: Built) -> Built:
    """A model in double precision with parameters large enough to matter."""
    built.model.double().eval()
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in built.model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return built


def check_repeats_and_resumes(model: str, options: dict[str, Any], folder: Path) -> None:
    """Two trainings of three epochs on mm-toy end alike, and so does one that is stopped after the first."""
    options = {**options, "epochs": 3, "checkpoint_dir": str(folder)}
    whole, again = (recbole_mm.run(model, "mm-toy", config_dict=dict(options)) for _ in range(2))
    assert whole["test_result"] == again["test_result"]
    part = recbole_mm.run(model, "mm-toy", config_dict={**options, "epochs": 1})
    resumed = recbole_mm.run(model, "mm-toy", config_dict=options, resume=part["checkpoint"])
    assert resumed["test_result"] == whole["test_result"]
