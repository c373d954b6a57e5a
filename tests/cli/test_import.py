"""``import``: from a table of clicks to a trained model, in the shell."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recbole_mm.cli.import_tables import _conditions, _pairs
from recbole_mm.cli.main import COMMANDS, main
from recbole_mm.cli.request import CommandLineError, parse

TRAIN = ["--epochs=1", "--use_gpu=False", "--show_progress=False", "--embedding_size=8", "--state=ERROR"]


@pytest.fixture(autouse=True)
def _program(monkeypatch):
    monkeypatch.setattr("sys.argv", ["run_recbole_mm.py"])


@pytest.fixture
def shop(tmp_path):
    """Clicks of 20 users on 15 products with names of columns that nobody guesses, and two kinds of vectors."""
    generator = np.random.default_rng(3)
    rows = [(user, item, day) for user in range(20) for day, item in enumerate(generator.permutation(15)[:8], 1)]
    lines = [f"c{user};p{item};{day:02}.05.2024" for user, item, day in rows]
    Path("clicks.csv").write_text("\n".join(["kunde;artikel;wann", *lines, ""]), encoding="utf-8")
    products = [f"p{item},{item + 0.5},red bag {item}" for item in range(15)]
    Path("products.csv").write_text("\n".join(["artikel,price,title", *products, ""]), encoding="utf-8")
    Path("ids.txt").write_text("\n".join(f"p{item}" for item in range(15)) + "\n", encoding="utf-8")
    np.save("emb.npy", generator.normal(size=(15, 4)).astype(np.float32))
    np.savez("text.npz", id=np.array([f"p{item}" for item in range(15)]), feature=generator.normal(size=(15, 3)))
    return ["--interactions=clicks.csv", "--user=kunde", "--item=artikel", "--time=wann", "--time_format=%d.%m.%Y"]


def test_from_a_table_to_a_trained_model(shop, capsys):
    vectors = ["--vectors=image=emb.npy,ids.txt", "--vectors", "text=text.npz"]
    arguments = [*shop, "--items=products.csv", "--types=price=float title=text", *vectors, "--data_path=sets"]
    assert main(["import", "shop", *arguments]) == 0
    text = capsys.readouterr().out
    assert "shop: 20 users, 15 items, 160 interactions" in text and "price float" in text and "title text" in text
    assert "vectors image: 15 x 4, 15 of 15" in text and "vectors text: 15 x 3, 15 of 15" in text
    command = shlex.split(text.split("train with it: ")[1])
    assert command[2:] == ["--model=MMGCN", "--dataset=shop", "--data_path=sets"]
    assert main([*command[2:], *TRAIN]) == 0
    assert "MMGCN on shop" in capsys.readouterr().out
    # A second import must be asked for; then it is done.
    assert main(["import", *shop, "shop", "--data_path=sets"]) == 2
    assert "--replace" in capsys.readouterr().err
    assert main(["import", *shop, "--replace", "shop", "--data_path=sets"]) == 0
    assert "--model=LightGCN --dataset=shop" in capsys.readouterr().out  # without vectors


def test_texts_of_items_users_and_reviews_are_proposed_to_extract(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    users, items = ([f"{entity}{k}" for k in range(12)] for entity in "ui")
    said = [f"sentence number {k}" for k in range(12)]
    pd.DataFrame({"user": users, "item": items, "comment": said}).to_csv("clicks.csv", index=False)
    photos = [f"{k}.jpg" for k in range(12)]
    pd.DataFrame({"item": items, "title": said, "photo": photos}).to_csv("products.csv", index=False)
    pd.DataFrame({"user": users, "about": said}).to_csv("users.csv", index=False)
    tables = ["--interactions=clicks.csv", "--items=products.csv", "--users=users.csv", "--reviews=comment"]
    assert main(["import", "shop", *tables]) == 0
    proposed = re.findall("make features of it: .* extract shop (.*)", capsys.readouterr().out)
    assert proposed == ["--text=title", "--entity=user --text=about", "--entity=inter --text=comment"]


def test_every_argument_reaches_the_import(monkeypatch, capsys):
    seen = {}

    def record(name, **arguments):
        seen.update(arguments, name=name)
        return type("Report", (), {"name": name, "columns": {}, "vectors": {}, "__str__": lambda self: "the report"})()

    monkeypatch.setattr("recbole_mm.data.convert.tables.import_tables", record)
    parts = ["--train=a.csv", "--valid=b.csv", "--test=c.csv", "--users=u.csv", "--rating=r", "--label=l"]
    ways = ["--header=who, what", "--separator=tab", "--duplicates=last", "--drop_unseen", "--keep=event=a|b"]
    assert main(["import", *parts, "shop", *ways]) == 0
    assert "the report" in capsys.readouterr().out
    assert (seen["name"], seen["train"], seen["valid"], seen["test"]) == ("shop", "a.csv", "b.csv", "c.csv")
    assert (seen["users"], seen["rating"], seen["label"], seen["interactions"]) == ("u.csv", "r", "l", None)
    assert (seen["header"], seen["separator"], seen["duplicates"]) == (["who", "what"], "\t", "last")
    assert seen["keep"] == {"event": ["a", "b"]}
    assert seen["drop_unseen"] and not seen["replace"] and seen["data_path"] == "dataset"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Which name"),
        (["shop"], "Which clicks?"),
        (["shop", "--interactions=no.csv"], "no.csv"),
        (["shop", "other"], "'other' belongs to no argument"),
        (["a/b", "--interactions=clicks.csv"], "no name for a data set"),
        (["shop", "--vectors=emb.npy"], "--vectors: expected NAME=VALUE"),
        (["shop", "--types=price=a price=b"], "price is given twice"),
        (["shop", "--interactions=clicks.csv", "--keep=kunde"], "--keep: expected COLUMN=VALUE or COLUMN=VALUE|VALUE"),
        (["shop", "--interactions=clicks.csv", "--keep=kunde=c1", "--keep=kunde=c2"], "kunde is given twice"),
        (
            ["shop", "--interactions=clicks.csv", *["--user=kunde", "--item=artikel", "--keep=kunde=c99"]],
            "no row has 'c99'",
        ),
        (["shop", "--layout=unisrec", "--source=.", "--keep=a=b"], "--keep does nothing with --layout=unisrec"),
        (["shop", "--epochs=3"], "import has no argument --epochs"),
        (["shop", "--replace=yes"], "--replace takes no value"),
        (["shop", "--interactions=clicks.csv", "--user=x"], "'x'"),
    ],
)
def test_mistakes_end_in_a_message(shop, arguments, message, capsys):
    assert main(["import", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_pairs():
    assert _pairs("image=a.npy,ids.txt text=my files/b.npz", "vectors") == {
        "image": "a.npy,ids.txt",
        "text": "my files/b.npz",
    }
    assert _pairs("", "types") == {}
    assert _pairs("image=a.npy,ids.txt\ntext=b c.npz", "vectors") == {"image": "a.npy,ids.txt", "text": "b c.npz"}
    with pytest.raises(CommandLineError, match="the name without a blank, got 'wide'"):
        _pairs("pic=emb.npy,ids.txt\nwide 5000=wide.npz", "vectors")


def test_conditions():
    assert _conditions("") == {}
    assert _conditions("event type = add to cart | like,source=web\nday=1") == {
        "event type": ["add to cart", "like"],
        "source": ["web"],
        "day": ["1"],
    }
    assert _conditions("genre=Drama, Comedy|a=b,x=y") == {"genre": ["Drama, Comedy", "a=b"], "x": ["y"]}
    for wrong in ("event", "event=", "=a", "event=a|", "event=a||b"):
        with pytest.raises(CommandLineError, match="expected COLUMN=VALUE"):
            _conditions(wrong)


def test_rows_are_kept_by_what_stands_in_a_column(shop, capsys):
    assert main(["import", "shop", *shop, "--keep=kunde=c1|c2,wann=01.05.2024|02.05.2024"]) == 0
    text = capsys.readouterr().out
    assert "shop: 2 users" in text and "4 interactions" in text and "keep kunde: c1 8, c2 8; others are " in text


def test_one_word_without_a_key():
    known = {name: flag for group in COMMANDS["import"].FLAGS.values() for name, flag in group.items()}
    for arguments in (["shop", "--items", "a b", "--replace"], ["--items", "a b", "--replace", "shop"]):
        assert parse(arguments, known, "import", "NAME").flags == {"NAME": "shop", "items": "a b", "replace": ""}
    with pytest.raises(CommandLineError, match="belongs to no argument"):
        parse(["shop"], known)
