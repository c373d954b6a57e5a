"""The options that decide what a training step of a graph model propagates over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = [
    "GRAPH_BATCHES",
    "OUTER_PROJECTIONS",
    "TABLE_UPDATES",
    "check_fanout",
    "check_sampled_steps",
    "fanouts",
    "refuse_sampling",
]

GRAPH_BATCHES = ("full", "sampled", "auto")
TABLE_UPDATES = ("all", "touched")
OUTER_PROJECTIONS = ("fresh", "kept")


def check_fanout(key: str, value: Any) -> None:
    """Refuse what is neither a positive integer nor a list of such.

    Raises:
        ValueError: With what was expected and what was got.
    """
    entries = value if isinstance(value, (list, tuple)) and value else [value]
    if any(isinstance(entry, bool) or not isinstance(entry, int) or entry < 1 for entry in entries):
        raise ValueError(
            f"{key}: expected an integer of at least 1, or a list of such with one entry a layer like [10, 5], "
            f"got {value!r} ({type(value).__name__})."
        )


def fanouts(value: Any, n_hops: int, model: str) -> list[int]:
    """The option ``fanout`` as one number for every hop of a model.

    Args:
        value: The option.
        n_hops: Hops that the model propagates over.
        model: Its name, for the message.

    Raises:
        ValueError: No valid option, or a list of another length.
    """
    check_fanout("fanout", value)
    if isinstance(value, int):
        return [value] * n_hops
    if len(value) != n_hops:
        raise ValueError(
            f"fanout: {model} propagates over {n_hops} {'hop' if n_hops == 1 else 'hops'} (n_layers), got "
            f"{len(value)} entries: {list(value)}. Give one entry a layer, or one integer for all of them."
        )
    return list(value)


def refuse_sampling(graph_batch: Any, model: str, samples_graph: bool) -> None:
    """Refuse ``graph_batch: sampled`` where the model has no such training.

    ``auto`` takes the whole graph there: it asks for the cheaper of what the model can do.

    Raises:
        ValueError: With what to choose instead.
    """
    if graph_batch == "sampled" and not samples_graph:
        raise ValueError(
            f"graph_batch: {model} cannot train on sampled neighbours; use graph_batch: full (or auto, which takes "
            "full for it). docs/guides/large-data.md lists the models that can."
        )


def check_sampled_steps(options: Mapping[str, Any]) -> None:
    """Refuse ``table_updates: touched`` and ``outer_projections: kept`` beside what they do not go with.

    Raises:
        ValueError: With the other option and what to choose instead.
    """
    learner = str(options.get("learner", "adam"))
    whole = options.get("graph_batch") not in ("sampled", "auto")
    compiled = bool(options.get("compile"))
    reasons = {
        ("table_updates", "touched", "all"): {
            "graph_batch: full, whose steps read every row; set graph_batch to sampled or auto": whole,
            f"learner: {learner}, which has no form by rows here; set learner to adam": learner.lower() != "adam",
            "clip_grad_norm, which needs the gradient of every row; leave it out": bool(options.get("clip_grad_norm")),
            "compile, whose gradients hold every row; set compile to False": compiled,
        },
        ("outer_projections", "kept", "fresh"): {
            "graph_batch: full, whose steps project every item; set graph_batch to sampled or auto": whole,
            "compile, which would keep them as they were at first; set compile to False": compiled,
        },
    }
    for (key, value, other), found in reasons.items():
        for reason, holds in found.items():
            if holds and options.get(key) == value:
                raise ValueError(f"{key}: {value} does not go with {reason}, or set {key} to {other}.")
