"""A comparison that any number of processes, on any number of machines, work off together."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from recbole_mm.experiment.claims import STALE_SECONDS, Claims, LostError
from recbole_mm.experiment.job import Job

__all__ = ["ATTEMPTS", "POLL_SECONDS", "work_off"]

POLL_SECONDS = 2.0
#: How often a run is tried that the machine, not the model, let fail (a full disk, no memory).
ATTEMPTS = 3

Entry = tuple[str, str, int]


def work_off(
    entries: Iterable[Entry],
    claims: Claims,
    find: Callable[[str, str, int], tuple[str, Job, dict[str, Any] | None]],
    do: Callable[[str, Job, Callable[[], None]], object],
    say: Callable[[str], None],
) -> None:
    """Do the runs that nobody has done or is doing, until all are done by somebody.

    Args:
        entries: Model, variant and seed of the runs.
        claims: The claims that the workers share.
        find: Name and job of a run, and its record once there is nothing left to do about it.
        do: Does a run; gets its name, its job, and what to call every now and then.
        say: Takes a line for the user.
    """
    left, waited = list(entries), False
    while left:
        moved = False
        for entry in list(left):
            run, job, record = find(*entry)
            if record is not None:
                left.remove(entry)
                continue
            claim = claims.take(run)
            if claim is None:
                continue
            moved = True
            try:
                with claim:
                    if find(*entry)[2] is None:
                        say(f"{run}: begins here")
                        do(run, job, claim.check)
            except LostError:
                say(f"{run}: this process was silent for {STALE_SECONDS:.0f} s; another worker has the run")
        if left and not moved:
            if not waited:
                say(f"{len(left)} runs are with other workers; waiting for them")
                waited = True
            time.sleep(POLL_SECONDS)
