"""Several vectors per entity in varying number, such as one to four pictures of a product."""

from __future__ import annotations

from pathlib import Path

import numpy as np

__all__ = ["ragged"]


def ragged(feature: np.ndarray, count: np.ndarray, path: Path) -> np.ndarray:
    r"""Vectors of every row in one array; places beyond a row's own vectors hold their mean.

    .. math:: x_{ir} = \tfrac{1}{c_i} \sum_{s < c_i} x_{is} \quad \text{for } r \geq c_i

    So the mean of a row is that of its own vectors, and no model reads a vector of zeros as content.

    Args:
        feature: Padded vectors ``(rows, R, d)``, or all of them one after the other, ``(sum of count, d)``.
        count: Number of vectors of each row, ``(rows,)``, at least 1.
        path: The file, for messages.

    Returns:
        Shape ``(rows, R, d)``.

    Raises:
        ValueError: Counts that do not fit.

    Example:
        >>> ragged(np.array([[2.0], [4.0], [5.0]]), np.array([2, 1]), Path("x.npz"))[..., 0].tolist()
        [[2.0, 4.0], [5.0, 5.0]]
    """
    if count.ndim != 1 or count.dtype.kind not in "iu" or not len(count) or int(count.min()) < 1:
        raise ValueError(
            f"{path}: count should be whole numbers of at least 1, one for each id, got {count.dtype} of shape "
            f"{count.shape}; leave rows without a vector out."
        )
    if feature.dtype.kind not in "biuf" or feature.ndim not in (2, 3):
        raise ValueError(
            f"{path}: expected numbers of shape (rows, vectors, columns) beside count, got {feature.shape}."
        )
    real = np.arange(int(count.max())) < count[:, None]
    if feature.ndim == 2:
        if len(feature) != int(count.sum()):
            raise ValueError(f"{path}: count adds up to {int(count.sum()):,}, and there are {len(feature):,} vectors.")
        padded = np.zeros((*real.shape, feature.shape[1]), dtype=feature.dtype)
        padded[real] = feature
    else:
        if feature.shape[0] != len(count) or feature.shape[1] < real.shape[1]:
            raise ValueError(
                f"{path}: count has {len(count):,} rows of up to {real.shape[1]} vectors, and feature has the shape "
                f"{feature.shape}."
            )
        padded = feature[:, : real.shape[1]].copy()
    kind = feature.dtype if feature.dtype.kind == "f" else np.dtype(np.float32)
    padded = padded.astype(kind, copy=False)
    short = np.flatnonzero(count < real.shape[1])
    for row in short.tolist():
        padded[row, count[row] :] = padded[row, : count[row]].mean(axis=0, dtype=np.float64).astype(kind)
    return padded
