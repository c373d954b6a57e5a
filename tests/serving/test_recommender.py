"""Asking a saved model: lists, scores, neighbours, vectors, and users whom it does not know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import recbole_mm
from recbole_mm.serving.export import load as load_checkpoint
from tests.options import SEQUENTIAL


@pytest.fixture(scope="module")
def bpr(tmp_path_factory: pytest.TempPathFactory, trained: Callable[..., str]) -> recbole_mm.Recommender:
    return recbole_mm.load(recbole_mm.save(trained("BPR"), tmp_path_factory.mktemp("saved") / "bpr"))


@pytest.fixture(scope="module")
def sasrec(tmp_path_factory: pytest.TempPathFactory, trained: Callable[..., str]) -> recbole_mm.Recommender:
    folder = tmp_path_factory.mktemp("saved") / "sasrec"
    return recbole_mm.load(recbole_mm.save(trained("SASRec", **SEQUENTIAL), folder))


def test_candidates_and_what_the_user_had(bpr: recbole_mm.Recommender) -> None:
    everything = bpr.recommend("u41", 100, exclude_seen=False)
    assert sorted(everything["item_id"]) == sorted(bpr.item_ids)
    left = bpr.recommend("u41", 100)["item_id"].tolist()
    had = [item for item in everything["item_id"] if item not in left]
    assert 0 < len(had) < 80 and [item for item in everything["item_id"] if item in left] == left
    chosen = [*had[:2], *left[3:6][::-1], "sold out long ago"]
    assert bpr.recommend(["u41"], 100, candidates=chosen)["item_id"].tolist() == left[3:6]
    found = bpr.recommend(["u102", "u41"], 2)
    assert found["user_id"].tolist() == ["u102", "u102", "u41", "u41"] and found["rank"].tolist() == [1, 2, 1, 2]


def test_scores_are_products_of_the_vectors(bpr: recbole_mm.Recommender) -> None:
    items = ["i20", "i2", "i20"]
    user = bpr.user_embeddings[bpr.user_ids.index("u41")]
    table = bpr.item_embeddings[[bpr.item_ids.index(item) for item in items]]
    np.testing.assert_allclose(bpr.scores("u41", items), table @ user, rtol=1e-4, atol=1e-6)
    assert bpr.user_embeddings.shape == (120, 64) and bpr.item_embeddings.shape == (80, 64)


def test_scores_are_in_the_order_of_the_items_however_often_one_is_asked(bpr: recbole_mm.Recommender) -> None:
    once = bpr.scores("u41", ["i2", "i20"])
    np.testing.assert_array_equal(bpr.scores("u41", ["i20", "i2", "i20"]), once[[1, 0, 1]])


def test_similar_items(bpr: recbole_mm.Recommender) -> None:
    table = bpr.item_embeddings / np.linalg.norm(bpr.item_embeddings, axis=1, keepdims=True)
    own = bpr.item_ids.index("i20")
    order = [bpr.item_ids[i] for i in np.argsort(-(table @ table[own])) if i != own]
    found = bpr.similar_items("i20", 4)
    assert found["item_id"].tolist() == order[:4] and found["similarity"].is_monotonic_decreasing
    assert len(bpr.similar_items("i20", 1000)) == 79


def test_a_history_is_the_mean_of_its_items(bpr: recbole_mm.Recommender) -> None:
    history = bpr.item_ids[3:6]
    mean = bpr.item_embeddings[[bpr.item_ids.index(item) for item in history]].mean(axis=0)
    scores = bpr.item_embeddings @ mean
    order = [bpr.item_ids[i] for i in np.argsort(-scores)]
    assert bpr.recommend(history=history, k=100, exclude_seen=False)["item_id"].tolist() == order
    left = [item for item in order if item not in history]
    found = bpr.recommend("a new one", history=history, k=5)
    assert found["item_id"].tolist() == left[:5] and set(found["user_id"]) == {"a new one"}


def test_a_sequential_model_reads_a_history_as_any_other(
    sasrec: recbole_mm.Recommender, trained: Callable[..., str]
) -> None:
    """The history of a known user, given by hand, is answered as the user is."""
    _, _, _, _, valid, _ = load_checkpoint(trained("SASRec", **SEQUENTIAL))
    part = valid._dataset
    row = part.inter_feat[5]
    length = int(row["item_length"])
    history = part.id2token("item_id", [*row["item_id_list"][:length].tolist(), int(row["item_id"])]).tolist()
    user = str(part.id2token("user_id", int(row["user_id"])))
    by_hand = sasrec.recommend(history=history, k=10, exclude_seen=False)
    known = sasrec.recommend(user, 10, exclude_seen=False)
    assert by_hand["item_id"].tolist() == known["item_id"].tolist()
    long = [*sasrec.item_ids * 2, *history]  # longer than the model reads: the latest count
    assert len(sasrec.recommend(history=long, k=3, exclude_seen=False)) == 3
    assert sasrec.item_embeddings.shape == (80, 16)
    with pytest.raises(ValueError, match="no vectors of users"):
        _ = sasrec.user_embeddings


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda r: r.recommend(["u4i"]), r"user 'u4i' is not among .* Did you mean 'u4.*history=\["),
        (lambda r: r.recommend(np.int64(41)), "user .41. is not among"),
        (lambda r: r.recommend(), r"whose\?"),
        (lambda r: r.recommend("u41", 0), "positive integer"),
        (lambda r: r.recommend("u41", True), "positive integer"),
        (lambda r: r.recommend("u41", exclude_seen="no"), "exclude_seen: expected True or False, got 'no'"),
        (lambda r: r.similar_items("i20", 0), "k: expected a positive integer"),
        (lambda r: r.similar_items("i20", "5"), "k: expected a positive integer, got '5'"),
        (lambda r: r.recommend("u41", candidates=["i2o"]), "none of the 1 is in .* such as 'i2o'"),
        (lambda r: r.scores("u41", ["i2o"]), "item 'i2o' is not among.*Did you mean 'i2"),
        (lambda r: r.recommend("u41", candidates="i20"), "list of raw ids"),
        (lambda r: r.recommend(["a", "b"], history=["i20"]), "belongs to one user"),
        (lambda r: r.recommend(history="i20"), "list of raw ids"),
        (lambda r: r.recommend("u41", candidates=20), r"candidates: expected a list of raw ids, got 20 \(int\)"),
        (lambda r: r.scores("u41", 20), r"items: expected a list of raw ids, got 20 \(int\)"),
        (lambda r: r.recommend(history=[]), "one item at least"),
        (lambda r: r.recommend(history=["nothing"]), "item 'nothing' is not among"),
        (lambda r: r.scores("u41", ["nothing"]), "item 'nothing'"),
        (lambda r: r.similar_items("nothing"), "item 'nothing'"),
        (lambda r: r.recommend(float("nan")), r"users: expected a raw id, which is a text or .*, got nan \(float"),
        (lambda r: r.recommend(b"u41"), r"users: expected a raw id.*got b'u41' \(bytes\)"),
        (lambda r: r.recommend(["u41", None]), r"users: expected a raw id.*got None \(NoneType\)"),
        (lambda r: r.recommend(object), "users: expected a list of raw ids, got <class 'object'>"),
        (lambda r: r.recommend(41.5), "user '41.5' is not among"),
        (lambda r: r.recommend(True), r"users: expected a raw id.*got True \(bool\)"),
        (lambda r: r.recommend(b"new", history=["i20"]), r"users: expected a raw id.*got b'new'"),
        (lambda r: r.recommend(history=[b"i20"]), r"history: expected a raw id.*got b'i20'"),
        (lambda r: r.recommend(history=20), r"history: expected a list of raw ids, got 20 \(int\)"),
        (lambda r: r.recommend("u41", candidates=b"i20"), r"candidates: expected a list of raw ids, got b'i20'"),
        (lambda r: r.recommend("u41", candidates=[np.nan]), r"candidates: expected a raw id.*got nan"),
        (lambda r: r.scores("u41", None), r"items: expected a list of raw ids, got None \(NoneType\)"),
        (lambda r: r.scores("u41", [b"i20"]), r"items: expected a raw id.*got b'i20'"),
        (lambda r: r.scores(["u41"], ["i20"]), r"user: expected a raw id.*got \['u41'\] \(list\)"),
        (lambda r: r.similar_items(b"i20"), r"item: expected a raw id.*got b'i20'"),
        (lambda r: r.similar_items(["i20"]), r"item: expected a raw id.*got \['i20'\] \(list\)"),
    ],
)
def test_mistakes_are_named(bpr: recbole_mm.Recommender, ask: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ask(bpr)


def test_what_numpy_counted_is_a_length(bpr: recbole_mm.Recommender) -> None:
    found = bpr.recommend("u41", np.int64(3), exclude_seen=np.bool_(True))
    assert found["item_id"].tolist() == bpr.recommend("u41", 3)["item_id"].tolist()
    assert len(bpr.similar_items("i20", np.int32(2))) == 2


def test_a_user_without_a_history_is_told_what_helps(sasrec: recbole_mm.Recommender) -> None:
    without = [u for u in sasrec.user_ids if not sasrec.scorer.can_score(np.array([sasrec.user_ids.index(u) + 1]))[0]]
    with pytest.raises(ValueError, match=r"has no history.*history=\[item ids\]"):
        sasrec.recommend(without[0])


def test_a_model_of_pairs_cannot_take_in_a_history(trained: Callable[..., str], tmp_path: Any) -> None:
    checkpoint = trained("NeuMF", mf_embedding_size=8, mlp_embedding_size=8, mlp_hidden_size=[8])
    recommender = recbole_mm.load(recbole_mm.save(checkpoint, tmp_path / "neumf"))
    with pytest.raises(ValueError, match="NeuMF cannot take in a user by a history"):
        recommender.recommend(history=["i20"])
    with pytest.raises(ValueError, match="train it again with the new ones"):
        recommender.recommend("nobody")
    assert torch.isfinite(torch.from_numpy(recommender.scores("u41", ["i20"]))).all()
