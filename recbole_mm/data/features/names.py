"""Which names a modality may have: those of files and keys, and none that a model could not hold."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["check_modality_name", "check_new_modality", "check_usable_names"]

_NAME = re.compile(r"[\w-]+")


def check_modality_name(name: str, where: str) -> None:
    """Refuse names that could not be part of a file name or a key (``where`` says who uses the name)."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{where}: {name!r} is no name for a modality; use letters, digits, '_' and '-'.")


def check_new_modality(name: str, where: str) -> None:
    """Refuse names of features that are about to be written, where no model could read them."""
    check_modality_name(name, where)
    check_usable_names([name])


def check_usable_names(modalities: Iterable[str]) -> None:
    """Refuse modalities that torch's dictionaries of modules could not hold, before torch does so obscurely."""
    from torch import nn  # late: reading files by their names does not wait for it

    taken = {*dir(nn.ModuleDict()), *dir(nn.ParameterDict())}
    bad = sorted(taken.intersection(modalities))
    if bad:
        raise ValueError(
            f"modality {bad[0]!r}: torch's modules use this name themselves; rename the feature files, "
            f"for instance to item_{bad[0]}, or leave it out with the option modalities."
        )
