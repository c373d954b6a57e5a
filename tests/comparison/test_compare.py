from __future__ import annotations

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from recbole.model.general_recommender import BPR
from recbole.quick_start import run_recbole
from recbole.utils import get_trainer

import recbole_mm
from recbole_mm.comparison import runs
from recbole_mm.comparison.compare import compare
from recbole_mm.experiment.job import Job
from recbole_mm.experiment.split import describe_split
from recbole_mm.experiment.store import Store
from recbole_mm.report.table import Row
from recbole_mm.serving.export import load
from tests.options import QUICK


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Three models, two seeds, with the ablation, in this process."""
    folder = tmp_path_factory.mktemp("compared")
    with torch.random.fork_rng():
        table = compare(
            ["MMGCN", "LightGCN", "BPR"],
            "mm-toy",
            config_dict=QUICK,
            seeds=2,
            ablate=True,
            output=folder,
            in_process=True,
            verbose=False,
        )
    return folder, table


def records(folder) -> dict[str, dict]:
    return {file.parent.name: json.loads(file.read_text()) for file in folder.glob("runs/*/run.json")}


def find(folder, model, seed, variant=None):
    for name, record in records(folder).items():
        job = record["job"]
        if (job["model"], job["seed"]) == (model, seed) and (variant is None or variant in name):
            return name, record
    raise LookupError((model, seed))


def test_a_run_is_recboles_quick_start(compared):
    """The same model, seed and options give the same metrics through RecBole's own function, for every seed."""
    folder, _ = compared
    for model, seed in (("MMGCN", 2020), ("LightGCN", 2021), ("BPR", 2021)):
        _, record = find(folder, model, seed)
        settings = {**record["job"]["settings"], "seed": seed}
        result = run_recbole(model=model, dataset="mm-toy", config_dict=settings)
        assert dict(result["test_result"]) == record["test"]
        assert dict(result["best_valid_result"]) == record["valid"]
        assert result["best_valid_score"] == record["best_valid_score"]


def test_recboles_defaults_are_the_comparisons_defaults(compared):
    """Nothing but the caller's own options: what the comparison adds changes no metric."""
    folder, _ = compared
    result = run_recbole(model="BPR", dataset="mm-toy", config_dict=QUICK)
    assert dict(result["test_result"]) == find(folder, "BPR", 2020)[1]["test"]


def test_per_user_metrics_average_to_what_recbole_reports(compared):
    folder, _ = compared
    for name, record in records(folder).items():
        with np.load(folder / "runs" / name / "users.npz") as users:
            assert len(users["user"]) == record["split"]["test"] or len(users["user"]) <= record["split"]["users"]
            for metric, value in record["test"].items():
                assert users[metric].mean() == pytest.approx(value, abs=5.1e-5)
            for modality, test in record["permuted"].items():
                for metric, value in test.items():
                    assert users[f"permuted/{modality}/{metric}"].mean() == pytest.approx(value, abs=5.1e-5)


def test_all_models_of_a_seed_share_the_split(compared):
    folder, table = compared
    hashes: dict[int, set] = {}
    for record in records(folder).values():
        hashes.setdefault(record["job"]["seed"], set()).add((record["split"]["hash"], record["split"]["candidates"]))
    assert all(len(found) == 1 for found in hashes.values())
    assert table.attrs["splits"] == {seed: next(iter(found))[0] for seed, found in hashes.items()}
    assert len(set(table.attrs["splits"].values())) == 2  # RecBole's random split follows the seed
    assert all(value in (folder / "table.md").read_text() for value in table.attrs["splits"].values())


def test_the_table_has_means_of_the_runs_and_tests_against_the_baseline(compared):
    folder, table = compared
    row = table[(table["model"] == "LightGCN") & (table["variant"] == "")].iloc[0]
    values = [find(folder, "LightGCN", seed)[1]["test"]["recall@10"] for seed in (2020, 2021)]
    assert row["recall@10"] == pytest.approx(np.mean(values)) and row["runs"] == 2
    assert row["recall@10_std"] == pytest.approx(np.std(values, ddof=1))
    assert row["recall@10_low"] < row["recall@10"] < row["recall@10_high"]
    assert row["reference"] == "BPR" and 0 <= row["recall@10_p_wilcoxon_holm"] <= 1
    assert row["train_seconds"] > 0 and row["epochs"] == 2 and row["parameters"] > 0
    assert pd.isna(row["memory_mib"])  # a process that ran several models has no peak of one of them
    baseline = table[(table["model"] == "BPR")].iloc[0]
    assert baseline["reference"] == "" and pd.isna(baseline["recall@10_p_t"])


def test_the_ablation_is_part_of_the_table(compared):
    folder, table = compared
    variants = table[table["model"] == "MMGCN"]["variant"].tolist()
    expected = {"", *(f"{m} permuted" for m in ("audio", "image", "text"))}
    expected |= {f"without {m}" for m in ("audio", "image", "text")}
    assert set(variants) == expected
    # The model that ranks by features alone joins, with each modality by itself.
    assert table["model"].unique().tolist() == ["MMGCN", "LightGCN", "ItemKNNCBF", "BPR"]
    alone = {"", *(f"{kind.format(m)}" for m in ("audio", "image", "text") for kind in ("{} permuted", "only {}"))}
    assert set(table[table["model"] == "ItemKNNCBF"]["variant"]) == alone
    assert any(note.startswith("ItemKNNCBF belongs to the ablation") for note in table.attrs["notes"])
    _, record = find(folder, "ItemKNNCBF", 2020, "only-image")
    assert record["job"]["settings"]["modality_weight"] == {"audio": 0.0, "image": 1.0, "text": 0.0}
    assert record["modalities"] == ["image"]
    assert set(table[table["model"].isin(["LightGCN", "BPR"])]["variant"]) == {""}
    rows = table[table["variant"] != ""]
    assert (rows["reference"] == rows["model"]).all() and rows["recall@10_difference"].notna().all()
    _, record = find(folder, "MMGCN", 2020, "without-image")
    assert record["job"]["settings"]["modality_weight"] == {"audio": 1.0, "image": 0.0, "text": 1.0}
    assert record["modalities"] == ["audio", "text"]
    left_out = run_recbole(
        model="MMGCN", dataset="mm-toy", config_dict={**QUICK, "modalities": ["audio", "text"], "seed": 2020}
    )
    assert dict(left_out["test_result"]) == record["test"]


def test_whose_parameters_are_averaged_is_said(compared):
    _, table = compared
    notes = [note for note in table.attrs["notes"] if note.startswith("weight_average:")]
    assert len(notes) == 1 and "ranks for MMGCN (0.5), not for LightGCN, BPR." in notes[0]


def test_runs_of_other_versions_are_read_and_named(compared, tmp_path):
    folder, table = compared
    assert not any("same version" in note for note in table.attrs["notes"])
    copy = shutil.copytree(folder, tmp_path / "copy")
    name, record = find(copy, "BPR", 2021)
    record["versions"]["torch"] = "2.0.0"
    store = Store(copy)
    store.save(name, record, store.users(name))
    again = compare(
        ["BPR"], "mm-toy", config_dict=QUICK, seeds=2, ablate=True, output=copy, in_process=True, verbose=False
    )
    note = f"Not all runs were made with the same version of torch (2.0.0, {torch.__version__})."
    assert note in again.attrs["notes"] and note in (copy / "table.md").read_text()


def test_curve_and_costs_are_stored(compared):
    folder, _ = compared
    _, record = find(folder, "MMGCN", 2021)
    assert [point["epoch"] for point in record["curve"]] == [1, 2] and record["epochs"] == 2
    assert record["valid"] == record["curve"][record["best_epoch"] - 1]["valid"]
    assert record["curve"][0]["seconds"] < record["curve"][1]["seconds"] <= record["time"]["train"]
    assert all(point["loss"] > 0 for point in record["curve"])
    assert record["versions"]["recbole"] == "1.2.1" and record["config"]["embedding_size"]
    assert set(record["split"]) >= {"train", "valid", "test", "users", "items", "hash"}


def test_files_of_the_report(compared):
    folder, table = compared
    read = pd.read_csv(folder / "table.csv", keep_default_na=False, na_values=[""])
    assert read["model"].tolist() == table["model"].tolist()
    assert "LightGCN" in (folder / "table.tex").read_text()
    about = json.loads((folder / "compare.json").read_text())
    assert about["seeds"] == [2020, 2021] and about["baseline"] == "BPR"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Do the modalities matter?" in page and all(value in page for value in table.attrs["splits"].values())
    for name in ("metrics", "curves", "time"):
        assert (folder / f"{name}.png").read_bytes()[:4] == b"\x89PNG" and (folder / f"{name}.pdf").is_file()
    assert not list(folder.glob("runs/*/checkpoint")) and not (folder / ".lock").exists()


def test_finished_runs_are_read_not_repeated(compared, monkeypatch):
    folder, table = compared
    monkeypatch.setattr(runs, "run_task", lambda task: pytest.fail("ran again"))
    again = compare(
        ["MMGCN", "LightGCN", "BPR"], "mm-toy", config_dict=QUICK, seeds=2, ablate=True, output=folder,
        in_process=True, verbose=False,
    )  # fmt: skip
    pd.testing.assert_frame_equal(table, again)


def test_runs_with_the_ablation_are_taken_over_without_it(compared, monkeypatch):
    folder, table = compared
    monkeypatch.setattr(runs, "run_task", lambda task: pytest.fail("ran again"))
    again = compare(
        ["MMGCN", "LightGCN", "BPR"], "mm-toy", config_dict=QUICK, seeds=2, output=folder, in_process=True,
        verbose=False,
    )  # fmt: skip
    plain = table[(table["variant"] == "") & (table["model"] != "ItemKNNCBF")].reset_index(drop=True)
    assert again["recall@10"].tolist() == plain["recall@10"].tolist() and set(again["variant"]) == {""}


def test_an_interrupted_run_is_done_again_and_gives_the_same_table(compared):
    folder, table = compared
    name, _ = find(folder, "LightGCN", 2021)
    (folder / "runs" / name / "run.json").unlink()
    again = compare(
        ["MMGCN", "LightGCN", "BPR"], "mm-toy", config_dict=QUICK, seeds=2, ablate=True, output=folder,
        in_process=True, verbose=False,
    )  # fmt: skip
    times = [column for column in table if column.endswith("_seconds")]
    pd.testing.assert_frame_equal(table.drop(columns=times), again.drop(columns=times))


def test_other_options_are_other_runs(compared, tmp_path):
    folder = tmp_path / "copy"  # other tests look for the one run of a model and seed
    shutil.copytree(compared[0], folder)
    before = set(records(folder))
    compare(["BPR"], "mm-toy", config_dict={**QUICK, "embedding_size": 8}, seeds=1, output=folder, in_process=True)
    assert len(set(records(folder)) - before) == 1


LABELS = {"threshold": {"rating": 4}, "state": "ERROR", "load_col": {"inter": ["user_id", "item_id", "rating"]}}


@pytest.mark.parametrize(
    ("models", "options"),
    [(["MML", "SASRec"], QUICK), (["CMBF", "FM"], LABELS), (["LightGCN", "BPR"], QUICK)],
    ids=["sequential", "labels", "no features"],
)
def test_the_content_model_changes_no_protocol(models, options):
    from recbole_mm.comparison.compare import _with_content_model
    from recbole_mm.comparison.protocol import make_protocol

    def make(names):
        return make_protocol(names, "mm-toy", None, dict(options))

    protocol = make(models)
    assert _with_content_model(models, protocol, make) == (models, protocol)


class Broken(BPR):
    """Fails in the second epoch."""

    def calculate_loss(self, interaction):
        self.steps = getattr(self, "steps", 0) + 1
        if self.steps > 2:
            raise RuntimeError("out of luck | in step 3")
        return super().calculate_loss(interaction)


@pytest.mark.usefixtures("clean_registry")
def test_a_model_that_fails_is_reported_and_the_others_finish(tmp_path):
    recbole_mm.register(Broken, properties={"embedding_size": 8})
    table = compare(
        [Broken, "Pop", "BPR"], "mm-toy", config_dict={**QUICK, "train_batch_size": 300}, seeds=1, output=tmp_path,
        in_process=True, verbose=False,
    )  # fmt: skip
    assert table["runs"].tolist() == [0, 1, 1]
    assert table["failure"][0] == "RuntimeError: out of luck | in step 3"
    line = next(line for line in (tmp_path / "table.md").read_text().splitlines() if "Broken" in line)
    assert "failed: RuntimeError: out of luck / in step 3" in line
    assert "failed" in (tmp_path / "table.tex").read_text()
    assert pd.notna(table["recall@10_p_t"][1])


def test_one_seed_takes_its_interval_from_the_users(tmp_path):
    table = compare(["Pop", "BPR"], "mm-toy", config_dict=QUICK, seeds=[7], output=tmp_path, in_process=True)
    assert table["interval"].tolist() == ["over users"] * 2 and pd.isna(table["recall@10_std"][0])
    assert table["recall@10_low"][1] < table["recall@10"][1] < table["recall@10_high"][1]


def test_split_seed_holds_the_split_and_changes_the_rest(tmp_path):
    table = compare(
        ["BPR"], "mm-toy", config_dict=QUICK, seeds=[2020, 5], split_seed=2020, output=tmp_path, in_process=True
    )
    assert len(set(table.attrs["splits"].values())) == 1
    found = {record["job"]["seed"]: record for record in records(tmp_path).values()}
    assert found[5]["curve"] != found[2020]["curve"]
    quick_start = run_recbole(model="BPR", dataset="mm-toy", config_dict={**QUICK, "seed": 2020})
    assert dict(quick_start["test_result"]) == found[2020]["test"]


def test_a_kept_checkpoint_belongs_to_the_split_of_its_run(tmp_path):
    """Who loads it gets the data that it was trained and tested on, though its seed is another one."""
    compare(
        ["LightGCN"], "mm-toy", config_dict=QUICK, seeds=[5], split_seed=2020, output=tmp_path, in_process=True,
        keep_checkpoints=True, verbose=False,
    )  # fmt: skip
    record = find(tmp_path, "LightGCN", 5)[1]
    config, model, _, *loaders = load(record["checkpoint"])
    assert describe_split(*loaders)["hash"] == record["split"]["hash"]
    trainer = get_trainer(config["MODEL_TYPE"], "LightGCN")(config, model)
    trainer.eval_collector.data_collect(loaders[0])
    assert dict(trainer.evaluate(loaders[2], load_best_model=False)) == record["test"]


def test_a_finished_run_without_the_wanted_checkpoint_is_named(tmp_path, capsys):
    folder = tmp_path / "results"
    compare(["Pop"], "mm-toy", config_dict=QUICK, seeds=1, output=folder, in_process=True, verbose=False)
    compare(["Pop"], "mm-toy", config_dict=QUICK, seeds=1, output=folder, in_process=True, keep_checkpoints=True)
    assert f"done before, without a checkpoint: delete {folder}/runs/Pop-2020-" in capsys.readouterr().out


def test_an_estimate_of_the_time_left(tmp_path):
    """The mean of the finished runs of a model, else of all; two at a time take half."""

    def left(to_do, jobs=1):
        state = runs.Runs(["A", "B"], None, Store(tmp_path), [1, 2], None, False, jobs, False, False, print)
        state.rows["A", ""] = Row("A", "", {1: {"time": {"total": 100.0}}, 2: {"time": {"total": 200.0}}})
        state.rows["A", "image permuted"] = Row("A", "image permuted", {1: {"test": {}}})
        state.rows["B", ""] = Row("B", "", {1: {"time": {"total": 600.0}}} if "known" in to_do else {})
        return state._left([entry for entry in to_do if entry != "known"])

    assert left([("A", "", 3), ("A", "without image", 1)]) == ", about 5 min left"
    assert left([("A", "", 3), ("B", "", 2), "known"]) == ", about 12 min left"
    assert left([("B", "", 1), ("B", "", 2)]) == ", about 5 min left"  # nothing of B is known
    assert left([("A", "", 3), ("A", "", 4)], jobs=2) == ", about 2 min left"
    assert left([]) == ""


def test_no_checkpoint_of_any_stage_stays(tmp_path):
    options = {**QUICK, "epochs": 1, "pretrain_epochs": 1}
    table = compare(["MCPTR"], "mm-toy", config_dict=options, seeds=1, output=tmp_path, in_process=True, verbose=False)
    assert table["runs"].tolist() == [1] and list(tmp_path.glob("**/*.pth")) == []


def test_settings_of_single_models(tmp_path):
    compare(
        ["Pop", "BPR"], "mm-toy", config_dict=QUICK, seeds=1, output=tmp_path, in_process=True, verbose=False,
        model_settings={"BPR": {"embedding_size": 4}},
    )  # fmt: skip
    assert find(tmp_path, "BPR", 2020)[1]["config"]["embedding_size"] == 4


@pytest.mark.slow
def test_two_runs_at_a_time_give_the_same_results(compared, tmp_path):
    folder, table = compared
    compare(["LightGCN", "BPR"], "mm-toy", config_dict=QUICK, seeds=1, output=tmp_path, jobs=2, verbose=False)
    for model in ("LightGCN", "BPR"):
        _, record = find(tmp_path, model, 2020)
        assert record["test"] == find(folder, model, 2020)[1]["test"]
        assert 50 < record["memory_mib"]["process"] < 5000 and record["memory_mib"]["device"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"models": "BPR"}, "list of names"),
        ({"models": []}, "at least one"),
        ({"models": ["BPR", "BPR"]}, "each once"),
        ({"models": ["BPRR"]}, "Did you mean BPR"),
        ({"models": ["BPR"], "baseline": "LightGCN"}, "not among"),
        ({"models": ["BPR"], "seeds": 0}, "positive number of seeds"),
        ({"models": ["BPR"], "seeds": [1, 1]}, "different integers"),
        ({"models": ["BPR"], "jobs": 0}, "jobs: expected 1 at least, got 0"),
        ({"models": ["BPR"], "trials": -1}, "trials: expected 0 at least, got -1"),
        ({"models": ["BPR"], "jobs": "2"}, r"jobs: expected 1 at least, got '2' \(str\)"),
        ({"models": ["BPR"], "trials": 1.5}, r"trials: expected 0 at least, got 1.5 \(float\)"),
        ({"models": None}, "models: expected a list of names"),
        ({"models": [None]}, "models: expected a list of names"),
        ({"models": ["BPR"], "seeds": 2.5}, "positive number of seeds"),
        ({"models": ["BPR"], "seeds": [True]}, "different integers"),
        ({"models": ["BPR"], "seeds": [[1]]}, "different integers"),
        ({"models": ["BPR"], "model_settings": ["BPR"]}, "model_settings: expected a mapping such as"),
        ({"models": ["BPR"], "model_settings": {"BPR": [3]}}, r"model_settings\[BPR\]: expected a mapping"),
        ({"models": ["BPR"], "search_spaces": ["BPR"]}, "search_spaces: expected a mapping"),
        ({"models": ["BPR"], "config_dict": ["epochs"]}, "config_dict: expected a mapping"),
        ({"models": ["BPR"], "config_file_list": "a.yaml"}, r"config_file_list: expected a list.* Write \['a.yaml'\]"),
        ({"models": ["BPR"], "model_settings": {"Pop": {}}}, "not among"),
        ({"models": ["BPR"], "model_settings": {"BPR": {"topk": [3]}}}, "same for every model"),
        ({"models": ["BPR"], "search_spaces": {"Pop": {}}}, "not among"),
    ],
)
def test_mistakes_are_named_before_anything_runs(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        compare(**{"dataset": "mm-toy", "output": tmp_path / "out", **arguments})
    assert not (tmp_path / "out" / "runs").exists()


def test_a_model_of_the_running_script_needs_this_process(clean_registry, tmp_path):
    here = type("Here", (BPR,), {"__module__": "__main__"})
    recbole_mm.register(here, properties={"embedding_size": 8})
    with pytest.raises(ValueError, match="Here is defined in the running script.*in_process=True"):
        compare([here], "mm-toy", output=tmp_path)


def test_another_split_is_never_compared(compared, tmp_path):
    """A model whose data options give another split fails with the reason, even if its run has finished before."""
    from recbole_mm.experiment.job import train_and_test

    empty = {**QUICK, "eval_args": {"split": {"RS": [0.8, 0.2, 0.0]}}}
    with pytest.raises(ValueError, match="nothing to test on"):
        train_and_test(Job("BPR", "mm-toy", empty, 2020, 2020), str(tmp_path))
    with pytest.raises(ValueError, match="another split"):
        train_and_test(Job("BPR", "mm-toy", dict(QUICK), 2020, 2020, split="0" * 16), str(tmp_path))
    split = find(compared[0], "BPR", 2020)[1]["split"]["hash"]
    with pytest.raises(ValueError, match="other candidates"):
        train_and_test(Job("BPR", "mm-toy", dict(QUICK), 2020, 2020, split=split, candidates="x"), str(tmp_path))
