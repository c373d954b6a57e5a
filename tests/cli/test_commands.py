"""Commands as words, help of commands and models, models of one's own, and what is found out before training."""

from __future__ import annotations

import re
import sys

import pytest

from recbole_mm.cli import main as exported
from recbole_mm.cli.main import COMMANDS, main
from recbole_mm.host.compat import installed_repairs

QUICK = ["--dataset=mm-toy", "--epochs=1", "--use_gpu=False", "--show_progress=False"]
OWN = """
from recbole.model.general_recommender import BPR
from recbole_mm import register

@register(properties={"embedding_size": 12})
class ShellBPR(BPR):
    pass
"""


def test_the_function_is_exported():
    assert exported is main


@pytest.mark.parametrize("word", sorted(COMMANDS))
def test_help_of_a_command_is_one_screen(word, capsys):
    assert main([word, "--help"]) == 0
    text = capsys.readouterr().out
    assert COMMANDS[word].EXAMPLE in text and len(text.splitlines()) <= 45
    assert all(f"--{name}" in text for group in COMMANDS[word].FLAGS.values() for name in group)


def test_options_of_a_model(capsys):
    assert main(["--model=MMGCN", "--help"]) == 0
    text = capsys.readouterr().out
    assert "--n_layers=2" in text and "(int) Layers of message passing" in text and "authors' settings" in text
    assert main(["train", "--model=LightGCN", "--help"]) == 0
    assert "--embedding_size=64" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["comapre"], "Did you mean compare"),
        (["train", "--seeds=3"], "--seeds is no argument of train; it belongs to compare"),
        (["models", "--epochs=3"], "models has no argument --epochs"),
        (["compare", "--seeds=3"], "Which models?"),
        (["export", "--model=BPR"], "What is to be written?"),
        (["--model=BPR", "--import=nix.py"], "there is no file 'nix.py'"),
        (["--model=BPR", "--import=nix.module"], "there is no module 'nix.module'"),
    ],
)
def test_mistakes(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_models_repairs_and_version(capsys):
    assert main(["models"]) == 0 and "experiment/cold-users" in capsys.readouterr().out
    assert main(["repairs"]) == 0
    assert all(name in capsys.readouterr().out for name in list(installed_repairs())[:1])
    assert main(["--version"]) == main(["version"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second and re.match(r"recbole-mm \d", first)


def test_a_model_of_ones_own(clean_registry, capsys, tmp_path, monkeypatch):
    (tmp_path / "shell_models.py").write_text(OWN)
    monkeypatch.setattr("sys.argv", ["run_recbole_mm.py"])
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.setattr("recbole_mm.experiment.own_models._imported", [])
    own = "--import=shell_models.py"
    assert main(["--model=ShellBPR", "--help", own]) == 0 and "--embedding_size=12" in capsys.readouterr().out
    export = ["--export=lists.csv", "--topk=3"]
    assert main(["export", "--model=ShellBPR", own, *export, *QUICK]) == 0
    text = capsys.readouterr().out
    assert "ShellBPR on mm-toy" in text and "lists.csv: 360 recommendations" in text
    # The process of the run imports the file again.
    compare = ["compare", "--models=ShellBPR", "--seeds=1", "--output=out", own]
    assert main([*compare, *QUICK]) == 0
    assert "| ShellBPR |" in capsys.readouterr().out


def test_the_metric_that_chooses_the_epoch(capsys):
    assert main(["--model=BPR", "--metrics=['Recall']", *QUICK]) == 0
    assert "recall@10" in capsys.readouterr().out
    assert main(["--model=BPR", "--topk=20", "--valid_metric=MRR@10", *QUICK]) == 2
    assert "valid_metric=MRR@10 is not among" in capsys.readouterr().err
    assert main(["--model=BPR", "--topk=[500]", "--valid_metric=MRR@500", *QUICK]) == 2
    assert "choose a smaller topk" in capsys.readouterr().err


def test_packaged_files_and_what_is_compared(capsys):
    options = ["--config_files=properties/experiment/cold-items.yaml", "--cold_start={entity: item, ratio: 0.3}"]
    assert main(["--model=BPR", "--slices=cold_items", *options, *QUICK]) == 0
    text = capsys.readouterr().out
    assert "--cold_start={entity: item, ratio: 0.3}" in text.partition("compare with:")[2]
    floor = re.search(r"^cold_items +\d+ +\d+ +\S+ +(\S+)", text, re.MULTILINE)[1]
    assert float(floor) > 0
