"""Several vectors per item in varying number: the mean of an item is that of the vectors it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_mm.data.features.files import FeatureFile

PICTURES = [
    np.array([[4.0, 8.0]]),
    np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0]]),
    np.array([[1.0, 1.0], [3.0, 5.0]]),
]


def written(folder: Path, form: str) -> FeatureFile:
    ids, count = np.array(["a", "b", "c"]), np.array([1, 4, 2])
    path = folder / f"tiny.item.image.{'parquet' if form == 'parquet' else 'npz'}"
    if form == "padded":
        feature = np.zeros((3, 4, 2), dtype=np.float32)
        for row, pictures in enumerate(PICTURES):
            feature[row, : len(pictures)] = pictures
        np.savez(path, id=ids, feature=feature, count=count)
    elif form == "flat":
        np.savez(path, id=ids, feature=np.concatenate(PICTURES), count=count)
    else:
        pa = pytest.importorskip("pyarrow")
        import pyarrow.parquet as parquet

        parquet.write_table(pa.table({"id": ids, "feature": [part.tolist() for part in PICTURES]}), path)
    return FeatureFile("item", "image", path)


@pytest.mark.parametrize("form", ["padded", "flat", "parquet"])
def test_an_item_with_one_of_four_pictures_has_the_mean_of_one(form: str, tmp_path: Path) -> None:
    matrix = written(tmp_path, form).matrix()
    assert matrix.shape == (3, 4, 2)
    assert matrix.read(np.arange(3)).mean(axis=1).tolist() == [part.mean(axis=0).tolist() for part in PICTURES]
    assert matrix.read(np.array([2]))[0, :2].tolist() == PICTURES[2].tolist()


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"count": np.array([0, 4, 2])}, "at least 1"),
        ({"count": np.array([1.0, 4.0, 2.0])}, "whole numbers"),
        ({"count": np.array([1, 4])}, "count"),
        ({"count": np.array([1, 5, 2])}, "up to 5 vectors"),
        ({"count": np.array([1, 4, 2]), "feature": np.ones((6, 2))}, "adds up to 7, and there are 6"),
        ({"feature": np.ones(3)}, "beside count"),
    ],
)  # fmt: skip
def test_counts_that_do_not_fit(arrays: Any, words: str, tmp_path: Path) -> None:
    content = {"id": np.array(["a", "b", "c"]), "feature": np.ones((3, 4, 2)), "count": np.array([1, 4, 2]), **arrays}
    np.savez(tmp_path / "tiny.item.image.npz", **content)
    with pytest.raises(ValueError, match=words):
        FeatureFile("item", "image", tmp_path / "tiny.item.image.npz").matrix()
