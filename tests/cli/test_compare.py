from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
import yaml

from recbole_mm.cli import training as cli_training
from recbole_mm.cli.main import main
from recbole_mm.comparison import compare as runner
from recbole_mm.comparison import tune as tuner
from tests.options import QUICK

OPTIONS = ["--epochs=1", "--use_gpu=False", "--state=ERROR", "--show_progress=False", "--metrics=['Recall']"]


@pytest.fixture(autouse=True)
def _program(monkeypatch):
    monkeypatch.setattr("sys.argv", ["run_recbole_mm.py"])


@pytest.fixture
def here(monkeypatch):
    """Run what the command line starts in this process: importing torch for every run takes seconds."""
    compare, tune = runner.compare, tuner.tune
    monkeypatch.setattr(runner, "compare", lambda *a, **k: compare(*a, **{**k, "in_process": True}))
    monkeypatch.setattr(tuner, "tune", lambda *a, **k: tune(*a, **{**k, "in_process": True}))


def test_models_are_compared(here, capsys, tmp_path):
    arguments = ["--models=Pop,BPR", "--dataset=mm-toy", "--seeds=2", "--valid_metric=Recall@10", "--output=out"]
    assert main([*arguments, *OPTIONS]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"\[1/4\] Pop, seed 2020: test .*, about \d+ s left", printed)
    assert re.search(r"\[4/4\] BPR, seed 2021: test .* s\)$", printed, re.MULTILINE)
    assert "| BPR |" in printed and str(tmp_path / "out") in printed
    table = pd.read_csv(tmp_path / "out" / "table.csv")
    assert table["model"].tolist() == ["Pop", "BPR"] and table["runs"].tolist() == [2, 2]


def test_arguments_reach_the_comparison(monkeypatch, tmp_path):
    seen = {}

    def record(models, dataset, **arguments):
        seen.update(arguments, models=models, dataset=dataset)
        return pd.DataFrame({"runs": [2, 1], "failure": ["", "seed 5: it broke"]})

    monkeypatch.setattr(runner, "compare", record)
    (tmp_path / "spaces.yaml").write_text("BPR:\n  learning_rate: [0.1]\n")
    (tmp_path / "options.yaml").write_text("dataset: mm-toy\nlearning_rate: 0.2\n")
    status = main(
        [
            "--models", "[MMGCN, BPR]", "--seeds=3,5", "--baseline=MMGCN", "--trials=4", "--storage=sqlite:///x.db",
            "--search_spaces=spaces.yaml", "--jobs=2", "--split_seed=9", "--keep_checkpoints", "--ablate",
            "--config_files=options.yaml",
        ]
    )  # fmt: skip
    assert status == 1  # a run failed
    assert seen["models"] == ["MMGCN", "BPR"] and seen["dataset"] == "mm-toy" and seen["seeds"] == [3, 5]
    assert (seen["baseline"], seen["trials"], seen["storage"]) == ("MMGCN", 4, "sqlite:///x.db")
    assert seen["search_spaces"] == {"BPR": {"learning_rate": [0.1]}} and seen["config_file_list"] == ["options.yaml"]
    assert (seen["jobs"], seen["split_seed"], seen["ablate"], seen["keep_checkpoints"]) == (2, 9, True, True)


@pytest.mark.parametrize(
    ("given", "meant"), [("2", 2), ("2020", 2020), ("3,5", [3, 5]), ("[2021]", [2021]), ("2021,", [2021])]
)
def test_one_seed_can_be_named(given, meant, monkeypatch):
    asked = {}

    def record(models, dataset, **arguments):
        asked.update(arguments)
        return pd.DataFrame({"runs": [1], "failure": [""]})

    monkeypatch.setattr(runner, "compare", record)
    assert main(["--models=Pop", "--dataset=mm-toy", f"--seeds={given}"]) == 0
    assert asked["seeds"] == meant


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models=MMGCM,BPR"], "Did you mean MMGCN"),
        (["--models=BPR", "--model=BPR"], "give one of them"),
        (["--models=BPR", "--seeds=many"], "--seeds"),
        (["--models=BPR", "--trials=x"], "--trials: expected a whole number"),
        (["--models=BPR", "--learning_rat=3"], "learning_rat"),
        (["--models=BPR", "--search_spaces=no.yaml"], "no.yaml"),
        (["--models=BPR", "--seeds=0", "--dataset=mm-toy"], "positive number of seeds"),
        (["--model=BPR", "--export=topk.xls"], "topk.xls"),
        (["--model=BPR", "--export=topk.csv", "--topk=many"], "--topk"),
        (["--model=BPR", "--export=topk.csv", "--export_users=@none"], "'none'"),
        (["--model=BPR", "--export=topk.csv", "--export_seen=test"], "seen: expected"),
        (["--model=BPR", "--export=topk.csv", "--topk=0"], "topk: expected"),
        (["--export=topk.csv", "--checkpoint=x.pth", "--model=BPR"], "leave out --model"),
        (["--export=topk.csv", "--checkpoint=x.pth"], "no checkpoint 'x.pth'"),
        (["--export=topk.csv"], "Which model"),
        (["--model=BPR", "--seeds=3"], "--seeds=3 does nothing without --models"),
        (["--model=BPR", "--ablate"], "--ablate does nothing without --models"),
        (["--models=BPR", "--storage=sqlite:///x.db"], "does nothing without --trials"),
        (["--model=BPR", "--output=x"], "does nothing without --models or --trials"),
        (["--model=BPR", "--checkpoint=x.pth"], "does nothing without --export"),
        (["--models=BPR", "--nproc=2"], "--nproc does nothing beside --models"),
        (["--model=BPR", "--trials=2", "--export=topk.csv"], "--export does nothing beside --trials"),
    ],
)
def test_mistakes_end_in_a_message(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_search_writes_a_file_to_train_with(here, capsys, tmp_path):
    (tmp_path / "spaces.yaml").write_text("BPR:\n  learning_rate: [0.1, 0.01]\n")
    arguments = ["--model=BPR", "--dataset=mm-toy", "--trials=2", "--search_spaces=spaces.yaml", "--output=out"]
    assert main([*arguments, "--valid_metric=Recall@10", *OPTIONS]) == 0
    printed = capsys.readouterr().out
    assert "best: valid recall@10" in printed and "--config_files='out/BPR.yaml' --valid_metric=Recall@10" in printed
    assert "--epochs=1" in printed and "'--metrics=['\"'\"'Recall" in printed  # with the options of the search
    assert yaml.safe_load((tmp_path / "out" / "BPR.yaml").read_text())["learning_rate"] in (0.1, 0.01)
    assert printed.count("complete") == 2


def test_a_search_whose_file_has_no_space_for_the_model(capsys, tmp_path):
    """Not the space of the package instead: the name may be misspelt."""
    (tmp_path / "spaces.yaml").write_text("BRP:\n  learning_rate: [0.1, 0.01]\n")
    assert main(["--model=BPR", "--dataset=mm-toy", "--trials=2", "--search_spaces=spaces.yaml"]) == 2
    assert "no space for BPR; it has BRP" in capsys.readouterr().err


def test_nothing_to_search_is_said(here, capsys, tmp_path):
    assert main(["--model=Pop", "--dataset=mm-toy", "--trials=2", "--valid_metric=Recall@10", *OPTIONS]) == 0
    assert "Pop has nothing to search" in capsys.readouterr().out


def test_export_after_training_and_from_the_checkpoint(capsys, tmp_path):
    arguments = ["--model=BPR", "--dataset=mm-toy", "--export=a.parquet", "--topk=3", "--export_embeddings=e.npz"]
    assert main([*arguments, "--valid_metric=Recall@10", "--checkpoint_dir=saved", *OPTIONS]) == 0
    printed = capsys.readouterr().out
    assert "a.parquet: 360 recommendations for 120 users" in printed and "120 users x 64, 80 items x 64" in printed
    checkpoint = next((tmp_path / "saved").glob("*.pth"))
    (tmp_path / "users.txt").write_text("u1\nu2\n")
    again = ["--export=b.csv", f"--checkpoint={checkpoint}", "--topk=3", "--export_users=@users.txt"]
    assert main(again) == 0
    trained, loaded = pd.read_parquet("a.parquet"), pd.read_csv("b.csv")
    assert loaded["user_id"].unique().tolist() == ["u1", "u2"]
    for user in ("u1", "u2"):
        left, right = trained[trained["user_id"] == user], loaded[loaded["user_id"] == user]
        assert left["item_id"].tolist() == right["item_id"].tolist()
        np.testing.assert_allclose(left["score"], right["score"], rtol=1e-5)
    assert main([f"--checkpoint={checkpoint}", "--export_embeddings=f.npz", "--export_users=u3"]) == 0
    with np.load("e.npz") as left, np.load("f.npz") as right:
        np.testing.assert_array_equal(left["user_embedding"], right["user_embedding"])


def test_topk_is_the_length_of_the_lists_or_a_list_for_the_metrics(monkeypatch, capsys):
    from recbole_mm.serving import export as exporting

    seen = []
    monkeypatch.setattr(exporting, "export", lambda *arguments, **places: seen.append(arguments[2]) or _report())
    monkeypatch.setattr(cli_training, "train_here", lambda request: seen.append(request.options) or {"checkpoint": "c"})
    for topk in ("7", "[5, 10]"):
        assert main(["--model=BPR", "--export=t.csv", f"--topk={topk}"]) == 0
    assert seen == [{}, 7, {"topk": "[5, 10]"}, 10]


def _report():
    return {"recommendations": 0, "users": 0, "new": 0, "embeddings": {}}


def test_help_names_every_flag(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    for flag in ("--models=A,B", "--trials=N", "--ablate ", "--export=FILE", "--checkpoint=FILE", "--storage=URL"):
        assert flag in printed


def test_the_public_names_lead_to_the_functions():
    import recbole_mm
    from recbole_mm.serving.export import export

    assert recbole_mm.compare is runner.compare and recbole_mm.tune is tuner.tune and recbole_mm.export is export
    assert {"compare", "tune", "export"} <= set(recbole_mm.__all__) and QUICK["epochs"] == 2
    assert json.dumps(sorted(dir(recbole_mm)))
