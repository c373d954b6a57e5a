"""Run the notebooks of docs/notebooks in empty folders, and keep in them what they showed.

python tools/run_notebooks.py [NAME ...]

The site shows what is kept. Times, dates, folders and warnings are of one machine and are taken out; the tests run the
notebooks again and compare the form of what they show, and a notebook whose code was changed has to be run again.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs" / "notebooks"
_STRIPPED = (
    (r" ?\([\d.,]+ a second\)", ""),
    (r"-[A-Z][a-z]{2}-\d\d-\d{4}_\d\d-\d\d-\d\d-[0-9a-f]+(?=\.pth)", ""),
    (r"(?<=\d) in [\d.]+ s\b", ""),
    (r"<style scoped>.*?</style>\s*", ""),
    (r"(?:/[\w.@-]+)+/(?=(?:dataset|dataset_atomic|comparison|ablation|saved)\b)", ""),
)


def code_hash(notebook: Any) -> str:
    """sha256 of the code of a notebook, shortened."""
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return hashlib.sha256("\n\n".join(code).encode("utf-8")).hexdigest()[:16]


def cleaned(outputs: Sequence[Any]) -> list[dict[str, Any]]:
    """What a reader shall see of a cell: printed text, values, tables and pictures, nothing of the machine."""
    kept: list[dict[str, Any]] = []
    for output in outputs:
        if output["output_type"] == "stream" and output["name"] == "stdout":
            text = _clean(output["text"])
            if kept and kept[-1]["output_type"] == "stream":  # a print arrives in pieces
                kept[-1]["text"] += text
            else:
                kept.append({"output_type": "stream", "name": "stdout", "text": text})
        elif output["output_type"] in ("execute_result", "display_data"):
            data = {kind: _clean(text) if kind.startswith("text/") else text for kind, text in output["data"].items()}
            data = {kind: data[kind] for kind in ("text/plain", "text/html", "image/png") if kind in data}
            kept.append({"output_type": "display_data", "data": data, "metadata": {}})
    return kept


def _clean(text: Any) -> str:
    text = text if isinstance(text, str) else "".join(text)
    for pattern, instead in _STRIPPED:
        text = re.sub(pattern, instead, text, flags=re.DOTALL)
    return text


def form(outputs: Sequence[Any]) -> list[tuple[str, str]]:
    """Kind of each output and its first line without figures: what does not differ between machines."""
    found = []
    for output in outputs:
        data = output.get("data") or {"text/plain": output["text"]}
        first = ("".join(data.get("text/plain", "")).strip().splitlines() or [""])[0]
        found.append((" ".join(sorted(data)), " ".join(re.sub(r"[\d.,e-]*\d[\d.,e-]*", "#", first).split())))
    return found


@contextmanager
def kernel() -> Iterator[Callable[[str], Any]]:
    """Runs a notebook by its name in an empty folder; one interpreter for all, emptied of names in between."""
    import nbclient
    import nbformat
    from jupyter_client.manager import start_new_kernel

    with tempfile.TemporaryDirectory() as place:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "IPYTHONDIR": place,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }
        manager, channel = start_new_kernel(kernel_name="python3", env=environment, startup_timeout=300)

        def run(name: str) -> Any:
            """The notebook with what its cells showed, cleaned.

            Args:
                name: File name without its suffix.
            """
            notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
            folder = tempfile.mkdtemp(dir=place)
            source = f"%reset -f\nimport os; os.chdir({folder!r})"
            notebook.cells.insert(0, nbformat.v4.new_code_cell(source))
            client = nbclient.NotebookClient(notebook, km=manager, timeout=600)
            client.kc = channel
            for index, cell in enumerate(notebook.cells):
                if cell.cell_type == "code":
                    client.execute_cell(cell, index)
                    cell.execution_count = None
                    cell.metadata = {}
                    cell.outputs = [nbformat.from_dict(output) for output in cleaned(cell.outputs)]
            del notebook.cells[0]
            notebook.metadata["code"] = code_hash(notebook)
            return notebook

        yield run
        channel.stop_channels()
        manager.shutdown_kernel(now=True)


def main(names: Sequence[str]) -> None:
    """Run notebooks and write them back."""
    import nbformat

    from recbole_mm.files import write_atomically

    with kernel() as run:
        for name in names or sorted(file.stem for file in FOLDER.glob("*.ipynb")):
            text = nbformat.writes(run(name), version=4)
            write_atomically(FOLDER / f"{name}.ipynb", text.rstrip() + "\n")
            print(f"{name}: {len(text):,} characters")


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main(sys.argv[1:])
