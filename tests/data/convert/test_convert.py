from __future__ import annotations

import os
import re
import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from recbole.config import Config

import recbole_mm
from recbole_mm.data.convert.command import main
from recbole_mm.data.convert.mmrec import from_mmrec
from recbole_mm.data.convert.mmrec_export import to_mmrec
from recbole_mm.data.features.files import FeatureFile
from tests.data.support import check_alignment, make_config, make_dataset, vectors, write_inter, write_npz
from tests.options import QUICK

REAL = Path(os.environ.get("RECBOLE_MM_DATA", Path(__file__).resolve().parents[4] / "shared" / "data"))
SETS = {
    # columns of modality=file, then users, items, interactions, kept in train, valid and test
    "lfm2k": ({"text": "all-MiniLM-L6-v2.npy", "audio": "vggish.npy"}, (1858, 1425, 56345), (44327, 4799, 7219)),
    "ml-latest-small-mm": (None, (666, 2035, 64567), (51677, 6445, 6445)),
    "mmgcl-sample-tiktok": (None, (100, 1651, 2089), (1707, 52, 72)),
    "mmgcl-sample-movielens": (None, (100, 1141, 2641), (2071, 182, 228)),
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A set in MMRec's layout: item 3 and user 2 are new in the evaluation rows, item 4 has no interaction."""
    folder = tmp_path / "mmrec"
    folder.mkdir()
    rows = [
        "userID\titemID\trating\ttimestamp\tx_label\tasin",
        "0\t0\t5.0\t1000000000001\t0\tA", "0\t1\t3.0\t2\t0\tB", "1\t0\t1.50\t3\t0\tC", "1\t2\t4.0\t4\t0\tD",
        "0\t2\t4.0\t5\t1\tE", "1\t3\t4.0\t6\t1\tF", "2\t1\t4.0\t7\t1\tG",
        "1\t1\t4.0\t8\t2\tH", "2\t3\t4.0\t9\t2\tI", "0\t2\t4.0\t10\t2\tJ",
    ]  # fmt: skip
    (folder / "baby.inter").write_text("\n".join(rows) + "\n")
    np.save(folder / "image_feat.npy", vectors([str(k) for k in range(5)]))
    np.save(folder / "text_feat.npy", np.arange(10.0).reshape(5, 2))
    np.save(folder / "taste.npy", vectors([str(k) for k in range(3)]))
    return folder


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


class TestFromMMRec:
    def test_files_and_report(self, source: Path, tmp_path: Path, capsys) -> None:
        target = tmp_path / "out"
        arguments = ["mmrec", str(source), str(target), "--name", "baby", "--user-feature", "taste=taste.npy"]
        assert main([*arguments, "--drop_unseen"]) == 0
        written = sorted(path.name for path in (target / "baby").iterdir())
        assert written == [
            "baby.inter", "baby.item.image.npz", "baby.item.text.npz", "baby.test.inter", "baby.train.inter",
            "baby.user.taste.npz", "baby.valid.inter", "baby.yaml",
        ]  # fmt: skip
        assert sorted(path.name for path in target.iterdir()) == ["baby"]
        header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
        assert lines(target / "baby" / "baby.train.inter") == [
            header, "0\t0\t5.0\t1000000000001", "0\t1\t3.0\t2", "1\t0\t1.50\t3", "1\t2\t4.0\t4",
        ]  # fmt: skip
        assert lines(target / "baby" / "baby.valid.inter") == [header, "0\t2\t4.0\t5"]
        assert lines(target / "baby" / "baby.test.inter") == [header, "1\t1\t4.0\t8", "0\t2\t4.0\t10"]
        whole = lines(target / "baby" / "baby.inter")
        assert whole[0] == header + "\tx_label:token"
        assert len(whole) == 11 and whole[6] == "1\t3\t4.0\t6\t1"
        printed = capsys.readouterr().out
        assert "3 users, 4 items, 10 interactions" in printed
        assert "valid: 2 of 3 interactions dropped, of 1 users and 1 items that training never sees" in printed
        assert "test: 1 of 3 interactions dropped, of 1 users and 1 items that training never sees" in printed
        assert "split: train 4, valid 1, test 2" in printed
        assert "columns left out: asin" in printed
        assert "1 interactions repeat a (user, item) pair" in printed
        assert f"--config_files={target / 'baby' / 'baby.yaml'}" in printed

    def test_items_that_training_lacks_are_kept_unless_told_and_users_are_not(
        self, source: Path, tmp_path: Path, capsys
    ) -> None:
        assert main(["mmrec", str(source), str(tmp_path), "--name", "baby"]) == 0
        printed = capsys.readouterr().out
        assert "valid: 1 of 3 interactions dropped, of 1 users that training never sees" in printed
        assert "valid: 1 interactions kept, of 1 items that training never sees (--drop_unseen drops them)" in printed
        valid, test = (lines(tmp_path / "baby" / f"baby.{part}.inter")[1:] for part in ("valid", "test"))
        assert valid == ["0\t2\t4.0\t5", "1\t3\t4.0\t6"]
        assert test == ["1\t1\t4.0\t8", "0\t2\t4.0\t10"]

    def test_kept_items_are_ranked_and_make_a_slice(self, source: Path, tmp_path: Path) -> None:
        rows = lines(source / "baby.inter")
        (source / "baby.inter").write_text("\n".join([*rows, "3\t4\t4.0\t1\t0\tK", "0\t3\t4.0\t11\t2\tL", ""]))
        from_mmrec(source, tmp_path, "baby", {"image": "image_feat.npy"}, {})
        options = {**QUICK, "data_path": str(tmp_path), "topk": [3], "valid_metric": "Recall@3", "epochs": 1}
        for model in ("BPR", "LightGCN", "MMGCN"):
            result = recbole_mm.run(model, "baby", config_dict={**options, "slices": ["cold_items"]})
            assert result["config"]["benchmark_filename"] == ["train", "valid", "test"]
            assert result["test_result"]["cases[cold_items]"] == 1
            assert 0 <= result["test_result"]["recall@3[cold_items]"] <= 1

    def test_features_are_those_of_the_ids_and_only_float16_or_float32(self, source: Path, tmp_path: Path) -> None:
        for memory_map in (False, True):
            from_mmrec(source, tmp_path, "baby", memory_map=memory_map, force=True)
            suffix = "npy" if memory_map else "npz"
            for modality, dtype in (("image", np.float16), ("text", np.float32)):
                file = FeatureFile("item", modality, tmp_path / "baby" / f"baby.item.{modality}.{suffix}")
                assert file.tokens()[0].tolist() == ["0", "1", "2", "3", "4"]
                assert file.matrix().dtype == dtype
                original = np.load(source / f"{modality}_feat.npy")
                assert np.array_equal(file.matrix().read(np.arange(5)), original)
            for path in (tmp_path / "baby").glob("*.np?"):
                path.unlink()

    def test_recbole_reads_the_result_with_its_configuration(self, source: Path, tmp_path: Path) -> None:
        from_mmrec(source, tmp_path, "baby", {"image": "image_feat.npy"}, {"taste": "taste.npy"})
        file = tmp_path / "baby" / "baby.yaml"
        config = Config(
            model="BPR", dataset="baby", config_file_list=[str(file)],
            config_dict={"data_path": str(tmp_path), "use_gpu": False, "state": "ERROR"},
        )  # fmt: skip
        assert config["benchmark_filename"] == ["train", "valid", "test"]
        assert config["load_col"] == {"inter": ["user_id", "item_id", "timestamp"]}
        assert config["RATING_FIELD"] == "rating" and config["TIME_FIELD"] == "timestamp"
        options = yaml.safe_load(file.read_text())
        dataset = make_dataset(tmp_path, "baby", **options)
        assert [len(part) for part in dataset.build()] == [4, 2, 2]
        check_alignment(dataset, {"image": {"0", "1", "2", "3", "4"}})
        check_alignment(dataset, {"taste": {"0", "1", "2"}}, "user")
        options["benchmark_filename"] = None
        assert len(make_dataset(tmp_path, "baby", **options)) == 10

    def test_ids_are_numbers(self, source: Path, tmp_path: Path) -> None:
        text = (source / "baby.inter").read_text()
        (source / "baby.inter").write_text(text.replace("1\t2\t4.0", "01\t002\t4.0"))
        from_mmrec(source, tmp_path, "baby")
        options = yaml.safe_load((tmp_path / "baby" / "baby.yaml").read_text())
        check_alignment(make_dataset(tmp_path, "baby", modalities=["image"], **options), {"image": set("01234")})

    def test_unusual_columns(self, source: Path, tmp_path: Path) -> None:
        frame = pd.read_csv(source / "baby.inter", sep="\t", dtype=str)
        (source / "baby.inter").unlink()
        frame = frame.rename(columns={"userID": "user_id:token", "itemID": "movie", "x_label": "fold"})
        frame.drop(columns=["rating", "timestamp"]).to_csv(source / "other.inter", sep="\t", index=False)
        arguments = ["mmrec", str(source), str(tmp_path / "out"), "--name", "baby"]
        assert main([*arguments, "--item-column=movie", "--split-column", "fold"]) == 0
        assert lines(tmp_path / "out" / "baby" / "baby.valid.inter") == ["user_id:token\titem_id:token", "0\t2", "1\t3"]
        options = yaml.safe_load((tmp_path / "out" / "baby" / "baby.yaml").read_text())
        assert options["load_col"] == {"inter": ["user_id", "item_id"]} and "RATING_FIELD" not in options

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (
                lambda f: f.rename(columns={"itemID": "movie"}),
                r"no item column \(itemid or item or iid\) among userID, movie",
            ),
            (
                lambda f: f.assign(user="1"),
                "userID and user could both be the user column; choose one with --user-column",
            ),
            (lambda f: f.assign(x_label="3"), r"x_label should be 0, 1 or 2, got '3' in line 2 \(10 such lines\)"),
            (lambda f: f.assign(itemID="B00A"), "item_id should be a whole number, got 'B00A' in line 2"),
            (lambda f: f.assign(rating="good"), "rating should be a number, got 'good'"),
            (lambda f: f.assign(timestamp=""), "timestamp should be a number, got ''"),
            (lambda f: f.assign(x_label="0"), "x_label leaves no interaction for valid"),
            (
                lambda f: f.assign(itemID="5"),
                "image_feat.npy: 5 rows for item ids up to 5; row k must belong to item k",
            ),
        ],
    )
    def test_tables_that_are_wrong(self, source: Path, tmp_path: Path, capsys, change, message: str) -> None:
        frame = pd.read_csv(source / "baby.inter", sep="\t", dtype=str)
        change(frame).to_csv(source / "baby.inter", sep="\t", index=False)
        assert main(["mmrec", str(source), str(tmp_path / "out"), "--name", "baby"]) == 1
        error = capsys.readouterr().err
        assert re.search(message, error), error
        assert not (tmp_path / "out" / "baby").exists()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda text: b"", "baby.inter is empty; expected a first line"),
            (lambda text: text + b"\xe9\t1\t1\t1\t0\tK\n", "baby.inter, line 12: the text is not utf-8"),
            (lambda text: text + b"1\t1\t1\t1\t0\n", "baby.inter, line 12: expected 6 values, .* got 5"),
            # pandas takes the first column for the names of the rows then, and users are items
            (lambda text: text.replace(b"\tA\n", b"\tA\t0\n"), "line 2: expected 6 values, .* got 7"),
            (lambda text: text + b'1\t1\t1\t1\t0\t"K\n', "baby.inter cannot be read: .*EOF inside string"),
            (lambda text: text.replace(b"asin", b"userID"), "line 1: the column 'userID' is there twice"),
            (lambda text: text.replace(b"0\t0\t5", b"0\t%d\t5" % 10**20), "item ids up to 100,000,000,000,000,000,000"),
        ],
    )
    def test_broken_tables_are_named_and_nothing_is_shifted(
        self, source: Path, tmp_path: Path, capsys, change, message: str
    ) -> None:
        (source / "baby.inter").write_bytes(change((source / "baby.inter").read_bytes()))
        assert main(["mmrec", str(source), str(tmp_path / "out"), "--name", "baby"]) == 1
        error = capsys.readouterr().err
        assert re.search(message, error), error
        assert not (tmp_path / "out" / "baby").exists()

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            ([[1.0, np.nan]] + [[0.0, 1.0]] * 4, r"1 of 5 rows hold NaN or infinity as float32 \(first: row 0"),
            ([[1.0, 2.0]] * 4 + [[0.0, 1e40]], r"1 of 5 rows hold NaN or infinity as float32 \(first: row 4"),
            (np.zeros((5, 0)), r"expected a numeric matrix, a row per item, got float64 of shape \(5, 0\)"),
            ({"feature": np.ones((5, 2))}, "expected a .npy file with an array of numbers"),
            (b"", "cannot be read as a plain array"),
        ],
    )
    def test_features_that_training_would_refuse(self, source: Path, tmp_path: Path, capsys, array, message) -> None:
        with (source / "text_feat.npy").open("wb") as stream:
            if isinstance(array, dict):
                np.savez(stream, **array)
            elif not isinstance(array, bytes):
                np.save(stream, np.asarray(array))
        assert main(["mmrec", str(source), str(tmp_path / "out"), "--name", "baby"]) == 1
        error = capsys.readouterr().err
        assert re.search(f"text_feat.npy.*{message}", error), error
        assert not (tmp_path / "out" / "baby").exists()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--feature", "text=no.npy"], "No feature file no.npy in .*image_feat.npy, taste.npy, text_feat.npy"),
            (["--feature", "text"], "--feature 'text': expected MODALITY=FILE"),
            (["--feature", "a=image_feat.npy", "--feature", "a=text_feat.npy"], "given twice"),
            (["--feature", "text=ids.npy"], r"expected a numeric matrix, a row per item, got int64 of shape \(5,\)"),
            (["--feature", "text=objects.npy"], "objects.npy cannot be read.*allow_pickle"),
            (["--feature", "a.b=image_feat.npy"], r"'a\.b' is no name for a modality"),
            (["--time-column", "when"], r"no time column \(when\)"),
        ],
    )
    def test_arguments_that_are_wrong_leave_nothing_behind(
        self, source: Path, tmp_path: Path, capsys, arguments: list[str], message: str
    ) -> None:
        np.save(source / "ids.npy", np.arange(5))
        np.save(source / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
        if "No feature" in message:
            (source / "ids.npy").unlink()
            (source / "objects.npy").unlink()
        assert main(["mmrec", str(source), str(tmp_path / "out"), "--name", "baby", *arguments]) == 1
        error = capsys.readouterr().err
        assert re.search(message, error), error
        assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())

    def test_sources_that_are_wrong(self, source: Path, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="is no folder"):
            from_mmrec(source / "nowhere", tmp_path, "baby")
        for path in source.glob("*_feat.npy"):
            path.unlink()
        with pytest.raises(FileNotFoundError, match="has no <modality>_feat.npy; name the files"):
            from_mmrec(source, tmp_path, "baby")
        (source / "b.inter").touch()
        with pytest.raises(
            FileNotFoundError, match="expected sports.inter or exactly one .inter file, found b.inter, baby"
        ):
            from_mmrec(source, tmp_path, "sports")

    def test_overwrites_only_when_forced(self, source: Path, tmp_path: Path, capsys) -> None:
        target = tmp_path / "out" / "baby"
        target.mkdir(parents=True)
        (target / "notes.txt").write_text("mine")
        arguments = ["mmrec", str(source), str(tmp_path / "out"), "--name", "baby"]
        assert main(arguments) == 1
        assert "is not empty; remove it or pass --force" in capsys.readouterr().err
        assert [path.name for path in target.iterdir()] == ["notes.txt"]
        (target / "baby.inter").write_text("old")
        assert main([*arguments, "--force"]) == 0
        assert lines(target / "baby.inter")[0].startswith("user_id:token")
        assert (target / "notes.txt").read_text() == "mine"
        assert "left as they were" in capsys.readouterr().out

    def test_an_error_while_writing_leaves_the_old_files(self, source: Path, tmp_path: Path, monkeypatch) -> None:
        from_mmrec(source, tmp_path, "baby")
        before = {path.name: path.read_bytes() for path in (tmp_path / "baby").iterdir()}

        def full(*_: object, **__: object) -> None:
            raise OSError("no space left")

        monkeypatch.setattr(np, "savez", full)
        with pytest.raises(OSError, match="no space left"):
            from_mmrec(source, tmp_path, "baby", force=True)
        assert {path.name: path.read_bytes() for path in (tmp_path / "baby").iterdir()} == before
        assert not list(tmp_path.glob(".baby-*"))


class TestToMMRec:
    def test_round_trip_is_the_same_to_the_last_byte(self, source: Path, tmp_path: Path) -> None:
        frame = pd.read_csv(source / "baby.inter", sep="\t", dtype=str).drop(columns="asin")
        frame.to_csv(source / "baby.inter", sep="\t", index=False)
        for memory_map in (False, True):
            from_mmrec(source, tmp_path / str(memory_map), "baby", None, {"taste": "taste.npy"}, memory_map=memory_map)
            to_mmrec(tmp_path / str(memory_map) / "baby", tmp_path / f"back {memory_map}", "baby")
            back = tmp_path / f"back {memory_map}" / "baby"
            assert (back / "baby.inter").read_bytes() == (source / "baby.inter").read_bytes()
            for ours, theirs in (
                ("image_feat", "image_feat"),
                ("text_feat", "text_feat"),
                ("user_taste_feat", "taste"),
            ):
                assert np.array_equal(np.load(back / f"{ours}.npy"), np.load(source / f"{theirs}.npy"))

    def test_features_of_users_come_back_as_those_of_users(self, source: Path, tmp_path: Path) -> None:
        from_mmrec(source, tmp_path / "ours", "baby", None, {"taste": "taste.npy"})
        to_mmrec(tmp_path / "ours" / "baby", tmp_path / "back", "baby")
        np.save(tmp_path / "back" / "baby" / "user_taste_feat.npy", vectors([str(k) for k in range(9)]))  # > items
        assert main(["mmrec", str(tmp_path / "back" / "baby"), str(tmp_path / "again"), "--name", "baby"]) == 0
        names = {path.name for path in (tmp_path / "again" / "baby").glob("*.npz")}
        assert names == {"baby.item.image.npz", "baby.item.text.npz", "baby.user.taste.npz"}
        named = {"user_taste": "user_taste_feat.npy"}  # whoever names it an item's knows better
        from_mmrec(tmp_path / "back" / "baby", tmp_path / "named", "baby", named)
        assert [path.name for path in (tmp_path / "named" / "baby").glob("*.npz")] == ["baby.item.user_taste.npz"]

    def test_files_that_lost_rows(self, source: Path, tmp_path: Path, capsys) -> None:
        from_mmrec(source, tmp_path, "baby")
        for n_rows in (4, 6):
            np.savez(tmp_path / "baby" / "baby.item.text.npz", id=list("01234"), feature=np.ones((n_rows, 2)))
            assert main(["to-mmrec", str(tmp_path / "baby"), str(tmp_path / "back"), "--name", "baby"]) == 1
            assert f"baby.item.text.npz: 5 ids but {n_rows} rows of features" in capsys.readouterr().err
            assert not (tmp_path / "back" / "baby").exists()

    def test_tokens_missing_rows_and_a_split_in_parts(self, tmp_path: Path) -> None:
        folder = tmp_path / "tiny"
        write_inter(folder, "tiny.train", [("zoë", "apple"), ("bob", "pear")])
        write_inter(folder, "tiny.valid", [("zoë", "pear")])
        write_inter(folder, "tiny.test", [("bob", "apple")])
        write_npz(folder, "tiny.item.text", ["fig", "apple"])
        np.savez(folder / "tiny.inter.review.npz", user_id=["bob"], item_id=["pear"], feature=np.ones((1, 2)))
        report = to_mmrec(folder, tmp_path / "back", "tiny")
        back = tmp_path / "back" / "tiny"
        assert lines(back / "tiny.inter") == [
            "userID\titemID\ttimestamp\tx_label", "0\t0\t1\t0", "1\t1\t2\t0", "0\t1\t1\t1", "1\t0\t1\t2",
        ]  # fmt: skip
        assert lines(back / "i_id_mapping.csv") == ["item_id\titemID", "apple\t0", "pear\t1", "fig\t2"]
        assert lines(back / "u_id_mapping.csv") == ["user_id\tuserID", "zoë\t0", "bob\t1"]
        expected = vectors(["apple", "pear", "fig"])
        expected[1] = 0
        assert np.array_equal(np.load(back / "text_feat.npy"), expected)
        assert "item modality text: 2 rows, 1 rows of zeros" in report
        assert "interaction modality review is left out: MMRec has no place for it" in report

    def test_numbers_with_large_gaps_are_numbered_anew(self, tmp_path: Path) -> None:
        folder = tmp_path / "tiny"
        for part in ("train", "valid", "test"):
            write_inter(folder, f"tiny.{part}", [("7", "1000"), ("0", "20")])
        write_npz(folder, "tiny.item.text", ["20", "1000"])
        to_mmrec(folder, tmp_path / "back", "tiny")
        assert np.array_equal(np.load(tmp_path / "back" / "tiny" / "text_feat.npy"), vectors(["1000", "20"]))
        assert (tmp_path / "back" / "tiny" / "u_id_mapping.csv").exists()

    def test_what_cannot_be_converted(self, tiny: Path, tmp_path: Path, capsys) -> None:
        with pytest.raises(FileNotFoundError, match="No feature file of data set 'tiny'"):
            to_mmrec(tiny, tmp_path / "back", "tiny")
        write_npz(tiny, "tiny.item.text", ["i1"])
        assert main(["to-mmrec", str(tiny), str(tmp_path / "back"), "--name", "tiny"]) == 1
        assert "MMRec needs a split: a column x_label (0, 1, 2) in tiny.inter, or the files" in capsys.readouterr().err
        (tiny / "tiny.inter").write_text("uid:token\titem_id:token\n1\t2\n")
        with pytest.raises(ValueError, match="no column user_id among uid, item_id"):
            to_mmrec(tiny, tmp_path / "back", "tiny")
        (tiny / "tiny.inter").write_text("user_id:token\titem_id:token\tx_label:token\nu1\ti1\t0\nu1\ti2\ttest\n")
        with pytest.raises(ValueError, match=r"x_label should be 0, 1 or 2 .* got 'test' \(1 such lines\)"):
            to_mmrec(tiny, tmp_path / "back", "tiny")
        (tiny / "tiny.inter").write_text("user_id:token\titem_id:token\tx_label:token\nu1\ti1\t0\n")
        np.savez(tiny / "tiny.item.text.npz", id=["i1"], feature=[[1.0, np.inf]])
        with pytest.raises(ValueError, match="tiny.item.text.npz: 1 of 1 rows hold NaN or infinity"):
            to_mmrec(tiny, tmp_path / "back", "tiny")
        assert not (tmp_path / "back" / "tiny").exists()


@pytest.mark.parametrize("name", SETS)
def test_real_sets(name: str, tmp_path: Path) -> None:
    source = REAL / name
    if not source.is_dir():
        pytest.skip(f"no measuring data in {REAL}")
    features, sizes, parts = SETS[name]
    report = from_mmrec(source, tmp_path / "ours", name, features, drop_unseen=True)
    users, items, interactions = (f"{size:,}" for size in sizes)
    assert report[0].endswith(f"{users} users, {items} items, {interactions} interactions")
    options = yaml.safe_load((tmp_path / "ours" / name / f"{name}.yaml").read_text())
    dataset = make_dataset(tmp_path / "ours", name, **options)
    assert tuple(len(part) for part in dataset.build()) == parts
    files = features or {path.name[: -len("_feat.npy")]: path.name for path in source.glob("*_feat.npy")}
    ids = [int(token) for token in dataset.field2id_token["item_id"][1:]]
    for modality, file in files.items():
        expected = np.load(source / file).astype(np.float32)[ids]
        assert np.array_equal(dataset.features.item[modality].feature[1:].numpy(), expected)
    to_mmrec(tmp_path / "ours" / name, tmp_path / "back", name)
    back = tmp_path / "back" / name
    assert (back / f"{name}.inter").read_bytes() == (source / f"{name}.inter").read_bytes()
    for modality, file in files.items():
        expected = np.load(source / file)
        assert np.array_equal(np.load(back / f"{modality}_feat.npy"), expected.astype(np.float32, copy=False))


def test_the_set_that_has_our_format_already() -> None:
    if not (REAL / "ml-100k-mm").is_dir():
        pytest.skip(f"no measuring data in {REAL}")
    from recbole_mm.data.dataset import MultimodalDataset

    dataset = MultimodalDataset(make_config(Path("dataset"), "ml-100k", feature_path=str(REAL / "ml-100k-mm")))
    image, text = dataset.features.item["image"], dataset.features.item["text"]
    assert image.feature.shape == (1683, 1280) and int(image.observed.sum()) == 1665
    assert text.feature.shape == (1683, 384) and int(text.observed.sum()) == 1682


def test_the_folder_is_a_command(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["convert", "--help"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("recbole_mm.data.convert", run_name="__main__")
    assert stopped.value.code == 0 and "usage: python -m recbole_mm.data.convert " in capsys.readouterr().out
