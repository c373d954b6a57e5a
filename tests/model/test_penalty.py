"""Options that are searched act: over its search range each changes the gradient, penalties first of all."""

from __future__ import annotations

import pytest
import torch

from recbole_mm.config import properties_directory
from recbole_mm.search.space import Range, read_space
from tests.model.conftest import build, total_loss, train_steps

#: What a batch's gradient cannot show: how ranking is done, Adam's own, what inner loops and other stages take.
NOT_OF_THE_LOSS = {
    "learning_rate", "weight_decay", "finetune_learning_rate", "graph_rate", "score", "inner_learning_rate",
    "adapt_steps",
}  # fmt: skip
#: Steps of training after which an option is looked at: penalties of rows, and messages between co-clusters that are
#: alike when they are drawn, have little to say before.
STEPS = {"BM3": 20, "DRAGON": 20, "LATTICE": 20, "HCGCN": 60}
MODELS = [file.stem for file in sorted((properties_directory() / "model").glob("*.yaml")) if file.stem != "ItemKNNCBF"]


@pytest.mark.parametrize("model", ["DualGNN", "GRCN", "MMGCN"])
def test_normalised_tables_are_out_of_the_reach_of_a_penalty(model):
    """A step along the penalty's gradient changes scores only where tables keep their length."""
    for normalize_tables in (True, False):
        network = build(model, normalize_tables=normalize_tables).model.eval()
        before = network.forward()[0].detach().clone()
        with torch.no_grad():
            for table in network.preference.values():
                table.mul_(0.5)
            if model == "GRCN":
                network.embedding.mul_(0.5)
        assert torch.allclose(network.forward()[0], before, atol=1e-5) == normalize_tables


@pytest.mark.parametrize("model", MODELS)
def test_every_searched_option_changes_the_gradient(model: str) -> None:
    trained = build(model)
    train_steps(trained, STEPS.get(model, 0))
    state = trained.model.state_dict()

    def of(option: str, value: object) -> dict[str, torch.Tensor]:
        built = build(model, **{option: value})
        network, batch = built.model.train(), built.batch(64)
        if model in STEPS and all(x.shape == state[name].shape for name, x in network.state_dict().items()):
            network.load_state_dict(state)
        torch.manual_seed(0)
        total_loss(network, batch).backward()
        return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}

    for option, dimension in read_space(model).items():
        if option in NOT_OF_THE_LOSS:
            continue
        ends = (dimension.low, dimension.high) if isinstance(dimension, Range) else dimension.values
        low, high = of(option, ends[0]), of(option, ends[-1])
        if {name: x.shape for name, x in low.items()} != {name: x.shape for name, x in high.items()}:
            continue  # other parameters are another function
        change = sum((high[name] - x).square().sum() for name, x in low.items())
        assert change.sqrt() > 0.01 * sum(x.square().sum() for x in low.values()).sqrt(), option
