"""Inspection: real features are told from shuffled, constant and foreign ones; the page holds what was found."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from recbole.data.interaction import Interaction

from recbole_mm.paths import dataset_atomic_dir
from recbole_mm.report.inspection import measures
from recbole_mm.report.inspection.inspect import inspect
from recbole_mm.report.inspection.page import _pictures, write_page


@pytest.fixture
def planted(tmp_path):
    """A data set whose users keep to one of four groups of items, and a function that writes its vectors."""
    generator = np.random.default_rng(0)
    group = np.arange(80) % 4
    rows = [
        (f"u{u}", f"i{i}")
        for u in range(120)
        for i in generator.choice(np.flatnonzero(group == u % 4), 8, replace=False)
    ]
    folder = tmp_path / "dataset" / "planted"
    folder.mkdir(parents=True)
    frame = pd.DataFrame(rows, columns=["user_id:token", "item_id:token"])
    frame.to_csv(folder / "planted.inter", sep="\t", index=False)
    vectors = np.eye(4, dtype=np.float32)[group] + 0.1 * generator.standard_normal((80, 4)).astype(np.float32)

    def write(modality, ids=None, feature=None):
        ids = [f"i{k}" for k in range(80)] if ids is None else ids
        np.savez(
            folder / f"planted.item.{modality}.npz", id=np.array(ids), feature=vectors if feature is None else feature
        )

    return folder, vectors, write


def test_real_features_are_told_from_shuffled_ones(planted):
    _, vectors, write = planted
    write("real")
    write("shuffled", feature=vectors[np.random.default_rng(1).permutation(80)])
    found = inspect("planted")
    real, shuffled = found.modalities["real"], found.modalities["shuffled"]
    assert real["alignment"]["z"] > 10 and abs(shuffled["alignment"]["z"]) < 3
    assert real["content_recall"] > 1.5 * found.interactions["popularity_recall"] > shuffled["content_recall"] / 2
    assert [line.partition(":")[0] for line in found.warnings] == ["shuffled"]
    assert found.pairs["real/shuffled"]["cka"] < 0.2 and found.pairs["real/shuffled"]["overlap"] < 0.5
    group = {f"i{k}": k % 4 for k in range(80)}
    assert all(group[token] == group[row[0]] for row in found.examples["real"] for token in row[1:])


def test_faults_of_the_file_are_named(planted):
    _, vectors, write = planted
    damaged = vectors.copy()
    damaged[:20] = damaged[0]
    damaged[30], damaged[40, 1] = 0, np.nan
    write("damaged", feature=damaged)
    write("foreign", ids=[f"x{k}" for k in range(80)])
    write("flat", feature=np.full((80, 4), 3, dtype=np.float32))
    write("empty", feature=np.full((80, 4), np.inf, dtype=np.float32))
    found = inspect("planted")
    text = str(found)
    for words in (
        "damaged: 1 rows have NaN", "damaged: 1 rows are all zero", "damaged: 19 of 80 rows equal",
        "foreign: no row matches", "empty: all 80 rows have NaN or infinite", "flat: effective rank",
    ):  # fmt: skip
        assert f"WARNING: {words}" in text
    assert found.modalities["flat"]["constant_columns"] == 4


def test_a_file_with_more_ids_than_rows_is_refused(planted):
    _, vectors, write = planted
    write("short", feature=vectors[:50])
    with pytest.raises(ValueError, match="80 ids but 50 rows of features"):
        inspect("planted")


def test_new_items_and_unmatched_rows_are_counted(planted):
    folder, vectors, write = planted
    write("image", ids=[*(f"i{k}" for k in range(79)), "new"])
    with (folder / "planted.item").open("w") as stream:
        stream.write("item_id:token\tTitle:token\n" + "".join(f"i{k}\tTitle {k}\n" for k in range(80)) + "new\tNew\n")
    found = inspect("planted")
    assert found.interactions["new_items_with_features"] == 1 and found.modalities["image"]["without"] == 1
    assert found.titles["new"] == "New"


def test_the_page_stands_alone(planted, tmp_path):
    pytest.importorskip("jinja2")
    image = pytest.importorskip("PIL.Image")
    folder, _, write = planted
    write("<b>image".replace("<b>", ""))
    (tmp_path / "p").mkdir()
    for k in range(80):
        image.new("RGB", (10, 10), (k, 0, 0)).save(tmp_path / "p" / f"i{k}.png")
    found = inspect("planted", pictures="p/{item_id}.png")
    found.warnings.append("<script>alert(1)</script>")
    text = write_page(found, tmp_path / "page.html").read_text()
    assert "data:image/jpeg;base64," in text and "<script>" not in text and "&lt;script&gt;" in text
    assert "http://" not in text and "https://" not in text and "alignment z" in text
    assert json.loads(json.dumps(found.to_dict()))["modalities"]["image"]["width"] == 4


def test_pictures_of_ids_with_brackets_are_shown(tmp_path):
    image = pytest.importorskip("PIL.Image")
    image.new("RGB", (10, 10)).save(tmp_path / "i[1].png")
    found = SimpleNamespace(pictures="{item_id}.*", examples={"image": [["i[1]"]]})
    assert list(_pictures(found)) == ["i[1]"]


def test_packaged_data_sets_are_found():
    found = inspect("ml-100k")
    assert found.interactions["interactions"] == 100_000
    assert found.modalities["text"]["alignment"]["z"] > 10 and found.modalities["genre"]["alignment"]["z"] > 3


def test_the_features_are_those_that_a_training_reads(tmp_path):
    """A data set of one's own under a packaged name, with another form of feature files."""
    folder = tmp_path / "mm-toy"
    folder.mkdir()
    for file in ("mm-toy.inter", "mm-toy.item"):
        (folder / file).write_bytes((dataset_atomic_dir() / "mm-toy" / file).read_bytes())
    with np.load(dataset_atomic_dir() / "mm-toy" / "mm-toy.item.text.npz") as text:
        table = pd.DataFrame({"id": text["id"], "feature": list(text["feature"])})
    table.to_parquet(folder / "mm-toy.item.mine.parquet")
    assert list(inspect("mm-toy", data_path=tmp_path).modalities) == ["mine"]


def test_a_data_set_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected .*nothing.inter"):
        inspect("nothing")
    shutil.copytree(
        dataset_atomic_dir() / "mm-toy", tmp_path / "dataset" / "bare", ignore=shutil.ignore_patterns("*.npz")
    )
    (tmp_path / "dataset/bare/mm-toy.inter").rename(tmp_path / "dataset/bare/bare.inter")
    with pytest.raises(FileNotFoundError, match="No feature file"):
        inspect("bare")


def test_measures_by_hand():
    rows = np.array([[3.0, 0.0], [0.0, 4.0], [3.0, 0.0], [0.0, 0.0]], dtype=np.float32)
    found = measures.describe_matrix(rows)
    assert (found["duplicate_rows"], found["zero_rows"], found["norm_mean"]) == (1, 1, 2.5)
    x = np.random.default_rng(0).standard_normal((50, 3))
    turned = x @ np.linalg.qr(np.random.default_rng(1).standard_normal((3, 3)))[0]
    assert measures.linear_cka(x, 2 * turned) == pytest.approx(1.0)
    assert measures.neighbour_overlap(x.astype(np.float32), turned.astype(np.float32)) == pytest.approx(1.0)
    train = sp.csr_matrix(np.array([[1, 0, 0, 0], [0, 1, 0, 0]], dtype=np.float32))
    held = sp.csr_matrix(np.array([[0, 1, 0, 0], [1, 0, 0, 0]], dtype=np.float32))
    assert measures.popularity_recall(train, held) == 1.0  # lists are as long as the catalogue


@pytest.mark.parametrize("n", [1, 2])
def test_tiny_tables_do_not_fail(n):
    rows = np.ones((n, 3), dtype=np.float32)
    assert measures.describe_matrix(rows)["effective_rank"] == 0.0
    assert measures.neighbour_overlap(rows, rows) in (0.0, 1.0)


def test_the_content_ranker_is_the_model(planted, monkeypatch):
    """The recall of an inspection is that of ItemKNNCBF's scores, trained on the same part."""
    from tests.model.tiny import tiny_model

    generator = np.random.default_rng(2)
    vectors = generator.standard_normal((12, 3)).astype(np.float32)
    vectors[5] = 0.0
    pairs = sorted({(int(u), int(i)) for u, i in zip(generator.integers(0, 8, 40), generator.integers(0, 10, 40))})
    train = sp.csr_matrix((np.ones(len(pairs), dtype=np.float32), tuple(zip(*pairs))), shape=(8, 12))
    held = sp.csr_matrix(np.eye(8, 12, k=3, dtype=np.float32))
    seen = []
    monkeypatch.setattr(measures, "_recall", lambda train, held, score: seen.append(score(train)) or 0.0)
    measures.content_recall(vectors, train, held, k=3)
    missing = vectors.copy()
    missing[5] = np.nan
    model = tiny_model("ItemKNNCBF", pairs, {"text": missing}, knn_k=3)
    users = torch.arange(1, 9)
    expected = model.full_sort_predict(Interaction({"user_id": users})).view(8, -1)[:, 1:]
    np.testing.assert_allclose(seen[0], expected.numpy()[:, :12], atol=1e-6)
