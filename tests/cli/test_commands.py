"""Commands as words, help of commands and models, models of one's own, and what is found out before training."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recbole_mm import processes
from recbole_mm.cli import main as exported
from recbole_mm.cli import training
from recbole_mm.cli.export import _training_options
from recbole_mm.cli.main import COMMANDS, main
from recbole_mm.cli.request import Request, sibling
from recbole_mm.comparison import compare as comparison
from recbole_mm.data.convert.arguments import ROLES, make_parser
from recbole_mm.data.convert.mmrec_layout import COLUMNS
from recbole_mm.experiment.children import model_modules
from recbole_mm.host import names
from recbole_mm.host.compat import _check_recbole, installed_repairs
from recbole_mm.host.tags import tags_of
from recbole_mm.serving import export as exporting

ROOT = Path(__file__).resolve().parents[2]
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
    assert "--n_layers=1" in text and "(int) Layers of message passing" in text and "authors' settings" in text
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
        (["inspect", "mm-toy", "--format=json", "--output=x.html"], "--output is about the page"),
        (["inspect", "mm-toy", "--format=json", "--images={item_id}.jpg"], "--images is about the page"),
        (["--model=BPR", "--port=5678"], "--port=5678 does nothing without --nproc or --world_size"),
        (["train", "--model=BPR", "--group_offset=1"], "--group_offset=1 does nothing without --nproc or --world_size"),
        (["--model=BPR", "--import=nix.py"], "there is no file 'nix.py'"),
        (["--model=BPR", "--import=nix.module"], "there is no module 'nix.module'"),
    ],
)
def test_mistakes(arguments, message, capsys):
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_models_with_their_tags(capsys):
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    assert "experiment/cold-users" in text
    rows = {line.split()[0]: line for line in text.splitlines() if line.startswith("  ")}
    ours = [name for name, model in names.registered.items() if model.__module__.startswith("recbole_mm.")]
    for name in (*ours, "BPR", "SASRec", "DIN", "KGAT", "DeepFM"):
        tags = tags_of(name)
        able = ["yes" if tag else "-" for tag in (tags.ranks_new_items, tags.new_users, tags.sequential)]
        assert rows[name].split()[1:5] == [*able, tags.loss or "-"], name
        assert ", ".join(tags.uses) in rows[name]
    assert len(ours) >= 10 and "stages meta, generator, fusion" in rows["MML"]


def test_models_repairs_and_version(capsys):
    assert main(["repairs"]) == 0
    assert all(name in capsys.readouterr().out for name in list(installed_repairs())[:1])
    assert main(["--version"]) == main(["version"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second and re.match(r"recbole-mm \d", first)


@pytest.fixture
def own(clean_registry, monkeypatch, tmp_path):
    """A file with a model, and the argument that makes it known."""
    (tmp_path / "shell_models.py").write_text(OWN)
    monkeypatch.setattr("sys.argv", ["run_recbole_mm.py"])
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.setattr("recbole_mm.experiment.own_models._imported", [])
    yield "--import=shell_models.py"
    sys.modules.pop("shell_models", None)


def test_a_model_of_ones_own(own, capsys, monkeypatch):
    assert main(["--model=ShellBPR", "--help", own]) == 0 and "--embedding_size=12" in capsys.readouterr().out
    assert main(["export", "--model=ShellBPR", own, "--export=lists.csv", "--topk=3", *QUICK]) == 0
    text = capsys.readouterr().out
    assert "ShellBPR on mm-toy" in text and "lists.csv: 360 recommendations" in text
    # From the checkpoint of that run, whose model only the file knows.
    checkpoint = re.search("checkpoint: (.*)", text)[1]
    imported = []
    monkeypatch.setattr("recbole_mm.experiment.own_models.import_module", imported.append)
    assert main(["export", f"--checkpoint={checkpoint}", "--export=again.csv", "--topk=3", own]) == 0
    assert "again.csv: 360 recommendations" in capsys.readouterr().out and imported == ["shell_models.py"]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"topk": "20"}, False),
        ({"topk": "20", "valid_metric": "MRR@10"}, False),
        ({"topk": "20", "valid_metric": "Recall@20"}, True),
        ({"topk": "[10, 20]"}, True),
    ],
)
def test_the_length_of_exported_lists_is_for_metrics_only_where_they_ask_for_it(options: dict, kept: bool) -> None:
    assert ("topk" in _training_options(options)) is kept


@pytest.mark.parametrize("rank", [0, 1])
def test_one_of_the_processes_of_torchrun_exports(rank, monkeypatch, tmp_path):
    report = {"recommendations": 1, "users": 1, "new": 0}
    written = []
    monkeypatch.setattr(training, "train_here", lambda request: {"checkpoint": "kept.pth"})
    monkeypatch.setattr(exporting, "export", lambda checkpoint, *given, **more: written.append(checkpoint) or report)
    monkeypatch.setattr(processes, "_place", processes.Place(rank, 2, rank, 2, "env://"))
    assert main(["export", "--model=BPR", f"--export={tmp_path / 'lists.csv'}", *QUICK]) == 0
    assert written == ["kept.pth"][rank:]


def test_processes_that_a_command_starts_know_it_too(own, capsys, tmp_path):
    """The process of the search imports the file again; that of a comparison is started in the same way."""
    (tmp_path / "spaces.yaml").write_text("ShellBPR: {learning_rate: [0.1]}\n")
    search = ["search", "--model=ShellBPR", "--trials=1", "--search_spaces=spaces.yaml", "--output=out", own]
    assert main([*search, *QUICK]) == 0
    text = capsys.readouterr().out
    assert "trial 1/1 complete" in text and own in text.partition("train with it:")[2]


def test_a_comparison_of_it_hands_its_file_on(own, monkeypatch):
    seen = []

    def record(models, dataset, **arguments):
        seen.extend([models, model_modules(models)])
        return pd.DataFrame({"runs": [1], "failure": [""]})

    monkeypatch.setattr(comparison, "compare", record)
    assert main(["compare", "--models=ShellBPR,BPR", own, *QUICK]) == 0
    assert seen == [["ShellBPR", "BPR"], ["shell_models"]]


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


def test_a_floor_beside_values_that_are_all_zero():
    """Places are taken from the values, of which those of the model have none."""
    zero = {"recall@10": 0.0, "recall@10[cold_items]": 0.0, "recall@10[cold_items,random]": 0.1234}
    test = {**zero, "cases[cold_items]": 5, "positives[cold_items]": 9}
    text = training._report("BPR", "x", {"best_valid_result": None, "test_result": test, "checkpoint": ""})
    assert re.search(r"^cold_items +5 +9 +0\.0000 +0\.1234$", text, re.MULTILINE), text


def test_what_a_model_cannot_rank_stands_beside_its_figures():
    result = {"best_valid_result": None, "test_result": {"recall@10": 0.1}, "checkpoint": ""}
    asked = {"config": {"cold_start": None, "slices": ["cold_items"]}}
    note = "note: BPR cannot rank new items: it has no features. Its figures on new items say nothing about the model."
    assert note in training._report("BPR", "x", {**result, **asked})
    assert "note:" not in training._report("MMGCN", "x", {**result, **asked})
    assert "note:" not in training._report("BPR", "x", result)


def test_no_help_waits_for_torch():
    """Whatever the machine's speed: what is imported counts, not the time."""
    code = (
        "import sys; from run_recbole_mm import load_cli\ncli = load_cli()\n"
        "for word in cli.COMMANDS: assert cli.main([word, '--help']) == 0, word\n"
        "assert cli.main(['models']) == cli.main(['version']) == cli.main(['--model=MMGCN', '--help']) == 0\n"
        "print(sorted({'torch', 'recbole', 'recbole_mm', 'pandas', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr


@pytest.mark.skipif(sys.version_info < (3, 10), reason="Python 3.9 does not tell how it was called")
def test_the_help_of_the_module_neither(tmp_path):
    command = [sys.executable, "-X", "importtime", "-m", "recbole_mm", "--help"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60)
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 0 and "usage: python -m recbole_mm" in done.stdout
    assert "recbole_mm.cli" in imported and not {"torch", "recbole", "pandas", "numpy"} & imported


@pytest.mark.parametrize(("version", "command"), [((3, 12), "--no-deps recbole==1.2.1"), ((3, 11), "'recbole>=1.2.1")])
def test_a_missing_recbole_ends_in_the_command_that_installs_it(version, command, monkeypatch, capsys):
    """RecBole cannot be among our requirements on Python 3.12, so the first import there may not find it."""
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "recbole", None)
        patched.setattr("sys.version_info", version)
        with pytest.raises(ModuleNotFoundError, match=f"RecBole is not installed.*pip install.*{command}"):
            _check_recbole()
        patched.setattr(sibling("host/names.py"), "find_spec", lambda name: None)
        status = main(["--list-models"])
    assert status == 2 and command in capsys.readouterr().err


def test_convert_runs_through_the_command(tmp_path, capsys):
    folder = tmp_path / "raw"
    folder.mkdir()
    rows = ["0\t0\t0", "0\t1\t0", "1\t0\t0", "1\t2\t0", "0\t2\t1", "1\t1\t2"]
    (folder / "baby.inter").write_text("\n".join(["userID\titemID\tx_label", *rows, ""]))
    np.save(folder / "image_feat.npy", np.ones((3, 2)))
    assert main(["convert", "mmrec", str(folder), "dataset", "--name", "baby"]) == 0
    assert "use: --dataset=baby" in capsys.readouterr().out and (tmp_path / "dataset/baby/baby.inter").is_file()
    assert main(["convert", "mmrec", "no-folder", "dataset", "--name", "other"]) == 1
    with pytest.raises(SystemExit):
        main(["convert", "mmrec"])
    assert "convert mmrec" in capsys.readouterr().err


def test_the_help_of_convert_is_what_its_parser_reads():
    parser = make_parser("convert")
    both, forward = (COMMANDS["convert"].FLAGS[title] for title in ("Data sets, both ways", "Data sets, from MMRec"))
    assert tuple(COLUMNS) == ROLES and {f"{role}-column" for role in ROLES} <= set(forward)
    for name, flag in {**both, **forward}.items():
        given = f"--{name}" if flag.value is None else f"--{name}=x"
        parser.parse_args(["mmrec", "a", "b", "--name=n", given])
        if name in forward:
            with pytest.raises(SystemExit):
                parser.parse_args(["to-mmrec", "a", "b", "--name=n", given])
    for name in (*COMMANDS["convert"].FLAGS["Data sets, from UniSRec"], *(name for name in both if name != "name")):
        given = f"--{name}" if name == "force" else f"--{name}=x"
        parser.parse_args(["unisrec", "a", "b", "--name=n", given])


@pytest.mark.parametrize("word", ["train", "compare", "search", "export"])
def test_places_of_data_are_options_of_what_trains(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are arguments of import, extract and inspect as well."""
    seen: list[Request] = []
    monkeypatch.setattr(COMMANDS[word], "run", lambda request: seen.append(request) or 0)
    assert main([word, "--data_path=here", "--feature_path=there", "--device=cpu"]) == 0
    assert seen[0].options == {"data_path": "here", "feature_path": "there", "device": "cpu"}
