"""Which bounds hold on the portfolio: ``python benchmarks/portfolio_bounds.py``, from the table of ``portfolio.sh``.

Reads ``results/portfolio.csv`` and writes ``results/portfolio-bounds.csv``: a row a bound and data set, with how many
of the models hold it and, of each that does not, its figure. A figure is the mean over the seeds; one below a floor by
less than chance counts as below.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recbole_mm.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
FLOORS = ("Pop", "BPR", "LightGCN", "ItemKNNCBF")
#: Models that score without a graph of users and items, or of items.
NO_GRAPH = ("VBPR", "UVCAN", "CMBF")
DENSE, PLANTED, NOISE = ("lfm2k", "ml-latest-small-mm"), "planted-content", "planted-noise"
METRIC, FALL, TENTH = "recall@20", "validation_fall", 0.1
PROVENANCE = ["dataset", "split", "seeds", "options", "commit", "machine", "date"]


def bounds(table: pd.DataFrame, dataset: str) -> list[dict[str, str]]:
    """The rows of a data set.

    Args:
        table: The models on this data set.
        dataset: Its name.
    """
    figures = table.set_index("model")
    score, fall = figures[METRIC], figures[FALL]
    ours = [model for model in score.index if model not in FLOORS and pd.notna(score[model])]
    graph = [model for model in ours if model not in NO_GRAPH]
    rows = [_row("every model at Pop or above", score[ours], least=score["Pop"])]
    rows.append(_row("every graph model at BPR or above", score[graph], least=score["BPR"]))
    if dataset in (*DENSE, PLANTED):
        rows.append(_row("every graph model at LightGCN or above", score[graph], least=score["LightGCN"]))
    if dataset == NOISE:
        rows.append(_row("no model a tenth below LightGCN", score[ours], least=(1 - TENTH) * score["LightGCN"]))
    rows.append(_row("validation never falls by a tenth after epoch 5", fall[ours], most=TENTH))
    return rows


def _row(bound: str, figures: pd.Series, least: float = -math.inf, most: float = math.inf) -> dict[str, str]:
    """How many models hold a bound, and which do not."""
    out = figures[(figures < least) | (figures > most)]
    exceptions = ", ".join(f"{model} {figure:.3f}" for model, figure in out.items())
    limit = least if math.isinf(most) else most
    held = f"{len(figures) - len(out)} of {len(figures)}"
    return {"bound": bound, "limit": f"{limit:.3f}", "held": held, "exceptions": exceptions or "none"}


def main() -> None:
    """Write the table."""
    table, rows = pd.read_csv(RESULTS / "portfolio.csv", dtype=dict.fromkeys(PROVENANCE, str)), []
    for dataset, part in table.groupby("dataset", sort=False):
        about = {key: " ".join(dict.fromkeys(" ".join(part[key]).split())) for key in PROVENANCE if key != "options"}
        rows += [{**row, **about, "options": "{}"} for row in bounds(part, str(dataset))]
    found = pd.DataFrame(rows)[["bound", "dataset", "limit", "held", "exceptions", *PROVENANCE[1:]]]
    write_atomically(RESULTS / "portfolio-bounds.csv", found.to_csv(index=False, lineterminator="\n"))
    print(found[["bound", "dataset", "limit", "held", "exceptions"]].to_string(index=False))


if __name__ == "__main__":
    main()
