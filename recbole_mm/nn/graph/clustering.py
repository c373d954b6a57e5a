"""Soft clusters of nodes, and graph convolutions that stay inside them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from recbole_mm.nn.graph.bipartite import BipartiteGraph, SparsePattern, sddmm, segment_sum

__all__ = [
    "balance_penalty",
    "cluster_entropy",
    "cluster_kl",
    "clustered_item_weights",
    "coarse_messages",
    "keep_totals",
    "local_messages",
    "sharpened_target",
    "student_t_assignment",
]


def student_t_assignment(states: Tensor, centroids: Tensor, scale: Tensor | float = 1.0) -> Tensor:
    r"""Soft assignment :math:`q_{ic} \propto (1 + \|h_i - \mu_c\|^2 / s)^{-1}`, rows summing to 1.

    Args:
        states: Shape ``(n, dim)``.
        centroids: Shape ``(n_clusters, dim)``.
        scale: :math:`s`, a squared length: distances far below it leave all clusters alike.

    Returns:
        Shape ``(n, n_clusters)``.

    Example:
        >>> student_t_assignment(torch.tensor([[0.0], [3.0]]), torch.tensor([[0.0], [3.0]]))
        tensor([[0.9091, 0.0909],
                [0.0909, 0.9091]])
    """
    # By differences, not by the inner products that are faster: these lose all digits of a short distance.
    distance = torch.cdist(states, centroids, compute_mode="donot_use_mm_for_euclid_dist")
    closeness = 1.0 / (1.0 + distance.square() / scale)
    return closeness / closeness.sum(dim=1, keepdim=True)


def balance_penalty(share: Tensor, members: Tensor) -> Tensor:
    r"""How far the clusters are from equal sizes: :math:`KL(\bar p \| 1/C) = \ln C - H(\bar p)`.

    It is 0 for clusters of one size, whether rows are spread over them or belong to one each, and :math:`\ln C` where
    one cluster holds everything.

    Args:
        share: Rows summing to 1. Shape ``(n, n_clusters)``.
        members: Which rows count. Shape ``(n,)``.

    Example:
        >>> balance_penalty(torch.eye(2), torch.tensor([True, True]))
        tensor(0.)
    """
    members = members.to(share.dtype)
    size = members @ share / members.sum().clamp(min=1)
    return (size * (size.clamp(min=torch.finfo(size.dtype).tiny) * share.shape[1]).log()).sum()


def cluster_entropy(share: Tensor, members: Tensor) -> tuple[float, float]:
    """Entropy of the clusters' sizes, and the mean entropy of a row, both as a part of the largest possible.

    Args:
        share: Rows summing to 1. Shape ``(n, n_clusters)``.
        members: Which rows count. Shape ``(n,)``.

    Returns:
        1 and 0 for clusters of one size with every row in one of them; 0 and 0 where one cluster holds everything.
    """
    if share.shape[1] == 1:
        return 0.0, 0.0
    share = share[members].double()
    largest = torch.tensor(share.shape[1], dtype=share.dtype).log()
    size, rows = share.mean(dim=0), share
    entropy = [-(part * part.clamp(min=1e-300).log()).sum(dim=-1).mean() / largest for part in (size, rows)]
    return float(entropy[0]), float(entropy[1])


def sharpened_target(assignment: Tensor, members: Tensor | None = None) -> Tensor:
    r"""Target of deep embedded clustering: :math:`t_{ic} \propto q_{ic}^2 / \sum_j q_{jc}`, rows summing to 1.

    Args:
        assignment: :math:`q`. Shape ``(n, n_clusters)``.
        members: 1 for rows that count in the clusters' sizes, 0 for others; all count if not given. Shape ``(n,)``.

    Returns:
        Shape ``(n, n_clusters)``, without gradient.
    """
    assignment = assignment.detach()
    size = assignment.sum(dim=0) if members is None else members.to(assignment.dtype) @ assignment
    target = assignment.square() / size.clamp(min=torch.finfo(assignment.dtype).tiny)
    return target / target.sum(dim=1, keepdim=True)


def cluster_kl(target: Tensor, assignment: Tensor, members: Tensor | None = None) -> Tensor:
    r"""Mean over rows of :math:`KL(t_i \| q_i)`.

    Args:
        target: :math:`t`. Shape ``(n, n_clusters)``.
        assignment: :math:`q`. Shape ``(n, n_clusters)``.
        members: 1 for rows that count, 0 for others; all count if not given. Shape ``(n,)``.
    """
    divergence = F.kl_div(assignment.log(), target, reduction="none").sum(dim=1)
    if members is None:
        return divergence.mean()
    members = members.to(divergence.dtype)
    return (divergence * members).sum() / members.sum().clamp(min=1)


def clustered_item_weights(pattern: SparsePattern, values: Tensor, assignment: Tensor) -> Tensor:
    r"""Edge weights inside soft clusters: :math:`(S \circ q q^\top)`, each row keeping its total of :math:`S`.

    .. math:: w_{ij} = S_{ij} \langle q_i, q_j \rangle
              \frac{\sum_{j'} S_{ij'}}{\sum_{j'} S_{ij'} \langle q_i, q_{j'} \rangle}

    The product with these weights is :math:`\sum_c \mathrm{diag}(q_{\cdot c}) S \mathrm{diag}(q_{\cdot c}) H` with rows
    rescaled, at the width of :math:`H` instead of one width per cluster. One cluster gives :math:`S` itself.

    Args:
        pattern: Edges of the item graph.
        values: :math:`S`, non-negative. Shape ``(n_edges,)``.
        assignment: :math:`q`. Shape ``(n, n_clusters)``.

    Returns:
        Shape ``(n_edges,)``.
    """
    inside = values * sddmm(pattern, assignment, assignment)
    tiny = torch.finfo(inside.dtype).tiny
    before, after = (segment_sum(weights, pattern.ptr) for weights in (values, inside))
    return inside * (before / after.clamp(min=tiny)).index_select(0, pattern.row)


def local_messages(
    graph: BipartiteGraph, users: Tensor, items: Tensor, user_share: Tensor, item_share: Tensor
) -> tuple[Tensor, Tensor]:
    r"""What one hop inside every co-cluster sends, :math:`M_c = \hat A\, \mathrm{diag}(P_{\cdot c})\, E_c`.

    All clusters lie side by side in one sparse product a side. The new states are :math:`\mathrm{diag}(P_{\cdot c})
    M_c`; what is wanted of them are sums, and no table of their size is made for these: :func:`keep_totals`,
    :func:`coarse_messages`. Another hop from them is one from :math:`M` with the shares squared.

    Args:
        graph: The training pairs; :math:`\hat A` is symmetrically normalised.
        users: States per cluster, ``(n_users, n_clusters, dim)``, or ``(n_users, dim)`` while they are all the same.
        items: The same for items.
        user_share: :math:`P` of the users. Shape ``(n_users, n_clusters)``.
        item_share: :math:`P` of the items. Shape ``(n_items, n_clusters)``.

    Returns:
        Messages to users and items, ``(n, n_clusters, dim)``.
    """
    inside = [
        _Outer.apply(share, states) if states.dim() == 2 else states * share.unsqueeze(2)
        for states, share in ((users, user_share), (items, item_share))
    ]
    to_users = graph.gather_users(inside[1].flatten(start_dim=1))
    to_items = graph.gather_items(inside[0].flatten(start_dim=1))
    return to_users.unflatten(1, inside[1].shape[1:]), to_items.unflatten(1, inside[0].shape[1:])


def keep_totals(messages: Tensor, share: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    r"""Rescale what a node receives inside its clusters to what it would receive without any.

    .. math:: \sum_c E_{c,n} \frac{m_n}{\sum_{c'} m_{c',n}}, \quad E_{c,n} = P_{nc} M_{c,n}

    Shares below 1 let less through than the graph does, and more the more alike the shares of neighbours are; a
    training that may choose the shares would therefore put everything into one cluster. Rescaled, shares decide from
    where a node receives, not how much. A node that receives (next to) nothing inside its clusters is left at zero.

    Args:
        messages: :math:`M_{c,n}`, in the last column the same of ones. Shape ``(n, n_clusters, dim + 1)``.
        share: :math:`P`. Shape ``(n, n_clusters)``.
        total: :math:`m_n`, the propagation of ones without clusters. Shape ``(n,)`` or ``(n, 1)``.

    Returns:
        The sum, ``(n, dim)``, and the factor of each node, ``(n,)``.
    """
    summed = _Contract.apply(share, messages)
    received, total = summed[:, -1], total.to(summed.dtype).flatten()
    # Not by a clamp: gradients that pass through all shares, those that are 0 as well, would be multiplied by 1e38.
    little = received <= total * torch.finfo(summed.dtype).tiny ** 0.5
    factor = (total / received.masked_fill(little, 1.0)).masked_fill(little, 0.0)
    return summed[:, :-1] * factor.unsqueeze(1), factor


def coarse_messages(
    graph: BipartiteGraph,
    messages: tuple[Tensor, Tensor],
    share: tuple[Tensor, Tensor],
    factor: tuple[Tensor, Tensor],
) -> list[Tensor]:
    r"""Messages between clusters: every node receives what its clusters learn from the other clusters.

    .. math:: z_c = \frac{\sum_n P_{nc} E_{c,n}}{\sum_n P_{nc}}, \quad E_{c,n} = f_n P_{nc} M_{c,n}, \qquad
              z' = \mathrm{rownorm}(P^\top \hat A P)\, z, \qquad G_n = \textstyle\sum_c P_{nc} z'_c

    Args:
        graph: The training pairs.
        messages: :math:`M` of users and of items, as :func:`keep_totals` takes them.
        share: :math:`P` of users and of items, ``(n, n_clusters)`` each; all-zero rows take no part.
        factor: :math:`f` of users and of items, ``(n,)`` each.

    Returns:
        :math:`G` of the users and of the items, ``(n, dim)`` each.
    """
    tiny = torch.finfo(messages[0].dtype).tiny
    total = share[0].sum(dim=0) + share[1].sum(dim=0)
    summed = sum(_Centres.apply(p.square() * f.unsqueeze(1), m)[:, :-1] for p, f, m in zip(share, factor, messages))
    centres = summed / total.clamp(min=tiny).unsqueeze(1)
    half = share[0].T @ graph.gather_users(share[1])
    between = half + half.T  # both halves of the symmetric bipartite matrix
    between = between / between.sum(dim=1, keepdim=True).clamp(min=tiny)
    received = between @ centres
    return [p @ received for p in share]


class _Outer(torch.autograd.Function):
    """Shares ``(n, C)`` and states ``(n, dim)`` to the states inside every cluster, ``(n, C, dim)``.

    Tables of this size are what a step inside clusters spends its time on: here and below, gradients are sums that are
    made without another one.
    """

    @staticmethod
    def forward(ctx: Any, share: Tensor, states: Tensor) -> Tensor:
        ctx.save_for_backward(share, states)
        return share.unsqueeze(2) * states.unsqueeze(1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        (share, states), (grad,) = ctx.saved_tensors, grads
        return torch.einsum("ncd,nd->nc", grad, states), _Contract.apply(share, grad)


class _Contract(torch.autograd.Function):
    """Shares ``(n, C)`` and messages ``(n, C, dim)`` to the sum over clusters, ``(n, dim)``."""

    @staticmethod
    def forward(ctx: Any, share: Tensor, messages: Tensor) -> Tensor:
        ctx.save_for_backward(share, messages)
        total = share[:, :1] * messages[:, 0]
        for c in range(1, share.shape[1]):
            total.addcmul_(share[:, c : c + 1], messages[:, c])
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        (share, messages), (grad,) = ctx.saved_tensors, grads
        return torch.einsum("ncd,nd->nc", messages, grad), _Outer.apply(share, grad)


class _Centres(torch.autograd.Function):
    """Weights ``(n, C)`` and messages ``(n, C, dim)`` to the sum over nodes, ``(C, dim)``."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, messages: Tensor) -> Tensor:
        ctx.save_for_backward(weight, messages)
        with torch.autocast(weight.device.type, enabled=False):  # a sum over all nodes, and backward finds one dtype
            return torch.einsum("nc,ncd->cd", weight, messages)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        (weight, messages), (grad,) = ctx.saved_tensors, grads
        return torch.einsum("ncd,cd->nc", messages, grad), weight.unsqueeze(2) * grad
