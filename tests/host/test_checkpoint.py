"""Checkpoint files: names, contents, faults while writing and reading, and the data that they belong to."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from recbole.quick_start import load_data_and_model
from recbole.utils import get_local_time

import recbole_mm
from recbole_mm.files import replacing, write_atomically
from recbole_mm.plain import from_plain, to_plain
from recbole_mm.serving.convert import main as convert
from recbole_mm.serving.export import export, load
from recbole_mm.trainer.checkpoint import read_checkpoint
from tests.options import QUICK


class Payload:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("run-by-the-file",)


@pytest.fixture
def shop(tmp_path):
    """A small data set with a feature file; returns a function that writes its lines."""
    generator = np.random.default_rng(0)
    folder = tmp_path / "ds" / "shop"
    folder.mkdir(parents=True)
    lines = [f"u{user}\ti{item}" for user in range(40) for item in generator.choice(50, 10, replace=False)]

    def write(rows, seed=0):
        (folder / "shop.inter").write_text("user_id:token\titem_id:token\n" + "\n".join(rows) + "\n")
        feature = np.random.default_rng(seed).normal(size=(50, 8)).astype("float32")
        np.savez(folder / "shop.item.image.npz", id=np.array([f"i{i}" for i in range(50)]), feature=feature)

    write(lines)
    write.lines = lines
    return write


def train(model="MMGCN", **options):
    settings = {**QUICK, "epochs": 1, "data_path": "ds", **options}
    return recbole_mm.run(model, "shop", config_dict=settings)["checkpoint"]


def test_names_of_one_second_differ():
    assert len({get_local_time() for _ in range(50)}) == 50


def test_plain_data_that_recbole_understands(trained):
    for model in ("MMGCN", "EASE", "Pop", "ItemKNN"):
        file = trained(model)
        content = torch.load(file, weights_only=True)
        assert content["config"]["model"] == model and content["fingerprint"]["ids"]["item_id"]
        config, loaded, _, _, _, test_data = load_data_and_model(file)
        ours = load(file)
        interaction = next(iter(test_data))[0]
        assert torch.equal(loaded.eval().full_sort_predict(interaction), ours[1].eval().full_sort_predict(interaction))
        assert config["MODEL_TYPE"].name == content["config"]["MODEL_TYPE"]


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, (2.5, None)], 3: {4, 5}},
        np.arange(6, dtype=np.uint32).reshape(2, 3),
        np.array(["x", "yy"]),
        sp.random(5, 4, 0.5, format="csr", random_state=0),
        sp.coo_matrix(np.eye(3)),
        sp.random(4, 4, 0.5, format="lil", random_state=0),
    ],
)
def test_plain_values_come_back(value, tmp_path):
    torch.save(to_plain(value), tmp_path / "value")
    back = from_plain(torch.load(tmp_path / "value", weights_only=True))
    if sp.issparse(value):
        assert type(back) is type(value) and np.array_equal(back.toarray(), value.toarray())
    elif isinstance(value, np.ndarray):
        assert back.dtype == value.dtype and np.array_equal(back, value)
    else:
        assert back == value


def test_nothing_in_a_file_is_executed(trained, tmp_path, capsys):
    content = torch.load(trained("BPR"), weights_only=True)
    for protocol in (2, 4):
        torch.save({**content, "config": Payload()}, "bad.pth", pickle_protocol=protocol)
        for act in (load, export, lambda file: recbole_mm.run("BPR", "mm-toy", config_dict=QUICK, resume=file)):
            with pytest.raises(ValueError, match="runs code when it is read .*convert it once|give a file"):
                act("bad.pth")
        assert convert(["bad.pth"]) == 1 and "--trust" in capsys.readouterr().err
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        load("plain.pth")
    assert not Path("run-by-the-file").exists()


def test_a_pickle_of_recboles_is_converted(trained):
    content = torch.load(trained("BPR"), weights_only=True)
    config = load(trained("BPR"))[0]
    old = {key: content[key] for key in ("epoch", "cur_step", "best_valid_score", "state_dict", "optimizer")}
    torch.save({**old, "config": config, "other_parameter": {}}, "old.pth", pickle_protocol=4)
    with pytest.raises(ValueError, match="convert it once"):
        load("old.pth")
    assert convert(["old.pth", "--output", "new.pth", "--trust"]) == 0
    model, expected = load("new.pth")[1], content["state_dict"]
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"", "it is empty"),
        (lambda data: data[: len(data) // 2], "it was cut off"),
        (lambda data: b"text" + data[:9], "no archive"),
        (lambda data: data.replace(b"data.pkl", b"data.pxl"), "it is damaged"),
    ],
)
def test_damaged_files(trained, damage, message):
    Path("x.pth").write_bytes(damage(Path(trained("BPR")).read_bytes()))
    with pytest.raises(ValueError, match=message):
        export("x.pth", "top.csv")


def test_one_other_bit_is_noticed(trained):
    """Torch reads it without a word, and so would every list be of other parameters."""
    file = Path(trained("BPR"))
    content = file.read_bytes()
    parameter = torch.load(file, weights_only=True)["state_dict"]["item_embedding.weight"]
    place = content.index(parameter.numpy().tobytes()) + 400
    Path("bit.pth").write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    assert torch.load("bit.pth", weights_only=True)["epoch"] >= 0
    for read in (read_checkpoint, load_data_and_model):
        with pytest.raises(ValueError, match=r"bit\.pth cannot be read .* has other bytes than were written"):
            read("bit.pth")


def test_a_folder_and_a_checkpoint_with_a_missing_part(trained):
    Path("folder.pth").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        load("folder.pth")
    content = torch.load(trained("BPR"), weights_only=True)
    del content["state_dict"]["user_embedding.weight"]
    torch.save(content, "less.pth")
    with pytest.raises(ValueError, match="does not fit BPR"):
        load("less.pth")
    del content["state_dict"]
    torch.save(content, "none.pth")
    with pytest.raises(ValueError, match="has no state_dict"):
        load("none.pth")


@pytest.mark.parametrize(
    ("edit", "part"),
    [
        (lambda made: made.update(config=3), "config"),
        (lambda made: made["config"].pop("model"), r"config\[model\]"),
        (lambda made: made["config"].update(data_path=None), r"config\[data_path\]"),
        (lambda made: made.update(options=[1]), "options"),
        (lambda made: made.update(fingerprint=3), "fingerprint"),
        (lambda made: made["fingerprint"].update(ids=3), r"fingerprint\[ids\]"),
        (lambda made: made["fingerprint"].update(columns=[]), r"fingerprint\[columns\]"),
        (lambda made: made.update(training=3), "training"),
        (lambda made: made.update(epoch="x"), "epoch"),
    ],
)
def test_an_edited_checkpoint_names_the_part(edit, part, trained):
    content = torch.load(trained("BPR"), weights_only=True)
    edit(content)
    torch.save(content, "edited.pth")
    with pytest.raises(ValueError, match=f"edited.pth was damaged or changed: {part} is not what was written"):
        read_checkpoint("edited.pth")


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda made: made["training"].update(optimizers=3), "the state of the training in it cannot be put back"),
        (lambda made: made.update(cur_step=None), "cannot be put back"),
        (lambda made: made.update(format="recbole_mm 99"), "has the format 'recbole_mm 99', which another version"),
    ],
)
def test_an_edited_state_is_not_gone_on_with(edit, words, trained):
    content = torch.load(trained("BPR"), weights_only=True)
    edit(content)
    torch.save(content, "edited.pth")
    with pytest.raises(ValueError, match=words):
        recbole_mm.run("BPR", "mm-toy", config_dict={**QUICK, "epochs": 3}, resume="edited.pth")


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 142848 vs 142736. "),
    ],
)
def test_a_full_disk_leaves_the_previous_file(error, trained, monkeypatch):
    shutil.copy(trained("BPR"), "x.pth")
    before = Path("x.pth").read_bytes()

    def full(content, file):
        Path(file).write_bytes(b"half")
        raise error

    from recbole_mm.host.checkpoint import set_options

    monkeypatch.setattr(torch, "save", full)
    said = r"x\.pth could not be written \((No space|the disk took only).*what was there before is kept"
    with pytest.raises(OSError, match=said):
        set_options("x.pth", {"seed": 1})
    assert Path("x.pth").read_bytes() == before and sorted(os.listdir()) == ["x.pth"]


def test_files_are_written_whole(tmp_path):
    write_atomically(tmp_path / "new" / "a.txt", "one")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "new" / "a.txt") as beside:
        beside.write_text("half")
        raise ZeroDivisionError
    assert os.listdir(tmp_path / "new") == ["a.txt"] and (tmp_path / "new" / "a.txt").read_text() == "one"


def test_other_data_are_refused(shop):
    file = train()
    for rows, seed, message in (
        (shop.lines[::-1], 0, "the values of .* have other internal ids"),
        ([*shop.lines, "u1\ti1", "u2\ti2", "u3\ti3"], 0, "the training part has other interactions"),
        (shop.lines, 1, "the feature file shop.item.image.npz has another content"),
    ):
        shop(rows, seed)
        for act in (load, load_data_and_model):
            with pytest.raises(ValueError, match=message):
                act(file)
        with pytest.raises(ValueError, match=message):
            recbole_mm.run("MMGCN", "shop", config_dict={**QUICK, "data_path": "ds", "epochs": 3}, resume=file)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("item", "the column price of the items has other values"),
        ("user", "the column age of the users has other values"),
        ("inter", "the column rating of the training rows has other values"),
    ],
)
def test_other_columns_are_refused(file, message, shop):
    """Attributes that a model reads beside the ids, of products whose order stays the same."""
    price = {f"i{item}": 2.5 * item for item in range(50)}
    age = {f"u{user}": 20 + user for user in range(40)}

    def write(sign=1, rows=shop.lines, changed=""):
        for name, column, values in (("item", "price", price), ("user", "age", age)):
            lines = [f"{key}\t{(sign if changed == name else 1) * value}" for key, value in values.items()]
            Path(f"ds/shop/shop.{name}").write_text("\n".join([f"{name}_id:token\t{column}:float", *lines]) + "\n")
        factor = sign if changed == "inter" else 1
        lines = [f"{row}\t{factor * (number % 5)}" for number, row in enumerate(rows)]
        Path("ds/shop/shop.inter").write_text("\n".join(["user_id:token\titem_id:token\trating:float", *lines]) + "\n")

    write()
    columns = {"inter": ["user_id", "item_id", "rating"], "item": "*", "user": "*"}
    trained = train("BPR", load_col=columns)
    assert load(trained)[2].user_num == 41
    write(-1, changed=file)
    for act in (load, load_data_and_model):
        with pytest.raises(ValueError, match=message):
            act(trained)


def test_another_test_part_is_a_warning(shop, caplog):
    lines = [line for line in Path("ds/shop/shop.inter").read_text().splitlines() if line]
    for name, rows in (("train", lines[1:300]), ("valid", lines[300:350]), ("test", lines[350:])):
        Path(f"ds/shop/shop.{name}.inter").write_text("\n".join([lines[0], *rows]) + "\n")
    file = train("BPR", benchmark_filename=["train", "valid", "test"])
    load(file)
    assert "The test part has other interactions" not in caplog.text
    Path("ds/shop/shop.test.inter").write_text("\n".join([lines[0], *lines[350:-5]]) + "\n")
    load(file)
    assert "The test part has other interactions than when" in caplog.text


def test_the_order_of_rows_with_one_pair_does_not_matter():
    from types import SimpleNamespace

    from recbole.data.interaction import Interaction

    from recbole_mm.data.fingerprint import _columns, _Sorter

    def columns(rows, columns=("u", "i", "rating", "item_length", "i_list")):
        table = {name: torch.tensor([row[place] for row in rows]) for place, name in enumerate(columns)}
        config = {"LIST_SUFFIX": "_list", "ITEM_LIST_LENGTH_FIELD": "item_length"}
        named = {"uid_field": "u", "iid_field": "i", "user_feat": None, "item_feat": None, "config": config}
        return _columns(SimpleNamespace(inter_feat=Interaction(table), **named))

    rows = [(1, 2, 5.0, 3, [1, 2]), (1, 2, 4.0, 3, [2, 1]), (2, 1, 3.0, 3, [0, 0])]
    generator = np.random.default_rng(0)
    for n_users in (3, 100_000):  # pairs that repeat, and pairs that hardly do
        users, items = generator.integers(0, n_users, 3000), generator.integers(0, 3, 3000)
        for values in (generator.integers(-2, 3, 3000) / 2, np.where(users % 5, generator.random(3000), np.nan)):
            values = values.astype(np.float32)
            whole = values[np.lexsort((values, items, users))]
            assert _Sorter(users, items)(values).tobytes() == whole.tobytes()
    assert columns(rows) == columns(rows[::-1]) and list(columns(rows)) == ["train.rating"]
    assert columns(rows) != columns([(1, 2, 5.0, 3, [1, 2]), (1, 2, 3.0, 3, [2, 1]), (2, 1, 4.0, 3, [0, 0])])


@pytest.mark.parametrize(
    "command", ["export --export=a.csv --checkpoint={}", "train --epochs=3 --data_path=ds --resume={}"]
)
def test_a_modality_that_is_gone_is_named_on_the_command_line(command, shop, monkeypatch, capsys):
    from recbole_mm.cli.main import main

    file = train()
    monkeypatch.setattr("sys.argv", ["recbole-mm"])
    os.rename("ds/shop/shop.item.image.npz", "ds/shop/shop.item.picture.npz")
    assert main(command.format(file).split()) == 2
    error = capsys.readouterr().err
    assert "unknown modality 'image'" in error and "files of the modalities that it was trained with" in error


def test_modalities_are_those_of_the_training(shop):
    file = train()
    shutil.copy("ds/shop/shop.item.image.npz", "ds/shop/shop.item.text.npz")
    assert list(load(file)[1].features) == ["image"]
    os.remove("ds/shop/shop.item.image.npz")
    with pytest.raises(ValueError, match="unknown modality 'image'"):
        load(file)


def test_moving_house(shop, tmp_path, monkeypatch):
    file = Path(train()).resolve()
    (tmp_path / "away").mkdir()
    monkeypatch.chdir(tmp_path / "away")
    places = {"data_path": str(tmp_path / "ds"), "eval_memory_mb": 64}
    assert export(file, "top.csv", places=places, progress=False)["users"] == 40
    with pytest.raises(ValueError, match="has its own options already, embedding_size"):
        load(file, {**places, "embedding_size": 7})


def test_packaged_data_are_found_where_the_package_is(trained):
    content = torch.load(trained("BPR"), weights_only=True)
    content["config"]["data_path"] = "/home/somebody/else/dataset_atomic/mm-toy"
    torch.save(content, "moved.pth", pickle_protocol=4)
    assert load("moved.pth")[2].user_num == 121
    assert read_checkpoint("moved.pth")["config"]["no such option"] is None
