"""The layout of the UniSRec family, written by hand: ids, histories, vectors, and what does not belong together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from recbole.config import Config
from recbole.data import create_dataset, data_preparation

from recbole_mm.cli.main import main
from recbole_mm.data.convert.unisrec_dataset import from_unisrec
from recbole_mm.data.features.files import FeatureFile

ITEMS = ["B0a", "B0b", "B0c", "B0d"]
VECTORS = np.arange(12, dtype=np.float32).reshape(4, 3)
#: User, history and next item, by number.
ROWS = {
    "train": [(0, [0], 1), (0, [0, 1], 2), (1, [3], 2)],
    "valid": [(0, [0, 1, 2], 3), (1, [3, 2], 0)],
    "test": [(0, [0, 1, 2, 3], 0), (1, [3, 2, 0], 1)],
}


def write(folder: Path, raw: bool = False, maps: bool = False) -> Path:
    """A folder whose rows have numbers, or raw ids; with two index files, or ``.data_maps``."""
    folder.mkdir()
    start = 1 if maps else 0
    item, user = (
        (lambda i: ITEMS[i]) if raw else (lambda i: str(i + start)),
        lambda u: f"A{u}" if raw else str(u + start),
    )
    for part, rows in ROWS.items():
        lines = [f"{user(u)}\t{' '.join(item(i) for i in history)}\t{item(i)}" for u, history, i in rows]
        head = "user_id:token\titem_id_list:token_seq\titem_id:token"
        (folder / f"Shop.{part}.inter").write_text("\n".join([head, *lines, ""]))
    if maps:
        table = {
            "user2id": {"[PAD]": 0, "A0": 1, "A1": 2},
            "item2id": {"[PAD]": 0} | {t: k + 1 for k, t in enumerate(ITEMS)},
        }
        (folder / "Shop.data_maps").write_text(json.dumps(table))
    else:
        (folder / "Shop.item2index").write_text("".join(f"{token}\t{k}\n" for k, token in enumerate(ITEMS)))
        (folder / "Shop.user2index").write_text("A0\t0\nA1\t1\n")
    VECTORS.tofile(folder / "Shop.feat1CLS")
    (VECTORS + 100).tofile(folder / "Shop.feat2CLS")
    return folder


@pytest.mark.parametrize(("raw", "maps"), [(False, False), (True, False), (False, True), (True, True)])
def test_rows_get_raw_ids_and_vectors_their_items(tmp_path, raw, maps):
    from_unisrec(write(tmp_path / "raw", raw, maps), tmp_path, "shop")
    folder = tmp_path / "shop"
    assert (folder / "shop.valid.inter").read_text().splitlines() == [
        "user_id:token\titem_id_list:token_seq\titem_id:token", "A0\tB0a B0b B0c\tB0d", "A1\tB0d B0c\tB0a",
    ]  # fmt: skip
    assert (folder / "shop.inter").read_text().splitlines()[1:] == [
        "A0\tB0a\t0", "A0\tB0b\t1", "A0\tB0c\t2", "A0\tB0d\t3",
        "A1\tB0d\t0", "A1\tB0c\t1", "A1\tB0a\t2", "A1\tB0b\t3",
    ]  # fmt: skip
    for modality, shift in (("text", 0), ("text_dropped", 100)):
        file = FeatureFile("item", modality, folder / f"shop.item.{modality}.npz")
        tokens, matrix = file.tokens()[0].tolist(), file.matrix().read(np.arange(4))
        for token, row in zip(ITEMS, VECTORS + shift):
            assert matrix[tokens.index(token)].tolist() == row.tolist()


def test_recbole_reads_the_split_that_came_with_it(tmp_path):
    from_unisrec(write(tmp_path / "raw"), tmp_path, "shop")
    settings = yaml.safe_load((tmp_path / "shop" / "shop.yaml").read_text())
    options = {**settings, "data_path": str(tmp_path), "state": "ERROR", "MAX_ITEM_LIST_LENGTH": 5, "use_gpu": False}
    config = Config(model="SASRecContent", dataset="shop", config_dict=options)
    train, _, test = data_preparation(config, create_dataset(config))
    data = train.dataset
    found = set()
    tokens = data.field2id_token["item_id"]
    for row in range(len(data.inter_feat)):
        rows = data.inter_feat[row]
        history = tokens[rows["item_id_list"][: int(rows["item_length"])].numpy()].tolist()
        user = data.id2token("user_id", int(rows["user_id"]))
        found.add((str(user), *history, str(tokens[int(rows["item_id"])])))
    assert found == {("A0", "B0a", "B0b"), ("A0", "B0a", "B0b", "B0c"), ("A1", "B0d", "B0c")}
    place = int(data.token2id("item_id", "B0c"))
    assert data.features.item["text"].feature[place].tolist() == VECTORS[2].tolist()
    assert list(data.features.item) == ["text"] and len(test.dataset.inter_feat) == 2


def test_the_command_says_whether_vectors_and_items_belong_together(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "raw")
    assert main(["convert", "unisrec", "raw", "dataset", "--name", "shop", "--width=3"]) == 0
    said = capsys.readouterr().out
    assert "Shop.feat1CLS: 4 rows of 3 numbers" in said and "text: alignment z" in said
    assert "--config_files=dataset/shop/shop.yaml" in said
    assert main(["convert", "unisrec", "raw", "dataset", "--name", "shop", "--width=4", "--force"]) == 1
    assert "12 numbers, and 4 items with vectors of width 4 make 16" in capsys.readouterr().err
    assert main(["convert", "unisrec", "raw", "dataset", "--name", "shop", "--width=wide", "--force"]) == 1
    assert "--width: expected a whole number" in capsys.readouterr().err


def _maps(folder: Path, content: str) -> None:
    (folder / "Shop.user2index").unlink()
    (folder / "Shop.data_maps").write_text(content)


@pytest.mark.parametrize("name", ["../shop", "a b", ".shop", ""])
def test_a_name_is_no_path(name, tmp_path):
    with pytest.raises(ValueError, match="is no name for a data set"):
        from_unisrec(write(tmp_path / "raw"), tmp_path / "target", name)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "Shop.valid.inter").unlink(), "Shop.valid.inter is missing"),
        (lambda folder: (folder / "Shop.item2index").unlink(), "has no ids"),
        (lambda folder: (folder / "Shop.feat1CLS").write_bytes(b"\0" * 20), "5 numbers do not fill 4"),
        (lambda folder: np.full(12, np.nan, np.float32).tofile(folder / "Shop.feat1CLS"), "NaN or infinite"),
        (lambda folder: (folder / "Shop.item2index").write_text("B0a\t0\nB0b\t1\n"), "'2' is neither"),
        (lambda folder: (folder / "Shop.user2index").write_text("A0 0\n"), "line 1: expected an id, a tab"),
        (lambda folder: (folder / "Shop.test.inter").write_text("user_id:token\n"), "no column item_id_list and"),
        (lambda folder: (folder / "Shop.test.inter").write_text(""), "Shop.test.inter is empty"),
        (
            lambda folder: (folder / "Shop.test.inter").write_text("user_id\titem_id_list\titem_id\n0\t1\n"),
            "Shop.test.inter, line 2: expected 3 values",
        ),
        (lambda folder: (folder / "Shop.item2index").write_bytes(b"B\xe9\t0\n"), "2index: expected text in UTF-8"),
        (lambda folder: (folder / "Shop.item2index").write_text("B\t²\n", encoding="utf-8"), "line 1: expected an id"),
        (lambda folder: _maps(folder, "[1]"), "Shop.data_maps: expected a JSON object with user2id"),
        (lambda folder: _maps(folder, '{"user2id": {"A0": "first"}}'), "a JSON object with user2id"),
        (lambda folder: (folder / "Two.train.inter").write_text(""), "expected exactly one <ds>.train.inter"),
    ],
)  # fmt: skip
def test_what_does_not_belong_together_is_refused_and_nothing_is_written(tmp_path, damage, message):
    folder = write(tmp_path / "raw")
    damage(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        from_unisrec(folder, tmp_path, "shop")
    assert not (tmp_path / "shop").exists()
