"""Keys and tables of results with slices."""

from __future__ import annotations

import pickle

import pytest

from recbole_mm.slicing.result import SlicedResult, slice_rows, slice_table, split_result

RESULT = {
    "recall@10": 0.25,
    "cases[all]": 1200,
    "positives[all]": 1500,
    "recall@10[all]": 0.25,
    "recall@10[all,random]": 0.0101,
    "cases[cold_items]": 0,
    "positives[cold_items]": 0,
}


def test_rows_have_counts_metrics_and_the_random_ranking():
    assert slice_rows(RESULT) == {
        "all": {"cases": 1200, "positives": 1500, "recall@10": 0.25, "recall@10,random": 0.0101},
        "cold_items": {"cases": 0, "positives": 0},
    }


def test_the_table_has_a_line_a_slice():
    head, whole, cold = slice_table(RESULT, places=3).splitlines()
    assert head.split() == ["slice", "cases", "positives", "recall@10", "random"]
    assert whole.split() == ["all", "1,200", "1,500", "0.250", "0.010"]
    assert cold.split() == ["cold_items", "0", "0", "-", "-"]
    assert len(head) == len(whole) == len(cold)


def test_many_metrics_are_put_below_each_other():
    result = {"cases[all]": 1, "positives[all]": 1}
    for k in range(1, 8):
        result.update({f"recall@{k}[all]": 0.5, f"recall@{k}[all,random]": 0.1})
    blocks = slice_table(result).split("\n\n")
    assert len(blocks) == 2 and all(block.count("\n") == 1 for block in blocks)


def test_without_slices_there_is_no_table():
    assert slice_table({"recall@10": 0.3}) == ""
    assert split_result({"recall@10": 0.3}) == ({"recall@10": 0.3}, {})


def test_a_missing_metric_says_whether_the_slice_is_empty():
    result = pickle.loads(pickle.dumps(SlicedResult(RESULT)))
    assert result["recall@10"] == 0.25 and result.get("recall@10[cold_items]") is None
    with pytest.raises(KeyError, match="no case of this evaluation is in the slice 'cold_items'"):
        result["recall@10[cold_items]"]
    with pytest.raises(KeyError, match="there is recall@10, cases"):
        result["ndcg@10"]
