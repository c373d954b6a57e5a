"""LightGCN: the numbers of the toy world, isolated nodes, and gradients."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck

from recbole_mm.nn.graph.bipartite import BipartiteGraph
from recbole_mm.nn.graph.lightgcn import lightgcn

GRAPH = BipartiteGraph(torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 1, 1, 2, 0]), n_users=3, n_items=4)
USERS = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 1.0]], dtype=torch.float64)
ITEMS = torch.tensor([[1.0, 1.0], [0.0, 1.0], [2.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
EXPECTED = {
    "sym": (
        [[0.54881554, 0.61785113], [0.55473785, 1.09763107], [-0.14644661, 0.73570226]],
        [[0.51429774, 0.90236893], [0.48570226, 0.79881554], [1.0, 0.08925565], [0.33333333, 0.0]],
    ),
    "self_loop": (
        [[0.70370370, 0.48148148], [0.44444444, 1.12962963], [-0.27777778, 0.94444444]],
        [[0.55555556, 0.81481481], [0.29629630, 0.92592593], [1.27777778, 0.02777778], [1.0, 0.0]],
    ),
}


@pytest.mark.parametrize("norm", EXPECTED)
def test_two_layers_in_the_toy_world(norm):
    for ours, expected in zip(lightgcn([GRAPH] * 2, USERS, ITEMS, norm), EXPECTED[norm]):
        torch.testing.assert_close(ours, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=6e-9)
    assert lightgcn([], USERS, ITEMS, norm)[0] is not None
    assert torch.equal(lightgcn([], USERS, ITEMS, norm)[1], ITEMS)
    inputs = USERS.clone().requires_grad_(), ITEMS.clone().requires_grad_()
    assert gradcheck(lambda a, b: lightgcn([GRAPH] * 2, a, b, norm), inputs)


def test_another_norm_is_refused():
    with pytest.raises(ValueError, match="norm must be one of sym, self_loop, got 'row'"):
        lightgcn([GRAPH], USERS, ITEMS, "row")
