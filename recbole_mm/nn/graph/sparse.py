"""Sparse patterns with their transpose kept, and the differentiable products over them."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from recbole_mm.nn.graph.bags import sums_rows, weighted_row_sums

__all__ = ["SparsePattern", "full_precision", "sddmm", "spmm"]

with warnings.catch_warnings():
    # torch announces once per process that CSR tensors are in beta; the users of a model cannot act on it.
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor(torch.zeros(2, dtype=torch.long), torch.zeros(0, dtype=torch.long), torch.zeros(0), (1, 1))


class SparsePattern(nn.Module):
    r"""The fixed positions of a sparse ``(n_rows, n_cols)`` matrix in CSR order, with the transpose kept.

    Values are not part of the pattern: they are ``(n_edges,)`` tensors in edge order, so that one pattern serves
    constant and learned weights alike. Keeping the transpose is what makes gradients cheap: the product with
    :math:`A^\top` in the backward pass is one more CSR product, without sorting anything. It is built on its first use.

    All tensors are non-persistent buffers: they follow ``.to(device)`` and stay out of the state dict.

    Attributes:
        ptr: Start of each row's edges, then the end. Shape ``(n_rows + 1,)``.
        col: Column of each edge, ascending within a row. Shape ``(n_edges,)``.
        row: Row of each edge. Shape ``(n_edges,)``.

    Example:
        >>> pattern = SparsePattern.from_pairs(torch.tensor([1, 0, 1]), torch.tensor([2, 0, 0]), n_rows=2, n_cols=3)
        >>> pattern.ptr.tolist(), pattern.col.tolist()
        ([0, 1, 3], [0, 0, 2])
        >>> spmm(pattern, torch.ones(3), torch.tensor([[1.0], [2.0], [4.0]])).squeeze(1).tolist()
        [1.0, 5.0]
    """

    ptr: Tensor
    col: Tensor
    row: Tensor
    _order: Tensor | None
    _twin: SparsePattern | None

    def __init__(self, ptr: Tensor, col: Tensor, row: Tensor, n_cols: int) -> None:
        """Take CSR tensors that are sorted and free of duplicates; :meth:`from_pairs` makes them so."""
        super().__init__()
        self.n_rows, self.n_cols, self.n_edges = ptr.numel() - 1, int(n_cols), col.numel()
        for name, tensor in (("ptr", ptr), ("col", col), ("row", row)):
            self.register_buffer(name, tensor, persistent=False)
        self.register_buffer("_order", None, persistent=False)
        # Not a submodule: the two halves point at each other, and module traversal would never end.
        self.__dict__["_twin"] = None

    @classmethod
    def from_pairs(cls, row: Tensor, col: Tensor, n_rows: int, n_cols: int) -> SparsePattern:
        """Build the pattern of unordered index pairs; a repeated pair counts once.

        Args:
            row: Row of each pair. Shape ``(n_pairs,)``.
            col: Column of each pair. Shape ``(n_pairs,)``.
            n_rows: Number of rows, isolated ones included.
            n_cols: Number of columns, isolated ones included.

        Raises:
            ValueError: If the two index tensors differ in shape or leave the matrix.
        """
        if row.dim() != 1 or row.shape != col.shape:
            raise ValueError(
                f"expected two index vectors of equal length, got shapes {tuple(row.shape)} and {tuple(col.shape)}"
            )
        row, col = row.long(), col.long()
        for name, index, size in (("row", row, n_rows), ("col", col, n_cols)):
            if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < size:
                raise ValueError(
                    f"{name} indices must lie in [0, {size}), got [{int(index.min())}, {int(index.max())}]; "
                    f"give the true n_{name}s"
                )
        key = torch.unique(row * n_cols + col)
        row, col = (torch.div(key, n_cols, rounding_mode="floor"), key % n_cols) if key.numel() else (key, key.clone())
        return cls(_pointer(row, n_rows), col, row, n_cols)

    @classmethod
    def from_scipy(cls, matrix: Any) -> tuple[SparsePattern, Tensor]:
        """Build the pattern of a scipy sparse matrix; repeated entries are summed, stored zeros stay edges.

        Returns:
            The pattern, and the matrix's values in edge order with shape ``(n_edges,)`` (float32, or float64 if the
            matrix is).
        """
        csr = matrix.tocsr(copy=True)
        csr.sum_duplicates()
        csr.sort_indices()
        ptr = torch.as_tensor(csr.indptr).long()
        row = torch.repeat_interleave(torch.arange(csr.shape[0]), ptr.diff())
        values = torch.as_tensor(csr.data)
        values = values if values.dtype == torch.float64 else values.float()
        return cls(ptr, torch.as_tensor(csr.indices).long(), row, csr.shape[1]), values

    @property
    def transpose(self) -> SparsePattern:
        """The same edges with rows and columns swapped; ``pattern.transpose.transpose is pattern``."""
        if self._twin is None:
            with torch.inference_mode(False):  # an evaluation may ask first, and training needs it as well
                # Half the time of sorting int64; a step that cuts rows out turns the cut round every time.
                order = torch.argsort(self.col.int() if self.n_cols < 2**31 else self.col, stable=True)
                ptr = _pointer(self.col[order], self.n_cols)
                twin = SparsePattern(ptr, self.row[order], self.col[order], self.n_rows)
                inverse = torch.empty_like(order)
                inverse[order] = torch.arange(self.n_edges, device=order.device)
            self._order, twin._order = order, inverse
            self.__dict__["_twin"], twin.__dict__["_twin"] = twin, self
            return twin
        return self._twin

    @property
    def transpose_order(self) -> Tensor:
        """Edge order of the transpose: ``values_of_transpose = values[transpose_order]``. Shape ``(n_edges,)``."""
        if self._order is None:
            _ = self.transpose
        order: Tensor = self._order  # type: ignore[assignment]
        return order

    def degree(self) -> Tensor:
        """Number of edges of each row. Shape ``(n_rows,)``, int64."""
        return self.ptr.diff()

    def rows(self, index: Tensor) -> tuple[SparsePattern, Tensor]:
        """Cut out some rows, so that a step computes only what its batch needs.

        The number of edges of the cut depends on the data, so on CUDA this waits for the device once.

        Args:
            index: Rows in any order; repeated rows are repeated in the result. Shape ``(n_index,)``.

        Returns:
            The ``(n_index, n_cols)`` pattern, and the position of each of its edges in this pattern with shape
            ``(n_sub_edges,)``: ``values_of_the_cut = values[position]``.
        """
        start = self.ptr[index]
        count = self.ptr[index + 1] - start
        ptr = torch.cat((count.new_zeros(1), count.cumsum(0)))
        row = torch.repeat_interleave(count)
        position = torch.arange(row.numel(), device=row.device) + (start - ptr[:-1])[row]
        return SparsePattern(ptr, self.col[position], row, self.n_cols), position

    def select(self, keep: Tensor) -> SparsePattern:
        """The pattern of some of the edges, in their order. Neither it nor its transpose has to be sorted.

        Args:
            keep: Bool, shape ``(n_edges,)``.
        """
        order = self.transpose_order
        chosen, twin = self._cut(keep), self.transpose._cut(keep[order])
        number = keep.cumsum(0) - 1
        chosen._order = number[order[keep[order]]]
        twin._order = torch.empty_like(chosen._order)
        twin._order[chosen._order] = torch.arange(chosen.n_edges, device=keep.device)
        chosen.__dict__["_twin"], twin.__dict__["_twin"] = twin, chosen
        return chosen

    def _cut(self, keep: Tensor) -> SparsePattern:
        ends = torch.cat((self.ptr.new_zeros(1), keep.cumsum(0)))
        return SparsePattern(ends[self.ptr], self.col[keep], self.row[keep], self.n_cols)

    def _apply(self, fn: Any, recurse: bool = True) -> SparsePattern:
        super()._apply(fn)
        if self._twin is not None:
            nn.Module._apply(self._twin, fn)
        return self

    def extra_repr(self) -> str:
        """Shape and number of edges."""
        return f"{self.n_rows} x {self.n_cols}, {self.n_edges} edges"


def spmm(pattern: SparsePattern, values: Tensor, dense: Tensor, transposed: Tensor | None = None) -> Tensor:
    r"""Sparse times dense product, differentiable in both.

    .. math:: Y_r = \sum_{e = (r, c)} v_e X_c, \quad
        \partial X = A^\top \partial Y, \quad \partial v_e = \langle \partial Y_r, X_c \rangle

    Half-precision inputs are computed and returned in float32, under autocast as well.

    Args:
        pattern: Positions of the sparse matrix, ``n_rows x n_cols``.
        values: One weight per edge. Shape ``(n_edges,)``.
        dense: Shape ``(n_cols, dim)``.
        transposed: ``values[pattern.transpose_order]`` where it is at hand; saves the backward pass that permutation.

    Returns:
        Shape ``(n_rows, dim)``.

    Raises:
        ValueError: If a shape does not match the pattern.
    """
    if values.shape != (pattern.n_edges,) or dense.dim() != 2 or dense.shape[0] != pattern.n_cols:
        raise ValueError(
            f"a pattern of {pattern.extra_repr()} needs values ({pattern.n_edges},) and dense ({pattern.n_cols}, dim), "
            f"got {tuple(values.shape)} and {tuple(dense.shape)}"
        )
    return _Spmm.apply(pattern, full_precision(values), full_precision(dense), transposed)


def sddmm(pattern: SparsePattern, left: Tensor, right: Tensor) -> Tensor:
    r"""Inner product of the two end points of every edge, differentiable in both.

    .. math:: s_e = \langle L_r, R_c \rangle \quad \text{for } e = (r, c)

    Nothing of size edges x dim is made. Half-precision inputs are computed and returned in float32.

    Args:
        pattern: Positions to compute.
        left: Shape ``(n_rows, dim)``.
        right: Shape ``(n_cols, dim)``.

    Returns:
        Shape ``(n_edges,)``.

    Raises:
        ValueError: If a shape does not match the pattern.

    Example:
        >>> pattern = SparsePattern.from_pairs(torch.tensor([0, 0]), torch.tensor([0, 1]), n_rows=1, n_cols=2)
        >>> sddmm(pattern, torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.0], [1.0, 1.0]]))
        tensor([3., 3.])
    """
    shapes = (tuple(left.shape), tuple(right.shape))
    if left.dim() != 2 or shapes != ((pattern.n_rows, left.shape[1]), (pattern.n_cols, left.shape[1])):
        raise ValueError(
            f"a pattern of {pattern.extra_repr()} needs left ({pattern.n_rows}, dim) and right ({pattern.n_cols}, dim)"
            f", got {shapes[0]} and {shapes[1]}"
        )
    return _Sddmm.apply(pattern, full_precision(left), full_precision(right))


class _Spmm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pattern: SparsePattern, values: Tensor, dense: Tensor, transposed: Tensor | None) -> Tensor:
        ctx.pattern, ctx.transposed = pattern, transposed
        ctx.save_for_backward(values, dense if values.requires_grad else None)
        with torch.autocast(dense.device.type, enabled=False):  # autocast would hand the product half-precision inputs
            if sums_rows(dense, pattern.n_edges):
                return weighted_row_sums(pattern.col, pattern.ptr, values, dense)
            # In place: the operator `@` fills a table of zeros and copies it, which takes longer than the product.
            product = dense.new_empty(pattern.n_rows, dense.shape[1])
            return product.addmm_(_csr(pattern, values.to(dense.dtype)), dense, beta=0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        pattern, (values, dense), (grad,) = ctx.pattern, ctx.saved_tensors, grads
        grad_values = grad_dense = None
        if ctx.needs_input_grad[1]:
            grad_values = sddmm(pattern, grad, dense)
        if ctx.needs_input_grad[2]:
            transposed = (
                ctx.transposed if ctx.transposed is not None else values.index_select(0, pattern.transpose_order)
            )
            grad_dense = spmm(pattern.transpose, transposed, grad, values)
        return None, grad_values, grad_dense, None


class _Sddmm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pattern: SparsePattern, left: Tensor, right: Tensor) -> Tensor:
        ctx.pattern = pattern
        ctx.save_for_backward(left, right)
        values = left.new_zeros(pattern.n_edges)  # Returned itself: torch.compile knows no views of sparse tensors.
        scores = _csr(pattern, values)
        with torch.autocast(left.device.type, enabled=False):
            torch.sparse.sampled_addmm(scores, left, right.t(), beta=0.0, out=scores)
        return values

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        pattern, (left, right), (grad,) = ctx.pattern, ctx.saved_tensors, grads
        grad_left = grad_right = None
        if ctx.needs_input_grad[1]:
            grad_left = spmm(pattern, grad, right)
        if ctx.needs_input_grad[2]:
            grad_right = spmm(pattern.transpose, grad.index_select(0, pattern.transpose_order), left)
        return None, grad_left, grad_right


def _csr(pattern: SparsePattern, values: Tensor) -> Tensor:
    return torch.sparse_csr_tensor(pattern.ptr, pattern.col, values, (pattern.n_rows, pattern.n_cols))


def _pointer(sorted_index: Tensor, size: int) -> Tensor:
    counts = torch.bincount(sorted_index, minlength=size)
    return torch.cat((counts.new_zeros(1), counts.cumsum(0)))


def full_precision(tensor: Tensor) -> Tensor:
    """Float32 for what is narrower: cuSPARSE and MKL accumulate sparse products in the input's own type."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
