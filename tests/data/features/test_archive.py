"""Large vectors in archives and parquet files: the same tables, without the whole in memory."""

from __future__ import annotations

import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recbole_mm.data.features import archive, parquet, stored
from recbole_mm.data.features.archive import member
from recbole_mm.data.features.files import FeatureFile
from recbole_mm.data.features.matrix import FeatureMatrix
from recbole_mm.data.features.moments import scale_warning
from recbole_mm.data.features.permute import permute_modality
from recbole_mm.data.features.store import align, prepare
from recbole_mm.data.features.stored import StoredTable, StreamedTable
from recbole_mm.data.features.table import FeatureStore, FeatureTable
from tests.model.largest import HeldTensors

N, DIM = 500, 6
IDS = [f"i{k}" for k in np.random.default_rng(0).permutation(N)]
VOCABULARY = {"[PAD]": 0, **{f"i{k}": k // 2 + 1 for k in range(0, N, 2)}}


def values(shape: tuple[int, ...] = (N, DIM), dtype: str = "float16") -> np.ndarray:
    return (10 * np.random.default_rng(1).standard_normal(shape)).astype(dtype)


def save(folder: Path, kind: str, feature: np.ndarray, ids: Any = IDS, **more: Any) -> FeatureFile:
    """The vectors as an archive, compressed or not, or as a parquet file, of three row groups unless it says one."""
    path = folder / ("d.item.image." + ("parquet" if kind.startswith("parquet") else "npz"))
    if path.suffix == ".parquet":
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        column = pa.array(list(feature))
        if kind == "parquet of fixed lists":
            column = pa.FixedSizeListArray.from_arrays(pa.array(feature.ravel()), feature.shape[1])
        group = len(feature) if kind == "parquet of one group" else len(feature) // 3
        pq.write_table(pa.table({"id": pa.array(ids), "feature": column}), path, row_group_size=group)
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
    assert isinstance(table, StoredTable if kind == "plain" else StreamedTable) and table.shape == whole.shape
    assert torch.equal(table.feature, whole.feature) and torch.equal(table.observed, whole.observed)
    matrix = file.matrix()  # of which any row may be asked for
    assert matrix.stream is None and np.array_equal(matrix.read(np.array([5, 2])), values(dtype=dtype)[[5, 2]])


@pytest.mark.parametrize(
    ("norm", "missing"),
    [("none", "zero"), ("none", "knn"), ("l2", "knn"), ("zscore_l2", "mean"), ("zscore_l2", "knn"), ("auto", "zero")],
)
@pytest.mark.parametrize("kind", ["compressed", "parquet"])
def test_what_a_model_reads_is_that_of_a_file_read_whole(
    kind: str, norm: str, missing: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(stored, "_BLOCK_NUMBERS", 7 * DIM)
    vocabulary = {**VOCABULARY, **{f"lacking{k}": N // 2 + k for k in range(1, 41)}}
    pairs = sp.random(60, N // 2 + 41, 0.05, "csr", random_state=0)
    disk = tmp_path / "scratch"
    disk.mkdir()
    file = save(tmp_path, kind, values() + np.float16(20))
    whole = align(file, vocabulary, torch.float16)
    monkeypatch.setattr(archive, "WHOLE", 0)
    streamed = align(file, vocabulary, torch.float16)
    assert isinstance(streamed, StreamedTable) and scale_warning(streamed) == scale_warning(whole)
    expected = prepare(whole, norm, missing, pairs)
    for folder in (None, disk):
        ready = prepare(streamed, norm, missing, pairs, folder=folder)
        assert torch.equal(ready.feature, expected.feature) and torch.equal(ready.observed, expected.observed)
    assert torch.equal(streamed.feature, whole.feature)  # it is read again, not what was finished
    permuted = [
        permute_modality(FeatureStore(item={"image": table}), "image", seed=3).item["image"]
        for table in (streamed, whole)
    ]
    assert torch.equal(permuted[0].feature, permuted[1].feature)


def test_several_vectors_of_a_compressed_archive(tmp_path: Path, monkeypatch: Any) -> None:
    file = save(tmp_path, "compressed", values((N, 2, 3)))
    whole = align(file, VOCABULARY)
    monkeypatch.setattr(archive, "WHOLE", 0)
    streamed = align(file, VOCABULARY)
    assert isinstance(streamed, StreamedTable)
    for norm in ("none", "zscore_l2"):
        assert torch.equal(prepare(streamed, norm, "zero").feature, prepare(whole, norm, "zero").feature)
        means = [prepare(table.means(), norm, "zero").feature for table in (streamed, whole)]
        assert torch.equal(*means) and means[0].shape == (N // 2 + 1, 3)


@pytest.mark.parametrize("norm", ["none", "zscore_l2"])
@pytest.mark.parametrize("kind", ["compressed", "parquet", "parquet of one group"])
def test_no_second_table_is_held(kind: str, norm: str, tmp_path: Path, monkeypatch: Any) -> None:
    """Neither of torch, nor of NumPy, nor of Arrow, from the file to what a model reads."""
    monkeypatch.setattr(archive, "WHOLE", 2**20)
    monkeypatch.setattr(archive, "_BLOCK", 2**17)
    monkeypatch.setattr(stored, "_BLOCK_NUMBERS", 2**14)
    monkeypatch.setattr(parquet, "_NUMBERS", 2**15)
    feature = values((N, 12_000))
    file = save(tmp_path, kind, feature)
    vocabulary = {token: place for place, token in enumerate(["[PAD]", *sorted(IDS)])}

    def align_and_check() -> StreamedTable:
        table = align(file, vocabulary, torch.float16)
        scale_warning(table)
        assert isinstance(table, StreamedTable)
        return table

    arrow = arrow_memory(monkeypatch) if kind.startswith("parquet") else [0]
    with HeldTensors() as held:
        aligned = align_and_check()  # the data set keeps it
        at_first = held.peak
        ready = prepare(aligned, norm, "zero")
    tracemalloc.start()  # the second time, when no module is imported any more
    prepare(align_and_check(), norm, "zero")
    peaks = {"aligned": at_first, "NumPy": tracemalloc.get_traced_memory()[1], "Arrow": max(arrow)}
    tracemalloc.stop()
    assert ready.feature.nbytes <= held.peak < 1.3 * feature.nbytes <= 1.3 * ready.feature.nbytes
    assert all(peak < 0.3 * feature.nbytes for peak in peaks.values()), peaks


def arrow_memory(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the bytes that Arrow holds more than now whenever a block is read; its peak is that of the process."""
    pool = pytest.importorskip("pyarrow").default_memory_pool()
    before, held, vectors = pool.bytes_allocated(), [0], parquet.vectors

    def observed(table: Any, path: Path) -> Any:
        held.append(pool.bytes_allocated() - before)
        return vectors(table, path)

    monkeypatch.setattr(parquet, "vectors", observed)
    return held


def test_a_compressed_archive_that_is_another_afterwards(tmp_path: Path, large: None) -> None:
    table = align(save(tmp_path, "compressed", values()), VOCABULARY)
    for other in (values((N - 1, DIM)), values((N, DIM + 1))):
        save(tmp_path, "compressed", other)
        with pytest.raises(ValueError, match="changed since it was opened"):
            prepare(table, "none", "zero")


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
