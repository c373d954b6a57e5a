from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recbole_mm.data.features import stored
from recbole_mm.data.features.files import FeatureFile
from recbole_mm.data.features.matrix import FeatureMatrix
from recbole_mm.data.features.moments import moments
from recbole_mm.data.features.store import align, align_interactions, prepare
from tests.data.support import vector, vectors, write_npy, write_npz

VOCABULARY = {"[PAD]": 0, "i1": 1, "i2": 2, "ü 漢字": 3}


def the_file(path: Path, entity: str = "item") -> FeatureFile:
    return FeatureFile(entity, "text", path)


TOKENS = st.lists(
    st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1), min_size=1, unique=True
)


@given(known=TOKENS, in_file=TOKENS, memory_map=st.booleans(), block=st.integers(1, 64))
def test_every_row_is_the_function_of_its_token(tmp_path_factory, known, in_file, memory_map, block) -> None:
    # numpy's fixed-width text drops trailing NULs; the alphabet has none, so nothing is lost by chance.
    vocabulary = {"[PAD]": 0, **{token: index for index, token in enumerate(known, start=1)}}
    folder = tmp_path_factory.mktemp("features")
    path = (write_npy if memory_map else write_npz)(folder, "d.item.text", in_file)
    common = {token for token in in_file if vocabulary.get(token, 0) > 0}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stored, "_BLOCK_NUMBERS", block)
        if not common:
            with pytest.raises(ValueError, match="none of its"):
                align(the_file(path), vocabulary)
            return
        table = align(the_file(path), vocabulary)
        feature = table.feature
    assert tuple(feature.shape) == table.shape == (max(vocabulary.values()) + 1, 5)
    for token, index in vocabulary.items():
        assert bool(table.observed[index]) == (token in common)
        assert np.array_equal(feature[index].numpy(), vector(token) if token in common else np.zeros(5))


@pytest.mark.parametrize("write", [write_npz, write_npy])
def test_rows_without_a_token_and_tokens_without_a_row(tmp_path: Path, write, caplog) -> None:
    with caplog.at_level(logging.INFO):
        table = align(the_file(write(tmp_path, "d.item.text", ["x", "ü 漢字", "[PAD]", "i1"])), VOCABULARY)
    assert table.observed.tolist() == [False, True, False, True]
    assert torch.equal(
        table.feature, torch.tensor(np.array([np.zeros(5), vector("i1"), np.zeros(5), vector("ü 漢字")])).float()
    )
    assert "5-dimensional float16; 2 of 3 items have a row, 1 do not; 2 rows match no item" in caplog.text


@pytest.mark.parametrize(
    ("on_disk", "dtype"),
    [("float16", "float32"), ("float32", "float16"), ("float64", "float64"), (">f4", "bfloat16"), ("uint8", "float32"),
     ("uint16", "float32"), ("bool", "float16"), ("int64", "float32")],
)  # fmt: skip
def test_feature_dtype_is_what_the_table_gets(tmp_path: Path, on_disk: str, dtype: str) -> None:
    values = np.array([[0, 1], [1, 0], [1, 1]]).astype(on_disk)
    path = write_npz(tmp_path, "d.item.text", ["i2", "i1", "ü 漢字"], feature=values)
    table = align(the_file(path), VOCABULARY, getattr(torch, dtype))
    assert table.feature.dtype == getattr(torch, dtype)
    assert table.feature.tolist() == [[0, 0], [1, 0], [0, 1], [1, 1]]


def test_a_matrix_on_disk_is_read_block_by_block_and_only_where_needed(tmp_path: Path, monkeypatch) -> None:
    tokens = [f"i{k}" for k in range(100)]
    path = write_npy(tmp_path, "d.item.text", tokens)
    read: list[np.ndarray] = []
    original = FeatureMatrix.read
    monkeypatch.setattr(stored, "_BLOCK_NUMBERS", 7 * 5)
    monkeypatch.setattr(FeatureMatrix, "read", lambda self, rows: (read.append(rows), original(self, rows))[1])
    table = align(the_file(path), {"[PAD]": 0, **{f"i{k}": k // 2 + 1 for k in range(0, 100, 2)}})
    for use in (
        lambda: None,
        lambda: table.feature,
        lambda: prepare(table, "l2", "zero"),
        lambda: moments(table, table.observed),
    ):
        use()  # the first is align's look at the numbers; the table itself keeps none
        assert max(map(len, read)) == 7
        assert np.concatenate(read).tolist() == list(range(0, 100, 2))
        read.clear()
    assert np.array_equal(table.feature[1:].numpy(), vectors(tokens[::2]))
    assert table.rows(torch.tensor([3, 0, 50])).tolist() == [vector("i4").tolist(), [0] * 5, vector("i98").tolist()]


def test_several_vectors_per_item(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.float16).reshape(2, 3, 2)
    path = write_npz(tmp_path, "d.item.text", ["i2", "i1"], feature=values)
    table = align(the_file(path), VOCABULARY)
    assert table.feature.shape == (4, 3, 2)
    assert table.feature[2].tolist() == values[0].tolist()
    assert not table.feature[3].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", [(3, 4), (3, 2, 4)])
def test_numbers_that_are_not_finite(tmp_path: Path, bad: float, shape: tuple[int, ...]) -> None:
    values = np.ones(shape, dtype=np.float32)
    values[1:].reshape(2, -1)[:, 2] = bad
    path = write_npz(tmp_path, "d.item.text", ["i1", "i2", "ü 漢字"], feature=values)
    with pytest.raises(
        ValueError, match=r"text\.npz: 2 of 3 rows hold NaN or infinity \(first: 'i2'\).*missing_feature"
    ):
        align(the_file(path), VOCABULARY)


def test_numbers_that_feature_dtype_cannot_hold(tmp_path: Path) -> None:
    path = write_npz(tmp_path, "d.item.text", ["i1", "i2"], feature=np.array([[1.0, 2.0], [1e6, 0.0]]))
    assert align(the_file(path), VOCABULARY).feature[2, 0] == 1e6
    with pytest.raises(
        ValueError, match=r"1 of 2 rows .*beyond the range of torch.float16 \(first: 'i2'\).*feature_dtype"
    ):
        align(the_file(path), VOCABULARY, torch.float16)


@pytest.mark.parametrize("dtype", ["?", "u1", "<u2", "<u8", "i1", ">i8", ">f2", ">f8", "longdouble"])
def test_every_type_of_number_in_either_byte_order(tmp_path: Path, dtype: str) -> None:
    path = write_npz(tmp_path, "d.item.text", ["i1", "i2"], feature=np.array([[0, 1], [1, 1]], dtype=dtype))
    assert align(the_file(path), VOCABULARY).feature[1:3].tolist() == [[0, 1], [1, 1]]


def test_more_rows_than_ids(tmp_path: Path) -> None:
    path = write_npz(tmp_path, "d.item.text", ["i1", "i2"], feature=np.ones((3, 2)))
    with pytest.raises(ValueError, match=r"text\.npz: 2 ids but 3 rows"):
        align(the_file(path), VOCABULARY)


def test_no_overlap_shows_both_sides(tmp_path: Path) -> None:
    path = write_npz(tmp_path, "d.item.text", ["1", "2"])
    with pytest.raises(
        ValueError, match=r"none of its 2 ids is among the 3 items.*\['i1', 'i2', 'ü 漢字'\].*\['1', '2'\]"
    ):
        align(the_file(path), VOCABULARY)


def test_duplicates_are_refused_even_where_the_vocabulary_does_not_look(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="'zz' in rows 1, 2"):
        align(the_file(write_npz(tmp_path, "d.item.text", ["i1", "zz", "zz"])), VOCABULARY)


def test_interactions_keep_known_pairs_in_the_order_of_the_ids(tmp_path: Path, caplog) -> None:
    users = {"[PAD]": 0, "a": 1, "b": 2}
    pairs = [("b", "i1"), ("a", "i2"), ("c", "i1"), ("a", "nowhere"), ("a", "i1"), ("[PAD]", "i2")]
    path = tmp_path / "d.inter.text.npz"
    np.savez(
        path,
        user_id=np.array([u for u, _ in pairs]),
        item_id=np.array([i for _, i in pairs]),
        feature=vectors([f"{u} {i}" for u, i in pairs]),
    )
    with caplog.at_level(logging.INFO):
        found = align_interactions(the_file(path, "inter"), users, VOCABULARY)
    assert found.user.tolist() == [1, 1, 2]
    assert found.item.tolist() == [1, 2, 1]
    assert np.array_equal(found.feature.numpy(), vectors(["a i1", "a i2", "b i1"]))
    assert "3 rows of a known user and item, 3 others" in caplog.text
    with pytest.raises(ValueError, match=r"no row has both.*raw user tokens.*\['x'\].*'b', 'a', 'c'"):
        align_interactions(the_file(path, "inter"), {"[PAD]": 0, "x": 1}, VOCABULARY)
    with pytest.raises(ValueError, match=r"no row has both.*raw item tokens.*\['y'\]"):
        align_interactions(the_file(path, "inter"), users, {"[PAD]": 0, "y": 1})


def test_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "d.item.text.parquet"

    def write(feature, ids=("i2", "i1"), name: str = "id") -> FeatureFile:
        pq.write_table(pa.table({name: pa.array(ids), "feature": feature}), path)
        return the_file(path)

    rows = vectors(["i2", "i1"]).astype(np.float32)
    fixed = pa.array(rows.tolist(), type=pa.list_(pa.float32(), 5))
    for column in (rows.tolist(), fixed, pa.array(list(rows.astype(np.float16)), type=pa.list_(pa.float16()))):
        table = align(write(column), VOCABULARY)
        assert np.array_equal(table.feature[1:3].numpy(), vectors(["i1", "i2"]).astype(np.float32))
    if hasattr(pa, "FixedShapeTensorArray"):
        table = align(write(pa.FixedShapeTensorArray.from_numpy_ndarray(rows)), VOCABULARY)
        assert np.array_equal(table.feature[1:3].numpy(), vectors(["i1", "i2"]).astype(np.float32))
    with pytest.raises(ValueError, match=r"shape \(0, 0\) hold no number"):
        align(write(pa.array([], type=pa.list_(pa.float32())), ids=pa.array([], type=pa.string())), VOCABULARY)
    patches = align(write([[[1.0, 2.0]] * 3, [[3.0, 4.0]] * 3]), VOCABULARY)
    assert patches.feature.shape == (4, 3, 2)
    assert patches.feature[1].tolist() == [[3.0, 4.0]] * 3
    assert align(write([[1.0], [2.0]], ids=(2, 1)), {"[PAD]": 0, "1": 1, "2": 2}).feature.tolist() == [[0], [2], [1]]
    for column, message in (
        ([[1.0], [1.0, 2.0]], r"lists in feature differ in length \(1 to 2\)"),
        ([[1.0], None], "1 rows of feature are null"),
        ([[1.0, 2.0], [3.0, None]], "1 of 2 rows hold NaN"),
        ([1.0, 2.0], r"expected features of shape .*got \(2,\)"),
        (pa.array([[], []], type=pa.list_(pa.float32())), r"shape \(2, 0\) hold no number"),
        ([["a"], ["b"]], "expected numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            align(write(column), VOCABULARY)
    with pytest.raises(ValueError, match="column id has 1 nulls"):
        align(write([[1.0], [2.0]], ids=("i1", None)), VOCABULARY)
    with pytest.raises(ValueError, match="expected the columns id, feature; id missing, found item, feature"):
        align(write([[1.0], [2.0]], name="item"), VOCABULARY)
    path.write_bytes(b"not parquet at all")
    with pytest.raises(ValueError, match=r"text\.parquet cannot be read"):
        align(the_file(path), VOCABULARY)
