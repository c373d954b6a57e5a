"""Speed and memory against PyG message passing: ``python benchmarks/speed.py --models MMGCN --shape baby``.

Operators on a synthetic graph, then per model the training step, the full-ranking evaluation and peak memory. Every
measurement is a child process with one thread; seconds are CPU seconds (on CUDA wall seconds). The references are the
same functions (``pyg_reference/``), and the run fails where values differ. Linux only (``/proc``).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rows import append
from benchmarks.workload import SHAPES, write_synthetic

ROOT = Path(__file__).resolve().parents[1]
OPERATORS, IMPLEMENTATIONS, WIDTHS = ("mean", "attention", "learned"), ("ours", "pyg", "coo"), (64, 256, 384)


def main() -> int:
    """Run what the command line asks for; the exit status is 1 if two implementations disagree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--models", default="", help="comma-separated models; none: operators only; all: every general one"
    )
    parser.add_argument("--shape", choices=SHAPES, default="baby")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--operators", action="store_true", help="measure the operators too when models are given")
    parser.add_argument("--no-evaluation", action="store_true", help="leave out the evaluation")
    parser.add_argument("--options", type=json.loads, default={}, help="options of the model, a JSON object")
    parser.add_argument("--repeats", type=int, default=15, help="runs of an operator; the fastest counts")
    parser.add_argument(
        "--steps", type=int, default=7, help="training steps; the fastest counts, times the steps of an epoch"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=Path, help="append the figures to this file, with commit and machine")
    options = parser.parse_args()
    agree = True
    if options.operators or not options.models:
        agree &= operators(options)
    if options.models:
        with tempfile.TemporaryDirectory() as folder:
            if options.shape == "baby":
                write_synthetic(Path(folder))
            agree &= models(options, folder)
    return int(not agree)


def operators(options: argparse.Namespace) -> bool:
    """Measure and print every operator at every width; whether all values agree."""
    print(
        f"\nOperators, forward + backward, both directions, synthetic graph of Amazon Baby's shape ({options.device})"
    )
    print(f"{'operator':10} {'width':>5} {'ours ms':>9} {'PyG ms':>9} {'ratio':>7} {'ours MB':>9} {'PyG MB':>9}")
    agree = True
    for name in OPERATORS:
        for width in WIDTHS:
            found = {}
            for implementation in IMPLEMENTATIONS:
                if implementation == "coo" and (name, width) != ("learned", WIDTHS[0]):
                    continue
                job = {"name": name, "implementation": implementation, "width": width, "repeats": options.repeats}
                found[implementation] = child("operator", options, **job)
            ours, pyg = found["ours"], found["pyg"]
            same = all(close(ours["check"], other["check"]) for other in found.values())
            agree &= same
            print(
                f"{name:10} {width:5} {1e3 * ours['seconds']:9.1f} {1e3 * pyg['seconds']:9.1f} "
                f"{pyg['seconds'] / ours['seconds']:6.1f}x {ours['peak_mb']:9.0f} {pyg['peak_mb']:9.0f}"
                + (f"   COO {1e3 * found['coo']['seconds']:.0f} ms" if "coo" in found else "")
                + ("" if same else "   VALUES DIFFER"),
                flush=True,
            )
            if options.rows:
                keep_operator(name, width, found, options)
    return agree


def keep_operator(name: str, width: int, found: dict[str, dict[str, Any]], options: argparse.Namespace) -> None:
    """Append an operator's figures at a width beside those of PyG: seconds, MiB at the peak."""
    ours, pyg = found["ours"], found["pyg"]
    metrics = {
        "step_seconds": ours["seconds"],
        "reference_step_seconds": pyg["seconds"],
        "times_faster": pyg["seconds"] / ours["seconds"],
        "peak_mib": ours["peak_mb"],
        "reference_peak_mib": pyg["peak_mb"],
    }
    about = {"model": name, "variant": f"width {width}", "dataset": "graph of Amazon Baby's shape"}
    append(options.rows, {**about, "metrics": metrics}, {}, options.device)


def models(options: argparse.Namespace, folder: str) -> bool:
    """Measure and print every model that was asked for; whether all values agree."""
    shape = "ml-100k" if options.shape == "ml-100k" else "synthetic data of Amazon Baby's shape"
    print(f"\nTraining on {shape}, batch 2048 ({options.device}); seconds of a step")
    print(
        f"{'model':8} {'code':5} {'loader':>7} {'graph':>7} {'dense':>7} {'Adam':>7} {'step':>7} {'epoch s':>8} "
        f"{'ratio':>6} {'graph x':>7} {'forward':>7} {'peak MB':>8}"
    )
    agree = True
    for name in model_names(options.models):
        common = {"model": name, "shape": options.shape, "folder": folder, "overrides": options.options}
        row: dict[str, Any] = {"model": name}
        has_reference = (ROOT / "benchmarks" / "pyg_reference" / f"{name.lower()}.py").exists()
        for code in ("ours", "pyg") if has_reference else ("ours",):
            row[code] = result = child("training", options, implementation=code, steps=options.steps, **common)
            ours = row["ours"]
            print(
                f"{name:8} {code:5} "
                + " ".join(f"{result[f'{part}_seconds']:7.3f}" for part in ("loader", "graph", "dense", "optimizer"))
                + f" {result['step_seconds']:7.3f} {result['epoch_seconds']:8.1f}"
                + f" {result['epoch_seconds'] / ours['epoch_seconds']:5.1f}x"
                + f" {result['graph_seconds'] / max(ours['graph_seconds'], 1e-9):6.1f}x"
                + f" {result['forward_seconds']:7.3f} {result['peak_mb']:8.0f}",
                flush=True,
            )
        if has_reference:
            row["agree"] = close(row["ours"]["check"], row["pyg"]["check"])
            agree &= row["agree"]
            if not row["agree"]:
                print(f"  LOSSES DIFFER: {row['ours']['check']} and {row['pyg']['check']}")
        if not options.no_evaluation:
            auto, default = (child("evaluation", options, eval_batch_size=size, **common) for size in ("auto", 4096))
            row["evaluation"] = {"auto": auto, "4096": default, "agree": close(auto["check"], default["check"])}
            agree &= row["evaluation"]["agree"]
            print(
                f"{name:8} full ranking: eval_batch_size auto {auto['seconds']:.2f} s in {auto['batches']} batches, "
                f"peak {auto['peak_mb']:.0f} MB; RecBole's 4096 {default['seconds']:.2f} s in {default['batches']}, "
                f"{default['peak_mb']:.0f} MB; bare {auto['floor_seconds'] or float('nan'):.2f} s; "
                f"metrics {'equal' if row['evaluation']['agree'] else 'DIFFER'}",
                flush=True,
            )
        if options.rows:
            keep(row, options)
    return agree


def keep(row: dict[str, Any], options: argparse.Namespace) -> None:
    """Append a model's figures beside those of its plain reference: seconds of a step, MiB at the peak."""
    metrics = {}
    for code, prefix in (("ours", ""), ("pyg", "reference_")):
        for part in ("graph", "dense", "step", "forward") if code in row else ():
            metrics[f"{prefix}{part}_seconds"] = row[code][f"{part}_seconds"]
        if code in row:
            metrics[f"{prefix}peak_mib"] = row[code]["peak_mb"]
    for name in ("outside_share", "floor_seconds", "times_floor", "gigaflop_a_second", "gigabytes_a_second"):
        metrics[name] = row["ours"][name]
    if "pyg" in row:
        metrics["times_faster"] = row["pyg"]["step_seconds"] / row["ours"]["step_seconds"]
    if "evaluation" in row:
        auto, default = (row["evaluation"][size]["seconds"] for size in ("auto", "4096"))
        metrics |= {"ranking_seconds": auto, "ranking_default_seconds": default, "ranking_times_faster": default / auto}
        floor = row["evaluation"]["auto"]["floor_seconds"]
        if floor is not None:
            metrics |= {"ranking_floor_seconds": floor, "ranking_times_floor": auto / floor}
    about = {"model": row["model"], "dataset": options.shape, "metrics": metrics}
    append(options.rows, about, options.options, options.device)


def model_names(text: str) -> list[str]:
    """The models of the command line; ``all`` is every general one that trains in steps of one kind."""
    if text != "all":
        return [name.strip() for name in text.split(",")]
    from recbole.utils import ModelType

    from recbole_mm.host.registry import registered_models

    # ItemKNNCBF counts and trains nothing, MCPTR trains in two stages.
    general = {name for name, model in registered_models().items() if model.type is ModelType.GENERAL}
    return sorted(general - {"MCPTR"})


def child(kind: str, options: argparse.Namespace, **job: Any) -> dict[str, Any]:
    """Run one measurement in a process of its own."""
    job = {"kind": kind, "device": options.device, "threads": options.threads, **job}
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(ROOT / "benchmarks" / "jobs.py"), json.dumps(job)]
    with tempfile.TemporaryDirectory() as scratch:  # RecBole writes logs to where it runs
        done = subprocess.run(command, capture_output=True, text=True, cwd=scratch, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{job} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def close(left: list[float], right: list[float]) -> bool:
    """Whether two lists of figures agree to float32 accuracy after some steps."""
    return len(left) == len(right) and all(abs(a - b) <= 1e-3 * max(abs(a), abs(b), 1e-6) for a, b in zip(left, right))


if __name__ == "__main__":
    sys.exit(main())
