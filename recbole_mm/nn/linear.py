"""Large dense products of the CPU through the faster of the two libraries that torch brings along."""

from __future__ import annotations

import functools
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["BACKENDS", "Linear", "linear", "set_default_backend", "worth_onednn"]

BACKENDS = ("auto", "torch", "onednn")

LARGE = 2**24
"""Multiply-adds from which ``auto`` takes oneDNN: below, a shape that is new costs more than it gains."""

NARROW = 32
"""Length that every side of a product must have for ``auto``: with shorter ones oneDNN is the slower as often."""

LONG = 320
"""Columns that the result must have for ``auto`` where the left operand is transposed, as in a weight's gradient."""

_default: ContextVar[str] = ContextVar("recbole_mm_dense_backend", default="torch")


def set_default_backend(backend: str) -> None:
    """What :class:`Linear` layers made from now on in this context use, one of :data:`BACKENDS`."""
    if backend not in BACKENDS:
        raise ValueError(f"dense_backend: expected one of {', '.join(BACKENDS)}, got {backend!r}.")
    _default.set(backend)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, backend: str | None = None) -> Tensor:
    r"""``F.linear``, :math:`Y = X W^\top + b`, with large products of float32 matrices done by oneDNN.

    .. math:: \partial X = \partial Y\, W, \quad \partial W = \partial Y^\top X, \quad \partial b = \textstyle\sum_r
        \partial Y_r

    torch hands float32 products to MKL, which leaves part of a CPU that Intel did not make unused; oneDNN comes in the
    same wheel. ``auto`` takes it on such CPUs, by what the machine is and the product's size and layout, never by a
    measurement: a clock that decides would let two runs with one seed, or a resumed run, round differently. Other
    devices, types and modes (autocast, a lowered matmul precision) and small products are ``F.linear`` itself. Equal
    to it within float32 rounding, differentiable any number of times.

    Args:
        x: Shape ``(..., n_in)``.
        weight: Shape ``(n_out, n_in)``.
        bias: Shape ``(n_out,)``.
        backend: ``auto``; ``torch`` for ``F.linear`` always; ``onednn`` for oneDNN wherever it can; by default what
            :func:`set_default_backend` was told, ``torch`` at first.

    Returns:
        Shape ``(..., n_out)``.

    Example:
        >>> linear(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]), torch.tensor([0.5]))
        tensor([[11.5000]])
    """
    backend = backend or _default.get()
    if not _fits(x, weight, backend):
        return F.linear(x, weight, bias)
    rows: Tensor = _Linear.apply(x.reshape(-1, x.shape[-1]), weight, bias, backend)
    return rows.view(*x.shape[:-1], weight.shape[0])


class Linear(nn.Linear):
    """``nn.Linear`` whose product is :func:`linear`'s; parameters, their start and their names are the same."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self.backend = _default.get()

    def forward(self, input: Tensor) -> Tensor:
        """Shape ``(..., in_features)`` to ``(..., out_features)``."""
        return linear(input, self.weight, self.bias, self.backend)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, backend: str) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.backend = backend
        return _product(_packed(x), _packed(weight), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x, weight), (grad,) = ctx.saved_tensors, grads
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_x = linear(grad, weight.t(), None, ctx.backend)
        if ctx.needs_input_grad[1]:
            of_weight = linear(grad.t(), x.t(), None, ctx.backend)
        if ctx.needs_input_grad[2]:
            of_bias = grad.sum(dim=0)
        return of_x, of_weight, of_bias, None


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return found


def _packed(table: Tensor) -> Tensor:
    """A table without gaps, as it is or transposed: with gaps, some products take oneDNN a thousand times as long."""
    return table if table.is_contiguous() or table.t().is_contiguous() else table.contiguous()


def _fits(x: Tensor, weight: Tensor, backend: str) -> bool:
    """Whether oneDNN can do this product and should."""
    if backend == "torch" or not x.numel() or not weight.numel():
        return False
    if backend == "auto" and not worth_onednn(x, weight):
        return False
    plain = x.dtype == weight.dtype == torch.float32 and x.device.type == weight.device.type == "cpu"
    return (
        plain
        and x.layout == weight.layout == torch.strided
        and not torch.is_autocast_enabled("cpu")
        and torch.get_float32_matmul_precision() == "highest"
        and _available()
        and (backend == "onednn" or _gains())
    )


def worth_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether a product is of a size and layout that gained on every shape measured (``benchmarks/products.py``)."""
    columns, width = weight.shape
    rows = x.numel() // width
    transposed = x.dim() == 2 and not x.is_contiguous()
    large = rows * width * columns >= LARGE and min(rows, width, columns) >= NARROW
    return large and (columns >= LONG or not transposed)


@functools.cache
def _available() -> bool:
    """Whether this torch has the operator."""
    try:
        table = torch.eye(2)
        product = _product(table, table, None)
    except (AttributeError, RuntimeError):
        return False
    return torch.backends.mkldnn.is_available() and bool(torch.equal(product, table))


@functools.cache
def _gains() -> bool:
    """Whether this CPU is one on which oneDNN was found faster: AVX-512, and not Intel's, whose MKL is at the limit."""
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return False
    return _vendor() not in ("", "GenuineIntel")


def _vendor() -> str:
    """Who made the CPU, empty where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    found = (line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id"))
    return next(found, "")
