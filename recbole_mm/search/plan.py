"""What a search is to do, and the name under which the same search is found again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recbole_mm.config import known_keys, suggest
from recbole_mm.config.protocol import PROTOCOL_OPTIONS
from recbole_mm.experiment.job import Job
from recbole_mm.experiment.store import digest, to_json
from recbole_mm.search.space import Space, read_space

__all__ = ["Plan", "free_space", "make_plan"]


@dataclass(frozen=True)
class Plan:
    """A search of one model.

    Attributes:
        job: What a trial trains; the trial's options come on top.
        space: The search space as in its file.
        trials: Budget.
        storage: Database of the study; ``None`` for a file in the store.
        study: Name of the study.
    """

    job: Job
    space: dict[str, Any]
    trials: int
    storage: str | None
    study: str


def free_space(model: str, source: Mapping[str, Any] | str | Path | None, settings: Mapping[str, Any]) -> Space:
    """The search space of a model without what the caller has set: a trial's value would silently replace it.

    Args:
        model: Name of the model.
        source: The space that the caller gives, or its file; ``None`` for the one that comes with the package.
        settings: Options that the caller has set.

    Returns:
        The space.

    Raises:
        ValueError: The caller sets an option and wants it searched, too.
    """
    space = read_space(model, source)
    fixed = sorted(set(space) & (set(settings) - {*PROTOCOL_OPTIONS, "eval_batch_size"}))
    if fixed and source is not None:
        raise ValueError(
            f"Search space of {model}: {', '.join(fixed)} is set as an option already; leave one of them out."
        )
    return {name: dimension for name, dimension in space.items() if name not in fixed}


def make_plan(job: Job, fingerprint: str, space: Space, trials: int, storage: str | None) -> Plan:
    """Name the study so that the same search, here or on another machine, finds the same trials.

    Args:
        job: What a trial trains.
        fingerprint: Hash of the files of the data set.
        space: The search space.
        trials: Budget; it is no part of the name, so a search can be continued with a larger one.
        storage: Database, or ``None``.

    Returns:
        The plan.

    Raises:
        ValueError: The space has an option that must be the same for every model, or that nothing knows.
    """
    common = sorted(set(space) & {*PROTOCOL_OPTIONS, "seed", "eval_batch_size"})
    if common:
        raise ValueError(f"Search space of {job.model}: {', '.join(common)} must be the same for all models.")
    for key in sorted(set(space) - known_keys()):
        raise ValueError(f"Search space of {job.model}: there is no option {key!r}.{suggest(key, known_keys())}")
    content = to_json({name: asdict(dimension) for name, dimension in space.items()})
    what = {**job.identity(fingerprint), "space": content}
    return Plan(job, content, trials, storage, f"{job.dataset}-{job.model}-{digest(what)}")
