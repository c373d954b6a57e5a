"""LightGCN on the user-item graph, with two normalisations."""

from __future__ import annotations

from torch import Tensor

from recbole_mm.nn.graph.bipartite import BipartiteGraph

__all__ = ["GRAPH_NORMS", "lightgcn"]

GRAPH_NORMS = ("sym", "self_loop")


def lightgcn(
    graph: BipartiteGraph, users: Tensor, items: Tensor, n_layers: int, norm: str = "sym"
) -> tuple[Tensor, Tensor]:
    r"""The mean over :math:`l = 0 \dots L` of :math:`S^l [E_U; E_I]`.

    .. math:: S = D^{-1/2} A D^{-1/2} \ (\text{sym}), \qquad S = (D + I)^{-1} (A + I) \ (\text{self\_loop})

    With self loops an isolated node keeps its state; without, only its own :math:`1 / (L + 1)` remains.

    Args:
        graph: The training pairs.
        users: :math:`E_U`. Shape ``(n_users, dim)``.
        items: :math:`E_I`. Shape ``(n_items, dim)``.
        n_layers: :math:`L`.
        norm: ``sym`` or ``self_loop``.

    Returns:
        Users and items, shaped as given.

    Raises:
        ValueError: If ``norm`` is neither.

    Example:
        >>> import torch
        >>> graph = BipartiteGraph(torch.tensor([0]), torch.tensor([0]), n_users=1, n_items=1)
        >>> lightgcn(graph, torch.tensor([[1.0]]), torch.tensor([[3.0]]), 1)
        (tensor([[2.]]), tensor([[2.]]))
    """
    if norm not in GRAPH_NORMS:
        raise ValueError(f"norm must be one of {', '.join(GRAPH_NORMS)}, got {norm!r}")
    user_sum, item_sum = users, items
    for _ in range(n_layers):
        if norm == "sym":
            users, items = graph.propagate(users, items)
        else:
            means = graph.propagate(users, items, "row")
            users = _with_self_loop(users, means[0], graph.user_degree)
            items = _with_self_loop(items, means[1], graph.item_degree)
        user_sum, item_sum = user_sum + users, item_sum + items
    return user_sum / (n_layers + 1), item_sum / (n_layers + 1)


def _with_self_loop(state: Tensor, mean: Tensor, degree: Tensor) -> Tensor:
    """Mean over neighbours and the node itself, from the mean over neighbours."""
    share = (1 / (degree.to(state.dtype) + 1)).unsqueeze(1)
    return mean + share * (state - mean)
