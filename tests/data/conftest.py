"""Fixtures of the data tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.data.support import random_pairs, write_inter

# How long an example takes says something about the machine, not about the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Folder ``tiny`` with 12 users and 15 items and no features yet; its parent is RecBole's ``data_path``."""
    write_inter(tmp_path / "tiny", "tiny", random_pairs())
    return tmp_path / "tiny"
