"""Statistics of feature tables, in one pass over blocks of rows."""

from __future__ import annotations

from logging import getLogger

import torch
from torch import Tensor

from recbole_mm.data.features.table import AnyTable

__all__ = ["chosen_norm", "lengths", "mean_cosine", "moments", "own_places", "scale_warning"]

_COMMON = 0.5  # a mean cosine with the mean above it: the common direction is most of what a vector is
_OUTLIER = 10.0  # times the median length; vectors of pretrained networks reach 1.5, of four published data sets 4.2


def moments(table: AnyTable, counted: Tensor) -> tuple[Tensor, Tensor]:
    r"""Mean and standard deviation of every column, float64, in one pass.

    Blocks are put together by their number, mean and sum of squares about it, so nothing is lost where a mean is large
    beside the deviation:

    .. math:: \mu = \mu_a + \delta \tfrac{n_b}{n}, \quad M = M_a + M_b + \delta^2 \tfrac{n_a n_b}{n}, \quad
              \delta = \mu_b - \mu_a, \; n = n_a + n_b

    Args:
        table: The table.
        counted: Which rows count, bool ``(n,)``; at least one.

    Returns:
        Mean and deviation :math:`\sqrt{M / n}`, each ``(d,)``.
    """
    number = 0
    mean = square = torch.zeros(table.shape[-1], dtype=torch.float64)
    for ids, rows in table.parts(counted.nonzero().squeeze(1)):
        part = _vectors(table, ids, rows)
        before, number = number, number + len(part)
        own_mean = part.mean(dim=0)
        shift = own_mean - mean
        square = square + part.sub_(own_mean).square_().sum(dim=0) + shift.square() * (before * len(part) / number)
        mean = mean + shift * (len(part) / number)
    return mean, (square / number).sqrt()


def own_places(count: Tensor, places: int) -> Tensor:
    """Which places hold an entity's own vectors, bool ``(n, places)``."""
    return torch.arange(places) < count.unsqueeze(1)


def _vectors(table: AnyTable, ids: Tensor, rows: Tensor) -> Tensor:
    """All vectors of some entities, their own ones, one below the other, in float64: a new tensor."""
    block = rows.to(torch.float64, copy=True)
    if table.count is None:
        return block.reshape(-1, block.shape[-1])
    return block[own_places(table.count[ids], block.shape[1])]


def lengths(block: Tensor) -> Tensor:
    """Length of each vector; never zero, so that a vector of zeros can be divided by it."""
    length = block.norm(dim=-1, keepdim=True)
    # Squares leave the range of float32 long before the numbers do: 1e-20 would count as zero, 1e20 as infinite.
    doubtful = ~((length > 1e-15) & (length < 1e15))
    if doubtful.any():
        exact = block.double().norm(dim=-1, keepdim=True)
        length = torch.where(doubtful, exact.to(length.dtype), length)
    return length.clamp_min(torch.finfo(length.dtype).tiny)


def mean_cosine(table: AnyTable, known: Tensor | None = None) -> float:
    r"""How much of the vectors is one common direction: the mean cosine between the observed rows and their mean.

    Vectors of pretrained networks often have .9 and more of it: without centring, all items look alike.

    Args:
        table: The table as read.
        known: Which entities may be looked at, as for :func:`~recbole_mm.data.features.prepare.prepare`.

    Returns:
        A number in [-1, 1]; 0 where nothing is observed or the mean is zero.
    """
    counted = table.observed if known is None else table.observed & known
    if not counted.any():
        return 0.0
    mean = moments(table, counted)[0]
    mean = mean / mean.norm().clamp_min(torch.finfo(torch.float64).tiny)
    total, count = 0.0, 0
    for ids, rows in table.parts(counted.nonzero().squeeze(1)):
        vectors = _vectors(table, ids, rows)
        total += float((vectors @ mean / lengths(vectors).squeeze(1)).sum())
        count += len(vectors)
    return total / count


def without_outliers(table: AnyTable, known: Tensor | None = None) -> Tensor | None:
    """Entities whose vectors can stand for all of them: those of lengths up to ten times the median.

    One vector that is a thousand times as long as the others decides every mean and deviation; after a z-score with
    these all the others look alike.

    Args:
        table: The table as read.
        known: Which entities may be looked at, as for :func:`~recbole_mm.data.features.prepare.prepare`.

    Returns:
        Bool ``(n,)``; ``known`` itself where no vector is longer.
    """
    ids = (table.observed if known is None else table.observed & known).nonzero().squeeze(1)
    longest = torch.zeros(len(table.observed), dtype=torch.float64)
    for block, rows in table.parts(ids):
        rows = rows.float() if rows.dtype in (torch.float16, torch.bfloat16) else rows
        longest[block] = lengths(rows).double().flatten(1).amax(dim=1)
    positive = longest[longest > 1e-30]
    if not len(positive):  # zeros, whose length is no more than the least that `lengths` gives
        return known
    ordinary = longest <= _OUTLIER * positive.median()
    return known if bool(ordinary[ids].all()) else ordinary & (table.observed if known is None else known)


def chosen_norm(table: AnyTable, known: Tensor | None = None) -> tuple[str, Tensor | None]:
    """What ``feature_norm: auto`` is for a table: ``zscore_l2`` where its rows have a common direction, else ``l2``.

    Rows of length 1 are what the models' initialisations are made for, whatever network the vectors come from. Neither
    the choice nor the statistics of the z-score are taken from outliers. The log says what was found.

    Args:
        table: The table as read.
        known: Which entities may be looked at, as for :func:`~recbole_mm.data.features.prepare.prepare`.

    Returns:
        The norm, and the entities whose statistics it takes.
    """
    of = f"{table.modality} vectors of {table.entity}s"
    typical = without_outliers(table, known)
    if typical is not known:
        ignored = int((table.observed if known is None else table.observed & known).sum() - typical.sum())  # type: ignore[union-attr]
        getLogger().warning(
            f"feature_norm: auto - {ignored:,} {of} are more than {_OUTLIER:.0f} times as long as the median one: they "
            "are scaled like the others, whose statistics leave them out. Check the file (recbole-mm inspect)."
        )
    cosine = mean_cosine(table, typical)
    norm = "zscore_l2" if cosine > _COMMON else "l2"
    getLogger().info(f"feature_norm: auto - {of} have a mean cosine of {cosine:.2f} with their mean: {norm}.")
    return norm, typical


def scale_warning(table: AnyTable) -> str | None:
    """What is odd about the values of a table, or ``None``: constant columns, or values of an unusual scale."""
    if int(table.observed.sum()) < 2:
        return None
    mean, deviation = moments(table, table.observed)
    scale = float((mean.square() + deviation.square()).mean().sqrt())
    varying = deviation[deviation > 1e-6 * mean.abs().clamp_min(1e-30)]
    what = f"{table.entity} features [{table.modality}]"
    advice = "feature_norm: zscore, l2 or zscore_l2 brings features to a common scale"
    if len(varying) == 0:
        return f"{what} are constant: all rows are the same; check the file ({advice}, but cannot help here)."
    if 2 * len(varying) < len(deviation):
        constant = len(deviation) - len(varying)
        return f"{what}: {constant:,} of {len(deviation):,} columns are constant; check the file ({advice})."
    if not 1e-3 <= scale <= 1e2:
        return f"{what} are badly scaled: root mean square {scale:.3g}; {advice}."
    spread = float(varying.max() / varying.median())
    if spread > 100:
        return f"{what} are badly scaled: one column varies {spread:.3g} times as much as the median one; {advice}."
    return None
