"""The measured tables of the documents are those of benchmarks/results, and a comparison becomes such a file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import recbole_mm
from recbole_mm.experiment.commit import commit
from tests.options import QUICK
from tests.scripts import script


@pytest.fixture
def tool() -> Any:
    return script("tools/result_tables.py")


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("compared")
    options = {**QUICK, "epochs": 1, "checkpoint_dir": str(folder / "saved")}
    table = recbole_mm.compare(
        ["BPR", "Pop"], "mm-toy", config_dict=options, seeds=2, output=folder, in_process=True, verbose=False
    )
    return {"folder": folder, "table": table}


@pytest.fixture
def elsewhere(tool: Any, tmp_path: Path) -> Any:
    """The tool on a repository of its own."""
    (tmp_path / "docs").mkdir()
    tool.ROOT, tool.RESULTS = tmp_path, tmp_path / "benchmarks" / "results"
    return tool


def test_the_tables_of_the_documents_are_up_to_date(tool: Any) -> None:
    assert tool.main(["--check"]) == 0
    shown = {block.split()[0] for file in tool.documents() for block in tool._BLOCK.findall(file.read_text())}
    for file in tool.RESULTS.glob("*.csv"):
        table = tool.read(file.stem)
        assert not table[list(tool.PROVENANCE)].isna().any().any(), f"{file.name} does not say how it was measured"
        assert not table["commit"].eq("unknown").any(), f"{file.name}: no commit"
        assert file.stem in shown, f"{file.name} is shown nowhere"


def test_a_comparison_becomes_a_file_that_says_how_it_was_measured(elsewhere: Any, compared: dict[str, Any]) -> None:
    assert elsewhere.main(["add", "toy", str(compared["folder"]), "--commit=abc"]) == 0
    table = elsewhere.read("toy")
    assert table["model"].tolist() == ["BPR", "Pop"]
    assert table["recall@10"].tolist() == pytest.approx(compared["table"]["recall@10"].tolist())
    assert table["split"][0].split() == list(compared["table"].attrs["splits"].values())
    assert table["seeds"][0] == "2020 2021" and table["dataset"][0] == "mm-toy"
    assert table["commit"][0] == (commit() or "abc")
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", table["date"][0]) and "threads" in table["machine"][0]
    assert '"mask_validation": true' in table["options"][0] and "path" not in table["options"][0]
    with pytest.raises(ValueError, match="BPR on mm-toy is in two of the folders"):
        elsewhere.add("toy", [compared["folder"]] * 2)
    with pytest.raises(FileNotFoundError, match="no compare.json"):
        elsewhere.add("toy", [compared["folder"] / "runs"])


def test_documents_are_written_and_a_stale_one_is_told(elsewhere: Any, compared: dict[str, Any], capsys: Any) -> None:
    elsewhere.add("toy", [compared["folder"]], "abc")
    page = elsewhere.ROOT / "docs" / "page.md"
    marker = "<!-- results: toy columns=model,recall@10,parameters where=dataset:mm-toy -->"
    page.write_text(f"# Page\n\n{marker}\n<!-- end of results -->\n\nText.\n")
    assert elsewhere.main(["--check"]) == 1 and "docs/page.md" in capsys.readouterr().err
    assert elsewhere.main(["--write"]) == 0 == elsewhere.main(["--check"])
    text = page.read_text()
    best = compared["table"]["recall@10"].max()
    assert "| model | Recall@10 | parameters |\n|---|--:|--:|\n" in text and text.endswith("\n\nText.\n")
    assert f"**{best:.4f}**".replace("0.", ".") in text and "2020, 2021" in text
    page.write_text(text.replace("| BPR |", "| BPR2 |"))
    assert elsewhere.main(["--check"]) == 1
    assert elsewhere.main(["add"]) == 2


def test_a_table_over_data_sets(elsewhere: Any) -> None:
    rows = [
        {"model": m, "variant": "", "recall@20": r, "recall@20_low": r, "recall@20_high": r, "dataset": d}
        for m, d, r in [("A", "one", 0.1), ("A", "two", 0.4), ("B", "one", 0.2)]
    ]
    frame = pd.DataFrame(rows).assign(**{key: "x" for key in elsewhere.PROVENANCE if key != "dataset"})
    elsewhere.RESULTS.mkdir(parents=True)
    frame.to_csv(elsewhere.RESULTS / "many.csv", index=False)
    lines = elsewhere.markdown("many rows=model across=dataset value=recall@20").splitlines()
    assert lines[:4] == ["| model | one | two |", "|---|--:|--:|", "| A | .1000 | **.4000** |", "| B | **.2000** |  |"]
    with pytest.raises(ValueError, match="unknown recall@99"):
        elsewhere.markdown("many columns=model,recall@99")
    with pytest.raises(FileNotFoundError, match="add few FOLDER"):
        elsewhere.markdown("few columns=model")


def test_a_table_of_other_measurements_has_its_own_columns(elsewhere: Any) -> None:
    elsewhere.RESULTS.mkdir(parents=True)
    row = "`import`,12.345,-,-,{},abc,CPU (2 threads),2026-01-02,d\n"
    header = "command,cpu_seconds,split,seeds,options,commit,machine,date,dataset\n"
    (elsewhere.RESULTS / "way-in.csv").write_text(header + row)
    lines = elsewhere.markdown("way-in columns=command,cpu_seconds").splitlines()
    assert lines[:3] == ["| command | CPU s |", "|---|--:|", "| `import` | 12 |"]
    assert lines[-1].startswith("Commit abc; CPU (2 threads); 2026-01-02.") and "eeds" not in lines[-1]
    with pytest.raises(ValueError, match="unknown seconds"):
        elsewhere.markdown("way-in columns=seconds")


def test_a_table_of_kills_shows_differences_however_small(elsewhere: Any) -> None:
    """Work x moment, as ``benchmarks/kill.py --csv`` writes it."""
    rows = [("train:BPR", moment, gap) for moment, gap in ((1, "0"), (2, "1e-09"))] + [("export", 1, "0")]
    about = dict.fromkeys(elsewhere.PROVENANCE, "x")
    table = pd.DataFrame([{"work": work, "moment": moment, "difference": gap, **about} for work, moment, gap in rows])
    elsewhere.RESULTS.mkdir(parents=True)
    table.to_csv(elsewhere.RESULTS / "kill.csv", index=False)
    shown = elsewhere.markdown("kill rows=work across=moment value=difference").split("\n")
    assert shown[0] == "| work | 1 | 2 |"
    assert shown[2:4] == ["| train:BPR | 0 | 1e-09 |", "| export | 0 |  |"]
