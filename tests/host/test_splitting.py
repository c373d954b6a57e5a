"""Splits that nothing can be trained on are refused with what to change."""

from __future__ import annotations

import pytest

import recbole_mm
from tests.options import QUICK, SEQUENTIAL

TIMES = {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}}


@pytest.fixture
def once(tmp_path):
    """A data set whose users have one interaction each."""
    folder = tmp_path / "dataset" / "once"
    folder.mkdir(parents=True)
    lines = [f"u{k}\ti{k % 5}\t{k}" for k in range(20)]
    (folder / "once.inter").write_text("\n".join(["user_id:token\titem_id:token\ttimestamp:float", *lines]) + "\n")


def test_users_of_one_interaction_have_no_history(once):
    options = {**QUICK, **SEQUENTIAL, **TIMES, "topk": [2], "valid_metric": "Recall@2"}
    with pytest.raises(ValueError, match="nothing to train on.*of once none.*first interaction.*two or more"):
        recbole_mm.run("SASRec", "once", config_dict=options)


def test_all_rows_in_the_other_parts(once):
    options = {**QUICK, "eval_args": {"split": {"RS": [1e-18, 0.5, 0.5]}, "group_by": None}}
    with pytest.raises(ValueError, match=r"nothing to train on.* 20 in the others\. Change the split.*less\.$"):
        recbole_mm.run("BPR", "once", config_dict={**options, "topk": [2], "valid_metric": "Recall@2"})


def test_the_order_of_a_sequential_model_is_said(once):
    options = {**QUICK, **SEQUENTIAL, **TIMES, "topk": [2], "eval_args": {"mode": "uni2"}}
    with pytest.raises(ValueError, match="order of time.*whole default.*order: TO"):
        recbole_mm.run("SASRec", "once", config_dict=options)
