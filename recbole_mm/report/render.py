"""The table of a comparison as Markdown and LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

__all__ = [
    "best_cells", "cost_cells", "is_different", "latex", "markdown", "metric_names", "metric_title", "paired_markdown",
    "smaller_is_better",
]  # fmt: skip

LEVEL = 0.05


def markdown(table: pd.DataFrame, notes: Sequence[str] = ()) -> str:
    """The table for a README: means with intervals, the best in bold, significant differences marked.

    Args:
        table: From :func:`make_table`.
        notes: Lines below the table.

    Returns:
        Markdown text.
    """
    metrics = metric_names(table)
    header = ["model", *metrics, "epochs", "s/epoch", "training", "memory"]
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    best = best_cells(table, metrics)
    for position, row in table.iterrows():
        name = row["model"] + (f", {row['variant']}" if row["variant"] else "")
        if not row["runs"]:
            lines.append(f"| {name} | failed: {_one_line(row['failure'])}" + " |" * len(header[1:]))
            continue
        cells = []
        for metric in metrics:
            text = _number(row[metric])
            text = f"**{text}**" if (position, metric) in best else text
            mark = _mark(row, metric).replace("*", "\\*")
            spread = f" [{_number(row[f'{metric}_low'])}, {_number(row[f'{metric}_high'])}]"
            cells.append(f"{text}{mark}{spread if pd.notna(row[f'{metric}_low']) else ''}")
        note = " (some seeds failed, see below)" if row["failure"] else ""
        lines.append("| " + " | ".join([name + note, *cells, *cost_cells(row)]) + " |")
    partial = [f"{row['model']}: {row['failure']}" for _, row in table.iterrows() if row["failure"] and row["runs"]]
    return "\n".join([*lines, "", *(f"- {_one_line(note)}" for note in [*notes, *partial])]) + "\n"


def paired_markdown(table: pd.DataFrame) -> str:
    """All paired tests of the table, a line each.

    Args:
        table: From :func:`make_table`.

    Returns:
        Markdown text; empty when nothing was tested.
    """
    lines = []
    for _, row in table.iterrows():
        for metric in metric_names(table):
            if pd.isna(row[f"{metric}_p_t_holm"]):
                continue
            name = row["model"] + (f", {row['variant']}" if row["variant"] else "")
            low, high = row[f"{metric}_difference_low"], row[f"{metric}_difference_high"]
            cells = [
                f"{name} - {row['reference']}",
                metric,
                f"{row[f'{metric}_difference']:+.4f} [{low:+.4f}, {high:+.4f}]",
                f"{row[f'{metric}_effect']:.2f}",
                _p_value(row[f"{metric}_p_t_holm"]),
                _p_value(row[f"{metric}_p_wilcoxon_holm"]),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    header = (
        "| difference | metric | mean over users | Cohen's d | p, t-test | p, Wilcoxon |\n|---|---|---|---|---|---|"
    )
    return "\n".join([header, *lines, ""]) if lines else ""


def latex(table: pd.DataFrame, notes: Sequence[str] = ()) -> str:
    r"""The table for a paper, with the rules of the ``booktabs`` package.

    Args:
        table: From :func:`make_table`.
        notes: Comments above the table.

    Returns:
        LaTeX text: ``\begin{tabular}`` to ``\end{tabular}``.
    """
    metrics = metric_names(table)
    best = best_cells(table, metrics)
    lines = [f"% {_one_line(note)}" for note in notes]
    lines += [r"\begin{tabular}{l" + "r" * (len(metrics) + 2) + "}", r"\toprule"]
    lines += [" & ".join(["Model", *map(metric_title, metrics), "Training", "Memory"]) + r" \\", r"\midrule"]
    for position, row in table.iterrows():
        name = _escape(row["model"] + (f", {row['variant']}" if row["variant"] else ""))
        if not row["runs"]:
            reason = _escape(_one_line(row["failure"]))
            lines.append(rf"{name} & \multicolumn{{{len(metrics) + 2}}}{{l}}{{failed: {reason}}} \\")
            continue
        cells = []
        for metric in metrics:
            text = _number(row[metric])
            text = rf"\textbf{{{text}}}" if (position, metric) in best else text
            mark = _mark(row, metric)
            mark = f"$^{{{mark}}}$" if mark else ""
            half = (row[f"{metric}_high"] - row[f"{metric}_low"]) / 2
            spread = rf" {{\scriptsize $\pm$ {_number(half)}}}" if pd.notna(half) else ""
            cells.append(text + mark + spread)
        lines.append(" & ".join([name, *cells, *map(_escape, cost_cells(row)[2:])]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def metric_names(table: pd.DataFrame) -> list[str]:
    """Names of the metrics of a table, in its order."""
    return [name[: -len("_p_wilcoxon_holm")] for name in table.columns if name.endswith("_p_wilcoxon_holm")]


def smaller_is_better(metric: str) -> bool:
    """Whether a metric is an error, such as RMSE."""
    from recbole.evaluator import smaller_metrics

    return metric.partition("@")[0] in smaller_metrics


def best_cells(table: pd.DataFrame, metrics: Sequence[str]) -> set[tuple[Any, str]]:
    """Index and metric of the best means among the models, variants left out; empty where nothing competes."""
    best: set[tuple[Any, str]] = set()
    plain = table[(table["variant"] == "") & (table["runs"] > 0)]
    for metric in metrics:
        values = plain[metric].dropna()
        if len(values) > 1:
            top = values.min() if smaller_is_better(metric) else values.max()
            best |= {(position, metric) for position in values.index[values == top]}
    return best


def is_different(row: Any, metric: str) -> bool:
    """Whether both tests of a row of the table find a difference after correction."""
    both = (row[f"{metric}_p_t_holm"], row[f"{metric}_p_wilcoxon_holm"])
    return all(pd.notna(value) and value < LEVEL for value in both)


def _mark(row: Any, metric: str) -> str:
    return "*" if is_different(row, metric) else ""


def cost_cells(row: Any) -> list[str]:
    """Epochs, seconds an epoch, training time and memory of a row of the table, as text."""
    memory = row["memory_mib"]
    cells = [
        f"{row['epochs']:.0f}" if pd.notna(row["epochs"]) else "",
        f"{row['epoch_seconds']:.3g}" if pd.notna(row["epoch_seconds"]) else "",
        _duration(row["train_seconds"]),
        f"{memory:,.0f} MiB" if pd.notna(memory) else "",
    ]
    if pd.notna(row["device_memory_mib"]):
        cells[3] += f" + {row['device_memory_mib']:,.0f} MiB GPU"
    return cells


def _duration(seconds: float) -> str:
    if pd.isna(seconds):
        return ""
    return f"{seconds:.3g} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def _number(value: float) -> str:
    return f"{value:.4f}" if pd.notna(value) else ""


def _p_value(value: float) -> str:
    return "< .0001" if value < 1e-4 else f"{value:.4f}"


def metric_title(metric: str) -> str:
    """A metric as papers write it, such as ``NDCG@10``."""
    name, at, k = metric.partition("@")
    return {"ndcg": "NDCG", "mrr": "MRR", "map": "MAP"}.get(name, name.capitalize()) + at + k


def _one_line(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "/")


def _escape(text: str) -> str:
    special = {letter: f"\\{letter}" for letter in "&%$#_{}"} | {letter: f"\\{letter}{{}}" for letter in "^~"}
    return "".join(special.get(letter, letter) for letter in text.replace("\\", "/"))
