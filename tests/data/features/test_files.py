from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from recbole_mm.data.features.files import FeatureFile, discover, search_folders
from tests.data.support import vectors, write_npy, write_npz

TOKENS = ["i3", "i1", "ü 漢字", "i2"]


def the_file(path: Path, entity: str = "item") -> FeatureFile:
    return FeatureFile(entity, "text", path)


def save(tmp_path: Path, **arrays: np.ndarray) -> Path:
    path = tmp_path / "d.item.text.npz"
    np.savez(path, **arrays)
    return path


def test_finds_every_entity_and_format_in_the_order_of_the_names(tmp_path: Path) -> None:
    for stem in ("d.item.text", "d.item.image", "d.user.profile"):
        write_npz(tmp_path, stem, TOKENS)
    write_npy(tmp_path, "d.item.audio", TOKENS)
    (tmp_path / "d.inter.text.parquet").touch()
    for other in ("d.inter", "d.item", "d.train.inter", "e.item.text.npz", "d.item.text.md"):
        (tmp_path / other).touch()
    found = discover("d", [tmp_path])
    assert {entity: list(files) for entity, files in found.items()} == {
        "item": ["audio", "image", "text"], "user": ["profile"], "inter": ["text"],
    }  # fmt: skip
    assert found["item"]["audio"] == FeatureFile("item", "audio", tmp_path / "d.item.audio.npy")


def test_a_data_set_name_with_dots_and_a_modality_with_dashes(tmp_path: Path) -> None:
    write_npz(tmp_path, "ml.v1.item.all-MiniLM_2", TOKENS)
    assert list(discover("ml.v1", [tmp_path])["item"]) == ["all-MiniLM_2"]


def test_the_first_folder_with_a_file_is_the_only_one_used(tmp_path: Path) -> None:
    for folder, stem in (("a", "other.item.x"), ("b", "d.item.text"), ("c", "d.item.image")):
        (tmp_path / folder).mkdir()
        write_npz(tmp_path / folder, stem, TOKENS)
    folders = search_folders("d", tmp_path / "a", tmp_path, None)
    assert folders == [tmp_path / "a", tmp_path / "d"]
    assert list(discover("d", [tmp_path / "missing", tmp_path / "a", tmp_path / "b", tmp_path / "c"])["item"]) == [
        "text"
    ]


def test_feature_path_is_searched_alone_with_or_without_the_name(tmp_path: Path) -> None:
    assert search_folders("d", "data", "packaged", str(tmp_path)) == [tmp_path, tmp_path / "d"]
    with pytest.raises(FileNotFoundError, match="feature_path: expected an existing folder, got .*nowhere"):
        search_folders("d", "data", "packaged", str(tmp_path / "nowhere"))


def test_no_file_names_the_folders_and_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"'d' in {re.escape(str(tmp_path))}.*d.item.image.npz.*feature_path"):
        discover("d", [tmp_path])


@pytest.mark.parametrize("other", ["npy", "parquet"])
def test_a_modality_in_two_formats_names_both(tmp_path: Path, other: str) -> None:
    write_npz(tmp_path, "d.item.text", TOKENS)
    if other == "npy":
        write_npy(tmp_path, "d.item.text", TOKENS)
    else:
        (tmp_path / "d.item.text.parquet").touch()
    with pytest.raises(ValueError, match=rf"(?=.*d\.item\.text\.npz)(?=.*d\.item\.text\.{other}).*2 formats"):
        discover("d", [tmp_path])


def test_matrix_without_ids_and_ids_without_matrix(tmp_path: Path) -> None:
    ids = write_npy(tmp_path, "d.item.text", TOKENS).with_suffix(".ids")
    ids.rename(tmp_path / "kept")
    with pytest.raises(FileNotFoundError, match=r"text\.npy has no ids: expected d\.item\.text\.ids.*item_id:token"):
        discover("d", [tmp_path])
    (tmp_path / "kept").rename(ids)
    (tmp_path / "d.item.text.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"text\.ids has no matrix: expected d\.item\.text\.npy"):
        discover("d", [tmp_path])
    write_npz(tmp_path, "d.item.text", TOKENS)
    with pytest.raises(FileNotFoundError, match=r"text\.ids has no matrix.*the modality is in .*text\.npz"):
        discover("d", [tmp_path])


def test_a_modality_that_cannot_be_a_name(tmp_path: Path) -> None:
    write_npz(tmp_path, "d.item.text.old", TOKENS)
    with pytest.raises(ValueError, match=r"'text\.old' is no name for a modality"):
        discover("d", [tmp_path])


@pytest.mark.parametrize("write", [write_npz, write_npy])
def test_ids_and_rows_come_back_as_written(tmp_path: Path, write) -> None:
    file = the_file(write(tmp_path, "d.item.text", TOKENS))
    assert file.tokens()[0].tolist() == TOKENS
    matrix = file.matrix()
    assert (matrix.shape, matrix.dtype) == ((4, 5), np.float16)
    assert np.array_equal(matrix.read(np.array([2, 0])), vectors(["ü 漢字", "i3"]))


def test_npy_stays_on_disk_and_column_order_is_read_right(tmp_path: Path) -> None:
    path = write_npy(tmp_path, "d.item.text", TOKENS)
    np.save(path, np.asfortranarray(vectors(TOKENS)))
    matrix = the_file(path).matrix()
    assert matrix.array is None
    assert np.array_equal(matrix.read(np.array([3, 1])), vectors(["i2", "i1"]))


def test_ids_with_line_separators_inside_a_token(tmp_path: Path) -> None:
    tokens = ["a\u2028b", "c\x85d", "e f"]
    assert the_file(write_npy(tmp_path, "d.item.text", tokens)).tokens()[0].tolist() == tokens


def test_whole_numbers_and_bytes_count_as_text(tmp_path: Path) -> None:
    path = save(tmp_path, id=np.array([10, 2]), feature=np.ones((2, 1)))
    assert the_file(path).tokens()[0].tolist() == ["10", "2"]
    path = save(tmp_path, id=np.array(["é".encode(), b"b"]), feature=np.ones((2, 1)))
    assert the_file(path).tokens()[0].tolist() == ["é", "b"]


def test_interactions_have_two_id_columns(tmp_path: Path) -> None:
    pairs = {"user_id": np.array(["a", "a", "b"]), "item_id": np.array(["x", "y", "x"])}
    path = save(tmp_path, **pairs, feature=np.ones((3, 2)))
    assert [column.tolist() for column in the_file(path, "inter").tokens()] == [["a", "a", "b"], ["x", "y", "x"]]
    np.save(tmp_path / "d.inter.text.npy", np.ones((2, 2)))
    (tmp_path / "d.inter.text.ids").write_text("user_id:token\titem_id:token\na\tx\nb\ty\n", encoding="utf-8")
    columns = the_file(tmp_path / "d.inter.text.npy", "inter").tokens()
    assert [column.tolist() for column in columns] == [["a", "b"], ["x", "y"]]


def test_duplicate_ids_are_counted_and_located(tmp_path: Path) -> None:
    path = write_npz(tmp_path, "d.item.text", ["a", "b", "a", "01", "1", "b", "a"])
    message = r"2 of 4 ids occur more than once \(3 rows too many.*'a' in rows 0, 2, 6, 'b' in rows 1, 5\. Keep one"
    with pytest.raises(ValueError, match=r"text\.npz: " + message):
        the_file(path).tokens()


def test_duplicate_pairs_but_not_duplicate_users(tmp_path: Path) -> None:
    path = save(tmp_path, user_id=np.array(["a", "a", "a"]), item_id=np.array(["x", "y", "x"]), feature=np.ones((3, 2)))
    with pytest.raises(ValueError, match=r"1 of 2 \(user, item\) pairs.*\('a', 'x'\) in rows 0, 2"):
        the_file(path, "inter").tokens()


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.array([[1, 2]]), r"id should be one-dimensional, got shape \(1, 2\)"),
        (np.array([1.0, 2.0]), "id should be text .*got dtype float64"),
        (np.array(["a", ""]), r"id is empty in 1 rows \(first: row 1"),
    ],
)
def test_ids_that_are_no_tokens(tmp_path: Path, ids: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=r"text\.npz: .*" + message):
        the_file(save(tmp_path, id=ids, feature=np.ones((2, 2)))).tokens()


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        (np.ones(2), r"expected features of shape .*got \(2,\)"),
        (np.ones((2, 2, 2, 2)), r"got \(2, 2, 2, 2\)"),
        (np.ones((2, 0)), r"features of shape \(2, 0\) hold no number"),
        (np.array([["a"], ["b"]]), "expected numbers .*got dtype <U1"),
        (np.ones((2, 2), dtype=complex), "got dtype complex128"),
    ],
)
def test_features_that_are_no_matrix(tmp_path: Path, feature: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=r"text\.npz: .*" + message):
        the_file(save(tmp_path, id=np.array(["a", "b"]), feature=feature)).matrix()


def test_missing_arrays_are_named(tmp_path: Path) -> None:
    path = save(tmp_path, ids=np.array(["a"]), feat=np.ones((1, 2)))
    with pytest.raises(ValueError, match="expected the arrays id, feature; id missing, found ids, feat"):
        the_file(path).tokens()
    with pytest.raises(ValueError, match="expected the arrays user_id, item_id, feature; user_id, item_id missing"):
        the_file(path, "inter").tokens()


def test_python_objects_are_never_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    path = save(tmp_path, id=np.array(["a"], dtype=object), feature=np.array([[Trap()]], dtype=object))
    with pytest.raises(ValueError, match=r"text\.npz cannot be read.*allow_pickle.*ids as an array of str"):
        the_file(path).tokens()
    with pytest.raises(ValueError, match="allow_pickle"):
        the_file(path).matrix()
    np.save(tmp_path / "d.item.image.npy", np.array([[Trap()]], dtype=object))
    with pytest.raises(ValueError, match=r"image\.npy cannot be read"):
        the_file(tmp_path / "d.item.image.npy").matrix()
    assert not (tmp_path / "sprung").exists()


def test_a_broken_archive_and_an_archive_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "d.item.text.npz"
    path.write_bytes(b"PK\x03\x04 no more")
    with pytest.raises(ValueError, match=r"text\.npz cannot be read"):
        the_file(path).tokens()
    with path.open("wb") as stream:
        np.save(stream, np.ones(3))
    with pytest.raises(ValueError, match="single array, not a .npz archive"):
        the_file(path).tokens()


def test_an_archive_under_the_name_of_an_array(tmp_path: Path) -> None:
    path = write_npy(tmp_path, "d.item.text", ["i1", "i2"])
    path.write_bytes(save(tmp_path, id=np.array(["i1"]), feature=np.ones((1, 2))).read_bytes())
    with pytest.raises(ValueError, match=r"text\.npy cannot be read: it is an archive"):
        the_file(path).matrix()


def test_bytes_that_are_no_utf8(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"text\.npz: id should be text in UTF-8"):
        the_file(save(tmp_path, id=np.array([b"caf\xe9"]), feature=np.ones((1, 2)))).tokens()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the first line 'item_id:token', got ''"),
        ("i1\ni2\n", "expected the first line 'item_id:token', got 'i1'"),
        ("user_id:token\ni1\n", "expected the first line 'item_id:token', got 'user_id:token'"),
        ("item_id:token\ni1\tx\n", r"line 2: expected 1 column\(s\), got 2"),
        ("item_id:token\ni1\n\ni2\n", "is empty in 1 rows"),
    ],
)
def test_ids_files_that_are_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = write_npy(tmp_path, "d.item.text", ["i1", "i2"])
    path.with_suffix(".ids").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"text\.ids.*" + message):
        the_file(path).tokens()


def test_id_columns_of_different_lengths(tmp_path: Path) -> None:
    path = save(tmp_path, user_id=np.array(["a", "b"]), item_id=np.array(["x"]), feature=np.ones((2, 1)))
    with pytest.raises(ValueError, match=r"differ in length \(user_id: 2, item_id: 1\)"):
        the_file(path, "inter").tokens()
