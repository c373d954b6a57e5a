"""Two processes on the processor do what one does."""

from __future__ import annotations

import functools
import math
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import recbole.trainer.trainer as recbole_trainers
import torch

import recbole_mm
from recbole_mm import processes
from recbole_mm.experiment import launch as launching
from recbole_mm.experiment.children import ChildError
from recbole_mm.experiment.launch import free_port, launch
from recbole_mm.host import sharing
from recbole_mm.processes import Place
from tests.options import QUICK

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="starts its processes with fork, which imports nothing")

OPTIONS = {
    **QUICK, "epochs": 1, "metric_decimal_place": 8, "train_batch_size": 256, "slices": True, "valid_metric": "NDCG@10"
}  # fmt: skip
TINY = {
    "embedding_size": 8, "n_layers": 1, "inner_size": 12, "MAX_ITEM_LIST_LENGTH": 10, "fusion_hidden_size": 6,
    "meta_batch_size": 41, "query_size": 1, "fusion_user_rate": 0.5, "modalities": ["image", "text"],
}  # fmt: skip
NEGATIVES = {"distribution": "uniform", "sample_num": 3}
STILL = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}
#: Name to model, options, and whether its batches are divided. The batch is odd, so that the shares differ.
CASES: dict[str, tuple[str, dict[str, Any], set[bool]]] = {
    "negatives": ("BPR", {"epochs": 2, "train_batch_size": 101, "train_neg_sample_args": NEGATIVES}, {True}),
    "features": ("VBPR", {}, {True}),
    "graph": ("MMGCN", {"epochs": 2, "clip_grad_norm": {"max_norm": 0.1}}, {True}),
    "all neighbours": ("GRCN", {"epochs": 2, "graph_batch": "sampled", "fanout": 10_000}, {True}),
    "contrast": ("MMGCL", {}, {False}),
    "softmax": ("SASRec", {"train_neg_sample_args": None, "n_layers": 1, **STILL}, {True}),
    "two stages": ("MCPTR", {"pretrain_epochs": 1}, {True, False}),
    "meta": ("MML", {"warmup_epochs": 1, "generator_epochs": 0, "fusion_epochs": 2, **TINY, **STILL}, set()),
}  # fmt: skip


def numbers(result: dict[str, Any]) -> dict[str, float]:
    """All figures of a run."""
    parts = {"valid": result["best_valid_result"], "test": result["test_result"]}
    return {f"{part} {key}": float(value) for part, found in parts.items() for key, value in found.items()}


def train(case: str) -> dict[str, Any]:
    model, options, _ = CASES[case]
    divided: set[bool] = set()
    divides = sharing.SharedLoss._divides

    def noted(self: Any, interaction: Any) -> bool:
        divided.add(divides(self, interaction))
        return divides(self, interaction)

    sharing.SharedLoss._divides = noted
    try:
        folder = {"checkpoint_dir": f"saved/{case}"}
        result = recbole_mm.run(model, "mm-toy", config_dict={**OPTIONS, **folder, **options})
    finally:
        sharing.SharedLoss._divides = divides
    return {"numbers": numbers(result), "divided": divided, "checkpoint": result["checkpoint"]}


def resumed() -> dict[str, Any]:
    """One epoch, and then from its checkpoint to the third."""
    options = {**OPTIONS, "checkpoint_dir": "saved/resumed"}
    first = recbole_mm.run("BPR", "mm-toy", config_dict={**options, "epochs": 1})
    return numbers(recbole_mm.run("BPR", "mm-toy", config_dict={**options, "epochs": 3}, resume=first["checkpoint"]))


def sampled() -> list[dict[str, Any]]:
    """Training on two neighbours a node: of every process the figures, and gradients before and after the exchange."""
    steps: list[tuple[float, float]] = []
    add = vars(recbole_trainers)["_recbole_mm_add"]

    def noted(parameters: Any) -> None:
        found = [p for p in parameters if p.grad is not None]
        before = sum(p.grad.double().sum().item() for p in found)
        add(found)
        steps.append((before, sum(p.grad.double().sum().item() for p in found)))

    vars(recbole_trainers)["_recbole_mm_add"] = noted
    try:
        few = {"checkpoint_dir": "saved/sampled", "graph_batch": "sampled", "fanout": 2, "epochs": 3}
        result = recbole_mm.run("MMGCN", "mm-toy", config_dict={**OPTIONS, **few})
    finally:
        vars(recbole_trainers)["_recbole_mm_add"] = add
    return processes.gathered({"numbers": numbers(result), "steps": steps})


def everything() -> dict[str, Any]:
    found: dict[str, Any] = {case: train(case) for case in CASES}
    found["resumed"] = resumed()
    found["sampled"] = sampled()
    found["parameters"] = processes.gathered(processes.rank())
    return found


def places(n: int = 2) -> list[Place]:
    address = f"tcp://localhost:{free_port()}"
    return [Place(number, n, number, n, address) for number in range(n)]


def forked(job: Callable[[], Any], n: int = 2) -> Any:
    before, launching.START = launching.START, "fork"
    try:
        return launch(job, places(n), [])
    finally:
        launching.START = before


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Any], Path]]:
    """What two processes made of all cases, and the folder where they ran."""
    folder, before = tmp_path_factory.mktemp("two"), Path.cwd()
    os.chdir(folder)
    try:
        torch.set_num_threads(1)
        yield forked(everything), folder
    finally:
        os.chdir(before)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_give_the_figures_of_one(case: str, two: tuple[dict[str, Any], Path]) -> None:
    found, alone = two[0][case], train(case)
    assert found["numbers"] == pytest.approx(alone["numbers"], abs=1e-6)
    assert any("[" in key for key in found["numbers"]), "slices are among them"
    assert found["divided"] == CASES[case][2]


def test_sampled_neighbours_train_with_the_mean_gradient_and_equal_figures(two: tuple[dict[str, Any], Path]) -> None:
    """Each process samples for its own rows; the step is the same in both, and so is what they are ranked by."""
    first, second = two[0]["sampled"]
    assert first["numbers"] == second["numbers"] and all(map(math.isfinite, first["numbers"].values()))
    assert [after for _, after in first["steps"]] == [after for _, after in second["steps"]]
    assert all(one[0] != other[0] for one, other in zip(first["steps"], second["steps"]))
    for (one, after), (other, _) in zip(first["steps"], second["steps"]):
        assert one + other == pytest.approx(after, rel=1e-4, abs=1e-5)
    assert len(first["steps"]) > 3 and first["numbers"]["valid ndcg@10"] > 0


def test_a_resumed_training_ends_as_one_that_was_not_broken_off(two: tuple[dict[str, Any], Path]) -> None:
    options = {**OPTIONS, "epochs": 3}
    assert two[0]["resumed"] == pytest.approx(numbers(recbole_mm.run("BPR", "mm-toy", config_dict=options)), abs=1e-6)


def test_one_of_them_writes(two: tuple[dict[str, Any], Path]) -> None:
    found, folder = two
    runs = len(CASES) + 3
    assert found["parameters"] == [0, 1]
    assert len(list((folder / "log").glob("*/*.log"))) == runs
    assert len(list((folder / "log_tensorboard").glob("*/events.*"))) == runs
    for case, (model, _, _) in CASES.items():
        stages = {"MCPTR": 2, "MML": 3}.get(model, 1)
        assert len(list((folder / "saved" / case).iterdir())) == stages, case
        assert (folder / found[case]["checkpoint"]).is_file()


def meeting(what: Callable[[], Any]) -> Any:
    processes.join(cuda=False)
    if processes.rank() == 1:
        what()
    processes.wait()
    return "done"


def refuse() -> None:
    raise ValueError("expected another value, got this one.")


def test_an_error_of_one_ends_all_with_its_message() -> None:
    begin = time.monotonic()
    with pytest.raises(ValueError, match="expected another value"):
        forked(functools.partial(meeting, refuse), 3)
    assert time.monotonic() - begin < 30
    assert not multiprocessing.active_children()


class TwoPartsError(Exception):
    """An error that pickle cannot make again of its message."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(f"{one} and {other}")


def refuse_in_two_parts() -> None:
    raise TwoPartsError("this", "that")


def test_an_error_that_cannot_be_sent_comes_as_its_text() -> None:
    with pytest.raises(ChildError, match="TwoPartsError: this and that") as caught:
        forked(functools.partial(meeting, refuse_in_two_parts))
    assert not caught.value.died and not caught.value.of_machine


def test_what_stopped_a_training_says_it_once_also_after_a_way_through_a_pipe() -> None:
    error = recbole_mm.Interrupted("saved/BPR.pth")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.checkpoint) == (str(error), "saved/BPR.pth")


def test_a_killed_process_ends_all() -> None:
    begin = time.monotonic()
    with pytest.raises(ChildError, match=r"died: its process was ended by SIGKILL \(often: out of memory\)"):
        forked(functools.partial(meeting, lambda: os.kill(os.getpid(), signal.SIGKILL)))
    assert time.monotonic() - begin < 30
    assert not multiprocessing.active_children()


def stuck() -> None:
    time.sleep(60)


def test_a_process_that_does_not_answer_is_ended_with_the_others() -> None:
    """One waits for nothing that others could break, and is ended all the same."""
    begin = time.monotonic()
    with pytest.raises(ValueError, match="expected another value"):
        forked(lambda: refuse() if processes.rank() == 1 else stuck())
    assert time.monotonic() - begin < 30


def long() -> Any:
    return recbole_mm.run("BPR", "mm-toy", config_dict={**OPTIONS, "epochs": 10_000, "stopping_step": 10_000})


@pytest.mark.usefixtures("ctrl_c_is_heard")
def test_ctrl_c_names_the_checkpoint() -> None:
    """As of one process; the signal comes to this one only, as SIGTERM does."""

    pressed: list[float] = []
    done = threading.Event()

    def press() -> None:
        """Once there is a checkpoint; again where nothing came of it, as a person would."""
        end = time.monotonic() + 60
        while not list(Path("saved").glob("BPR-*.pth")) and time.monotonic() < end:
            time.sleep(0.05)
        while not done.wait(15 if pressed else 0):
            pressed.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(recbole_mm.Interrupted) as caught:
        try:
            forked(long)
        finally:
            done.set()
    assert time.monotonic() - pressed[-1] < 30
    assert Path(str(caught.value.checkpoint)).is_file()
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_torchrun_does_what_one_process_does(tmp_path: Path) -> None:
    how = ["--epochs=1", "--train_batch_size=256", "--metrics=['Recall']", "--topk=[10]", "--valid_metric=Recall@10"]
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "recbole_mm", "train"]
    done = subprocess.run(
        [sys.executable, "-m", *launcher, "--model=MMGCN", "--dataset=mm-toy", *how],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, capture_output=True,
        text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    printed = [line.split() for line in done.stdout.splitlines() if line.startswith("recall@10 ")]
    options = {**QUICK, "epochs": 1, "train_batch_size": 256, "topk": [10], "metrics": ["Recall"], "seed": 2020}
    one = recbole_mm.run("MMGCN", "mm-toy", config_dict={**options, "valid_metric": "Recall@10"}, saved=False)
    assert [float(x) for x in printed[0][1:]] == [one["best_valid_score"], one["test_result"]["recall@10"]]
    assert len(printed) == 1 and len(list((tmp_path / "saved").glob("*.pth"))) == 1, "one of them writes"
