"""Files of a comparison: tables, pictures, and what they are about."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_mm.experiment.job import versions
from recbole_mm.experiment.store import to_json
from recbole_mm.files import write_atomically
from recbole_mm.host.small_data import FEWEST_STEPS
from recbole_mm.report.render import latex, markdown, paired_markdown
from recbole_mm.report.runs import ComparedRuns
from recbole_mm.report.slices import slice_frame, slice_markdown
from recbole_mm.report.table import Row, make_table, short

__all__ = ["Report"]


class Report:
    """Writes the report of runs into their store.

    Args:
        runs: The runs, as far as they are done.
        baseline: Name of the model that the others are tested against.
        budget: Search trials of each model; 0 for none.
    """

    def __init__(self, runs: ComparedRuns, baseline: str, budget: int) -> None:
        self._runs, self._baseline, self._budget = runs, baseline, budget

    def notes(self) -> list[str]:
        """Lines that say what the figures mean, in Markdown."""
        runs, shared = self._runs, self._runs.protocol.shared
        hashes = {seed: entry["hash"] for seed, entry in sorted(runs.splits.items())}
        first: Mapping[str, Any] = next(iter(runs.splits.values()), {})
        sizes = " / ".join(f"{first[part]:,}" for part in ("train", "valid", "test")) if first else "unknown"
        if len(set(hashes.values())) > 1:
            by_seed = ", ".join(f"{seed}: {name}" for seed, name in hashes.items())
            split = f"by seed, since the split is random: {by_seed}"
        else:
            split = next(iter(hashes.values()), "unknown")
        notes = [
            f"Data set {runs.protocol.dataset}; seeds {', '.join(map(str, runs.seeds))}; split {sizes} pairs (train / "
            f"valid / test), hash {split}.",
            f"Evaluation: {_evaluation(shared)}; early stopping on valid {shared['valid_metric']}.",
            "Intervals: 95 %, Student's t over the seeds (over the users where there is one seed).",
            f"\\* differs from {self._baseline} (a variant: from its own model), p < .05 in both the paired t-test "
            "and the Wilcoxon test over users, Holm-corrected over all tests of the table.",
        ]
        if self._budget:
            metric = next((found.metric for found in runs.found.values() if found.metric), shared["valid_metric"])
            notes.append(
                f"Hyper-parameters: {self._budget} trials for every model (Optuna TPE, median pruning), chosen by "
                f"valid {metric} with seed {runs.seeds[0]}; the search saw no test data."
            )
            for name, found in runs.found.items():
                if found.params:
                    options = ", ".join(f"{key} {short(value)}" for key, value in found.params.items())
                    notes.append(f"{name}: {options} (valid {found.metric} {found.value}).")
        if runs.jobs > 1:
            notes.append(f"Times were measured with {runs.jobs} runs at a time.")
        if any(row.variant.endswith(" permuted") for row in runs.ordered()):
            notes.append(
                "Permuted: the trained model as it is, tested with the features of that modality exchanged among the "
                "items. Without: trained again without the modality."
            )
        notes += _uneven_steps(runs.ordered()) + _uneven_averages(runs.ordered())
        notes += _alarms(runs.ordered())
        notes += _mixed_versions(record for row in runs.ordered() for record in row.records.values())
        return [*notes, *runs.protocol.notes]

    def write(self) -> pd.DataFrame:
        """Write the tables and ``compare.json`` from the runs that are done, and return the table.

        A table without any result does not take the place of one that has some.
        """
        runs, notes = self._runs, self.notes()
        folder = runs.store.folder
        table = make_table(runs.ordered(), self._baseline)
        splits = {seed: entry["hash"] for seed, entry in sorted(runs.splits.items())}
        table.attrs.update(splits=splits, notes=notes, output=str(folder))
        if not (table["runs"] > 0).any() and _has_results(folder / "table.csv"):
            runs.say(f"No run has a result yet; {folder / 'table.csv'} and the files beside it stay as they were.")
            return table
        write_atomically(folder / "table.csv", table.to_csv(index=False))
        tests = paired_markdown(table)
        write_atomically(folder / "table.md", markdown(table, notes) + (f"\n{tests}" if tests else ""))
        write_atomically(folder / "table.tex", latex(table, [note.replace("\\*", "*") for note in notes]))
        slices = slice_frame(runs.ordered())
        if len(slices):
            write_atomically(folder / "slices.csv", slices.to_csv(index=False))
            write_atomically(folder / "slices.md", slice_markdown(slices))
        about = {
            "models": runs.names,
            "dataset": runs.protocol.dataset,
            "seeds": runs.seeds,
            "baseline": self._baseline,
            "splits": runs.splits,
            "shared": runs.protocol.shared,
            "settings": runs.protocol.settings,
            "searches": {name: {**asdict(found), "trials": len(found.trials)} for name, found in runs.found.items()},
            "budget": self._budget,
            "failures": runs.protocol.failures,
            "data_fingerprint": runs.protocol.fingerprint,
            "versions": versions(),
            "notes": notes,
        }
        write_atomically(folder / "compare.json", json.dumps(to_json(about), indent=1) + "\n")
        return table

    def draw(self) -> None:
        """Draw the pictures and write the page, or say what is missing for that; without results the old ones stay."""
        runs, rows = self._runs, self._runs.ordered()
        if not any(row.records for row in rows):
            return
        try:
            from recbole_mm.report.plots import draw_all
        except ImportError as error:
            runs.say(f"No pictures and no report.html: {error}. pip install 'recbole-mm[plot,report]'")
            return
        draw_all(rows, self._baseline, runs.store.folder, runs.protocol.dataset)
        try:
            from recbole_mm.report.comparison.page import write_page
        except ImportError as error:
            runs.say(f"No report.html: {error}. pip install 'recbole-mm[report]'")
            return
        write_page(runs, make_table(rows, self._baseline), self._baseline, self.notes())


def _has_results(file: Path) -> bool:
    try:
        return bool((pd.read_csv(file)["runs"] > 0).any())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _uneven_steps(rows: Iterable[Row]) -> list[str]:
    """A note if some models had small data in a batch or two, and others in smaller batches."""
    steps: dict[str, int] = {}
    for row in rows:
        for record in row.records.values():
            if record.get("steps") and (record["epochs"] or 0) > 1:  # what Pop counts in one pass is the same in any
                steps[row.model] = min(record["steps"], steps.get(row.model, record["steps"]))
    few = [f"{name} ({number})" for name, number in steps.items() if number < FEWEST_STEPS]
    many = [f"{name} ({number})" for name, number in steps.items() if number >= FEWEST_STEPS]
    if not few or not many:
        return []
    return [
        f"Small data: an epoch has so many training steps: {', '.join(few)}, but {', '.join(many)}. "
        "--shrink_batches=True gives every model small batches, --shrink_batches=False none, --train_batch_size the "
        "same."
    ]


def _uneven_averages(rows: Iterable[Row]) -> list[str]:
    """A note if some models rank by averaged parameters where these validate better, and others never do."""
    shares: dict[str, float] = {}
    for row in rows:
        for record in row.records.values():
            if (record.get("epochs") or 0) > 1:  # one pass has no average; a permuted model is not trained
                shares[row.model] = record["config"].get("weight_average") or 0.0
    averaged = [f"{name} ({share:g})" for name, share in shares.items() if share]
    latest = [name for name, share in shares.items() if not share]
    if not averaged or not latest:
        return []
    return [
        "weight_average: where it validates better, an average of the parameters over the epochs ranks for "
        f"{', '.join(averaged)}, not for {', '.join(latest)}. --weight_average=0 turns that off, and another "
        "number gives it to all models that train without stages."
    ]


def _alarms(rows: Iterable[Row]) -> list[str]:
    """What went wrong in trainings, a note for each kind of alarm of a row; the first seed's text stands for all."""
    notes = []
    for row in rows:
        found: dict[str, list[str]] = {}
        for record in row.records.values():
            alarms = {alarm["name"]: alarm["text"] for alarm in (record.get("health") or {}).get("alarms", [])}
            for name, text in alarms.items():
                found.setdefault(name, []).append(text)
        for texts in found.values():
            seeds = f" ({len(texts)} of {len(row.records)} seeds)" if len(row.records) > 1 else ""
            notes.append(f"Health, {row.label}{seeds}: {texts[0]}")
    return notes


def _mixed_versions(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """A note if the runs were made with different versions of something: earlier runs are read, not repeated."""
    found: dict[str, set[str]] = {}
    for record in records:
        for name, number in record.get("versions", {}).items():
            found.setdefault(name, set()).add(str(number))
    mixed = [f"{name} ({', '.join(sorted(numbers))})" for name, numbers in found.items() if len(numbers) > 1]
    return [f"Not all runs were made with the same version of {', '.join(mixed)}."] if mixed else []


def _evaluation(shared: Mapping[str, Any]) -> str:
    """RecBole's ``eval_args`` in one line; a split that comes in files leaves only the mode to be said."""
    arguments = dict(shared["eval_args"])
    modes = set(arguments["mode"].values()) if isinstance(arguments["mode"], Mapping) else {arguments["mode"]}
    mode = ", ".join(sorted(modes))
    if shared["benchmark_filename"]:
        return f"the split of the data set's own files, mode {mode}"
    rest = ", ".join(f"{key} {arguments[key]}" for key in ("split", "order", "group_by"))
    return f"{rest}, mode {mode}"
