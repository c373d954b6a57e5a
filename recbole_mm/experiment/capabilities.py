"""What a model of a run cannot do of what is asked about it, said before the run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from recbole_mm.config.cold_start import read_cold_start
from recbole_mm.config.slices import slice_names
from recbole_mm.host.tags import tags_of

__all__ = ["capability_notes", "linked_items_note"]


def capability_notes(
    models: Iterable[str | type], cold_start: Any, slices: Any = None, new_items: bool = False
) -> list[str]:
    """Why some figures of some models say nothing about the model.

    Such a model is not refused, and no figure is computed wrongly. But it ranks by vectors that nothing has trained:
    where new items compete with known ones, far below a random order, because the known ones have the higher scores.

    Args:
        models: Names or classes.
        cold_start: The option.
        slices: The option.
        new_items: Whether items that nobody had are ranked, as the option of that name asks.

    Returns:
        A line for each model that is asked about new items or new users and knows nothing of them.

    Example:
        >>> capability_notes(["MMGCN", "BPR"], {"entity": "item", "candidates": "cold"})
        ['BPR cannot rank new items: it has no features. Its figures on new items say nothing about the model.']
    """
    cold, parts = read_cold_start(cold_start), slice_names(slices)
    asked = {cold.entity} if cold is not None and cold.evaluate != "warm" else set()
    asked |= {part[5:-1] for part in parts if part.startswith("cold_")}
    notes = []
    for model in models:
        name, tags = model if isinstance(model, str) else model.__name__, tags_of(model)
        for entity, reason in (("item", tags.why_no_new_items(name)), ("user", tags.why_no_new_users(name))):
            if entity in asked and reason is not None:
                notes.append(f"{reason}. Its figures on new {entity}s say nothing about the model.")
        if new_items and tags.why_no_new_items(name) is not None:
            where = "Where products that nobody had stand in its lists says nothing of them"
            notes.append(f"{tags.why_no_new_items(name)}. {where}.")
    return notes


def linked_items_note(models: Sequence[str], dataset: str) -> str:
    """What RecBole's knowledge-graph models leave out of the data, which gives them another split."""
    return (
        f"{', '.join(models)} (knowledge graph): RecBole drops the interactions of items that {dataset}.link does not "
        f"join to an entity of {dataset}.kg. For one split of all models leave those items out for all: a "
        f"{dataset}.item with the linked items only, its item_id in load_col, and filter_inter_by_user_or_item: True."
    )
