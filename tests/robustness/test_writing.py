"""Every file appears whole: no bare write in the package, and a full disk leaves what was there and a message."""

from __future__ import annotations

import ast
import errno
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

import recbole_mm
from recbole_mm.data.features.pretrained import write_pretrained
from recbole_mm.experiment.store import Store
from recbole_mm.extract import extract as extraction
from recbole_mm.extract.partial import Partial
from recbole_mm.files import WriteError, replacing, write_atomically
from recbole_mm.folders import replacing_folder
from recbole_mm.serving import tables
from recbole_mm.serving.export import check_targets
from recbole_mm.serving.saved import check_folder
from recbole_mm.trainer.checkpoint import write_checkpoint

PACKAGE = Path(recbole_mm.__file__).parent
#: Functions that write to a path which their caller got from ``replacing`` or ``replacing_folder``, and logs.
GIVEN = {
    "data/convert/mmrec.py": {"_write_features", "_write_atomic"},
    "data/convert/tables.py": {"_write_table", "_write_parquet"},
    "data/convert/clicks.py": {"_write"},
    "data/convert/unisrec_dataset.py": {"_write"},
    "data/convert/vectors.py": {"write_vectors"},
    "serving/folder.py": {"write_ids", "feature_entries"},
    "serving/saved.py": {"_write"},
    "serving/tables.py": {"_parquet_topk", "_csv_topk", "_npz_topk", "_npz_embeddings", "_parquet_embeddings"},
    "experiment/children.py": {"run_in_child"},  # what a process prints, as it prints it
}
WRITERS = {
    "write_text", "write_bytes", "to_csv", "to_parquet", "to_json", "to_pickle", "savefig", "save", "savez",
    "savez_compressed", "savetxt", "tofile", "open_memmap", "ParquetWriter", "write_table", "copyfile", "copy", "copy2",
}  # fmt: skip
MODULES = {"np", "numpy", "torch", "shutil", "pq", "pd"}


def writes(call: ast.Call) -> bool:
    """Whether a call may write a file."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    owner = getattr(getattr(function, "value", None), "id", "")
    if name in ("open", "ZipFile", "fdopen"):
        texts = [part.value for part in [*call.args, *(word.value for word in call.keywords if word.arg == "mode")]
                 if isinstance(part, ast.Constant) and isinstance(part.value, str)]  # fmt: skip
        return any(set(text) <= set("rwaxbt+") and set(text) & set("wax+") for text in texts)
    if name == "dump":
        return owner in ("json", "pickle", "yaml")
    if name in ("save", "copy", "copyfile", "copy2"):
        return owner in MODULES
    if name in ("to_csv", "to_json"):
        return bool(call.args) and owner != ""  # without a file it gives the text
    return name in WRITERS


def bare_writes(source: str) -> Iterator[tuple[str, int]]:
    """Function and line of each write that stands in no block of ``replacing`` and goes to no buffer in memory."""

    def visit(node: ast.AST, function: str, safe: bool, buffers: set[str]) -> Iterator[tuple[str, int]]:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            function = node.name
            buffers = {
                target.id
                for part in ast.walk(node)
                if isinstance(part, ast.Assign)
                and any(kind in ast.dump(part.value) for kind in ("BytesIO", "StringIO"))
                for target in part.targets
                if isinstance(target, ast.Name)
            }
        if isinstance(node, ast.With):
            calls = [item.context_expr for item in node.items]
            safe = safe or any(
                isinstance(call, ast.Call) and getattr(call.func, "id", "").startswith("replacing") for call in calls
            )
        if isinstance(node, ast.Call) and writes(node) and not safe:
            first = node.args[0] if node.args else None
            if not (isinstance(first, ast.Name) and first.id in buffers):
                yield function, node.lineno
        for child in ast.iter_child_nodes(node):
            yield from visit(child, function, safe, buffers)

    yield from visit(ast.parse(source), "", False, set())


def test_no_bare_write_in_the_package():
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        name = file.relative_to(PACKAGE).as_posix()
        if name in ("files.py", "folders.py"):
            continue
        known = GIVEN.get(name, set())
        found += [f"{name}:{line} in {function}" for function, line in bare_writes(file.read_text("utf-8"))
                  if function not in known]  # fmt: skip
    # Memory only, the null device, and the files that are their own locks.
    allowed = ("host/repairs.py", "cli/main.py", "locks.py", "experiment/claims.py")
    assert [place for place in found if not place.startswith(allowed)] == []


@pytest.mark.parametrize(
    ("line", "bare"),
    [
        ("open(file, 'w')", 1),
        ("Path(file).open(mode='ab')", 1),
        ("open(file)", 0),
        ("file.write_text('x')", 1),
        ("np.save(file, x)", 1),
        ("frame.to_csv(file)", 1),
        ("frame.to_csv(index=False)", 0),
        ("json.dump(x, stream)", 1),
        ("with replacing(file) as t:\n        t.write_text('x')", 0),
    ],
)
def test_the_search_for_bare_writes_finds_them(line, bare):
    assert len(list(bare_writes(f"def f(file, frame, x):\n    {line}\n"))) == bare


class Data:
    """As much of a data set as a table of vectors needs."""

    uid_field, iid_field, dataset_name = "user_id", "item_id", "shop"
    field2id_token = {"user_id": ["[PAD]", "u"], "item_id": ["[PAD]", "i"]}


class Tables:
    """A model with pre-trained tables."""

    def pretrained(self):
        return torch.ones(2, 3), torch.ones(2, 3)


def topk(file):
    new = np.zeros((1, 2), dtype=bool)
    with tables.write_topk(file, (1, 2), (np.dtype("U1"), np.dtype("U1"), np.dtype("U3"))) as add:
        add(tables.Batch(np.array(["u"]), np.array([["i", "j"]]), np.ones((1, 2)), np.array([3]), new, "BPR"))


def embeddings(file):
    tables.write_embeddings(file, {"user": (np.array(["u"]), lambda rows: np.ones((1, 2))[rows], 2)})


def conversion(folder):
    with replacing_folder(folder, True, []) as target:
        (target / "out.inter").write_text("new")


#: What is written, by the function that writes it.
WRITTEN = {
    "a.txt": lambda file: write_atomically(file, "new"),
    "a.pth": lambda file: write_checkpoint({"x": torch.ones(3)}, file),
    "lists.npz": topk,
    "lists.csv": topk,
    "lists.parquet": topk,
    "vectors.npz": embeddings,
    "vectors.parquet": embeddings,
    "shop.user.mcptr.npz": lambda file: write_pretrained(Tables(), Data, file.parent),
    "ds.item.image.npz": lambda file: extraction._write(
        file.with_suffix(""), np.array(["i"]), np.ones((1, 2), np.float32), "item"
    ),
    ".ds.item.image.partial/000000.npz": lambda file: Partial(
        file.parent.parent / "ds.item.image", {}, {"i": "mark"}
    ).add(["i"], np.ones((1, 2)), {}),
    "runs/x/run.json": lambda file: Store(file.parents[2]).save("x", {"a": 1}),
    "runs/x/users.npz": lambda file: Store(file.parents[2]).save("x", {"a": 1}, {"user": np.ones(3)}),
    "out/out.inter": lambda file: conversion(file.parent),
}


@pytest.fixture
def full_disk():
    """No file may grow beyond a byte, whoever writes it: Python, torch or Arrow."""
    resource = pytest.importorskip("resource")
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)

    @contextmanager
    def full():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, limit[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)

    yield full
    signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_full_disk_leaves_the_old_file(name, full_disk, tmp_path):
    file, write = tmp_path / name, WRITTEN[name]
    file.parent.mkdir(parents=True, exist_ok=True)
    if not name.startswith("."):
        write(file)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with full_disk(), pytest.raises(WriteError) as caught:
        write(file)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after == before
    message = str(caught.value)
    target = (
        "runs/x"
        if name.startswith("runs/")
        else "out"
        if name.startswith("out/")
        else name.rpartition(".")[0]
        if name.startswith("ds.")
        else name
    )
    assert "could not be written" in message and "choose another" in message
    assert ("partial" if name.startswith(".") else str(tmp_path / target)) in message


def test_the_message_says_why(tmp_path):
    """No folder, no permission: each has its remedy; what another file is to blame for stays as it is."""
    with (
        pytest.raises(WriteError, match="nothing is left of it. See that the folder"),
        replacing(tmp_path / "a" / "b") as t,
    ):
        t.write_text("x")
    (tmp_path / "file").write_text("x")
    with pytest.raises(WriteError, match="a folder|See that the folder"):
        write_atomically(tmp_path / "file" / "below", "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(WriteError, match="A folder stands at .*folder: remove it"):
        write_atomically(tmp_path / "folder", "x")
    with pytest.raises(PermissionError, match="input"), replacing(tmp_path / "out"):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "input"))
    with pytest.raises(WriteError, match="Make .* writable, or choose another place"), replacing(tmp_path / "out") as t:
        raise PermissionError(errno.EACCES, "Permission denied", str(t))


def test_a_disk_that_can_only_be_read_is_named_with_the_file(tmp_path, monkeypatch):
    """There the removal of the temporary file fails, too, and its error took the place of the message."""

    def refuse(path, *_, **__):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    for name in ("write_bytes", "unlink"):
        monkeypatch.setattr(Path, name, refuse)
    with pytest.raises(WriteError, match=f"{tmp_path / 'lists.csv'} could not be written .*Read-only"):
        write_atomically(tmp_path / "lists.csv", "x")


@pytest.mark.parametrize(
    "check", [lambda path: check_folder(path / "model"), lambda path: check_targets(path / "lists.csv", None)]
)
def test_a_folder_that_cannot_be_written_to_is_said_before_a_training(check, tmp_path, monkeypatch):
    check(tmp_path)
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path or mode != os.W_OK)
    with pytest.raises(WriteError, match=f"{tmp_path} cannot be written to. Make it writable"):
        check(tmp_path)
