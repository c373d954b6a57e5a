"""Graph convolution over the learned embeddings of one kind of node."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recbole_mm.nn.graph.bipartite import sym_norm
from recbole_mm.nn.graph.sparse import SparsePattern, spmm

__all__ = ["GraphEncoder", "WeightedGraph"]


class WeightedGraph(nn.Module):
    r"""A fixed graph with the symmetrically normalised weights :math:`\hat A = D^{-1/2} A D^{-1/2}`.

    Args:
        adjacency: A scipy sparse matrix with non-negative weights, ``(n, n)``; self loops are stored entries.

    Example:
        >>> import scipy.sparse as sp
        >>> WeightedGraph(sp.csr_matrix([[1.0, 1.0], [1.0, 1.0]])).propagate(torch.tensor([[2.0], [4.0]]))
        tensor([[3.],
                [3.]])
    """

    norm: Tensor
    transposed_norm: Tensor

    def __init__(self, adjacency: object) -> None:
        super().__init__()
        self.pattern, values = SparsePattern.from_scipy(adjacency)
        norm = sym_norm(self.pattern, values)
        self.register_buffer("norm", norm, persistent=False)
        self.register_buffer("transposed_norm", norm[self.pattern.transpose_order], persistent=False)

    def propagate(self, nodes: Tensor) -> Tensor:
        r""":math:`\hat A X`, shape ``(n, dim)``."""
        return spmm(self.pattern, self.norm, nodes, self.transposed_norm)


class GraphEncoder(nn.Module):
    r"""ID embeddings, convolved.

    .. math:: Z^{l+1} = \mathrm{ReLU}(\hat A Z^l W^l) \quad (\text{no ReLU at the end}; \text{gcn}), \qquad
              \tfrac1{L+1} \sum_l \hat A^l Z^0 \quad (\text{lightgcn})

    Nothing is added to a node, so the padding row stays exactly zero.

    Args:
        n_nodes: Number of nodes, the padding included.
        dim: Width of the embeddings and of the result.
        n_layers: Number of convolutions; 0 gives the embeddings themselves.
        kind: ``gcn`` or ``lightgcn``.
    """

    def __init__(self, n_nodes: int, dim: int, n_layers: int, kind: str) -> None:
        super().__init__()
        if kind not in ("gcn", "lightgcn"):
            raise ValueError(f"kind must be 'gcn' or 'lightgcn', got {kind!r}")
        self.n_layers, self.kind = n_layers, kind
        self.embedding = nn.Embedding(n_nodes, dim, padding_idx=0)
        nn.init.xavier_normal_(self.embedding.weight)
        with torch.no_grad():
            self.embedding.weight[0].zero_()
        layers = n_layers if kind == "gcn" else 0
        self.weights = nn.ParameterList(nn.init.xavier_uniform_(torch.empty(dim, dim)) for _ in range(layers))

    def forward(self, graph: WeightedGraph) -> Tensor:
        """Encoded nodes, shape ``(n_nodes, dim)``."""
        nodes = self.embedding.weight
        if self.kind == "lightgcn":
            total = nodes
            for _ in range(self.n_layers):
                nodes = graph.propagate(nodes)
                total = total + nodes
            return total / (self.n_layers + 1)
        for index, weight in enumerate(self.weights):
            nodes = graph.propagate(nodes @ weight)
            if index < self.n_layers - 1:
                nodes = F.relu(nodes)
        return nodes
