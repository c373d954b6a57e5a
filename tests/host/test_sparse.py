"""Graph models of RecBole, and ours that contain one, train under bfloat16 autocast on a CPU."""

from __future__ import annotations

import math

import pytest
import torch

import recbole_mm
from tests.options import QUICK

CALL = "import torch\ndef product(matrix, dense): return torch.sparse.mm(matrix, dense)\n"


@pytest.mark.parametrize("model", ["LightGCN", "MCPTR"])
def test_training_under_autocast(model: str) -> None:
    options = {**QUICK, "epochs": 1, "enable_amp": True, "use_gpu": False}
    options |= {"pretrain_epochs": 1} if model == "MCPTR" else {}
    result = recbole_mm.run(model, "mm-toy", config_dict=options)
    assert math.isfinite(result["test_result"]["recall@10"])


def test_the_product_and_its_gradient_are_those_of_float32() -> None:
    matrix = torch.rand(5, 4).to_sparse()
    dense = torch.rand(4, 3, requires_grad=True)
    scope: dict = {"__name__": "recbole.model.made_up"}
    exec(CALL, scope)
    expected = matrix.to_dense() @ dense
    (gradient,) = torch.autograd.grad(expected.square().sum(), dense)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        product = scope["product"](matrix, dense)
    assert product.dtype == torch.float32 and torch.allclose(product, expected)
    (found,) = torch.autograd.grad(product.square().sum(), dense)
    assert torch.allclose(found, gradient, atol=1e-5)
