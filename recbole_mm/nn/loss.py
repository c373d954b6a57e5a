"""Ranking and contrastive losses, computed in at least float32 whatever autocast asks for."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from recbole_mm.nn.graph.sparse import full_precision

__all__ = [
    "bpr_loss",
    "check_temperature",
    "contrast_scale",
    "first_occurrence",
    "frobenius_penalty",
    "info_nce_loss",
    "l2_penalty",
]

CHUNK_SCORES = 2**25
"""Scores that :func:`info_nce_loss` holds at once before it works in chunks: 128 MB of float32."""


def bpr_loss(positive: Tensor, negative: Tensor, valid: Tensor | None = None) -> Tensor:
    r"""Bayesian personalised ranking, finite for any gap between the scores.

    .. math:: \frac1B \sum_b -\ln \sigma(p_b - n_b) = \frac1B \sum_b \mathrm{softplus}(n_b - p_b)

    Args:
        positive: Scores of observed pairs. Shape ``(batch,)``, or any shape that broadcasts with ``negative``.
        negative: Scores of sampled pairs. Shape ``(batch,)``, or for instance ``(batch, n_negatives)``.
        valid: Gaps that count in the mean; all if not given. Bool, of the shape of the gaps.

    Returns:
        A scalar; 0 where no gap counts.

    Example:
        >>> bpr_loss(torch.zeros(3), torch.zeros(3))
        tensor(0.6931)
    """
    losses = F.softplus(full_precision(negative) - full_precision(positive))
    return losses.mean() if valid is None else (losses * valid).sum() / valid.sum().clamp(min=1)


def l2_penalty(*rows: Tensor) -> Tensor:
    r"""Half the squared length of a batch's rows, averaged over the batch: the one penalty of all models.

    .. math:: \frac{1}{2B} \sum_t \sum_{x \in t} x^2

    This is the scale in which papers tune :math:`\lambda` (RecBole's ``EmbLoss`` with ``require_pow``): each row that a
    pair touches pays for its own length, whatever the batch size. A mean over all elements would be smaller by half the
    embedding size and could not regularise anything.

    Args:
        rows: The rows that the batch touches, repeated ones included. Shape ``(batch, dim)`` for the first, which sets
            the batch size :math:`B`; the others may be of any shape, such as ``(2 * batch, dim)`` for the items of
            positive and negative pairs together, or ``(batch,)`` for biases.

    Returns:
        A scalar.

    Raises:
        ValueError: If no tensor is given.

    Example:
        >>> l2_penalty(torch.tensor([[1.0, 3.0], [0.0, 2.0]]), torch.tensor([[2.0], [0.0]]))
        tensor(4.5000)
    """
    if not rows:
        raise ValueError("l2_penalty needs at least one tensor, got none")
    squares = torch.stack([full_precision(tensor).square().sum() for tensor in rows]).sum()
    return squares / (2 * max(len(rows[0]), 1))


def frobenius_penalty(*tables: Tensor) -> Tensor:
    r"""Lengths of whole tables, *not* squared: :math:`\sum_t \|X_t\|_F`. The caller divides by rows or batch.

    Its gradient has length 1 for every table, whatever the table's size; it is 0 at a table of zeros.

    Args:
        tables: At least one, of any shapes.

    Returns:
        A scalar.

    Raises:
        ValueError: If no tensor is given.

    Example:
        >>> frobenius_penalty(torch.tensor([[3.0], [4.0]]), torch.tensor([2.0]))
        tensor(7.)
    """
    if not tables:
        raise ValueError("frobenius_penalty needs at least one tensor, got none")
    return torch.stack([torch.linalg.vector_norm(full_precision(table)) for table in tables]).sum()


def contrast_scale(anchors: Tensor, positives: Tensor) -> Tensor:
    r"""What keeps a contrast of normalised rows in proportion to BPR while rows are short: their mean lengths' product.

    The gradient of BPR with respect to a row is as long as the other side's row, that of a contrast of normalised rows
    is one over the row's own length. With tables drawn small the contrast is one to two orders stronger, and as Adam
    follows directions alone, nothing else is learned for as long as that lasts.

    .. math:: \min\bigl(1,\; \overline{\|a\|} \cdot \overline{\|p\|}\bigr)

    Args:
        anchors: What BPR multiplies with the positives, such as users. Shape ``(batch, dim)``.
        positives: The positives. Shape ``(batch, dim)``.

    Returns:
        A scalar, a constant to the gradient.

    Example:
        >>> contrast_scale(0.5 * torch.eye(4), torch.eye(4))
        tensor(0.5000)
    """
    lengths = [rows.detach().norm(dim=1).mean() for rows in (anchors, positives)]
    return (lengths[0] * lengths[1]).clamp(max=1)


def info_nce_loss(
    left: Tensor,
    right: Tensor,
    temperature: float,
    extra_negative: Tensor | None = None,
    symmetric: bool = False,
    valid: Tensor | None = None,
    chunk_rows: int | None = None,
    normalize: bool = True,
    same: Tensor | None = None,
) -> Tensor:
    r"""Contrastive loss of two views with the rest of the batch as negatives.

    .. math:: \frac1B \sum_b -\ln \frac{\exp s(l_b, r_b)}{\sum_{b'} \exp s(l_b, r_{b'}) + \exp s(l_b, c_b)},
        \quad s(x, y) = \frac{\langle x, y \rangle}{\tau \, \|x\| \|y\|}

    Rows are normalised here; an all-zero row stays zero. The term with the extra negative :math:`c_b` is there only if
    one is given. Row ``b`` of one view must be the only match of row ``b`` of the other: take distinct users or items,
    or leave the repeated ones out with ``valid=first_occurrence(ids)``, which does not wait for the device. Where every
    row must stay an anchor, ``same=ids`` keeps the other copies of row ``b``'s id out of its denominator instead.

    Args:
        left: Anchors. Shape ``(batch, dim)``.
        right: Their positives. Shape ``(batch, dim)``.
        temperature: :math:`\tau`, greater than 0.
        extra_negative: One more negative for each anchor. Shape ``(batch, dim)``.
        symmetric: Average with the loss that has ``right`` as anchors (and the same extra negatives).
        valid: Rows that take part, as anchors and as negatives; all if not given. Bool, shape ``(batch,)``.
        chunk_rows: Anchors whose scores are held at once; they are computed again in the backward pass, so that memory
            does not grow with ``batch**2``. By default a batch of more than 5,792 rows is cut into chunks.
        normalize: Whether rows are divided by their lengths; otherwise the scores are plain inner products over
            :math:`\tau`.
        same: Ids of the rows; rows of one id are no negatives of each other. Integers, shape ``(batch,)``.

    Returns:
        A scalar; 0 for a batch with no valid row, and for a single row without extra negative.

    Raises:
        ValueError: If the shapes differ or the temperature is not a positive number.

    Example:
        >>> info_nce_loss(torch.eye(4), torch.eye(4), temperature=0.2)
        tensor(0.0200)
    """
    if (
        left.dim() != 2
        or left.shape != right.shape
        or extra_negative is not None
        and extra_negative.shape != left.shape
    ):
        shapes = [tuple(tensor.shape) for tensor in (left, right, extra_negative) if tensor is not None]
        raise ValueError(f"the views must be matrices of one shape (batch, dim), got {' and '.join(map(str, shapes))}")
    check_temperature(temperature)
    batch = left.shape[0]
    if same is not None and (same.shape != (batch,) or same.is_floating_point()):
        raise ValueError(f"same must be a vector of {batch} ids, got {same.dtype} {tuple(same.shape)}")
    if valid is not None and (valid.dtype != torch.bool or valid.shape != (batch,)):
        raise ValueError(f"valid must be a bool vector of shape ({batch},), got {valid.dtype} {tuple(valid.shape)}")
    if valid is not None and left.device.type == "cpu":
        # Rows that take no part cost as much as the others. A GPU would have to tell first how many there are.
        rows = valid.nonzero().squeeze(1)
        left, right = F.embedding(rows, left), F.embedding(rows, right)
        extra_negative = None if extra_negative is None else F.embedding(rows, extra_negative)
        same = None if same is None else same[rows]
        batch, valid = len(rows), None
    if batch == 0:
        return (left.sum() + right.sum()) * 0.0
    if chunk_rows is None:
        chunk_rows = max(1, CHUNK_SCORES // batch)
    with torch.autocast(left.device.type, enabled=False):
        first, second = full_precision(left), full_precision(right)
        hard = None if extra_negative is None else full_precision(extra_negative)
        if normalize:
            first, second = F.normalize(first, dim=1), F.normalize(second, dim=1)
            hard = None if hard is None else F.normalize(hard, dim=1)
        loss = _cross_entropy(first, second, hard, valid, temperature, chunk_rows, same)
        if symmetric:
            loss = (loss + _cross_entropy(second, first, hard, valid, temperature, chunk_rows, same)) / 2
    return loss


def first_occurrence(index: Tensor) -> Tensor:
    """Mark the first occurrence of every id, without waiting for the device as ``torch.unique`` does.

    Args:
        index: Ids in any order. Shape ``(batch,)``.

    Returns:
        Bool, shape ``(batch,)``.

    Example:
        >>> first_occurrence(torch.tensor([5, 2, 5, 2, 9]))
        tensor([ True,  True, False, False,  True])
    """
    ordered, order = torch.sort(index, stable=True)
    fresh = torch.ones_like(index, dtype=torch.bool)
    fresh[1:] = ordered[1:] != ordered[:-1]
    return torch.empty_like(fresh).scatter_(0, order, fresh)


def check_temperature(temperature: float) -> None:
    """Refuse a temperature that is not a positive number, with a ``ValueError``."""
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature must be a positive number, got {temperature}")


def _cross_entropy(
    anchor: Tensor,
    other: Tensor,
    hard: Tensor | None,
    valid: Tensor | None,
    temperature: float,
    chunk_rows: int,
    same: Tensor | None = None,
) -> Tensor:
    """Mean over valid anchors of ``logsumexp`` of the scores minus the positive's score."""
    anchor = anchor / temperature
    positive = (anchor * other).sum(dim=1)
    extra = None if hard is None else (anchor * hard).sum(dim=1)
    if chunk_rows >= anchor.shape[0]:
        partition = _log_partition(anchor, other, extra, valid, same)
    else:
        # Nothing in a chunk is random, so the generators' states need not be kept for computing it again.
        chunks = []
        for start in range(0, anchor.shape[0], chunk_rows):
            rows = slice(start, start + chunk_rows)
            arguments = (anchor[rows], other, None if extra is None else extra[rows], valid, same, start)
            chunks.append(checkpoint(_log_partition, *arguments, use_reentrant=False, preserve_rng_state=False))
        partition = torch.cat(chunks)
    losses = partition - positive
    return losses.mean() if valid is None else (losses * valid).sum() / valid.sum().clamp(min=1)


def _log_partition(
    anchor: Tensor,
    other: Tensor,
    extra: Tensor | None,
    valid: Tensor | None,
    same: Tensor | None = None,
    start: int = 0,
) -> Tensor:
    """Log of the denominators of the anchors ``start`` and following."""
    scores = anchor @ other.t()
    # Not minus infinity: where no row is valid at all, its gradient would be NaN.
    lowest = torch.finfo(scores.dtype).min / 4
    if same is not None:
        copies = same[start : start + len(anchor), None] == same
        copies.diagonal(start).fill_(False)  # the anchor's own partner stays
        scores = scores.masked_fill(copies, lowest)
    if valid is not None:
        scores = scores.masked_fill(~valid, lowest)
    partition = scores.logsumexp(dim=1)
    return partition if extra is None else torch.logaddexp(partition, extra)
