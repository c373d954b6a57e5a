"""Which metrics an evaluation reports, and whether the one that chooses the epoch is among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recbole_mm.config.slices import slice_names

__all__ = ["check_topk", "check_value_metrics", "reported_metrics", "settle_valid_metric"]


def reported_metrics(metrics: Sequence[str], topk: Sequence[int], slices: Sequence[str] = ()) -> list[str]:
    """Names of the metrics that an evaluation reports, as ``valid_metric`` may be one.

    Args:
        metrics: The option of this name.
        topk: The option of this name.
        slices: Names of the slices.

    Returns:
        The names, in their order: those per length of the list, those without a length, those of slices.
    """
    from recbole.evaluator import metric_types
    from recbole.utils import EvaluatorType

    # Metrics of RecBole that are not computed per length of the list.
    without_k = {name for name, kind in metric_types.items() if kind == EvaluatorType.VALUE} | {"gauc"}
    lists = [metric for metric in metrics if metric.lower() not in without_k]
    known = [f"{metric}@{k}" for metric in lists for k in topk]
    known += [metric for metric in metrics if metric.lower() in without_k]
    return known + [f"{metric}@{k}[{name}]" for name in slices for metric in lists for k in topk]


def settle_valid_metric(options: Mapping[str, Any], chosen: bool) -> tuple[str, str]:
    """The metric that chooses the epoch; RecBole would find out after the first epoch that it is none of them.

    Args:
        options: Merged options: ``metrics``, ``topk``, ``valid_metric`` and ``slices``.
        chosen: Whether the caller has set ``valid_metric``.

    Returns:
        The metric, and a note for the caller; empty where the metric is the one in the options.

    Raises:
        ValueError: The caller's metric is none that is reported, or labels are to be evaluated by metrics of lists.
    """
    _check_labelled(options)
    known = reported_metrics(options["metrics"], options["topk"], slice_names(options.get("slices")))
    wanted = str(options["valid_metric"])
    if wanted.lower() in {name.lower() for name in known}:
        return wanted, ""
    if chosen or not known:
        raise ValueError(
            f"valid_metric={wanted} is not among what metrics and topk report ({', '.join(known)})"
            + (f"; choose one of them, such as valid_metric={known[0]}." if known else "; name a metric.")
        )
    return known[0], (
        f"valid_metric is {known[0]}, the first that metrics and topk report: the default {wanted} is not among them."
    )


def check_value_metrics(options: Mapping[str, Any]) -> None:
    """Refuse metrics of labels where whole catalogues are ranked; RecBole does so, too, and names no remedy.

    Args:
        options: Merged options: ``metrics`` and ``eval_args``, whose mode is ``full`` where it has none.

    Raises:
        ValueError: Such metrics, with what to choose instead.
    """
    from recbole.evaluator import metric_types
    from recbole.utils import EvaluatorType

    metrics = [options["metrics"]] if isinstance(options["metrics"], str) else options["metrics"]
    labels = [name for name in metrics if metric_types.get(name.lower()) == EvaluatorType.VALUE]
    if labels and "full" in _modes(options, "full"):
        raise ValueError(
            f"metrics: {', '.join(labels)} compares scores with labels, and eval_args mode full ranks the whole "
            "catalogue. Choose metrics of lists such as Recall and NDCG (GAUC for an area under the curve), or mode "
            "labeled, or sampled candidates such as mode uni100."
        )


def _modes(options: Mapping[str, Any], default: str | None = None) -> list[Any]:
    modes = (options.get("eval_args") or {}).get("mode", default)
    return list(modes.values()) if isinstance(modes, Mapping) else [modes]


def _check_labelled(options: Mapping[str, Any]) -> None:
    modes = _modes(options)
    lists = reported_metrics(options["metrics"], [1])
    lists = [name.partition("@")[0] for name in lists if "@" in name]
    if "labeled" in modes and lists:
        raise ValueError(
            f"eval_args: mode labeled compares scores with labels, and {', '.join(lists)} measure lists. Choose "
            "metrics of labels (AUC, LogLoss, MAE, RMSE), or mode full."
        )


def check_topk(options: Mapping[str, Any], n_items: int) -> None:
    """Refuse lists that are longer than the catalogue, which RecBole would find out in the first evaluation.

    Args:
        options: Merged options: ``metrics`` and ``topk``.
        n_items: Number of items, with the padding.

    Raises:
        ValueError: ``topk`` is too long.
    """
    longest = max(options["topk"], default=0)
    if longest > n_items and any("@" in name for name in reported_metrics(options["metrics"], options["topk"])):
        raise ValueError(
            f"topk={list(options['topk'])}: lists of {longest} need so many items, and there are {n_items - 1:,}; "
            "choose a smaller topk."
        )
