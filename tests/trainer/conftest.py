"""What all tests of training procedures need."""

from __future__ import annotations

import pytest

from recbole_mm.host import recovery


@pytest.fixture(autouse=True)
def _states_after_every_epoch(monkeypatch):
    """On a slow disk states are written less often, and a training would go on from an earlier epoch."""
    monkeypatch.setattr(recovery, "SHARE", 1e9)
