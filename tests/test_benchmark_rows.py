"""What benchmarks append to files becomes a table; and sequences of a data set without times."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.rows import append, models_parser, read, read_command_line
from benchmarks.sequential_data import COLUMNS, PARTS, sequences
from tests.scripts import script


@pytest.fixture
def tool(tmp_path: Path) -> Any:
    """The tool on a repository of its own."""
    module: Any = script("tools/result_tables.py")
    module.ROOT, module.RESULTS = tmp_path, tmp_path / "benchmarks" / "results"
    return module


@pytest.fixture
def measured(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file of measurements: two models, two seeds, a slice and its floor."""

    def write(name: str = "toy") -> Path:
        file = tmp_path / f"{name}.jsonl"
        for seed in (2020, 2021):
            for model, value in (("A", 0.25), ("B", 0.5)):
                metrics = {
                    "recall@20": value + (seed - 2020) * 0.5, "recall@20[all,random]": 0.125, "cpu_seconds": 7.0,
                    "recall@20[tail_items]": value, "recall@20[tail_items,random]": 0.0625, "cases[tail_items]": 3,
                }  # fmt: skip
                row = {"model": model, "dataset": name, "seed": seed, "split": "abc", "protocol": "own"}
                row["variant"] = "wide" if model == "B" else ""
                append(file, {**row, "metrics": metrics}, {"seed": seed, "epochs": 3, "data_path": "/somewhere"})
        return file

    return write


def test_seeds_become_a_row_with_an_interval_and_the_floor_a_row_of_its_own(
    tool: Any, measured: Callable[..., Path]
) -> None:
    assert tool.main(["add", "toy", str(measured()), str(measured("other"))]) == 0
    table = tool.read("toy")
    assert table["model"].tolist() == ["A", "B", "random ranking"] * 2 and table["runs"].tolist() == [2, 2, 0] * 2
    assert table["recall@20"].tolist()[:3] == [0.5, 0.75, 0.125] and table["cpu_seconds"][0] == 7.0
    assert table["recall@20[tail_items]"].tolist()[:3] == [0.25, 0.5, 0.0625]
    half = 12.7062 * 0.5 / 2  # Student's t of one degree of freedom, spread of .25 and .75 over the root of 2
    assert table["recall@20_high"][0] == pytest.approx(0.5 + half, rel=1e-4) and pd.isna(table["recall@20_high"][2])
    assert table["seeds"][0] == "2020 2021" and table["options"][0] == '{"epochs": 3}'
    lines = tool.markdown("toy columns=model,recall@20[tail_items] where=dataset:toy").splitlines()
    assert lines[0] == "| model | Recall@20, tail items |" and lines[3].startswith("| B, wide | **.5000**")
    assert lines[4] == "| random ranking | .0625 |" and "split abc" in lines[-1]


def test_what_is_no_measurement_or_is_there_twice_is_told(
    tool: Any, measured: Callable[..., Path], tmp_path: Path
) -> None:
    file = measured()
    assert len(read(file)) == 4 and read(tmp_path / "none.jsonl") == []
    file.write_text(file.read_text() + file.read_text().splitlines()[0] + "\n")
    with pytest.raises(ValueError, match=r"toy.jsonl, line 5: A with seed 2020 is there twice"):
        tool.add("toy", [file])
    file.write_text(json.dumps({"model": "A"}) + "\n")
    with pytest.raises(ValueError, match="line 1: no measurement, it lacks commit, dataset"):
        tool.add("toy", [file])


def test_sequences_hold_the_split_and_no_order_of_the_file() -> None:
    known = {"a": list("bcdefgh"), "b": ["x"]}
    rows = {
        "train": [(user, item) for user, items in known.items() for item in items],
        "valid": [("a", "v"), ("b", "v")],
        "test": [("a", "t"), ("a", "u"), ("b", "t")],
    }
    parts = {part: pd.DataFrame(pairs, columns=[COLUMNS[0], COLUMNS[2]]) for part, pairs in rows.items()}
    found = sequences(parts, 50, 1)
    assert tuple(found) == PARTS and [len(frame) for frame in found.values()] == [6, 2, 3]
    train = found["train"]
    order = train[COLUMNS[1]].iloc[-1].split() + [train[COLUMNS[2]].iloc[-1]]
    assert sorted(order) == known["a"] and order != known["a"]  # each once, not as the file has them
    for place, (_, history, target) in enumerate(train.itertuples(index=False)):
        assert history.split() == order[: place + 1] and target == order[place + 1]
    assert found["valid"].values.tolist() == [["a", " ".join(order), "v"], ["b", "x", "v"]]
    after = " ".join([*order, "v"])
    assert found["test"].values.tolist() == [["a", after, "t"], ["a", after, "u"], ["b", "x v", "t"]]
    assert sequences(parts, 2, 1)["test"][COLUMNS[1]].iloc[0] == f"{order[-1]} v"
    assert not sequences(parts, 50, 2)["train"].equals(train)


def test_options_of_a_model_are_told_and_stay_on_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x.py", "--models=BPR", "--epochs=3", "--rows=x.jsonl", "--topk=[5, 10]"])
    arguments, given = read_command_line(models_parser("", "MMGCN", "mm-toy"))
    assert (arguments.models, arguments.dataset, arguments.rows) == ("BPR", "mm-toy", Path("x.jsonl"))
    assert given == {"epochs": "3", "topk": "[5, 10]"}
    assert sys.argv == ["x.py", "--epochs=3", "--topk=[5, 10]"]
