from __future__ import annotations

import csv

import numpy as np
import pandas as pd
import pytest
import torch
from recbole.quick_start import load_data_and_model
from recbole.utils.case_study import full_sort_topk

from recbole_mm.paths import dataset_atomic_dir
from recbole_mm.serving import scoring
from recbole_mm.serving.export import export, load
from tests.options import SEQUENTIAL

INTERACTIONS = pd.read_csv(dataset_atomic_dir() / "mm-toy" / "mm-toy.inter", sep="\t", dtype=str)
USER, ITEM, TIME = "user_id:token", "item_id:token", "timestamp:float"


def lists(frame: pd.DataFrame) -> dict[str, list[str]]:
    return {user: part.sort_values("rank")["item_id"].tolist() for user, part in frame.groupby("user_id")}


def test_history_lists_are_those_that_recbole_evaluates(trained, tmp_path):
    checkpoint = trained("BPR")
    export(checkpoint, tmp_path / "topk.parquet", topk=10, seen="history", progress=False)
    config, model, dataset, _, _, test_data = load_data_and_model(checkpoint)
    users = test_data.uid_list.tolist()
    scores, items = full_sort_topk(np.array(users), model, test_data, 10)
    frame = pd.read_parquet(tmp_path / "topk.parquet")
    exported = lists(frame)
    values = {user: part.sort_values("rank")["score"].to_numpy() for user, part in frame.groupby("user_id")}
    for row, user in enumerate(dataset.id2token("user_id", users)):
        assert exported[user] == dataset.id2token("item_id", items[row].numpy()).tolist()
        np.testing.assert_allclose(values[user], scores[row].numpy(), rtol=1e-5)


@pytest.mark.parametrize("model", ["BPR", "MMGCN"])
def test_nothing_that_a_user_has_is_recommended(trained, tmp_path, model):
    report = export(trained(model), tmp_path / "topk.csv", topk=7, seen="all", progress=False)
    frame = pd.read_csv(tmp_path / "topk.csv", dtype={"user_id": str, "item_id": str})
    assert report["users"] == frame["user_id"].nunique() == INTERACTIONS[USER].nunique()
    assert report["recommendations"] == len(frame) == 7 * report["users"]
    assert set(frame["item_id"]) <= set(INTERACTIONS[ITEM])
    had = set(zip(INTERACTIONS[USER], INTERACTIONS[ITEM]))
    assert not had & set(zip(frame["user_id"], frame["item_id"]))
    assert frame.groupby("user_id")["rank"].apply(list).map(lambda ranks: ranks == list(range(1, 8))).all()
    assert frame.groupby("user_id")["score"].apply(lambda scores: scores.is_monotonic_decreasing).all()


def test_batches_do_not_change_the_lists(trained, tmp_path, monkeypatch):
    export(trained("BPR"), tmp_path / "one.csv", topk=5, progress=False)
    monkeypatch.setattr(scoring, "_BYTES_PER_SCORE", 2**29 / (80 * 7))  # 6 users a batch
    export(trained("BPR"), tmp_path / "many.csv", topk=5, progress=False)
    # A product of other sizes may round the last digit of a score differently.
    one, many = (pd.read_csv(tmp_path / f"{name}.csv", dtype={USER: str, ITEM: str}) for name in ("one", "many"))
    pd.testing.assert_frame_equal(one, many, rtol=1e-5)


def test_given_users_in_every_format(trained, tmp_path):
    users = INTERACTIONS[USER].unique()[[5, 2, 5]]
    files = {kind: tmp_path / f"topk.{kind}" for kind in ("parquet", "csv", "npz")}
    for file in files.values():
        report = export(trained("BPR"), file, topk=4, users=users, progress=False)
        assert report["users"] == 2
    frame = pd.read_parquet(files["parquet"])
    with files["csv"].open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["item_id"] for row in rows] == frame["item_id"].tolist()
    with np.load(files["npz"]) as archive:
        assert archive["user_id"].tolist() == users[:2].tolist()
        assert archive["item_id"].shape == archive["score"].shape == (2, 4)
        assert archive["item_id"].ravel().tolist() == frame["item_id"].tolist()
        np.testing.assert_array_equal(archive["score"].ravel(), frame["score"].to_numpy())


def test_a_user_who_has_nearly_everything_gets_a_shorter_list(trained, tmp_path):
    report = export(trained("BPR"), tmp_path / "topk.npz", topk=500, seen="all", progress=False)
    with np.load(tmp_path / "topk.npz") as archive:
        assert archive["item_id"].shape == (120, 80)
        left = archive["item_id"] != ""
        assert (left == np.isfinite(archive["score"])).all() and (left.sum(axis=1) < 80).all()
        seen = INTERACTIONS.drop_duplicates([USER, ITEM]).groupby(USER).size()
        assert left.sum(axis=1).tolist() == (80 - seen.loc[archive["user_id"]]).tolist()
        assert report["recommendations"] == left.sum()


def test_a_sequential_model_goes_on_after_the_last_known_item(trained, tmp_path):
    checkpoint = trained("SASRec", **SEQUENTIAL)
    report = export(checkpoint, tmp_path / "all.parquet", topk=5, seen="all", progress=False)
    single = INTERACTIONS.groupby(USER).size().eq(1).sum()
    assert (report["users"], report["popular"]) == (120, single)
    config, model, dataset, _, _, test_data = load_data_and_model(checkpoint)
    model.eval()
    user = test_data._dataset.inter_feat["user_id"][3].item()
    token = dataset.id2token("user_id", user)
    history = INTERACTIONS[INTERACTIONS[USER] == token].copy()
    history[TIME] = history[TIME].astype(float)
    items = [dataset.token2id("item_id", item) for item in history.sort_values(TIME, kind="stable")[ITEM]][-50:]
    sequence = torch.zeros(1, 50, dtype=torch.long)
    sequence[0, : len(items)] = torch.tensor(items)
    with torch.no_grad():
        scores = model.full_sort_predict({"item_id_list": sequence, "item_length": torch.tensor([len(items)])})[0]
    scores[[0, *items]] = -torch.inf
    expected = dataset.id2token("item_id", scores.topk(5).indices.numpy()).tolist()
    assert lists(pd.read_parquet(tmp_path / "all.parquet"))[token] == expected


def test_a_full_history_drops_its_oldest_item():
    from types import SimpleNamespace

    from recbole.data.interaction import Interaction

    rows = Interaction(
        {
            "item_id": torch.tensor([9, 8]),
            "item_id_list": torch.tensor([[1, 2, 3], [4, 0, 0]]),
            "item_length": torch.tensor([3, 1]),
        }
    )
    dataset = SimpleNamespace(item_list_length_field="item_length")
    extended = scoring._extended(rows, dataset, {"LIST_SUFFIX": "_list"})
    assert extended["item_id_list"].tolist() == [[2, 3, 9], [4, 8, 0]] and extended["item_length"].tolist() == [3, 2]
    assert rows["item_id_list"].tolist() == [[1, 2, 3], [4, 0, 0]]


def test_a_model_that_only_scores_pairs_is_exported_too(trained, tmp_path, monkeypatch):
    checkpoint = trained("NeuMF", mf_embedding_size=8, mlp_embedding_size=8, mlp_hidden_size=[8])
    monkeypatch.setattr(scoring, "_PAIRS", 500)
    export(checkpoint, tmp_path / "topk.npz", topk=3, seen="history", progress=False)
    config, model, dataset, _, _, test_data = load_data_and_model(checkpoint)
    users = test_data.uid_list[:4].tolist()
    _, items = full_sort_topk(np.array(users), model, test_data, 3)
    with np.load(tmp_path / "topk.npz") as archive:
        place = {user: row for row, user in enumerate(archive["user_id"].tolist())}
        for row, user in enumerate(dataset.id2token("user_id", users)):
            assert archive["item_id"][place[user]].tolist() == dataset.id2token("item_id", items[row].numpy()).tolist()


@pytest.mark.parametrize("model", ["BPR", "LightGCN", "MMGCN"])
def test_embeddings_are_what_the_model_scores_with(trained, tmp_path, model):
    loaded = load(trained(model))
    report = export(loaded, embeddings=tmp_path / "embeddings.npz", progress=False)
    with np.load(tmp_path / "embeddings.npz") as archive:
        users, items = archive["user_embedding"], archive["item_embedding"]
        user_ids, item_ids = archive["user_id"], archive["item_id"]
    assert report["embeddings"] == {"user": (120, users.shape[1]), "item": (80, items.shape[1])}
    assert set(user_ids) == set(INTERACTIONS[USER]) and set(item_ids) == set(INTERACTIONS[ITEM])
    dataset = loaded[2]
    with torch.no_grad():
        scores = loaded[1].full_sort_predict({"user_id": torch.arange(121)}).view(121, 81).numpy()
    expected = scores[np.ix_(dataset.token2id("user_id", user_ids), dataset.token2id("item_id", item_ids))]
    np.testing.assert_allclose(users @ items.T, expected, rtol=1e-4, atol=1e-5)


def test_embeddings_of_a_sequential_model_are_those_of_its_items(trained, tmp_path):
    checkpoint = trained("SASRec", **SEQUENTIAL)
    report = export(checkpoint, embeddings=tmp_path / "embeddings.parquet", progress=False)
    assert report["embeddings"] == {"item": (80, 16)}
    frame = pd.read_parquet(tmp_path / "embeddings.parquet")
    table = load(checkpoint)[1].item_embedding.weight.detach().numpy()
    assert frame["entity"].unique().tolist() == ["item"] and len(frame) == 80
    np.testing.assert_array_equal(np.stack(frame["embedding"]), table[1:81])


@pytest.mark.parametrize("model", ["Pop", "ItemKNNCBF"])
def test_a_model_without_embeddings_says_so(model, trained, tmp_path):
    with pytest.raises(ValueError, match=rf"{model} has no user or item embeddings.*Export the lists instead"):
        export(trained(model), embeddings=tmp_path / "embeddings.npz")
    assert list(tmp_path.glob("*.npz")) == [] and list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "file for the recommendations"),
        ({"file": "topk.xlsx"}, r"expected \.parquet, \.csv, \.npz"),
        ({"embeddings": "e.csv"}, r"expected \.parquet, \.npz"),
        ({"file": "topk.csv", "topk": 0}, "positive integer"),
        ({"file": "topk.csv", "seen": "train"}, "none, history, all"),
        ({"file": "a.npz", "embeddings": "./a.npz"}, "give two files"),
        ({"file": "topk.csv", "items": ["nothing"]}, "none of the 1 .*'nothing'.*raw ids"),
        ({"file": "topk.csv", "users": []}, "one raw id at least"),
        ({"file": "topk.csv", "users": "196"}, "list of raw ids, got the text '196'"),  # not users 1, 9 and 6
    ],
)
def test_mistakes_are_named(trained, arguments, message):
    with pytest.raises(ValueError, match=message):
        export(trained("BPR"), **arguments, progress=False)


def test_missing_files_and_folders_are_named(trained):
    with pytest.raises(FileNotFoundError, match="no folder"):
        export(trained("BPR"), "nowhere/topk.csv")
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        export("nothing.pth", "topk.csv")


def test_nan_is_not_exported(trained, tmp_path):
    loaded = load(trained("BPR"))
    with torch.no_grad():
        loaded[1].user_embedding.weight[3] = torch.nan
    with pytest.raises(
        ValueError, match="BPR gives 80 of .* of 1 of 120 users .* NaN or infinite in the export.*64 of its"
    ):
        export(loaded, tmp_path / "topk.csv", progress=False)
    with torch.no_grad():
        loaded[1].user_embedding.weight[3] = torch.inf
    with pytest.raises(ValueError, match="NaN or infinite"):
        export(loaded, embeddings=tmp_path / "vectors.npz", progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("model", "options"), [("SGL", {}), ("ENMF", {"train_neg_sample_args": None}), ("NNCF", {})])
def test_embeddings_rank_as_the_model_does_or_are_refused(trained, tmp_path, model, options):
    """SGL keeps what it propagates; ENMF weighs the product and NNCF has a network, so no table ranks as they do."""
    loaded = load(trained(model, embedding_size=8, **options))
    if model != "SGL":
        with pytest.raises(ValueError, match=f"{model} has tables.*do not order the items"):
            export(loaded, embeddings=tmp_path / "vectors.npz", progress=False)
        assert not (tmp_path / "vectors.npz").exists()
        return
    export(loaded, embeddings=tmp_path / "vectors.npz", progress=False)
    with np.load(tmp_path / "vectors.npz") as archive, torch.no_grad():
        product = archive["user_embedding"] @ archive["item_embedding"].T
        scores = loaded[1].full_sort_predict({"user_id": torch.arange(1, 121)}).view(120, 81)[:, 1:].numpy()
        np.testing.assert_allclose(product, scores, rtol=1e-4, atol=1e-5)
