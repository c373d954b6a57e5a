"""What the terminal shows of a run: a few lines by default, and all of RecBole's log in its file."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
from recbole.trainer import Trainer

from recbole_mm.cli.main import main
from recbole_mm.experiment import launch as launching
from recbole_mm.host.terminal import _Story, is_quiet, quiet_terminal
from recbole_mm.processes import Place

RUN = ["--model=BPR", "--dataset=mm-toy", "--epochs=3", "--use_gpu=False", "--health=off"]


def shell(arguments: list[str]) -> int:
    """The program with RecBole's handlers: RecBole adds them only where there are none, and pytest has some."""
    root = logging.getLogger()
    before = list(root.handlers)
    root.handlers[:] = []
    try:
        return main(arguments)
    finally:
        for handler in root.handlers:
            handler.close()
        root.handlers[:] = before


@pytest.fixture(autouse=True)
def _program(monkeypatch):
    monkeypatch.setattr("sys.argv", ["run_recbole_mm.py"])


def _log_file() -> str:
    (file,) = Path("log").rglob("*.log")
    return re.sub(r"\x1b\[[0-9;]*m", "", file.read_text(encoding="utf-8"))


def test_a_line_per_validation_when_it_is_done(capsys, monkeypatch):
    train, seen = Trainer._train_epoch, []

    def watched(self, *args, **kwargs):
        seen.append(capsys.readouterr().err.splitlines())
        return train(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "_train_epoch", watched)
    assert shell(RUN) == 0
    seen.append(capsys.readouterr().err.splitlines())
    begin, *epochs = seen
    assert [line.split(":")[0] for line in begin] == ["log", "data set", "split", "negative_items", "model"]
    # Nothing waits for the next epoch, and no bar is drawn where the output is no terminal.
    pattern = r"epoch {} training [\d.]+ s, train loss: [\d.]+; valid mrr@10 [\d.]+( \(best so far\))?"
    for index, lines in enumerate(epochs):
        assert len(lines) == 1 and re.fullmatch(pattern.format(index), lines[0]), lines
    assert epochs[0][0].endswith("(best so far)")
    text = _log_file()
    assert "learning_rate = 0.001" in text and "Trainable parameters" in text and text.count("valid result") == 3
    assert "best so far" not in text and "best valid" in text


def test_verbose_brings_all_back(capsys):
    assert shell([*RUN, "--verbose"]) == 0
    shown = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().err)
    for text in ("learning_rate = 0.001", "Trainable parameters", "valid result", "Train     0", "Evaluate"):
        assert text in shown
    missing = [line for line in _log_file().splitlines() if line.split("INFO")[-1].strip() not in shown]
    assert missing == []


def test_the_best_epoch_is_the_trainers():
    said = []
    story = _Story()
    story._say = said.append
    line = "epoch {} evaluating [time: 0.01s, valid_score: {}]".format

    def run(scores, first=0, bigger=True):
        story._bigger = bigger
        said.clear()
        for epoch, score in enumerate(scores, first):
            story._text(f"epoch {epoch} training [time: 0.10s, train loss: 0.5]")
            story._text(line(epoch, score))
        return ["best" in text for text in said]

    assert run([0.1, 0.3, 0.2, 0.3]) == [True, True, False, True]  # RecBole takes the last of equal ones
    assert run([0.5, 0.7, 0.4], bigger=False) == [True, False, True]
    story._forget()
    assert run([0.1, 0.2], first=5) == [False, False]  # a resumed training has a best epoch from before


def test_the_average_stands_in_the_line_of_its_epoch():
    said = []
    story = _Story()
    story._say, story._metric = said.append, "mrr@10"
    for epoch, (average, latest, counts) in enumerate([(0.2, 0.1, "average"), (0.2, 0.3, "latest")]):
        story._text(f"epoch {epoch} training [time: 0.10s, train loss: 0.5]")
        story._text(f"weight_average: average {average:.4f}, latest {latest:.4f}: the {counts} counts.")
        story._text(f"epoch {epoch} evaluating [time: 0.10s, valid_score: {max(average, latest)}]")
    story._text("epoch 2 training [time: 0.10s, train loss: 0.5]")
    story._text("epoch 2 evaluating [time: 0.10s, valid_score: 0.25]")
    assert [line.split("; ")[1] for line in said] == [
        "valid mrr@10 0.2 of the average, 0.1000 of the latest (best so far)",
        "valid mrr@10 0.3 of the latest, 0.2000 of the average (best so far)",
        "valid mrr@10 0.25",
    ]


def test_the_log_does_not_come_back_after_the_training(capsys, tmp_path):
    """An export loads the model again, and what its loading logs was told by the training."""
    assert shell([*RUN, f"--export={tmp_path / 'lists.csv'}"]) == 0
    shown = capsys.readouterr().err
    assert shown.count("negative_items: seen") == 1 and "INFO" not in shown


@pytest.mark.parametrize("wanted", [True, False])
def test_several_processes_are_as_quiet(monkeypatch, wanted):
    """Each of them is told whether this one is."""
    monkeypatch.setattr(launching, "START", "fork")
    where = [Place(0, 1, 0, 1, f"tcp://localhost:{launching.free_port()}")]
    with quiet_terminal(wanted):
        assert launching.launch(is_quiet, where, []) is wanted


def test_the_second_process_says_nothing(capsys):
    story = _Story()
    story._rank = 1
    story._text("epoch 0 training [time: 0.10s, train loss: 0.5]")
    story._text("epoch 0 evaluating [time: 0.10s, valid_score: 0.5]")
    assert capsys.readouterr().err == ""
