"""From the texts, pictures and sounds of a data set to its feature files: ``recbole-mm extract``."""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from recbole_mm.data.convert.vectors import write_vectors
from recbole_mm.data.features.names import check_new_modality
from recbole_mm.extract.content import Content, files_content, read_rows, text_content
from recbole_mm.extract.encoders import Encoder, make_encoder
from recbole_mm.extract.partial import Partial
from recbole_mm.extract.pictures import read_picture
from recbole_mm.extract.sounds import read_sound
from recbole_mm.files import owner, remove_abandoned, sync, write_atomically, writing
from recbole_mm.locks import hold

__all__ = ["Extracted", "extract"]

_LIBRARIES = ("recbole-mm", "torch", "pillow", "transformers", "sentence-transformers", "efficientnet-lite-pytorch")
_BLOCK = 16  # batches between two blocks that an interrupted extraction keeps


@dataclass
class Extracted:
    """What :func:`extract` made of one modality.

    Attributes:
        modality: Its name.
        file: The feature file.
        rows: Ids with a vector.
        dim: Width of the vectors.
        failed: Id to the reason why it has none.
        seconds: Time that reading and encoding took.
    """

    modality: str
    file: Path
    rows: int
    dim: int
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def __str__(self) -> str:
        lines = [f"{self.modality}: {self.rows:,} vectors of width {self.dim:,} in {self.file}"]
        if self.seconds > 0:
            lines[0] += f" ({self.rows / self.seconds:,.1f} a second)"
        if self.failed:
            counts = ", ".join(f"{count:,} {reason}" for reason, count in Counter(self.failed.values()).most_common(5))
            shown = ", ".join(f"{token} ({reason})" for token, reason in list(self.failed.items())[:10])
            lines.append(
                f"  {len(self.failed):,} without a vector: {counts}; first: {shown}; all are in the .json beside it"
            )
        return "\n".join(lines)


def extract(
    name: str,
    *,
    text: Sequence[str] | str | None = None,
    image: str | None = None,
    audio: str | None = None,
    entity: str = "item",
    modality: str | None = None,
    encoder: str = "default",
    patches: bool = False,
    device: str = "auto",
    batch_size: int = 32,
    dtype: str = "float32",
    workers: int = 2,
    replace: bool = False,
    data_path: str | Path = "dataset",
    progress: bool = False,
) -> list[Extracted]:
    """Write feature files of a data set from its raw content.

    Beside ``<name>.<entity>.<modality>.npz`` (``.npy`` and ``.ids`` from 64 MB on) goes ``....json``: the encoder, the
    sha256 of its weights, the versions of the libraries, the date, and what failed. What fails has no row, which models
    then treat as missing. An interrupted extraction goes on where it was.

    Args:
        name: The data set.
        text: Columns of text, a list or separated by commas; several are joined with their names.
        image: Pattern of picture files, such as ``pictures/{item_id}.jpg`` (``.*`` for any suffix).
        audio: Pattern of sound files.
        entity: ``item``, ``user``, or ``inter`` for texts of interactions, such as reviews.
        modality: Name of the modality; ``text``, ``image`` or ``audio`` when not given.
        encoder: See :mod:`recbole_mm.extract.encoders`; with several kinds of content only ``default``.
        patches: Several vectors for each input (parts of a picture), where the encoder has them.
        device: ``cpu``, ``cuda``, ...; ``auto`` takes a GPU where there is one.
        batch_size: Inputs at a time.
        dtype: ``float32`` or ``float16`` in the file.
        workers: Threads that read files.
        replace: Overwrite feature files that are there.
        data_path: Folder of data sets.
        progress: Show a progress bar.

    Returns:
        What was made, one entry for each kind of content.

    Raises:
        FileNotFoundError: There is no such data set, or not one file of a pattern.
        FileExistsError: A feature file is there, and not ``replace``.
        InUseError: Another process makes the same file.
        KeyError: A column is not there.
        ValueError: A value that is not possible, or an encoder that cannot be loaded or gives no finite vectors.

    Example:
        >>> extract("shop", text="title,description", image="pictures/{item_id}.jpg")  # doctest: +SKIP
    """
    wanted = {kind: value for kind, value in (("text", text), ("image", image), ("audio", audio)) if value is not None}
    _check(wanted, entity, modality, encoder, batch_size, dtype, workers)
    folder = Path(data_path).expanduser() / name
    rows = read_rows(folder, name, entity)
    where = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    contents: dict[str, Content] = {}
    for kind, value in wanted.items():
        if kind == "text":
            columns = [part.strip() for part in value.split(",")] if isinstance(value, str) else list(value)
            contents[kind] = text_content(rows, columns)
        else:
            read = read_picture if kind == "image" else read_sound
            contents[kind] = files_content(rows, str(value), entity, read, Path.cwd())
        stem = folder / f"{name}.{entity}.{modality or kind}"
        _refuse_existing(stem, replace)
    made = []
    for kind, content in contents.items():
        stem = folder / f"{name}.{entity}.{modality or kind}"
        if not content.ids:
            raise ValueError(f"{kind}: no {entity} of {name} has any content ({content.described}).")
        with hold(stem.with_name(f".{stem.name}.lock"), stem, "choose another modality"):
            _refuse_existing(stem, replace)  # of a process that was at it meanwhile
            model = make_encoder(kind, encoder, where, patches)
            settings = {
                "encoder": model.name,
                "weights": model.fingerprint,
                "content": content.described,
                "patches": patches,
                "entity": entity,
            }
            made.append(_encode(content, model, stem, settings, entity, batch_size, dtype, workers, progress))
    return made


def _refuse_existing(stem: Path, replace: bool) -> None:
    for file in (stem.with_name(f"{stem.name}.{suffix}") for suffix in ("npz", "npy", "parquet")):
        if file.exists() and not replace:
            raise FileExistsError(f"{file} is there already; remove it or pass replace=True (--replace).")


def _check(
    wanted: dict[str, Any], entity: str, modality: str | None, encoder: str, batch_size: int, dtype: str, workers: int
) -> None:
    if not wanted:
        raise ValueError("Extract what? Give text=COLUMNS, image=PATTERN or audio=PATTERN (--text=title,description).")
    if entity not in ("item", "user", "inter"):
        raise ValueError(f"entity: expected item, user or inter, got {entity!r}.")
    if entity == "inter" and set(wanted) - {"text"}:
        raise ValueError("entity=inter: interactions have texts only (reviews); give text=COLUMNS.")
    if len(wanted) > 1 and (modality is not None or encoder != "default"):
        raise ValueError("modality and encoder are of one kind of content; extract text, image and audio one by one.")
    if modality is not None:
        check_new_modality(modality, "modality")
    if dtype not in ("float32", "float16"):
        raise ValueError(f"dtype: expected float32 or float16, got {dtype!r}.")
    for option, value in (("batch_size", batch_size), ("workers", workers)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{option}: expected a positive whole number, got {value!r}.")


def _encode(
    content: Content,
    model: Encoder,
    stem: Path,
    settings: dict[str, Any],
    entity: str,
    batch_size: int,
    dtype: str,
    workers: int,
    progress: bool,
) -> Extracted:
    partial = Partial(stem, settings, content.marks())
    left = [(i, x) for i, x in zip(content.ids, content.inputs) if i not in partial.vectors and i not in partial.failed]
    if left and isinstance(left[0][1], str):
        left.sort(key=lambda entry: -len(entry[1]))  # a batch is padded to its longest text
    begin, done = time.perf_counter(), len(left)
    with ThreadPoolExecutor(workers) as pool, tqdm(total=len(left), desc=stem.name, disable=not progress) as bar:
        for start in range(0, len(left), batch_size * _BLOCK):
            block = left[start : start + batch_size * _BLOCK]
            ids: list[str] = []
            vectors: list[np.ndarray] = []
            failed: dict[str, str] = {}
            for at in range(0, len(block), batch_size):
                batch = block[at : at + batch_size]
                read = list(pool.map(lambda entry: _read(content, entry[1]), batch))
                good = [(token, value) for (token, _), (value, reason) in zip(batch, read) if reason is None]
                failed.update({token: reason for (token, _), (_, reason) in zip(batch, read) if reason is not None})
                if good:
                    vectors.append(_vectors(model, [value for _, value in good], len(partial.vectors), len(left)))
                    ids += [token for token, _ in good]
                bar.update(len(batch))
            if ids:
                partial.add(ids, np.concatenate(vectors), failed)
            elif failed:
                partial.add([], np.zeros((0, model.dim), dtype=np.float32), failed)
    seconds = time.perf_counter() - begin
    kept = [token for token in content.ids if token in partial.vectors]
    failed = {**content.failed, **partial.failed}
    if not kept:
        reason, count = Counter(failed.values()).most_common(1)[0]
        raise ValueError(f"{stem.name}: nothing could be encoded; of {len(failed):,} failures {count:,} are: {reason}.")
    matrix = np.stack([partial.vectors[token] for token in kept])
    file = _write(stem, np.array(kept, dtype=str), matrix.astype(dtype), entity)
    _write_provenance(stem, settings, matrix, dtype, failed)
    partial.remove()
    return Extracted(
        stem.name.rpartition(".")[2], file, len(kept), int(matrix.shape[-1]), failed, seconds if done else 0.0
    )


def _read(content: Content, entry: Any) -> tuple[Any, str | None]:
    try:
        return content.read(entry), None
    except ValueError as error:
        return None, str(error)


def _vectors(model: Encoder, inputs: list[Any], done: int, total: int) -> np.ndarray:
    """Vectors of an encoder, which may be the user's own."""
    try:
        vectors = np.asarray(model.encode(inputs), dtype=np.float32)
    except Exception as error:  # whatever a library, a device or the user's own encoder raises
        raise RuntimeError(
            f"The encoder {model.name} failed ({type(error).__name__}: {error}). The first {done:,} of {total:,} "
            "vectors are kept; the same call goes on from there."
        ) from error
    n = len(inputs)
    if vectors.ndim not in (2, 3) or len(vectors) != n or vectors.shape[-1] != model.dim:
        raise ValueError(
            f"The encoder {model.name} gave an array of shape {vectors.shape} for {n} inputs; expected "
            f"({n}, {model.dim})."
        )
    bad = int((~np.isfinite(vectors.reshape(n, -1)).all(axis=1)).sum())
    if bad:
        raise ValueError(f"The encoder {model.name} gave NaN or infinite values for {bad} of {n} inputs.")
    return vectors


def _write(stem: Path, ids: np.ndarray, matrix: np.ndarray, entity: str) -> Path:
    """The feature file, whole or not at all, in the place of one in another format."""
    remove_abandoned(stem.parent)
    prefix = f".{stem.name}.{owner()}-"
    with tempfile.TemporaryDirectory(dir=stem.parent, prefix=prefix, suffix=".tmp") as folder:
        with writing(stem, Path(folder)):
            written = write_vectors(Path(folder) / stem.name, ids, matrix, entity)
            new = sorted(Path(folder).iterdir())
            for file in new:
                sync(file)
        if len(new) > 1:  # a matrix with the ids of another one would be read without a word
            stem.with_name(f"{stem.name}.npy").unlink(missing_ok=True)
        for file in new:  # .ids before .npy
            os.replace(file, stem.with_name(file.name))
    for suffix in {"npz", "npy", "ids", "parquet"} - {file.suffix[1:] for file in new}:
        stem.with_name(f"{stem.name}.{suffix}").unlink(missing_ok=True)
    return stem.with_name(written.name)


def _write_provenance(
    stem: Path, settings: dict[str, Any], matrix: np.ndarray, dtype: str, failed: dict[str, str]
) -> None:
    versions = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            continue
    note = {
        **settings,
        "shape": list(matrix.shape),
        "dtype": dtype,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions,
        "failed": failed,
    }
    write_atomically(stem.with_name(f"{stem.name}.json"), json.dumps(note, indent=1, ensure_ascii=False) + "\n")
