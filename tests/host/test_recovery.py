"""Runs that were killed and resumed end as the undisturbed run, to the last bit."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
from contextlib import contextmanager
from logging import WARNING

import pytest
import torch

from recbole_mm.cli.main import main
from recbole_mm.experiment.quick_start import run
from recbole_mm.host import checkpoint, resumption
from recbole_mm.host.session import states_of
from tests.host import killed
from tests.options import QUICK, SEQUENTIAL

pytestmark = pytest.mark.no_cover  # a hundred trainings, a third faster so

PLACES = ("evaluate", "_save_checkpoint", "test")


def point_of(model):
    """A moment of its own for every model: a share of the steps, or within validation, saving or the test."""
    generator = random.Random(model)
    return generator.choice([*PLACES, *(round(generator.uniform(0.05, 0.95), 3) for _ in range(6))])


@pytest.mark.parametrize("model", killed.names())
def test_our_models(model, tmp_path):
    found = killed.killed_and_resumed(model, tmp_path, [point_of(model)])
    assert set(found.values()) == {0.0}, found


@pytest.mark.parametrize(
    ("model", "points", "options"),
    [
        ("BPR", [0.6, "evaluate", "test"], {"eval_args": {"mode": "uni10"}}),
        ("MultiVAE", [0.6], {}),  # counts its annealing steps in a plain attribute
        ("RecVAE", [0.6], {}),  # has two optimisers
        ("LightGCN", ["evaluate"], {"stopping_step": 0, "epochs": 4}),
        ("SASRec", [0.6], SEQUENTIAL),
    ],
)
def test_models_of_recboles(model, points, options, tmp_path):
    found = killed.killed_and_resumed(model, tmp_path, points, **options)
    assert set(found.values()) == {0.0}, found


def test_all_options_of_the_checkpoint_hold(caplog):
    odd = {
        "learning_rate": 0.0123,
        "weight_decay": 0.01,
        "train_batch_size": 777,
        "topk": [7],
        "valid_metric": "NDCG@7",
    }
    first = run("BPR", "mm-toy", config_dict={**QUICK, **odd})["checkpoint"]
    plain = {"epochs": 6, "state": "WARNING"}
    with killed.trainers() as made:
        run("BPR", "mm-toy", config_dict=plain, resume=first)
        caplog.set_level(WARNING)
        run("BPR", "mm-toy", config_dict={**plain, "epochs": 8, "learning_rate": 0.5}, resume=first)
    assert all(made[0].config[key] == value for key, value in odd.items())
    assert made[0].optimizer.param_groups[0]["lr"] == 0.0123
    assert made[1].optimizer.param_groups[0]["lr"] == 0.5
    assert "learning_rate is 0.5 from here on" in caplog.text and "0.0123" in caplog.text


def test_another_metric_rates_the_best_epoch_anew():
    first = run("BPR", "mm-toy", config_dict=QUICK)
    result = run(
        "BPR",
        "mm-toy",
        config_dict={"epochs": 3, "state": "ERROR", "valid_metric": "NDCG@5"},
        resume=first["checkpoint"],
    )
    assert result["best_valid_score"] == result["best_valid_result"]["ndcg@5"]
    assert result["best_valid_score"] >= first["best_valid_result"]["ndcg@5"]


def test_the_state_between_two_epochs_is_kept_until_the_test_is_done(tmp_path):
    with pytest.raises(killed.PowerCutError), killed.power_cut(place="test"):
        killed.outcome("BPR", str(tmp_path))
    assert sorted(file.suffix for file in tmp_path.iterdir() if file.is_file()) == [".last", ".pth"]
    killed.outcome("BPR", str(tmp_path), resume="auto")
    assert [file.suffix for file in tmp_path.iterdir() if file.is_file()] == [".pth"]


def test_auto_takes_no_run_of_other_options(tmp_path):
    with pytest.raises(killed.PowerCutError), killed.power_cut(place="test"):
        killed.outcome("BPR", str(tmp_path))
    _, other = killed.outcome("BPR", str(tmp_path), resume="auto", learning_rate=0.02)
    assert other.start_epoch == 0 and len(list(tmp_path.glob("*.pth"))) == 2


def test_auto_passes_over_a_run_that_ends_meanwhile(tmp_path, monkeypatch):
    """Its state is gone between the look at the folder and the look into the file."""
    with pytest.raises(killed.PowerCutError), killed.power_cut(place="test"):
        killed.outcome("BPR", str(tmp_path))
    (last,) = tmp_path.glob("*.last")
    read = resumption.read_checkpoint
    monkeypatch.setattr(resumption, "read_checkpoint", lambda file: (last.unlink(missing_ok=True), read(file))[1])
    _, other = killed.outcome("BPR", str(tmp_path), resume="auto")
    assert other.start_epoch == 0
    (tmp_path / "BPR-link.last").symlink_to("nowhere")
    assert states_of(tmp_path) == [tmp_path / "BPR-link.last"]


def test_states_of_data_sets_with_brackets_in_their_names(tmp_path):
    state = tmp_path / "MML-shop[1]-now-resume.pth"
    state.touch()
    assert states_of(tmp_path, "MML", "shop[1]") == states_of(tmp_path) == [state]
    assert states_of(tmp_path, "MML", "shop1") == []


def test_a_damaged_state_leaves_the_best_epoch(tmp_path, caplog):
    with pytest.raises(killed.PowerCutError), killed.power_cut(place="test"):
        killed.outcome("BPR", str(tmp_path))
    (last,), (best,) = tmp_path.glob("*.last"), tmp_path.glob("*.pth")
    last.write_bytes(last.read_bytes()[:1000])
    epoch = torch.load(best, weights_only=True)["epoch"]
    _, trainer = killed.outcome("BPR", str(tmp_path), resume=str(best), epochs=5)
    assert trainer.start_epoch == epoch + 1 and "The best epoch is taken instead" in caplog.text


@pytest.mark.parametrize("left", [None, 1000])
def test_a_lost_best_epoch_is_noticed_before_the_rest_is_trained(left, tmp_path):
    """The state between two epochs has no part of it, so that its file would be missed at the test, hours later."""
    with pytest.raises(killed.PowerCutError), killed.power_cut(place="test"):
        killed.outcome("BPR", str(tmp_path))
    (last,), (best,) = tmp_path.glob("*.last"), tmp_path.glob("*.pth")
    best.write_bytes(best.read_bytes()[:left]) if left else best.unlink()
    before = last.read_bytes()
    with (
        pytest.raises((FileNotFoundError, ValueError), match="kept its best parameters in"),
        killed.power_cut() as steps,
    ):
        killed.outcome("BPR", str(tmp_path), resume=str(last), epochs=9)
    assert steps[0] == 0 and last.read_bytes() == before


@pytest.mark.parametrize(("write", "when"), [(4, "before"), (4, "after"), (5, "before"), (5, "after")])
def test_between_two_stages(write, when, between, tmp_path):
    """MCPTR is killed around the files that end its pre-training (4) and begin its fine-tuning (5)."""
    expected, whole, cut = between
    with pytest.raises(killed.PowerCutError), killed.power_cut(), cut(write, when):
        killed.outcome("MCPTR", str(tmp_path))
    torch.rand(3)
    with killed.power_cut() as rest:
        result, trainer = killed.outcome("MCPTR", str(tmp_path), resume="auto")
    assert result == expected and killed.difference(whole, trainer) == 0
    assert rest[0] == (4 if (write, when) == (5, "after") else 6)  # fine-tuning alone, or one more epoch of the first
    assert not list(tmp_path.glob("*resume*"))


@pytest.fixture(scope="module")
def between(tmp_path_factory):
    """An undisturbed run of MCPTR, and a cut before or after one of its writes, counted from 0."""
    written = []
    plain = checkpoint.write

    @contextmanager
    def cut(number, when):
        count = iter(range(1000))

        def write(*arguments):
            place = next(count)
            if (place, when) == (number, "before"):
                raise killed.PowerCutError
            plain(*arguments)
            if place == number:
                raise killed.PowerCutError

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checkpoint, "write", write)
            yield

    def noted(trainer, state, file):
        written.append((trainer.stage_name, str(file).rpartition("-")[2]))
        plain(trainer, state, file)

    with pytest.MonkeyPatch.context() as patch, killed.power_cut():
        patch.setattr(checkpoint, "write", noted)
        expected, whole = killed.outcome("MCPTR", str(tmp_path_factory.mktemp("whole")))
    assert written[4:6] == [(None, "pretrain.pth"), ("finetune", "resume.pth")]
    return expected, whole, cut


COMMAND = ["--model=BPR", "--dataset=mm-toy", "--epochs=60", "--stopping_step=99", "--learning_rate=0.01",
           "--use_gpu=False"]  # fmt: skip


def _shell(folder, arguments):
    os.chdir(folder)
    with open("out", "w") as out, open("err", "w") as err:
        sys.stdout, sys.stderr, sys.argv = out, err, ["run_recbole_mm.py"]
        status = main(arguments)
    os._exit(status)


def shell(folder, *arguments):
    """A command line in a copy of this process, which has imported everything."""
    folder.mkdir(exist_ok=True)
    child = multiprocessing.get_context("fork").Process(target=_shell, args=(folder, [*COMMAND, *arguments]))
    child.start()
    return child


def table(folder):
    lines = (folder / "out").read_text().splitlines()
    return [line for line in lines if line.startswith(("recall", "mrr", "ndcg", "hit"))]


def test_signals(tmp_path):
    """SIGTERM ends with a message and status 143, SIGKILL with nothing; the metrics of the end are the same."""
    whole = shell(tmp_path / "whole")
    children = {number: shell(tmp_path / number.name) for number in (signal.SIGTERM, signal.SIGKILL)}
    for number, child in children.items():
        folder = tmp_path / number.name
        while not list(folder.glob("saved/BPR*.last")):
            assert child.is_alive(), (folder / "err").read_text()
            time.sleep(0.01)
        os.kill(child.pid, number)
        child.join(60)
        err = (folder / "err").read_text()
        assert child.exitcode == {signal.SIGTERM: 143, signal.SIGKILL: -9}[number], err
        if number == signal.SIGTERM:
            assert "Terminated." in err and "Go on with: python run_recbole_mm.py" in err
            assert "--resume=saved/BPR" in err
    whole.join(280)
    expected = table(tmp_path / "whole")
    assert expected
    for number in children:
        resumed = shell(tmp_path / number.name, "--resume=auto")
        resumed.join(280)
        assert table(tmp_path / number.name) == expected
        assert [file.suffix for file in (tmp_path / number.name / "saved").iterdir()] == [".pth"]


@pytest.mark.parametrize("model", ["BPR", "MCPTR"])
def test_a_part_of_a_file_goes_with_the_run_that_goes_on(model, tmp_path):
    """What a process left that was killed while it wrote."""
    with pytest.raises(killed.PowerCutError), killed.power_cut(place="test"):
        killed.outcome(model, str(tmp_path))
    file = next(tmp_path.glob("*.pth"))
    part, other = tmp_path / f".{file.stem}.77-abc.tmp.pth", tmp_path / ".BPR-another-run.77-abc.tmp.pth"
    for left in (part, other):
        left.write_bytes(b"half")
    killed.outcome(model, str(tmp_path), resume="auto")
    assert not part.exists() and other.exists()
