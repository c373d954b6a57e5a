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
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pandas as pd
import psutil
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks.kill_work import (
    OPTIONS,
    SMALL,
    check_export,
    compare,
    difference,
    export,
    outcome,
    search,
    train,
    trained,
    warm_up,
)
from recbole_mm.experiment.commit import commit
from recbole_mm.experiment.job import machine
from recbole_mm.files import write_atomically
from recbole_mm.host import recovery
from recbole_mm.host.registry import registered_models

MODELS = ("BPR", "LightGCN", *sorted(registered_models()))
WORK = (*(f"train:{model}" for model in MODELS), "compare", "search", "export")
SIGNALS = (signal.SIGKILL, signal.SIGTERM)


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


if __name__ == "__main__":
    main()
