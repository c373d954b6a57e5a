"""Products that nobody had: training does not push them down, and they stand in lists, which can be limited to them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import recbole_mm
from recbole_mm.cli.main import main
from recbole_mm.comparison.protocol import make_protocol
from recbole_mm.experiment.split import describe_split, why_other_split
from recbole_mm.serving.asked import read_ids
from recbole_mm.serving.export import load
from tests.host.cold_data import config, loaders, toy_rows, write
from tests.options import QUICK, SEQUENTIAL

ROWS = toy_rows()
NEW = set(sorted({item for _, item, _ in ROWS})[::5])
OPTIONS: dict[str, Any] = {
    **QUICK,
    "epochs": 16,
    "eval_step": 0,
    "new_items": True,
    "embedding_size": 16,
    "learning_rate": 0.02,
    "train_batch_size": 512,
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mm-toy without a click on a fifth of its items, whose features stay."""
    folder = tmp_path_factory.mktemp("shop")
    write(folder, [row for row in ROWS if row[1] not in NEW])
    return folder


@pytest.fixture(scope="module")
def content_model(shop: Path) -> dict[str, str]:
    """VBPR, trained with each value of ``negative_items``."""
    made = {}
    for negatives in ("seen", "all"):
        options = {**OPTIONS, "data_path": str(shop), "checkpoint_dir": str(shop), "negative_items": negatives}
        made[negatives] = recbole_mm.run("VBPR", "mm-toy", config_dict=options)["checkpoint"]
    return made


def listed(checkpoint: str, file: Path, **options: Any) -> tuple[dict[str, Any], pd.DataFrame]:
    report = recbole_mm.export(checkpoint, file, progress=False, **options)
    frame = pd.read_csv(file, dtype={"user_id": str, "item_id": str})
    assert report["recommendations"] == len(frame) and report["new"] == frame["new"].sum()
    return report, frame


def test_new_items_of_a_content_model_stand_in_the_lists_of_those_who_want_them(
    content_model: dict[str, str], tmp_path: Path
) -> None:
    wanted = {(user, item) for user, item, _ in ROWS if item in NEW}
    new, hits = {}, {}
    for negatives, checkpoint in content_model.items():
        frame = listed(checkpoint, tmp_path / "lists.csv", topk=10)[1]
        assert set(frame.loc[frame["new"], "item_id"]) >= NEW - {"i1"}  # and the three that mm-toy itself has
        assert (frame["new"] | ~frame["item_id"].isin(NEW)).all()
        new[negatives] = int(frame["item_id"].isin(NEW).sum())
        hits[negatives] = len(wanted & set(zip(frame["user_id"], frame["item_id"])))
    assert new["seen"] > 1.3 * new["all"]
    assert hits["seen"] > 1.2 * hits["all"]
    assert hits["seen"] > 0.5 * len(wanted)  # at random one in eight places


@pytest.mark.parametrize("model", ["BPR", "MMGCN", "MML"])
def test_no_unseen_item_is_drawn(shop: Path, model: str) -> None:
    options = {"train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}}
    drawn = {}
    for negatives in (None, "seen", "all"):
        train = loaders(config(model, shop, new_items=True, negative_items=negatives, **options))[0]
        part = train._dataset
        tokens = np.asarray(part.field2id_token["item_id"])
        drawn[negatives] = {item for _ in range(3) for batch in train for item in tokens[batch["neg_item_id"].numpy()]}
        assert (part.negative_items is None) == (negatives == "all")
    assert not NEW & drawn["seen"] and drawn["all"] >= NEW and drawn[None] == drawn["seen"]


def test_popularity_draws_only_what_is_trained(shop: Path) -> None:
    options = {"train_neg_sample_args": {"distribution": "popularity", "sample_num": 1}, "new_items": True}
    train = loaders(config("BPR", shop, **options))[0]
    drawn = {item for batch in train for item in batch["neg_item_id"].tolist()}
    assert drawn <= set(train._dataset.negative_items.tolist())


def test_with_a_training_interaction_of_every_item_nothing_changes(tmp_path: Path) -> None:
    rows = [(f"u{user}", f"i{(user + step) % 9}", step) for user in range(30) for step in range(6)]
    write(tmp_path, rows)
    batches = []
    for negatives in (None, "seen", "all"):
        train = loaders(config("BPR", tmp_path, negative_items=negatives))[0]
        assert type(train._sampler).__name__ == "Sampler" and train._dataset.negative_items is None
        batches.append([batch["neg_item_id"].tolist() for batch in train])
    assert batches[0] == batches[1] == batches[2]


def test_a_user_who_had_every_seen_item_is_an_error_only_where_seen_was_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [(f"u{user}", f"i{step}", step) for user in range(8) for step in range(5 if user else 10)]
    rows.append(("u1", "i10", 5))  # RecBole itself refuses a user who had every item
    write(tmp_path, rows)
    made = {"eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}}
    with pytest.raises(ValueError, match=r"'u0' had every one of the 8 items.*negative_items: all"):
        loaders(config("BPR", tmp_path, negative_items="seen", **made))
    with caplog.at_level(logging.WARNING):
        assert loaders(config("BPR", tmp_path, **made))[0]._dataset.negative_items is None
    assert "3 items without a training interaction are drawn" in caplog.text


@pytest.mark.parametrize(("key", "value"), [("negative_items", "sen"), ("new_items", "yes"), ("new_items", 1)])
def test_a_wrong_value_is_refused(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=key):
        config("BPR", **{key: value})


class TestVocabulary:
    def test_every_model_gets_the_same_items_after_the_others(self, shop: Path) -> None:
        vocabularies = []
        for model, columns in (("BPR", {}), ("BPR", {"item": ["item_id", "brand"]}), ("MMGCN", {}), ("SASRec", {})):
            load = {"load_col": {"inter": ["user_id", "item_id", "timestamp"], **columns}}
            data = loaders(config(model, shop, new_items=True, modalities=["text"], **load))[0]._dataset
            plain = loaders(config(model, shop, **load))[0]._dataset
            tokens = data.field2id_token["item_id"].tolist()
            known = len({item for _, item, _ in ROWS} - NEW) + 1
            assert tokens[:known] == plain.field2id_token["item_id"].tolist()[:known]
            assert set(tokens) >= NEW
            vocabularies.append(sorted(tokens))
        assert all(tokens == vocabularies[0] for tokens in vocabularies)

    def test_what_a_filter_takes_away_is_not_new(self, tmp_path: Path) -> None:
        (tmp_path / "mm-toy").mkdir()
        rare = [("u1", "i1", 1)]
        write(tmp_path, [*[row for row in ROWS if row[1] not in NEW], *rare])
        (tmp_path / "mm-toy" / "mm-toy.item").write_text(
            "item_id:token\tbrand:token\ni1\tb1\ni10\tb9\ni100\tb9\n", encoding="utf-8"
        )
        columns = {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "brand"]}
        data = loaders(config("BPR", tmp_path, new_items=True, item_inter_num_interval="[2,inf)", load_col=columns))[
            0
        ]._dataset
        tokens = data.field2id_token["item_id"].tolist()
        assert "i1" not in tokens and {"i10", "i100"} <= set(tokens)
        brand = data.field2id_token["brand"][data.item_feat["brand"].numpy()]
        assert brand[tokens.index("i100")] == "b9"  # the filter had taken its row away

    def test_an_id_that_reads_as_missing_is_no_item(self, tmp_path: Path) -> None:
        write(tmp_path, ROWS)
        np.savez(tmp_path / "mm-toy" / "mm-toy.item.more.npz", id=np.array(["NA", "made today"]), feature=np.eye(2))
        items = loaders(config("BPR", tmp_path, new_items=True))[0]._dataset.field2id_token["item_id"]
        assert "made today" in items and "NA" not in items

    def test_drop_takes_only_items_with_all_features(self, shop: Path) -> None:
        options = {"new_items": True, "missing_feature": "drop", "modalities": ["image", "text"]}
        data = loaders(config("MMGCN", shop, **options))[0]._dataset
        for table in data.features.item.values():
            assert table.observed[1:].all()
        assert NEW & set(data.field2id_token["item_id"])


class TestCandidates:
    def test_lists_have_only_candidates_and_strangers_get_the_popular_ones(
        self, content_model: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        clicked = sorted({item for _, item, _ in ROWS} - NEW)[:6]
        asked = [*sorted(NEW)[:3], *clicked, *(f"gone{n}" for n in range(12))]
        with caplog.at_level(logging.WARNING):
            report, frame = listed(
                content_model["seen"], tmp_path / "l.csv", topk=20, users=["u41", "stranger", "u102"], items=asked
            )
        assert (report["users"], report["popular"]) == (3, 1)
        assert set(frame["item_id"]) <= {*sorted(NEW)[:3], *clicked}
        lists = {user: part for user, part in frame.groupby("user_id")}
        assert set(lists["u41"]["ranked_by"]) == {"VBPR"} and (lists["u41"]["known_items"] > 0).all()
        stranger = lists["stranger"]
        assert set(stranger["ranked_by"]) == {"popularity"} and (stranger["known_items"] == 0).all()
        assert stranger["score"].is_monotonic_decreasing and stranger["score"].iloc[0] > 0
        assert set(stranger["item_id"][-3:]) == set(sorted(NEW)[:3])
        assert "12 of the 21 items ('gone0', 'gone1'" in caplog.text and "'gone9', ...)" in caplog.text
        assert "1 of the 3 users ('stranger')" in caplog.text

    @pytest.mark.parametrize("kind", ["npz", "parquet"])
    def test_the_marks_are_in_every_format(self, content_model: dict[str, str], tmp_path: Path, kind: str) -> None:
        users, items = ["u41", "a much longer id than those of the data set"], [*sorted(NEW)[:2], "i20"]
        file = tmp_path / f"lists.{kind}"
        recbole_mm.export(content_model["seen"], file, topk=3, users=users, items=items, progress=False)
        frame = listed(content_model["seen"], tmp_path / "l.csv", topk=3, users=users, items=items)[1]
        if kind == "parquet":
            other = pd.read_parquet(file)
            pd.testing.assert_frame_equal(frame, other, check_dtype=False)
            return
        with np.load(file) as archive:
            assert archive["user_id"].tolist() == users
            assert archive["ranked_by"].tolist() == ["VBPR", "popularity"]
            here = archive["item_id"] != ""
            assert archive["item_id"][here].tolist() == frame["item_id"].tolist()
            assert archive["new"][here].tolist() == frame["new"].tolist()

    def test_no_candidate_at_all_is_told_before_the_training(self, tmp_path: Path, capsys: Any) -> None:
        (tmp_path / "items.txt").write_text("nothing\n", encoding="utf-8")
        arguments = ["--model=BPR", "--dataset=mm-toy", f"--export={tmp_path / 'l.csv'}", "--use_gpu=False"]
        assert main([*arguments, f"--export_items=@{tmp_path / 'items.txt'}"]) == 2
        assert "none of the 1 is in the (filtered) data set, such as 'nothing'" in capsys.readouterr().err
        assert not list(tmp_path.rglob("*.pth")) and not (tmp_path / "l.csv").exists()

    def test_a_sequential_model_gives_users_without_a_history_the_popular_items(
        self, trained: Any, tmp_path: Path
    ) -> None:
        _, frame = listed(trained("SASRec", **SEQUENTIAL), tmp_path / "l.csv", topk=5)
        popular = frame[frame["ranked_by"] == "popularity"]
        assert 0 < popular["user_id"].nunique() < frame["user_id"].nunique()
        assert popular["score"].gt(0).all() and not popular["new"].any()

    def test_a_model_that_ranks_new_items_by_chance_says_so(
        self, shop: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        options = {**OPTIONS, "epochs": 1, "data_path": str(shop), "state": "WARNING"}
        with caplog.at_level(logging.WARNING):
            result = recbole_mm.run("BPR", "mm-toy", config_dict=options)
            assert "BPR cannot rank new items: it has no features. Where products that nobody had" in caplog.text
            caplog.clear()
            recbole_mm.export(result["checkpoint"], tmp_path / "l.csv", topk=3, progress=False)
            assert "items without a training interaction stand in its lists says nothing of them" in caplog.text
        notes = make_protocol(["BPR", "MMGCN"], "mm-toy", config_dict=options).notes  # they stand below the table
        assert ["BPR" in note for note in notes if "cannot rank new items" in note] == [True]
        with pytest.raises(ValueError, match="negative_items must be the same for every model"):
            make_protocol(["BPR"], "mm-toy", config_dict=options, model_settings={"BPR": {"negative_items": "all"}})


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\xef\xbb\xbfu1\r\nu2\r\n\r\n", ["u1", "u2"]),
        (b" u1 \n\tu2\nu1", ["u1", "u2"]),
        ("ü 1\r\n漢字\n".encode("utf-16"), ["ü 1", "漢字"]),
        (b"007\r1e5\r", ["007", "1e5"]),
    ],
)
def test_files_of_ids(tmp_path: Path, content: bytes, expected: list[str]) -> None:
    file = tmp_path / "ids.txt"
    file.write_bytes(content)
    assert read_ids(file, "--export_items") == expected


@pytest.mark.parametrize(("content", "message"), [(b"", "has no id"), (b"\n \n", "has no id"), (b"\xff\x00", "UTF-8")])
def test_files_that_are_none(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "ids.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_ids(tmp_path / "ids.txt", "--export_users")
    with pytest.raises(FileNotFoundError, match="--export_users: there is no file"):
        read_ids(tmp_path / "nowhere.txt", "--export_users")


def test_what_is_drawn_is_part_of_what_a_run_is(shop: Path) -> None:
    """Finished runs that drew other negatives are not compared with new ones."""
    splits = {
        (model, negatives): describe_split(*loaders(config(model, shop, new_items=True, negative_items=negatives)))
        for model in ("BPR", "MMGCN")
        for negatives in ("seen", "all")
    }
    assert len({split["hash"] for split in splits.values()}) == 1
    assert splits["BPR", "seen"]["negatives"] == splits["MMGCN", "seen"]["negatives"]
    assert "negatives" not in splits["BPR", "all"]  # as every run before there was the option
    assert why_other_split(splits["BPR", "seen"], splits["MMGCN", "seen"]) == ""
    assert "negatives from other items" in why_other_split(splits["BPR", "seen"], splits["BPR", "all"])


@pytest.mark.parametrize("name", ["GRCN", "MMGCN"])
def test_new_items_of_a_graph_model_are_ranked_by_their_neighbours(shop: Path, name: str) -> None:
    """No message reaches them: by their own vectors they are in no list, however well they fit."""
    # After four epochs their mean is that of the start, where no vector has learned its length.
    options = {**OPTIONS, "epochs": 4, "weight_average": 0, "data_path": str(shop), "checkpoint_dir": str(shop)}
    result = recbole_mm.run(name, "mm-toy", config_dict=options)
    model = load(result["checkpoint"])[1]
    new = np.asarray(model.interactions.sum(axis=0)).ravel() == 0
    new[0] = False  # the padding
    model.eval()
    with torch.no_grad():
        users, own = model.forward()
        _, items = model.representations()
    assert model.new_item_near.shape[1] == 5 and set(model.new_item_ids.tolist()) <= set(np.flatnonzero(new))
    assert not new[model.new_item_near.numpy()].any()
    expected = own[model.new_item_near].mean(dim=1)
    assert torch.allclose(items[model.new_item_ids], expected) and len(expected) > 0
    rest = np.setdiff1d(np.arange(len(new)), model.new_item_ids.numpy())
    assert torch.equal(items[rest], own[rest])
    best = {key: (users @ table.T)[1:, 1:].topk(20, dim=1).indices.numpy() + 1 for key, table in
            (("own", own), ("neighbours", items))}  # fmt: skip
    share = {key: new[index].mean() for key, index in best.items()}
    assert share["neighbours"] > max(2 * share["own"], 0.05), share


def test_a_model_without_a_vector_per_item_has_no_neighbours_to_take_it_from(shop: Path) -> None:
    options = {**OPTIONS, "data_path": str(shop), "checkpoint_dir": str(shop), "new_item_neighbours": 5}
    with pytest.raises(ValueError, match="takes no vector from its neighbours"):
        recbole_mm.run("CMBF", "mm-toy", config_dict=options)
    with pytest.raises(ValueError, match="expected a whole number of at least 0, got -1"):
        recbole_mm.run("VBPR", "mm-toy", config_dict={**options, "new_item_neighbours": -1})
