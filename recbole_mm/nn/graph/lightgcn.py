"""LightGCN on the user-item graph, with two normalisations."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from recbole_mm.nn.graph.bipartite import head
from recbole_mm.nn.graph.sampling import Hop

__all__ = ["GRAPH_NORMS", "lightgcn"]

GRAPH_NORMS = ("sym", "self_loop")
_KIND = {"sym": "sym", "self_loop": "row"}


def lightgcn(hops: Sequence[Hop], users: Tensor, items: Tensor, norm: str = "sym") -> tuple[Tensor, Tensor]:
    r"""The mean over :math:`l = 0 \dots L` of :math:`S^l [E_U; E_I]`.

    .. math:: S = D^{-1/2} A D^{-1/2} \ (\text{sym}), \qquad S = (D + I)^{-1} (A + I) \ (\text{self\_loop})

    With self loops an isolated node keeps its state; without, only its own :math:`1 / (L + 1)` remains.

    Args:
        hops: What each of the :math:`L` layers propagates over, the first layer first: ``[graph] * L``, or the hops of
            a sampled neighbourhood.
        users: :math:`E_U`, of the users that the first layer reads. Shape ``(n_users, dim)``.
        items: :math:`E_I`, the same of items. Shape ``(n_items, dim)``.
        norm: ``sym`` or ``self_loop``.

    Returns:
        Users and items that the last layer gives; of a whole graph, shaped as given.

    Raises:
        ValueError: If ``norm`` is neither.

    Example:
        >>> import torch
        >>> from recbole_mm.nn.graph.bipartite import BipartiteGraph
        >>> graph = BipartiteGraph(torch.tensor([0]), torch.tensor([0]), n_users=1, n_items=1)
        >>> lightgcn([graph], torch.tensor([[1.0]]), torch.tensor([[3.0]]))
        (tensor([[2.]]), tensor([[2.]]))
    """
    if norm not in GRAPH_NORMS:
        raise ValueError(f"norm must be one of {', '.join(GRAPH_NORMS)}, got {norm!r}")
    n_users, n_items = (hops[-1].n_users, hops[-1].n_items) if hops else (len(users), len(items))
    user_sum, item_sum = head(users, n_users), head(items, n_items)
    for hop in hops:
        new_users, new_items = (hop.gather_users(items, _KIND[norm]), hop.gather_items(users, _KIND[norm]))
        if norm == "self_loop":
            new_users = _with_self_loop(head(users, hop.n_users), new_users, hop.user_degree)
            new_items = _with_self_loop(head(items, hop.n_items), new_items, hop.item_degree)
        users, items = new_users, new_items
        user_sum, item_sum = user_sum + head(users, n_users), item_sum + head(items, n_items)
    return user_sum / (len(hops) + 1), item_sum / (len(hops) + 1)


def _with_self_loop(state: Tensor, mean: Tensor, degree: Tensor) -> Tensor:
    """Mean over neighbours and the node itself, from the mean over neighbours."""
    share = (1 / (degree.to(state.dtype) + 1)).unsqueeze(1)
    return mean + share * (state - mean)
