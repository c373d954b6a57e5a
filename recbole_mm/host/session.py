"""What belongs to a trainer while it trains: what it began with, and what is noted about it in its checkpoints."""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_mm.host.general_models import forget_evaluation
from recbole_mm.plain import to_plain
from recbole_mm.trainer.state import Baseline, capture
from recbole_mm.trainer.weight_average import WeightAverage

__all__ = [
    "Session",
    "begin_session",
    "best_file",
    "keep_state",
    "last_file",
    "notes",
    "remove_states",
    "session_of",
    "spent",
    "states_of",
]


@dataclass
class Session:
    """A training.

    Attributes:
        baseline: Attributes of the trainer before it began.
        average: Of its model's parameters.
        loaders: Training and validation data.
        fingerprint: Of the data.
        saved: Whether the best epoch is saved.
        kept: Whether the state between two epochs is written in any case, and stays until the caller removes it.
        file: Where that state goes.
        pending: Content of the checkpoint that it goes on from, until it does.
        source: Its name.
        running: Whether ``fit`` runs.
        validating: Whether it validates.
        written: When ``file`` was written.
        cost: Seconds that took.
        notes: What others want kept in the checkpoints, such as the validation curve.
        earlier: Seconds, and seconds of the processor, that the training took before it was broken off.
        clock: When this part of it began.
    """

    baseline: Baseline
    average: WeightAverage
    loaders: tuple[Any, ...] = ()
    fingerprint: dict[str, Any] | None = None
    saved: bool = False
    kept: bool = False
    file: Path = field(default_factory=Path)
    pending: dict[str, Any] | None = None
    source: str = ""
    running: bool = False
    validating: bool = False
    written: float = field(default_factory=time.monotonic)
    cost: float = 0.0
    notes: dict[str, Any] = field(default_factory=dict)
    earlier: tuple[float, float] = (0.0, 0.0)
    clock: tuple[float, float] | None = None

    def start(self) -> None:
        """Begin to count the time."""
        self.clock = time.perf_counter(), time.process_time()

    def spent(self) -> tuple[float, float]:
        """Seconds, and seconds of the processor, that went into what is there now; not into what was lost."""
        begin = self.clock or (time.perf_counter(), time.process_time())
        return (
            self.earlier[0] + time.perf_counter() - begin[0],
            self.earlier[1] + time.process_time() - begin[1],
        )

    def capture(self, trainer: Any) -> dict[str, Any]:
        """The state of the trainer now."""
        about = {"notes": to_plain(self.notes), "spent": list(self.spent())}
        return {**capture(trainer, self.baseline, self.loaders), **about}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Put back what :meth:`capture` has beside the state of the trainer."""
        self.notes.clear()
        self.notes.update(state.get("notes") or {})
        seconds, cpu_seconds = state.get("spent") or (0.0, 0.0)
        self.earlier = float(seconds), float(cpu_seconds)
        self.start()


def session_of(trainer: Any) -> Session | None:
    """The session of a trainer; ``None`` before it trained."""
    found: Session | None = vars(trainer).get("_session")
    return found


def begin_session(trainer: Any) -> Session:
    """The session of a trainer, which begins now if there is none."""
    session = session_of(trainer)
    if session is None:
        average = WeightAverage(trainer.model, trainer.config["weight_average"] or 0.0, forget_evaluation)
        session = trainer._session = Session(Baseline(trainer), average)
    return session


def notes(trainer: Any) -> dict[str, Any]:
    """A mapping of plain values that is kept in the checkpoints of a trainer and comes back when it goes on."""
    return begin_session(trainer).notes


def spent(trainer: Any) -> tuple[float, float]:
    """Seconds, and seconds of the processor, of a training, with those before it was broken off."""
    return begin_session(trainer).spent()


def keep_state(trainer: Any) -> None:
    """Write the state between two epochs also where nothing is saved, and leave it there after the test.

    The caller removes it with :func:`remove_states` once the result is in a safe place.
    """
    begin_session(trainer).kept = True


def last_file(trainer: Any) -> Path:
    """Where a trainer keeps its state between two epochs."""
    own = getattr(trainer, "resume_file", None)
    return Path(own) if own is not None else Path(trainer.saved_model_file).with_suffix(".last")


def best_file(file: str | os.PathLike[str]) -> Path:
    """The file of the best epoch that belongs to a ``.last``."""
    path = Path(file)
    return path.with_suffix(".pth") if path.suffix == ".last" else path


def states_of(folder: Path, model: str = "", dataset: str = "") -> list[Path]:
    """The states between two epochs in a folder, the newest first.

    Args:
        folder: The folder.
        model: Name of the model; empty for any.
        dataset: Name of the data set, which is in the names of trainers of several stages; empty for any.
    """
    names = "-".join(glob.escape(name) or "*" for name in (model, dataset))
    files = [*folder.glob(f"{model or '*'}-*.last"), *folder.glob(f"{names}-*-resume.pth")]
    return sorted(files, key=_written_at, reverse=True)


def _written_at(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except FileNotFoundError:  # its run has ended meanwhile
        return 0.0


def remove_states(folder: Path) -> None:
    """Remove the states in a folder, and what a process left that was killed while it wrote one."""
    for file in [*states_of(folder), *folder.glob(".*.tmp.last"), *folder.glob(".*.tmp.pth")]:
        file.unlink(missing_ok=True)
