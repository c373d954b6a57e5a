"""The product of large tables: equal to float64, fitting only where it may, and never chosen by a clock."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch.autograd import gradcheck
from torch.nn import functional as F

import recbole_mm.nn.linear as module
from recbole_mm.nn.linear import BACKENDS, Linear, linear, set_default_backend


def tables(n=40, n_in=24, n_out=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator) for shape in ((n, n_in), (n_out, n_in), (n_out,))]


@pytest.fixture
def calls(monkeypatch):
    """Shapes of the products that oneDNN did."""
    found = []
    forward = module._Linear.forward

    def counted(ctx, x, weight, bias, backend):
        found.append((tuple(x.shape), tuple(weight.shape)))
        return forward(ctx, x, weight, bias, backend)

    monkeypatch.setattr(module._Linear, "forward", staticmethod(counted))
    return found


needs_onednn = pytest.mark.skipif(not module._available(), reason="this torch has no oneDNN product")


@needs_onednn
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_equals_float64_forward_and_backward(calls, transposed, with_bias):
    x, weight, bias = tables()
    weight = weight.t().contiguous().t() if transposed else weight
    inputs = [x, weight, *([bias] if with_bias else [])]
    results = []
    for dtype in (torch.float32, torch.float64):
        leaves = [t.detach().to(dtype).requires_grad_() for t in inputs]
        product = linear(*leaves, backend="onednn") if dtype == torch.float32 else F.linear(*leaves)
        results.append([product, *torch.autograd.grad(product.square().sum(), leaves)])
    for one, other in zip(*results):
        assert one.dtype == torch.float32 and torch.allclose(one.double(), other, rtol=1e-5, atol=1e-4)
    assert len(calls) == 3, "forward and both gradients"


@needs_onednn
def test_no_table_with_gaps_reaches_onednn(monkeypatch):
    """Some take it a thousand times as long: a slice of columns as a transposed right operand, for one."""
    wide, gaps, product = torch.randn(40, 30), [], module._product

    def watched(x, weight, bias):
        gaps.extend(not (t.is_contiguous() or t.t().is_contiguous()) for t in (x, weight))
        return product(x, weight, bias)

    monkeypatch.setattr(module, "_product", watched)
    x, weight = wide[:, :24], torch.randn(16, 30)[:, 3:27].requires_grad_()
    found = linear(x, weight, backend="onednn")
    assert torch.allclose(found, F.linear(x, weight), atol=1e-5)
    assert torch.allclose(torch.autograd.grad(found.sum(), weight)[0], x.sum(dim=0).expand(16, -1), atol=1e-5)
    assert len(gaps) == 4 and not any(gaps)


@needs_onednn
def test_second_derivatives_are_those_of_linear():
    x, weight, _ = tables(5, 4, 3)

    def twice(product):
        leaf = weight.clone().requires_grad_()
        (first,) = torch.autograd.grad(product(x, leaf).tanh().sum(), leaf, create_graph=True)
        return torch.autograd.grad(first.square().sum(), leaf)[0]

    expected = twice(F.linear)
    assert torch.allclose(twice(lambda a, b: linear(a, b, backend="onednn")), expected, atol=1e-4)


def test_float64_is_exact_and_differentiable():
    x, weight, bias = (t.double().requires_grad_() for t in tables(4, 3, 2))
    assert gradcheck(lambda *a: linear(*a, backend="onednn"), (x, weight, bias))


@needs_onednn
def test_leading_dimensions_are_rows():
    x, weight, bias = tables(12)
    result = linear(x.view(3, 4, -1), weight, bias, backend="onednn")
    assert result.shape == (3, 4, 16) and torch.allclose(result, F.linear(x.view(3, 4, -1), weight, bias), atol=1e-5)


@needs_onednn
def test_only_what_it_can_do_goes_there(calls, monkeypatch):
    x, weight, bias = tables()
    linear(x, weight, bias, backend="torch")
    linear(x.half(), weight.half(), bias.half(), backend="onednn")
    linear(x[:0], weight, bias, backend="onednn")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(x, weight, bias, backend="onednn").dtype == torch.bfloat16
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "medium")
    linear(x, weight, bias, backend="onednn")
    assert not calls


@needs_onednn
@pytest.mark.parametrize(("vendor", "capability", "gains"), [
    ("AuthenticAMD", "AVX512", True),
    ("GenuineIntel", "AVX512", False),
    ("AuthenticAMD", "AVX2", False),
    ("", "AVX512", False),
])  # fmt: skip
def test_auto_is_decided_by_machine_and_size(calls, monkeypatch, vendor, capability, gains):
    monkeypatch.setattr(module, "_vendor", lambda: vendor)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    module._gains.cache_clear()
    try:
        x, weight, bias = tables()
        linear(x, weight, bias, backend="auto")
        assert not calls, "a small product"
        monkeypatch.setattr(module, "LARGE", 40 * 24 * 16)
        monkeypatch.setattr(module, "NARROW", 17)
        linear(x, weight, bias, backend="auto")
        assert not calls, "a narrow product"
        monkeypatch.setattr(module, "NARROW", 16)
        monkeypatch.setattr(module, "LONG", 25)
        leaf = weight.clone().requires_grad_()
        linear(x, leaf, bias, backend="auto").sum().backward()
        assert len(calls) == gains, "the gradient of 24 columns is left to torch"
        monkeypatch.setattr(module, "LONG", 24)
        linear(x, leaf, bias, backend="auto").sum().backward()
        assert len(calls) == 3 * gains
        monkeypatch.setattr(module, "LONG", 17)
        linear(x.t().contiguous().t(), weight, bias, backend="auto")
        assert len(calls) == 3 * gains, "a transposed operand whose result has 16 columns"
    finally:
        module._gains.cache_clear()


def test_without_a_backend_the_chosen_one_is_used(calls):
    x, weight, bias = tables()
    linear(x, weight, bias)
    assert not calls, "torch at first"
    try:
        module.set_default_backend("onednn")
        linear(x, weight, bias)
        assert len(calls) == 1
    finally:
        module.set_default_backend("torch")


def test_layer_is_nn_linear():
    torch.manual_seed(1)
    ours = Linear(5, 3)
    torch.manual_seed(1)
    theirs = torch.nn.Linear(5, 3)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    x = torch.randn(2, 5)
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(pickle.loads(pickle.dumps(copy.deepcopy(ours)))(x), theirs(x))


def test_layers_keep_the_backend_they_were_made_under():
    set_default_backend("torch")
    try:
        first = Linear(2, 2)
        set_default_backend("onednn")
        assert (first.backend, Linear(2, 2).backend) == ("torch", "onednn")
        with pytest.raises(ValueError, match="auto, torch, onednn, got 'mkl'"):
            set_default_backend("mkl")
    finally:
        set_default_backend("auto")
    assert BACKENDS == ("auto", "torch", "onednn")
