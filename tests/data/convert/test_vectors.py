"""Vectors that exist already, in each of the forms that an import takes."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from recbole_mm.data.convert.vectors import read_vectors

IDS = ["007", "1e5", "b"]
MATRIX = np.arange(6, dtype=np.float32).reshape(3, 2)


@pytest.fixture
def source(tmp_path):
    def write(form):
        file = tmp_path / "emb"
        if form == "folder":
            file.mkdir()
            for token, row in zip(IDS, MATRIX):
                np.save(file / f"{token}.npy", row)
            return str(file)
        if form == "npz":
            np.savez(tmp_path / "emb.npz", id=np.array(IDS), feature=MATRIX)
            return str(tmp_path / "emb.npz")
        if form == "parquet":
            frame = pd.DataFrame({"item_id": IDS, "embedding": [row.tolist() for row in MATRIX]})
            frame.to_parquet(tmp_path / "emb.parquet")
            return f"{tmp_path / 'emb.parquet'}:embedding"
        if form.startswith("unisrec"):
            start = int(form[-1])
            padding = np.zeros((start, 2), dtype=np.float32)
            np.concatenate([padding, MATRIX]).tofile(tmp_path / "emb.feat1CLS")
            index = {token: start + row for row, token in enumerate(IDS)}
            (tmp_path / "emb.item2index").write_text("".join(f"{token}\t{row}\n" for token, row in index.items()))
            return str(tmp_path / "emb.feat1CLS")
        if form == "data_maps":
            MATRIX.tofile(tmp_path / "emb.feat1CLS")
            (tmp_path / "emb.data_maps").write_text(json.dumps({"item2id": {"[PAD]": 0, "007": 1, "1e5": 2, "b": 3}}))
            return str(tmp_path / "emb.feat1CLS")
        np.save(tmp_path / "emb.npy", MATRIX)
        (tmp_path / "emb.txt").write_text("item_id:token\n" + "\n".join(IDS) + "\n")
        return f"{tmp_path / 'emb.npy'},{tmp_path / 'emb.txt'}"

    return write


@pytest.mark.parametrize("form", ["npy", "npz", "folder", "parquet", "unisrec0", "unisrec1", "data_maps"])
def test_every_form_gives_the_same_vectors(form, source):
    ids, matrix, count = read_vectors("image", source(form))
    assert count is None
    assert dict(zip(ids.tolist(), matrix.tolist())) == dict(zip(IDS, MATRIX.tolist()))


def test_what_does_not_fit_is_refused(source, tmp_path):
    text = source("npy")
    (tmp_path / "emb.txt").write_text("007\n")
    np.arange(7, dtype=np.float32).tofile(tmp_path / "odd.feat1CLS")
    (tmp_path / "odd.item2index").write_text("a\t0\nb\t1\n")
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 and nothing more PAR1")
    (tmp_path / "empty").mkdir()
    for given, words in [
        (text, "an? id for each row|one id for each row"),
        (str(tmp_path / "odd.feat1CLS"), "do not fill 2 rows"),
        ("x.bin", "MATRIX.npy,IDS.txt"),
        (f"{tmp_path / 'damaged.parquet'}:v", r"damaged\.parquet cannot be read"),
    ]:
        with pytest.raises(ValueError, match=words):
            read_vectors("image", given)
    for given in (str(tmp_path / "empty"), "none.npy,none.txt", str(tmp_path / "none.feat1CLS")):
        with pytest.raises(FileNotFoundError):
            read_vectors("image", given)
