"""Damaged files of every kind: nothing but our errors comes out, and nothing is left half-written."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recbole_mm.config import read_options
from recbole_mm.data.atomic import check_atomic, check_numbers
from recbole_mm.data.features.files import FeatureFile
from recbole_mm.trainer.checkpoint import FORMAT, read_checkpoint, write_checkpoint

BOUNDED = settings(
    max_examples=30, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
ATOMIC = b"user_id:token\titem_id:token\trating:float\nu1\ti1\t3\nu2\ti2\t4.5\n"
YAML = b"epochs: 3\neval_args: {split: {RS: [8, 1, 1]}, order: RO}\nmetrics: [Recall, NDCG]\n"


def _npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


FEATURES = _npz(id=np.array(["a", "b", "c"]), feature=np.eye(3, dtype=np.float32), count=np.ones(3, dtype=np.int64))


def _checkpoint() -> bytes:
    content = {"config": {"model": "BPR", "dataset": "x"}, "epoch": 1, "state_dict": {"weight": torch.ones(2, 3)}}
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **content}, buffer)
    return buffer.getvalue()


CHECKPOINT = _checkpoint()


@st.composite
def damaged(draw: Any, content: bytes) -> bytes:
    """A file that was cut off, has other bytes in places, or lost or gained a part."""
    kind = draw(st.sampled_from(["cut", "bytes", "lost", "gained", "other"]))
    place = draw(st.integers(0, len(content)))
    piece = draw(st.binary(min_size=1, max_size=12))
    if kind == "cut":
        return content[:place]
    if kind == "bytes":
        return content[:place] + piece + content[place + len(piece) :]
    if kind == "lost":
        return content[:place] + content[place + draw(st.integers(1, 40)) :]
    return content[:place] + piece + content[place:] if kind == "gained" else piece


@BOUNDED
@given(damaged(ATOMIC))
def test_atomic_files(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "shop.inter"
        file.write_bytes(content)
        try:
            check_atomic(file, needed=[("user_id", "USER_ID_FIELD")])
            check_numbers(file, "\t", "utf-8", " ")
        except ValueError as error:
            assert "shop.inter" in str(error)


@BOUNDED
@given(damaged(FEATURES))
def test_feature_files(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "shop.item.image.npz"
        path.write_bytes(content)
        file = FeatureFile("item", "image", path)
        try:
            file.tokens()
            file.matrix()
        except ValueError as error:
            assert "shop.item.image.npz" in str(error)


@BOUNDED
@given(damaged(YAML))
def test_option_files(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "options.yaml"
        file.write_bytes(content)
        try:
            assert isinstance(read_options(file), dict)
        except ValueError as error:
            assert "options.yaml" in str(error)


@BOUNDED
@given(damaged(CHECKPOINT))
def test_checkpoints(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "model.pth"
        file.write_bytes(content)
        try:
            assert "state_dict" in read_checkpoint(file)
        except ValueError as error:
            assert "model.pth" in str(error)


@BOUNDED
@given(
    st.recursive(st.none() | st.integers() | st.text(max_size=5) | st.builds(object), lambda x: st.lists(x, max_size=3))
)
def test_what_cannot_be_written_leaves_the_file_of_before(content: Any) -> None:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "model.pth"
        file.write_bytes(CHECKPOINT)
        try:
            write_checkpoint({"config": {}, "epoch": 1, "state_dict": {}, "extra": content}, file)
        except (OSError, TypeError, ValueError, pickle.PicklingError):
            assert file.read_bytes() == CHECKPOINT
        assert [path.name for path in Path(folder).iterdir()] == ["model.pth"]
