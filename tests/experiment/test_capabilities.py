"""Who is said to know nothing of new items or new users, and when."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from recbole_mm.comparison.protocol import make_protocol
from recbole_mm.experiment.capabilities import capability_notes
from recbole_mm.experiment.quick_start import run
from tests.options import QUICK

NEW_ITEMS = {"entity": "item", "candidates": "cold"}
FLOOR = "BPR cannot rank new items: it has no features. Its figures on new items say nothing about the model."


@pytest.mark.parametrize(
    ("cold_start", "slices", "said"),
    [
        (NEW_ITEMS, None, ["BPR"]),
        ({"entity": "item"}, None, ["BPR"]),
        ({"entity": "item", "candidates": "warm"}, None, []),
        ({"entity": "item", "evaluate": "warm"}, None, []),
        (None, ["cold_items"], ["BPR"]),
        (None, ["warm_items", "tail_items"], []),
        (None, None, []),
        ({"entity": "user"}, None, ["MMGCN", "BPR"]),
        (None, ["cold_users"], ["MMGCN", "BPR"]),
    ],
)
def test_who_is_told_about(cold_start: Any, slices: Any, said: list[str]) -> None:
    notes = capability_notes(["MMGCN", "BPR", "MML"], cold_start, slices)
    assert [note.split()[0] for note in notes] == said


def test_a_comparison_has_the_note_before_it_runs() -> None:
    assert FLOOR in make_protocol(["MMGCN", "BPR"], "mm-toy", config_dict={**QUICK, "cold_start": NEW_ITEMS}).notes
    assert FLOOR not in make_protocol(["MMGCN", "BPR"], "mm-toy", config_dict=QUICK).notes


def test_a_run_logs_the_note(caplog: Any) -> None:
    with caplog.at_level(logging.WARNING):
        run(
            "BPR",
            "mm-toy",
            config_dict={**QUICK, "epochs": 1, "state": "WARNING", "cold_start": NEW_ITEMS},
            saved=False,
        )
    assert [record.getMessage() for record in caplog.records].count(FLOOR) == 1
