"""Large vectors in archives and parquet files: the same tables, without the whole in memory."""

from __future__ import annotations

import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_mm.data.features import archive, parquet
from recbole_mm.data.features.archive import member
from recbole_mm.data.features.files import FeatureFile
from recbole_mm.data.features.matrix import FeatureMatrix
from recbole_mm.data.features.store import align
from recbole_mm.data.features.stored import StoredTable
from recbole_mm.data.features.table import FeatureTable

N, DIM = 500, 6
IDS = [f"i{k}" for k in np.random.default_rng(0).permutation(N)]
VOCABULARY = {"[PAD]": 0, **{f"i{k}": k // 2 + 1 for k in range(0, N, 2)}}


def values(shape: tuple[int, ...] = (N, DIM), dtype: str = "float16") -> np.ndarray:
    return (10 * np.random.default_rng(1).standard_normal(shape)).astype(dtype)


def save(folder: Path, kind: str, feature: np.ndarray, ids: Any = IDS, **more: Any) -> FeatureFile:
    """The vectors as an archive, compressed or not, or as a parquet file of three row groups."""
    path = folder / ("d.item.image." + ("parquet" if kind.startswith("parquet") else "npz"))
    if path.suffix == ".parquet":
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        column = pa.array(list(feature))
        if kind == "parquet of fixed lists":
            column = pa.FixedSizeListArray.from_arrays(pa.array(feature.ravel()), feature.shape[1])
        pq.write_table(pa.table({"id": pa.array(ids), "feature": column}), path, row_group_size=len(feature) // 3)
    else:
        write = np.savez_compressed if kind == "compressed" else np.savez
        write(path, id=np.array(ids), feature=feature, **more)
    return FeatureFile("item", "image", path)


KINDS = ("plain", "compressed", "parquet", "parquet of fixed lists")


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything counts as large, and blocks are of a few rows."""
    monkeypatch.setattr(archive, "WHOLE", 0)
    monkeypatch.setattr(archive, "_BLOCK", 7 * 12)
    monkeypatch.setattr(parquet, "_NUMBERS", 7 * 6)


@pytest.mark.parametrize("dtype", ["float16", "float32", "int16"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_table_is_that_of_a_file_read_whole(kind: str, dtype: str, tmp_path: Path, monkeypatch: Any) -> None:
    file = save(tmp_path, kind, values(dtype=dtype))
    whole = align(file, VOCABULARY)
    assert isinstance(whole, FeatureTable)
    monkeypatch.setattr(archive, "WHOLE", 0)
    table = align(file, VOCABULARY)
    assert isinstance(table, StoredTable if kind == "plain" else FeatureTable)
    assert torch.equal(table.feature, whole.feature) and torch.equal(table.observed, whole.observed)
    assert torch.equal(table.rows(torch.tensor([3, 0, 9])), whole.feature[[3, 0, 9]])
    matrix = file.matrix()  # of which any row may be asked for
    assert matrix.stream is None and np.array_equal(matrix.read(np.array([5, 2])), values(dtype=dtype)[[5, 2]])


@pytest.mark.parametrize("kind", ["plain", "compressed"])
def test_blocks_are_all_that_is_in_memory(kind: str, tmp_path: Path, monkeypatch: Any) -> None:
    feature = values((N, 4000))
    file = save(tmp_path, kind, feature)
    monkeypatch.setattr(archive, "_BLOCK", 2**17)

    def peak(limit: int) -> float:
        monkeypatch.setattr(archive, "WHOLE", limit)
        tracemalloc.start()
        align(file, VOCABULARY, torch.float16)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size / feature.nbytes

    assert peak(2**40) > 1 > 0.75 > peak(0)  # of NumPy; the rows that are read at a time are 8 MB in float64


def test_parquet_is_read_some_rows_at_a_time(tmp_path: Path, large: None) -> None:
    blocks = list(save(tmp_path, "parquet", values()).matrix(in_order=True).stream())  # type: ignore[misc]
    assert max(map(len, blocks)) == 7 and np.array_equal(np.concatenate(blocks), values())


@pytest.mark.parametrize("kind", ["plain", "compressed"])
def test_one_other_bit_is_noticed(kind: str, tmp_path: Path, large: None) -> None:
    file = save(tmp_path, kind, values())
    content = bytearray(file.path.read_bytes())
    content[zipfile.ZipFile(file.path).getinfo("feature.npy").header_offset + 2000] ^= 1
    file.path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="cannot be read"):
        align(file, VOCABULARY)


def test_what_is_read_whole(tmp_path: Path, large: None) -> None:
    assert member(save(tmp_path, "plain", np.asfortranarray(values())).path, "feature") is None
    assert member(save(tmp_path, "plain", values()).path, "nothing") is None
    assert member(tmp_path / "none.npz", "feature") is None
    count = np.full(N, 2)
    padded = save(tmp_path, "plain", values((N, 2, 3)), count=count)
    assert padded.matrix().array is not None and member(padded.path, "feature") is not None
    assert isinstance(align(save(tmp_path, "plain", values((N, 2, 3))), VOCABULARY), StoredTable)


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_that_are_not_finite_are_refused(kind: str, tmp_path: Path, large: None) -> None:
    feature = values()
    feature[IDS.index("i4"), 2] = np.nan
    with pytest.raises(ValueError, match="1 of 250 rows hold NaN or infinity.*'i4'"):
        align(save(tmp_path, kind, feature), VOCABULARY)


def test_lists_that_differ_in_length_are_refused(tmp_path: Path, large: None) -> None:
    rows = [[1.0, 2.0]] * (N - 1) + [[1.0]]
    with pytest.raises(ValueError, match="lists in feature differ in length"):
        align(save(tmp_path, "parquet", rows), VOCABULARY)  # type: ignore[arg-type]


def test_an_archive_that_shrinks_afterwards(tmp_path: Path, large: None) -> None:
    file = save(tmp_path, "plain", values())
    matrix = file.matrix()
    assert isinstance(matrix, FeatureMatrix) and matrix.offset is not None
    file.path.write_bytes(file.path.read_bytes()[: matrix.offset + 10])
    with pytest.raises(ValueError, match="ends before its last row"):
        matrix.read(np.arange(N))
