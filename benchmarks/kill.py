"""Kills real processes at seeded moments, starts them again, and compares the end with that of an undisturbed one.

    python benchmarks/kill.py [--moments=20] [--seed=0] [--work=train:MMGCN,train:MML,compare,search,export,...]
        [--csv=benchmarks/results/kill.csv]

By default two models of RecBole and all of this package are trained, and a comparison, a search and an export are made.

Every piece of work is done once without disturbance, which tells how much time of the processor it takes; then it is
started once per moment, killed when it has used that share of the time since its first step (SIGKILL and SIGTERM in
turn), and started again with the same command until it is done. The moments are evenly spread, each drawn within its
part, so that all stages are met. What is compared: of a training the metrics and every parameter; of a comparison the
records of the runs with the metrics of every user, and the table; of a search all trials; of an export the file, of
which the old one or the new one must be there after every kill. The table has the largest difference for every kill
point; 0 is the same to the last bit. All data come with the package; the state between two epochs is written at every
epoch (the option that keeps it below a twentieth of the time would leave the short epochs of these data without).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import recbole_mm  # first: it repairs what RecBole needs repaired

# isort: split
import numpy as np
import pandas as pd
import psutil
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from recbole_mm.experiment.commit import commit
from recbole_mm.experiment.job import machine
from recbole_mm.files import write_atomically
from recbole_mm.host import recovery
from recbole_mm.host.registry import registered_models

MODELS = ("BPR", "LightGCN", *sorted(registered_models()))
WORK = (*(f"train:{model}" for model in MODELS), "compare", "search", "export")
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
OPTIONS: dict[str, Any] = {
    "epochs": 8, "stopping_step": 99, "train_batch_size": 512, "embedding_size": 16, "state": "ERROR",
    "show_progress": False, "use_gpu": False, "metrics": ["Recall", "NDCG"], "topk": [5, 10],
    "valid_metric": "Recall@10",
}  # fmt: skip
STAGED: dict[str, dict[str, Any]] = {
    "MCPTR": {"pretrain_epochs": 4, "epochs": 4},
    "MML": {"epochs": 1, "warmup_epochs": 1, "generator_epochs": 2, "fusion_epochs": 2},
    "UniSRec": {"train_stage": "both", "pretrain_epochs": 4, "epochs": 4},
}
#: What keeps a model from taking minutes, or what RecBole needs beside it.
SMALL: dict[str, dict[str, Any]] = {
    "CMBF": {"n_image_layers": 1, "n_text_layers": 1, "n_cross_layers": 1, "epochs": 3},
    "UVCAN": {"epochs": 3},
    **STAGED,
}
_NOT_COMPARED = {"time", "memory_mib", "checkpoint", "checkpoint_dir", "gpu_id", "seconds", "worker", "storage"}


def main() -> None:
    """Print a line for every piece of work: each kill point with its largest difference."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", default=",".join(WORK))
    parser.add_argument("--csv", type=Path, help="a file that keeps a row for every kill")
    options = parser.parse_args()
    table = options.csv.absolute() if options.csv else None
    sys.argv = sys.argv[:1]
    torch.set_num_threads(1)
    warm_up()
    about = provenance(options.seed)
    print(f"| work | CPU seconds | kills | began anew | largest difference | by moment ({'share of the time'}) |")
    print("|---|---|---|---|---|---|")
    for work in options.work.split(","):
        with tempfile.TemporaryDirectory() as folder:
            found = kill_work(work, Path(folder), moments(options.moments, f"{options.seed} {work}"))
        gaps = found["gaps"]
        by_moment = " ".join(f"{share:.2f}:{gap:g}" for share, gap in gaps.items())
        print(
            f"| {work} | {found['seconds']:.1f} | {found['kills']} of {len(gaps)} | {found['anew']} | "
            f"{max(gaps.values()):g} | {by_moment} |",
            flush=True,
        )
        if table:
            keep(table, work, found, about)


def provenance(seed: int) -> dict[str, str]:
    """What the rows of the table were measured with: the columns that ``tools/result_tables.py`` asks for."""
    with tempfile.TemporaryDirectory() as folder:
        options = {**OPTIONS, "epochs": 0, "checkpoint_dir": folder}
        split = recbole_mm.run("BPR", "mm-toy", config_dict=options)["split"]
    device = machine(torch.device("cpu"))
    return {
        "dataset": "mm-toy",
        "split": split,
        "seeds": str(seed),
        "commit": commit() or "unknown",
        "machine": f"{device['device']} ({device['threads']} threads)",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def keep(file: Path, work: str, found: dict[str, Any], about: dict[str, str]) -> None:
    """Write the rows of a piece of work into the table, which is there whole at every moment.

    Args:
        file: The table, which may have rows already.
        work: As in ``WORK``.
        found: What :func:`kill_work` gave.
        about: What every row says about how it was measured.
    """
    rows = pd.DataFrame(
        {
            "work": work,
            "moment": [f"{number + 1}" for number in range(len(found["gaps"]))],
            "share": [f"{share:.4f}" for share in found["gaps"]],
            "signal": [SIGNALS[number % 2].name for number in range(len(found["gaps"]))],
            "met": found["met"],
            "difference": [f"{gap:g}" for gap in found["gaps"].values()],
            "cpu_seconds": f"{found['seconds']:.2f}",
            "options": json.dumps(SMALL.get(work.partition(":")[2], {}), sort_keys=True),
            **about,
        }
    ).astype(str)
    if file.exists():
        before = pd.read_csv(file, dtype=str, keep_default_na=False)
        rows = pd.concat([before[before["work"] != work], rows])
    write_atomically(file, rows.to_csv(index=False, lineterminator="\n"))


def warm_up() -> None:
    """Import everything, so that no child has to."""
    with tempfile.TemporaryDirectory() as folder:
        here = os.getcwd()
        os.chdir(folder)
        how = {"trials": 1, "space": {"learning_rate": [0.1]}, "in_process": True, "verbose": False}
        recbole_mm.tune("MMGCN", "mm-toy", config_dict={**OPTIONS, "epochs": 1}, output="out", **how)
        os.chdir(here)


def moments(count: int, seed: str) -> list[float]:
    """Shares of the time, one in each of ``count`` equal parts."""
    generator = random.Random(seed)
    return [(part + generator.random()) / count for part in range(count)]


def kill_work(work: str, folder: Path, shares: list[float]) -> dict[str, Any]:
    """Do a piece of work undisturbed, then once per moment with a kill at it.

    Args:
        work: ``train:MODEL``, ``compare``, ``search`` or ``export``.
        folder: Where to work.
        shares: The moments, as shares of the processor's time.

    Returns:
        ``seconds`` of the undisturbed work, ``gaps`` (moment to largest difference), ``kills`` that met it running,
        which they are (``met``), and how often nothing was there yet to go on from (``anew``).
    """
    kind, _, model = work.partition(":")
    do = {"train": train, "compare": compare, "search": search, "export": export}[kind]
    if kind == "export":
        model = str(folder / "model.pth")
        shutil.copy(trained(), model)
    whole = folder / "whole"
    _, seconds = run_child(do, whole, model, None, 0)
    begun = whole / "begun"
    begin = float(begun.read_text("utf-8")) if begun.exists() else 0.0
    expected = outcome(whole)
    gaps: dict[float, float] = {}
    met: list[bool] = []
    anew = 0
    for number, share in enumerate(shares):
        place = folder / f"{number}"
        how = SIGNALS[number % 2]
        done, _ = run_child(do, place, model, begin + share * (seconds - begin), how)
        met.append(not done)
        if kind == "export":
            check_export(place, whole)
        anew += (
            kind != "export" and not done and not any(place.rglob("*.last")) and not any(place.rglob("*-resume.pth"))
        )
        while not done:
            done, _ = run_child(do, place, model, None, 0)
        gaps[share] = difference(expected, outcome(place))
        shutil.rmtree(place)
    return {"seconds": seconds, "gaps": gaps, "kills": sum(met), "met": met, "anew": anew}


def run_child(
    do: Callable[[Path, str], Any], folder: Path, model: str, limit: float | None, how: int
) -> tuple[bool, float]:
    """Work in a process of its own, a copy of this one that has everything imported.

    Args:
        do: The work.
        folder: Its folder.
        model: What it works with.
        limit: Seconds of the processor after which it is killed; ``None`` for never.
        how: The signal.

    Returns:
        Whether it came to its end, and the seconds that it took.
    """
    child = multiprocessing.get_context("fork").Process(target=_work, args=(do, folder, model))
    child.start()
    process, seconds = psutil.Process(child.pid), 0.0
    while child.is_alive():
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            break
        seconds = max(times.user + times.system, seconds)
        if limit is not None and seconds >= limit:
            os.kill(process.pid, how)
            break
        time.sleep(0.002)
    child.join()
    if child.exitcode not in (0, -how, 143, 130):
        raise RuntimeError(f"{do.__name__} {model} ended with status {child.exitcode}, see above.")
    return child.exitcode == 0, seconds


def _work(do: Callable[[Path, str], Any], folder: Path, model: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    recovery.SHARE = 1e9
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    from recbole_mm.cli.signals import TerminatedError, terminable

    register_optimizer_step_post_hook(lambda *_: _note_begin(folder))
    try:
        with terminable():
            found = do(folder, model)
            temporary = folder / "outcome.tmp"
            torch.save(found, temporary)
            os.replace(temporary, folder / "outcome.pt")
    except TerminatedError:
        os._exit(143)
    except BaseException as error:
        if isinstance(error.__cause__, TerminatedError):  # recbole_mm.Interrupted, which names the checkpoint
            os._exit(143)
        raise


def _note_begin(folder: Path) -> None:
    file = folder / "begun"
    if not file.exists():
        file.write_text(str(time.process_time()))


def train(folder: Path, model: str) -> dict[str, Any]:
    """Train and test, with the same command at every start."""
    options = {**OPTIONS, **SMALL.get(model, {}), "checkpoint_dir": str(folder / "saved")}
    result = recbole_mm.run(model, "mm-toy", config_dict=options, resume="auto")
    # A run that was killed before there was a state to go on with, or after its test, has left a file of its own.
    files = sorted((folder / "saved").glob(f"{model}*.pth"), key=lambda file: file.stat().st_mtime)
    stages = {file.stem.split("-")[-1] if model in STAGED else "": file for file in files}
    parameters = {stage: torch.load(file, weights_only=True)["state_dict"] for stage, file in stages.items()}
    kept = ("best_valid_score", "best_valid_result", "test_result", "split")
    return {"result": {key: result[key] for key in kept}, "parameters": parameters}


def compare(folder: Path, model: str) -> dict[str, Any]:
    """Compare three models, one of them in stages."""
    how = {"seeds": 1, "in_process": True, "verbose": False, "model_settings": {"MCPTR": STAGED["MCPTR"]}}
    table = recbole_mm.compare(["MMGCN", "MCPTR", "BPR"], "mm-toy", config_dict=OPTIONS, output=folder / "out", **how)
    runs = {}
    for file in sorted(folder.glob("out/runs/*/run.json")):
        with np.load(file.with_name("users.npz")) as users:
            metrics = {key: users[key].tolist() for key in users.files}
        runs[file.parent.name] = {"record": json.loads(file.read_text("utf-8")), "users": metrics}
    costs = [column for column in table if column.endswith(("_seconds", "_mib"))]
    return {"runs": runs, "table": table.drop(columns=costs).to_json()}


def search(folder: Path, model: str) -> dict[str, Any]:
    """Search the learning rate of a model in a few trials."""
    space = {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}}
    how = {"trials": 5, "space": space, "in_process": True, "verbose": False}
    found = recbole_mm.tune("MMGCN", "mm-toy", config_dict=OPTIONS, output=folder / "out", **how)
    return {"params": found.params, "value": found.value, "trials": found.trials}


def export(folder: Path, model: str) -> dict[str, Any]:
    """Export the lists of a trained model in the place of an old file."""
    files = [folder / f"lists.{kind}" for kind in ("csv", "parquet", "npz")]
    for file in files:
        if not file.exists():
            file.write_text("old")
    for file in files:
        recbole_mm.export(model, file, topk=10, progress=False)
    return {file.name: file.read_bytes() if file.suffix != ".npz" else arrays(file) for file in files}


def arrays(file: Path) -> dict[str, Any]:
    """The content of an archive, which has the time of its writing in it."""
    with np.load(file) as archive:
        return {key: archive[key].tolist() for key in archive.files}


def check_export(place: Path, whole: Path) -> None:
    """After a kill every file is the old one or the new one, and a process that reads it finds no part of one.

    Raises:
        RuntimeError: A file is neither.
    """
    for file in place.glob("lists.*"):
        if file.read_bytes() in (b"old", b""):  # the second: killed by this script between making and filling it
            continue
        new = whole / file.name
        same = arrays(file) == arrays(new) if file.suffix == ".npz" else file.read_bytes() == new.read_bytes()
        if not same:
            raise RuntimeError(f"{file} is neither the old nor the new one.")


def trained() -> str:
    """A trained model to export from."""
    folder = tempfile.mkdtemp()
    here = os.getcwd()
    os.chdir(folder)
    try:
        return os.path.abspath(recbole_mm.run("MMGCN", "mm-toy", config_dict={**OPTIONS, "epochs": 1})["checkpoint"])
    finally:
        os.chdir(here)


def outcome(folder: Path) -> Any:
    """What the work in a folder gave."""
    return torch.load(folder / "outcome.pt", weights_only=False)  # this script wrote it


def difference(one: Any, other: Any) -> float:
    """Largest difference between two outcomes; infinite where they differ in anything but numbers."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [{key for key in part if key not in _NOT_COMPARED} for part in (one, other)]
        if keys[0] != keys[1]:
            return float("inf")
        return max((difference(one[key], other[key]) for key in keys[0]), default=0.0)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        if len(one) != len(other):
            return float("inf")
        return max((difference(left, right) for left, right in zip(one, other)), default=0.0)
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.shape != other.shape:
            return float("inf")
        return float((one.double() - other.double()).abs().max()) if one.numel() else 0.0
    if isinstance(one, (int, float)) and isinstance(other, (int, float)) and not isinstance(one, bool):
        return 0.0 if one == other or (one != one and other != other) else abs(float(one) - float(other))
    return 0.0 if one == other else float("inf")


if __name__ == "__main__":
    main()
