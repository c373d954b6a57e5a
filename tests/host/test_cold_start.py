"""Cold-start splits against plain loops over the file, for general and sequential models and fixed splits."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model
from recbole.utils.argument_list import dataset_arguments

from tests.host.cold_data import BY_RATIO, LEAVE_ONE_OUT, config, loaders, pairs, sequences, toy_rows, write


def by_user(rows: Any) -> dict[str, list[str]]:
    """Items of each user in the order of time."""
    found = defaultdict(list)
    for user, item, _ in sorted(rows, key=lambda row: row[2]):
        found[user].append(item)
    return found


def new_tokens(dataset: Any) -> set[str]:
    cold = dataset.cold_start
    field, ids = (dataset.uid_field, cold.users) if len(cold.users) else (dataset.iid_field, cold.items)
    return set(dataset.id2token(field, ids).tolist())


class TestWithoutTheOption:
    @pytest.mark.parametrize("model", ["BPR", "SASRec"])
    def test_nothing_is_added(self, model: str) -> None:
        made = loaders(config(model, negative_items="all"))
        for loader in made:
            assert not hasattr(loader._dataset, "cold_start")
            assert type(loader._sampler).__name__ in ("Sampler", "RepeatableSampler", "NoneType")
        assert "cold_start" in dataset_arguments  # a saved data set or loader is not reused under another protocol


class TestNewUsers:
    @pytest.mark.parametrize("support", [None, 2])
    @pytest.mark.parametrize("model", ["BPR", "SASRec"])
    def test_support_validation_and_test_are_the_users_first_interactions(self, model: str, support: Any) -> None:
        made = config(model, eval_args=LEAVE_ONE_OUT, cold_start={"entity": "user", "ratio": 0.3, "support": support})
        train, valid, test = (loader._dataset for loader in loaders(made))
        new, rows = new_tokens(train), by_user(toy_rows())
        least = (support or 1) + 2
        assert len(new) == round(0.3 * sum(len(items) >= least for items in rows.values())) > 10
        expected = {"support": set(), "valid": set(), "test": set()}
        for user in new:
            end = len(rows[user]) - 2 if support is None else support
            expected["support"] |= {(user, item) for item in rows[user][:end]}
            expected["valid"].add((user, rows[user][end], tuple(rows[user][:end])))
            expected["test"].add((user, rows[user][end + 1], tuple(rows[user][: end + 1])))
        assert set(pairs(train, train.cold_start.support)) == expected["support"]
        for part, name in ((valid, "valid"), (test, "test")):
            if model == "SASRec":
                assert sequences(part) == expected[name]
            assert set(pairs(part)) == {question[:2] for question in expected[name]}
        assert not new & {user for user, _ in pairs(train)}

    @pytest.mark.parametrize("model", ["BPR", "SASRec"])
    def test_other_users_are_split_as_if_the_new_had_never_been_there(self, model: str, tmp_path: Path) -> None:
        """Evaluating warm users is RecBole's split of a file without the new ones, histories included."""
        option = {"entity": "user", "evaluate": "warm"}
        parts = [loader._dataset for loader in loaders(config(model, eval_args=LEAVE_ONE_OUT, cold_start=option))]
        new = new_tokens(parts[0])
        write(tmp_path, [row for row in toy_rows() if row[0] not in new])
        without = [loader._dataset for loader in loaders(config(model, tmp_path, eval_args=LEAVE_ONE_OUT))]
        read = sequences if model == "SASRec" else pairs
        for part, plain in zip(parts, without):
            assert sorted(read(part)) == sorted(read(plain))
        everybody = [
            loader._dataset
            for loader in loaders(config(model, eval_args=LEAVE_ONE_OUT, cold_start={**option, "evaluate": "all"}))
        ]
        for part, plain in zip(everybody[1:], without[1:]):
            added = sorted(set(read(part)) - set(read(plain)))
            assert set(read(plain)) < set(read(part)) and {row[0] for row in added} == new

    def test_a_random_order_gives_random_support_sets(self) -> None:
        made = {
            seed: [
                loader._dataset
                for loader in loaders(config("BPR", cold_start={"entity": "user", "support": 3, "seed": seed}))
            ]
            for seed in (1, 2)
        }
        for train, valid, test in made.values():
            users = [rows["user_id"] for rows in (train.cold_start.support, valid.inter_feat, test.inter_feat)]
            counts = [np.bincount(part, minlength=train.user_num)[train.cold_start.users] for part in users]
            assert [set(count) for count in counts] == [{3}, {1}, {1}]
            parts = [set(pairs(train, train.cold_start.support)), set(pairs(valid)), set(pairs(test))]
            assert not parts[0] & parts[1] and not parts[1] & parts[2] and not parts[0] & parts[2]
        assert new_tokens(made[1][0]) != new_tokens(made[2][0])

    def test_by_time_takes_the_users_who_came_last(self) -> None:
        train = loaders(config("SASRec", cold_start={"entity": "user", "by": "time"}))[0]._dataset
        first = {user: min(time for who, _, time in toy_rows() if who == user) for user, _, _ in toy_rows()}
        new = new_tokens(train)
        enough = {user for user, items in by_user(toy_rows()).items() if len(items) >= 3}
        assert min(first[user] for user in new) >= max(first[user] for user in enough - new)

    def test_what_meta_learning_adapts_to(self) -> None:
        """Training rows of the others, and rows of the new users whose target is in the support set."""
        made = config("MML", cold_start={"entity": "user"}, MAX_ITEM_LIST_LENGTH=50)
        train, valid, _ = (loader._dataset for loader in loaders(made))
        rows, new = by_user(toy_rows()), new_tokens(train)
        expected = {(user, rows[user][k], tuple(rows[user][:k])) for user in new for k in range(1, len(rows[user]) - 2)}
        assert sequences(train, train.support_interactions) == sequences(train) | expected
        assert valid.support_interactions is train.support_interactions

    def test_what_meta_learning_adapts_to_is_in_the_order_of_time(self) -> None:
        """The order of the file must not matter: among histories of full length nothing tells which row is later."""
        train = loaders(config("MML", cold_start={"entity": "user"}, MAX_ITEM_LIST_LENGTH=4, max_support=3))[0]._dataset
        rows, new = by_user(toy_rows()), new_tokens(train)
        assert any(len(rows[user]) > 8 for user in new)
        targets = defaultdict(list)
        for user, item in pairs(train, train.support_interactions):
            targets[user].append(item)
        network = get_model("MML")(config("MML", MAX_ITEM_LIST_LENGTH=4, max_support=3), train)
        for user in new:
            assert targets[user] == rows[user][1:-2]
            support = network.support.batch(
                torch.tensor([train.token2id("user_id", user)]), torch.arange(1, train.item_num)
            )
            latest = support.target[support.target > 0].numpy()
            assert train.id2token("item_id", latest).tolist() == targets[user][-3:]

    def test_a_general_model_does_not_recommend_the_support_set(self) -> None:
        _, valid, test = loaders(config("BPR", cold_start={"entity": "user"}))
        cold, items = valid._dataset.cold_start, valid._dataset.inter_feat["item_id"]
        for user in cold.users.tolist():
            support = set(cold.support["item_id"][cold.support["user_id"] == user].tolist())
            assert set(valid.uid2history_item[user].tolist()) == support
            validated = set(items[valid._dataset.inter_feat["user_id"] == user].tolist())
            assert set(test.uid2history_item[user].tolist()) == support | validated


class TestNewItems:
    @pytest.mark.parametrize("by", ["ratio", "time"])
    def test_a_general_split_by_ratio(self, by: str) -> None:
        made = config("BPR", cold_start={"entity": "item", "ratio": 0.25, "by": by})
        train, valid, test = (loader._dataset for loader in loaders(made))
        new, first = new_tokens(train), defaultdict(lambda: np.inf)
        for _, item, time in toy_rows():
            first[item] = min(first[item], time)
        assert len(new) == round(0.25 * len(first))
        in_training = {user for user, _ in pairs(train)}
        parts = [{item for _, item in pairs(part)} for part in (train, valid, test)]
        assert not parts[0] & new and parts[1] | parts[2] == new and not parts[1] & parts[2]
        expected = {(user, item) for user, item, _ in toy_rows() if item in new and user in in_training}
        assert sorted(pairs(valid) + pairs(test)) == sorted(expected)
        if by == "time":
            times = [[first[item] for item in items] for items in parts[1:]]
            assert max(times[0]) <= min(times[1])
            assert max(first[item] for item in set(first) - new) <= min(times[0])

    @pytest.mark.parametrize("model", ["BPR", "SASRec"])
    def test_a_leave_one_out_split_asks_one_question_per_user(self, model: str) -> None:
        made = config(model, eval_args=LEAVE_ONE_OUT, cold_start={"entity": "item", "ratio": 0.4})
        train, valid, test = (loader._dataset for loader in loaders(made))
        new, rows = new_tokens(train), by_user(toy_rows())
        halves = [{item for _, item in pairs(part)} for part in (valid, test)]
        assert halves[0] | halves[1] <= new and not halves[0] & halves[1]
        for part, half in ((valid, halves[0]), (test, halves[1])):
            expected = set()
            for user, items in rows.items():
                asked = [
                    k for k, item in enumerate(items) if item in half and any(other not in new for other in items[:k])
                ]
                if asked:
                    before = tuple(item for item in items[: asked[-1]] if item not in new)
                    expected.add((user, items[asked[-1]], before))
            assert {row[:2] for row in expected} == set(pairs(part)) and len(expected) == len(part)
            if model == "SASRec":
                assert sequences(part) == expected
        if model == "SASRec":
            assert not new & {item for _, target, history in sequences(train) for item in (target, *history)}

    @pytest.mark.parametrize("model", ["BPR", "SASRec"])
    def test_warm_items_are_split_as_if_the_new_had_never_been_there(self, model: str, tmp_path: Path) -> None:
        option = {"entity": "item", "candidates": "warm"}
        parts = [loader._dataset for loader in loaders(config(model, eval_args=LEAVE_ONE_OUT, cold_start=option))]
        new = new_tokens(parts[0])
        write(tmp_path, [row for row in toy_rows() if row[1] not in new])
        read = sequences if model == "SASRec" else pairs
        for part, plain in zip(parts, loaders(config(model, tmp_path, eval_args=LEAVE_ONE_OUT))):
            assert sorted(read(part)) == sorted(read(plain._dataset))

    def test_both_kinds_of_targets(self) -> None:
        parts = {
            which: [
                set(pairs(loader._dataset))
                for loader in loaders(config("BPR", cold_start={"entity": "item", "evaluate": which}))
            ]
            for which in ("cold", "warm", "all")
        }
        for k in (1, 2):
            assert parts["all"][k] == parts["cold"][k] | parts["warm"][k] and not parts["cold"][k] & parts["warm"][k]
        assert parts["all"][0] == parts["cold"][0] == parts["warm"][0]
        one = config("SASRec", cold_start={"entity": "item", "evaluate": "all"})
        for loader in loaders(one)[1:]:
            users = loader._dataset.inter_feat["user_id"]
            assert len(users) == len(users.unique())

    @pytest.mark.parametrize("candidates", ["cold", "warm", "all"])
    @pytest.mark.parametrize("model", ["BPR", "SASRec"])
    def test_only_candidates_are_ranked(self, model: str, candidates: str) -> None:
        _, valid, test = loaders(config(model, cold_start={"entity": "item", "candidates": candidates}))
        cold = test._dataset.cold_start
        everything = set(range(1, test._dataset.item_num))
        allowed = {"cold": set(cold.items), "warm": everything - set(cold.items), "all": everything}[candidates]
        for loader in (valid, test):
            for users, history, positive_u, positive_i in loader:
                scores = torch.zeros(len(users), test._dataset.item_num)
                if history is not None:
                    scores[history] = -torch.inf
                ranked = [set(row.nonzero().squeeze(1).tolist()) - {0} for row in scores.eq(0)]
                assert all(row <= allowed for row in ranked)
                if model == "SASRec":  # RecBole does not mask the past of sequences
                    assert all(row == allowed for row in ranked)
                assert not torch.isinf(scores[positive_u, positive_i]).any()
                if candidates != "all":  # a byte a score: pairs of all that is masked would outgrow eval_memory_mb
                    assert history.dtype == torch.bool and history.shape == scores.shape
                    past = (
                        [set(loader.uid2history_item[u].tolist()) for u in users["user_id"]] if model == "BPR" else []
                    )
                    assert all(not row & had for row, had in zip(ranked, past))

    def test_users_left_with_few_items_stay_out_where_a_filter_keeps_such_users_out(self) -> None:
        """So that general and sequential models still have the same leave-one-out split."""
        split = {}
        for model in ("BPR", "SASRec"):
            made = config(
                model, eval_args=LEAVE_ONE_OUT, cold_start={"entity": "item", "ratio": 0.6},
                user_inter_num_interval="[4,inf)",
            )  # fmt: skip
            train, valid, test = (loader._dataset for loader in loaders(made))
            new = new_tokens(train)
            known = set(pairs(train)) if model == "BPR" else {
                (user, item) for user, target, history in sequences(train) for item in (target, *history)
            }  # fmt: skip
            split[model] = known, set(pairs(valid)), set(pairs(test))
            counts = {user: sum(item not in new for item in items) for user, items in by_user(toy_rows()).items()}
            assert {user for user, _ in known} == {user for user, count in counts.items() if count >= 4}
            assert train.cold_start.left_out > 0
        assert split["BPR"] == split["SASRec"]


class TestFixedSplits:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        rows = toy_rows()
        part = np.random.default_rng(0).choice(3, len(rows), p=[0.6, 0.2, 0.2])
        for k, name in enumerate(("train", "valid", "test")):
            write(tmp_path, [row for row, own in zip(rows, part) if own == k], f"mm-toy.{name}.inter")
        return tmp_path

    def parts(self, folder: Path, option: Any) -> list[set[tuple[str, str]]]:
        made = config("BPR", folder, cold_start=option, benchmark_filename=["train", "valid", "test"])
        self.train, *others = (loader._dataset for loader in loaders(made))
        return [set(pairs(part)) for part in (self.train, *others)]

    def test_new_items_leave_the_training_file(self, folder: Path) -> None:
        files = self.parts(folder, None)
        train, valid, test = self.parts(folder, {"entity": "item"})
        new, users = new_tokens(self.train), {user for user, _ in train}
        assert train == {pair for pair in files[0] if pair[1] not in new}
        assert valid | test == {(u, i) for u, i in files[0] | files[1] | files[2] if i in new and u in users}
        assert not {item for _, item in valid} & {item for _, item in test}
        warm = self.parts(folder, {"entity": "item", "candidates": "warm"})
        assert warm == [{pair for pair in file if pair[1] not in new} for file in files]

    @pytest.mark.parametrize("support", [None, 2])
    def test_new_users_keep_their_files(self, folder: Path, support: Any) -> None:
        files = self.parts(folder, None)
        train, valid, test = self.parts(folder, {"entity": "user", "support": support})
        new = new_tokens(self.train)
        assert train == {pair for pair in files[0] if pair[0] not in new}
        assert [valid, test] == [{pair for pair in file if pair[0] in new} for file in files[1:]]
        known = set(pairs(self.train, self.train.cold_start.support))
        everything = {pair for pair in files[0] if pair[0] in new}
        assert known == everything if support is None else known < everything and len(known) == 2 * len(new)

    def test_histories_in_files_cannot_be_changed(self, tmp_path: Path) -> None:
        (tmp_path / "mm-toy").mkdir()
        lines = ["user_id:token\titem_id_list:token_seq\titem_id:token"]
        for name, rows in (("train", 20), ("valid", 5), ("test", 5)):
            body = [f"u{k % 5}\ti{k % 3} i{k % 4}\ti{k % 6}" for k in range(rows)]
            (tmp_path / "mm-toy" / f"mm-toy.{name}.inter").write_text("\n".join(lines + body) + "\n")
        options = {
            "benchmark_filename": ["train", "valid", "test"], "alias_of_item_id": ["item_id_list"],
            "load_col": {"inter": ["user_id", "item_id", "item_id_list"]},
        }  # fmt: skip
        with pytest.raises(ValueError, match="histories of a sequential data set with benchmark_filename are fixed"):
            loaders(config("SASRec", tmp_path, cold_start={"entity": "item"}, **options))
        train, valid, test = loaders(config("SASRec", tmp_path, cold_start={"entity": "user"}, **options))
        assert new_tokens(train._dataset) == {user for user, _ in pairs(valid._dataset)}
        assert not new_tokens(train._dataset) & {user for user, _ in pairs(train._dataset)}
        assert len(train._dataset.support_interactions) == 20 and len(test._dataset) == 1


class TestErrors:
    def test_time_is_asked_for(self) -> None:
        columns = {"inter": ["user_id", "item_id"]}
        with pytest.raises(ValueError, match="by: time needs the time field 'timestamp'.*add it to load_col"):
            loaders(config("BPR", cold_start={"entity": "item", "by": "time"}, load_col=columns))
        with pytest.raises(ValueError, match="order: TO needs the time field"):
            loaders(config("BPR", cold_start={"entity": "user"}, load_col=columns, eval_args=LEAVE_ONE_OUT))
        assert len(loaders(config("BPR", cold_start={"entity": "item"}, load_col=columns))) == 3

    @pytest.mark.parametrize("option", [{"entity": "user"}, {"entity": "item"}], ids=["user", "item"])
    def test_labels_are_asked_for_where_they_are_evaluated(self, option: Any) -> None:
        columns = {"load_col": {"inter": ["user_id", "item_id", "rating"]}, "train_neg_sample_args": None}
        labelled = {**BY_RATIO, "mode": "labeled"}
        with pytest.raises(ValueError, match="needs the label field 'label'.*Make it with threshold"):
            loaders(config("BPR", cold_start=option, eval_args=labelled, **columns))
        made = {"eval_args": labelled, "threshold": {"rating": 3}, "metrics": ["AUC"], "valid_metric": "AUC", **columns}
        train, _, test = (loader._dataset for loader in loaders(config("BPR", cold_start=option, **made)))
        assert {user for user, _ in pairs(test)} == new_tokens(train) or option["entity"] == "item"
        assert set(test.inter_feat["label"].tolist()) == {0.0, 1.0}

    def test_saved_loaders_of_another_protocol_are_not_reused(self, tmp_path: Path) -> None:
        places = {"checkpoint_dir": str(tmp_path / "saved"), "save_dataset": True, "save_dataloaders": True}
        first = loaders(config("BPR", cold_start={"entity": "user"}, **places))
        again = loaders(config("BPR", cold_start={"entity": "user"}, **places))
        assert pairs(again[2]._dataset) == pairs(first[2]._dataset)
        other = loaders(config("BPR", cold_start={"entity": "item"}, **places))
        assert len(other[2]._dataset.cold_start.items) > 0
        plain = config("BPR", **places)
        assert not hasattr(data_preparation(plain, create_dataset(plain))[0]._dataset, "cold_start")
