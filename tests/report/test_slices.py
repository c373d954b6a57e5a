from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from recbole_mm.comparison.compare import compare
from recbole_mm.report.slices import slice_frame, slice_markdown
from recbole_mm.report.table import Row
from tests.options import QUICK


def record(cases, score=None):
    found = {"cases[cold_items]": cases, "positives[cold_items]": cases}
    if score is not None:
        found |= {"ndcg@5[cold_items]": score, "ndcg@5[cold_items,random]": 0.01}
    return {"slices": {"cases[all]": 9, "positives[all]": 10, "ndcg@5[all]": 0.5, "ndcg@5[all,random]": 0.02} | found}


def test_means_are_over_the_runs_that_have_a_case():
    row = Row("BPR", records={1: record(2, 0.2), 2: record(0), 3: record(4, 0.4)})
    frame = slice_frame([row, Row("MML", failures=["no time"])])
    cold = frame[frame["slice"] == "cold_items"].iloc[0]
    assert frame["slice"].tolist() == ["all", "cold_items"]
    assert (cold["runs"], cold["cases"], cold["ndcg@5"]) == (2, 2.0, pytest.approx(0.3))
    assert cold["ndcg@5_std"] == pytest.approx(np.std([0.2, 0.4], ddof=1)) and cold["ndcg@5_random"] == 0.01


def test_a_slice_without_cases_has_no_score():
    text = slice_markdown(slice_frame([Row("BPR", records={1: record(0)})]))
    assert "| BPR | 0.5000 | - |" in text and "| random ranking | 0.0200 | - |" in text and "| cases | 9 | 0 |" in text


def test_no_slices_no_table():
    frame = slice_frame([Row("BPR", records={1: {"test": {"ndcg@5": 0.1}}})])
    assert slice_markdown(frame) == ""


def test_a_comparison_writes_the_slices_beside_its_own_table(tmp_path):
    options = {**QUICK, "slices": ["all", "tail_items"], "valid_metric": "NDCG@10[tail_items]"}
    table = compare(["LightGCN", "BPR"], "mm-toy", config_dict=options, seeds=2, output=tmp_path, in_process=True,
                    verbose=False)  # fmt: skip
    frame = pd.read_csv(tmp_path / "slices.csv")
    assert not [name for name in table.columns if "[" in name]
    assert frame[["slice", "model"]].to_numpy().tolist() == [
        ["all", "LightGCN"], ["all", "BPR"], ["tail_items", "LightGCN"], ["tail_items", "BPR"],
    ]  # fmt: skip
    assert frame["recall@10"][:2].to_numpy() == pytest.approx(table["recall@10"].to_numpy())
    assert "| random ranking |" in (tmp_path / "slices.md").read_text()
    stored = [json.loads(file.read_text()) for file in tmp_path.glob("runs/*/run.json")]
    assert len(stored) == 4
    assert all("tail_items" in key or "all" in key for run in stored for key in run["slices"])
    assert all(run["best_valid_score"] == run["valid"]["ndcg@10[tail_items]"] for run in stored)


def test_slices_are_the_same_for_every_model(tmp_path):
    with pytest.raises(ValueError, match="slices must be the same for every model"):
        compare(["BPR"], "mm-toy", model_settings={"BPR": {"slices": True}}, output=tmp_path, in_process=True)


def test_a_validation_metric_of_another_slice_is_refused(tmp_path):
    options = {**QUICK, "slices": ["all"], "valid_metric": "NDCG@7[all]"}
    with pytest.raises(ValueError, match=r"not among .*NDCG@10\[all\]"):
        compare(["BPR"], "mm-toy", config_dict=options, output=tmp_path, in_process=True)
