"""The README's table of models is the one that the code gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import recbole_mm
from tests.scripts import script


@pytest.fixture
def module() -> Any:
    return script("tools/model_table.py")


def test_the_table_is_up_to_date(module: Any) -> None:
    assert module.main(["--check"]) == 0
    lines = module.table().splitlines()[2:]
    package = [n for n, cls in recbole_mm.registered_models().items() if cls.__module__.startswith("recbole_mm.")]
    assert sorted(line.split(" | ")[0].strip("| ") for line in lines) == sorted(package)


def test_a_stale_table_is_told(module: Any, tmp_path: Path, capsys: Any) -> None:
    stale = tmp_path / "README.md"
    text = module.README.read_text(encoding="utf-8")
    stale.write_text(text.replace("| MMGCN |", "| MMGC |"), encoding="utf-8")
    module.README = stale
    assert module.main(["--check"]) == 1 and "--write" in capsys.readouterr().err
    assert module.main(["--write"]) == 0 and stale.read_text(encoding="utf-8") == text
    assert module.main([]) == 2
