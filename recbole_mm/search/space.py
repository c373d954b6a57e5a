"""Search spaces: which options of a model are searched, and where."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from recbole_mm.config import suggest
from recbole_mm.config.reading import OptionLoader
from recbole_mm.paths import properties_dir

if TYPE_CHECKING:
    import optuna

__all__ = ["Choices", "Range", "Space", "read_space"]

_SCALARS = (type(None), bool, int, float, str)


@dataclass(frozen=True)
class Choices:
    """One of a list of values.

    Attributes:
        values: The values; lists (such as the sizes of hidden layers) are values, too.
    """

    values: tuple[Any, ...]

    def sample(self, name: str, trial: optuna.Trial) -> Any:
        """Let a trial choose."""
        if all(isinstance(value, _SCALARS) for value in self.values):
            return trial.suggest_categorical(name, list(self.values))
        # A database keeps plain values only.
        return json.loads(trial.suggest_categorical(name, [json.dumps(value) for value in self.values]))

    def holds(self, value: Any) -> bool:
        """Whether the value is one of the choices."""
        return value in self.values

    def stored(self, value: Any) -> Any:
        """The value as a trial keeps it."""
        return value if all(isinstance(entry, _SCALARS) for entry in self.values) else json.dumps(value)


@dataclass(frozen=True)
class Range:
    """A number between two ends, both included.

    Attributes:
        low: Lower end.
        high: Upper end.
        log: Whether the logarithm is spread evenly, for what matters in factors.
        step: Distance of neighbouring values; ``None`` for any value.
    """

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def whole(self) -> bool:
        """Whether the values are integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def sample(self, name: str, trial: optuna.Trial) -> float:
        """Let a trial choose."""
        if self.whole:
            return trial.suggest_int(name, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)

    def holds(self, value: Any) -> bool:
        """Whether the value is inside, and not between two steps."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not self.low <= value <= self.high:
            return False
        step = self.step or (1 if self.whole else None)
        position = 0.0 if step is None else (value - self.low) / step
        return math.isclose(position, round(position), abs_tol=1e-9)

    def stored(self, value: Any) -> Any:
        """The value as a trial keeps it."""
        return int(value) if self.whole else float(value)


Space = dict[str, "Choices | Range"]


def read_space(model: str, source: Mapping[str, Any] | str | Path | None = None) -> Space:
    """The search space of a model.

    A space maps options to a list of values, or to ``{low: ..., high: ...}`` with ``log: true`` or ``step: ...``; it is
    a range of integers where both ends are.

    Args:
        model: Name of the model.
        source: The space, or its file; ``None`` for ``properties/search/<model>.yaml``.

    Returns:
        Option to where it is searched; empty for a model without anything to search.

    Raises:
        FileNotFoundError: The file is missing, or nothing is known about this model.
        ValueError: Not a space.

    Example:
        >>> read_space("X", {"n_layers": [1, 2], "dropout": {"low": 0.0, "high": 0.5}})["dropout"]
        Range(low=0.0, high=0.5, log=False, step=None)
    """
    where = f"search space of {model}"
    if source is None:
        folder = properties_dir() / "search"
        source = folder / f"{model}.yaml"
        if not source.is_file():
            names = [file.stem for file in folder.glob("*.yaml")]
            raise FileNotFoundError(
                f"There is no search space for {model}: nothing in {folder}.{suggest(model, names)} Give one with "
                f"search_spaces={{{model!r}: {{'learning_rate': {{'low': 1e-4, 'high': 1e-2, 'log': True}}}}}}, on the "
                "command line with --search_spaces=FILE.yaml."
            )
    if not isinstance(source, Mapping):
        where, file = str(source), Path(source)
        try:  # numbers are those of option files: 1e-4 is one, and no text beside which the default would be lost
            source = yaml.load(file.read_text(encoding="utf-8-sig"), Loader=OptionLoader) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{where} is not yaml: {error}") from error
    if not isinstance(source, Mapping):
        raise ValueError(f"{where}: expected a mapping of options, got {type(source).__name__}.")
    return {str(key): _dimension(f"{where}: {key}", entry) for key, entry in source.items()}


def _dimension(where: str, entry: Any) -> Choices | Range:
    if isinstance(entry, list) and entry:
        return Choices(tuple(entry))
    if not isinstance(entry, Mapping) or not {"low", "high"} <= set(entry):
        raise ValueError(f"{where}: expected a list of values or {{low: ..., high: ...}}, got {entry!r}.")
    unknown = sorted(set(entry) - {"low", "high", "log", "step"})
    if unknown:
        raise ValueError(f"{where}: a range has low, high, log and step, got {', '.join(unknown)}.")
    low, high, log, step = entry["low"], entry["high"], entry.get("log", False), entry.get("step")
    for number in (low, high, *([] if step is None else [step])):
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise ValueError(f"{where}: expected numbers, got {number!r} (YAML reads 1e-4 as a text: write 1.0e-4).")
    if low > high or (log and low <= 0) or (step is not None and (step <= 0 or log)):
        raise ValueError(
            f"{where}: low must not exceed high, a step is positive, and log needs low > 0 and no step; got "
            f"{dict(entry)}."
        )
    return Range(low, high, bool(log), step)
