"""What a report asks of the runs that it describes; whoever makes the runs lies above and only has to have it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from recbole_mm.experiment.store import Store
from recbole_mm.report.table import Row

__all__ = ["ComparedRuns", "Found", "Terms"]


class Terms(Protocol):
    """Under which terms the models were run.

    Attributes:
        dataset: Name of the data set.
        settings: Model to its options that differ from the defaults.
        shared: The options that were the same for all.
        fingerprint: Hash of the files of the data set.
        notes: What was settled for the caller.
        failures: Model to the reason why it was not run.
    """

    dataset: str
    settings: dict[str, dict[str, Any]]
    shared: dict[str, Any]
    fingerprint: str
    notes: list[str]
    failures: dict[str, str]


class Found(Protocol):
    """What the search of one model found; a dataclass.

    Attributes:
        params: Options of the best trial.
        value: Its validation metric.
        metric: Name of that metric.
        trials: Every trial.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    params: dict[str, Any]
    value: float | None
    metric: str | None
    trials: list[dict[str, Any]]


class ComparedRuns(Protocol):
    """The runs of a comparison.

    Attributes:
        names: The models, in the order of the table.
        seeds: The seeds.
        jobs: Runs at a time.
        splits: Seed to the split that its runs share.
    """

    names: list[str]
    seeds: list[int]
    jobs: int
    splits: dict[int, dict[str, Any]]

    @property
    def store(self) -> Store:
        """Where the results are."""

    @property
    def protocol(self) -> Terms:
        """How the models were run."""

    @property
    def found(self) -> Mapping[str, Found]:
        """Model to the result of its search."""

    def ordered(self) -> Sequence[Row]:
        """The rows of the table."""

    def say(self, text: str, /) -> None:
        """Take a line for the user."""
