"""Data sets in the layouts of others, each as a tiny folder made by hand."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from recbole_mm.cli.main import main
from recbole_mm.data.convert.layouts import import_layout, read_layout
from recbole_mm.data.convert.published import LAYOUTS
from tests.data.convert.test_unisrec_dataset import write as unisrec_folder


@pytest.fixture(autouse=True)
def _program(monkeypatch):
    monkeypatch.setattr("sys.argv", ["run_recbole_mm.py"])


def write(folder, files):
    """Files of a folder: texts, bytes, or arrays for ``.npy``."""
    for name, content in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, np.ndarray):
            np.save(file, content)
        else:
            file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return folder


def read(kind):
    return pd.read_csv(f"dataset/d/d.{kind}", sep="\t", dtype=str, keep_default_na=False)


def review(user, item, time, rating):
    return json.dumps({
        "rating": rating, "title": "good", "text": "line\nbreak", "images": [], "asin": "x", "parent_asin": item,
        "user_id": user, "timestamp": time, "helpful_vote": 0, "verified_purchase": True,
    })  # fmt: skip


def product(item, title):
    return json.dumps(
        {
            "main_category": "Toys",
            "title": title,
            "average_rating": 4.5,
            "rating_number": 12,
            "features": ["soft", "red"],
            "description": ["A toy."],
            "price": "9.99",
            "images": [{"large": "u"}],
            "videos": [],
            "store": "S",
            "categories": ["Toys", "Soft Toys"],
            "details": {"a": "b"},
            "parent_asin": item,
            "bought_together": None,
        }
    )


@pytest.mark.parametrize("packed", [False, True])
def test_amazon_2023(packed, tmp_path):
    reviews = "\n".join(review(f"U{k}", f"B00{k % 2}", 1588687728923 + k, 5.0 - k) for k in range(3))
    meta = "\n".join([product("B000", "Bear"), product("B001", "Ball"), product("B000", "Bear again")])
    files = {"Toys.jsonl": reviews, "meta_Toys.jsonl": meta}
    if packed:
        files = {f"{name}.gz": gzip.compress(text.encode()) for name, text in files.items()}
    report, _ = import_layout("d", "amazon2023", write(tmp_path / "src", files))
    inter, item = read("inter"), read("item")
    assert inter["item_id:token"].tolist() == ["B000", "B001", "B000"]
    assert inter["timestamp:float"].tolist() == ["1588687728.923", "1588687728.924", "1588687728.925"]
    assert inter["rating:float"].tolist() == ["5", "4", "3"] and report.time_unit == "milliseconds"
    assert item["categories:token_seq"].tolist() == ["Toys Soft_Toys"] * 2
    assert not any(name.startswith(("average", "rating", "bought")) for name in item.columns)
    texts = pd.read_parquet("dataset/d/d.text.parquet")
    assert texts["title"].tolist() == ["Bear", "Ball"] and texts["features"][0] == "soft, red"


def test_amazon_2023_split(tmp_path):
    head = "user_id,parent_asin,rating,timestamp,history\n"
    files = {
        f"Toys.{part}.csv": f"{head}u,i{n},5.0,15886877289{n}0,\n" for n, part in enumerate(("train", "valid", "test"))
    }
    import_layout("d", "amazon2023", write(tmp_path / "src", files))
    assert read("valid.inter")["item_id:token"].tolist() == ["i1"]
    assert yaml.safe_load(Path("dataset/d/d.yaml").read_text())["benchmark_filename"] == ["train", "valid", "test"]


@pytest.mark.parametrize("titles", ['item,title\n1,"Cats, dogs"\n2,Sea\n', '1,"Cats, dogs"\n2,Sea\n'])
def test_microlens(titles, tmp_path):
    image = b"not looked at by the import"
    files = {
        "MicroLens-50k_pairs.csv": "user,item,timestamp\n7,1,1583378629552\n7,2,1583378629553\n8,1,1583378629554\n",
        "MicroLens-50k_titles.csv": titles,
        "MicroLens-50k_covers/1.jpg": image,
        "MicroLens-50k_covers/2.jpg": image,
    }
    _, found = import_layout("d", "microlens", write(tmp_path / "src", files))
    assert read("inter")["user_id:token"].tolist() == ["7", "7", "8"]
    assert pd.read_parquet("dataset/d/d.text.parquet")["title"].tolist() == ["Cats, dogs", "Sea"]
    assert found.pictures == str(tmp_path / "src/MicroLens-50k_covers/{item_id}.jpg")


MOVIELENS = {
    "latest": {
        "ratings.csv": "userId,movieId,rating,timestamp\n1,10,4.5,964982703\n2,20,3.0,964981247\n",
        "movies.csv": "movieId,title,genres\n10,\"Amélie, (2001)\",Comedy|Romance\n20,Heat (1995),Action|Drama\n",
    },
    "1m": {
        "ratings.dat": "1::10::4.5::964982703\n2::20::3::964981247\n",
        "movies.dat": "10::Amélie, (2001)::Comedy|Romance\n20::Heat (1995)::Action|Drama\n".encode("latin-1"),
        "users.dat": "1::F::1::10::48067\n2::M::56::16::02138\n",
    },
    "100k": {
        "u.data": "1\t10\t4.5\t964982703\n2\t20\t3\t964981247\n",
        "u.item": "10|Amélie, (2001)|1995||x|0|1\n20|Heat (1995)|1995||x|1|0\n".encode("latin-1"),
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", MOVIELENS)
def test_movielens(kind, tmp_path):
    posters = {"posters/10.png": b"x", "posters/20.jpg": b"x"}
    _, found = import_layout("d", "movielens", write(tmp_path / "src", {**MOVIELENS[kind], **posters}))
    inter = read("inter")
    assert inter["item_id:token"].tolist() == ["10", "20"] and inter["rating:float"].tolist() == ["4.5", "3.0"]
    assert pd.read_parquet("dataset/d/d.text.parquet")["title"].tolist() == ["Amélie, (2001)", "Heat (1995)"]
    if kind != "100k":
        assert read("item")["genres:token_seq"].tolist() == ["Comedy Romance", "Action Drama"]
    if kind == "1m":
        assert read("user")["zip:token"].tolist() == ["48067", "02138"]
    assert found.pictures.endswith("posters/{item_id}.*")


@pytest.mark.parametrize("split", [False, True])
def test_elliot_and_ducho(split, tmp_path):
    lines = [f"u{k % 3}\ti{k % 4}\t{k % 5 + 1}\t{1588687728 + k}\n" for k in range(12)]
    files = {"dataset.tsv": "".join(lines)}
    if split:
        files = {"train.tsv": "".join(lines[:8]), "val.tsv": lines[8], "test.tsv": lines[9]}
    for k in range(4):
        files[f"visual_embeddings/torch/ResNet50/avgpool/i{k}.npy"] = np.full((1, 3), k, dtype=np.float32)
        files[f"textual_embeddings/sentence/i{k}.npy"] = np.full(2, k, dtype=np.float32)
    report, _ = import_layout("d", "elliot", write(tmp_path / "src", files))
    assert report.interactions == (10 if split else 12)
    with np.load("dataset/d/d.item.image.npz") as image, np.load("dataset/d/d.item.text.npz") as text:
        assert image["feature"].shape == (4, 3) and text["feature"].shape == (4, 2)
        assert image["feature"][image["id"].tolist().index("i2")].tolist() == [2, 2, 2]
    write(tmp_path / "src", {"visual_embeddings/torch/VGG/x/i0.npy": np.ones(3)})
    with pytest.raises(ValueError, match="of 2 extractions.*vectors image=FOLDER"):
        read_layout("elliot", tmp_path / "src")


def test_cornac(tmp_path):
    files = {
        "rating.txt": "A1\tB1\t5.0\nA2\tB2\t3.0\n",
        "text.txt": 'B1\ta blue "shirt\nB2\tred shoes\n',
        "image_features.npy": np.arange(6, dtype=np.float32).reshape(2, 3),
        "item_ids.txt": "B2\nB1\n",
    }
    import_layout("d", "cornac", write(tmp_path / "src", files))
    assert read("inter")["item_id:token"].tolist() == ["B1", "B2"]
    assert pd.read_parquet("dataset/d/d.text.parquet")["text"].tolist() == ['a blue "shirt', "red shoes"]
    with np.load("dataset/d/d.item.image.npz") as image:
        assert dict(zip(image["id"].tolist(), image["feature"].tolist()))["B2"] == [0, 1, 2]
    (tmp_path / "src/item_ids.txt").unlink()
    with pytest.raises(FileNotFoundError, match="has no ids: expected item_ids.txt"):
        read_layout("cornac", tmp_path / "src")


def test_unisrec(tmp_path, capsys):
    folder = unisrec_folder(tmp_path / "src")
    assert main(["import", "d", "--layout=unisrec", f"--source={folder}"]) == 0
    assert "--model=SASRecContent --dataset=d --config_files=dataset/d/d.yaml" in capsys.readouterr().out
    assert len(read("test.inter")) == 2 and Path("dataset/d/d.item.text.npz").is_file()
    assert main(["import", "d", "--layout=unisrec", f"--source={folder}"]) == 2  # it is there
    assert "not empty" in capsys.readouterr().err
    assert main(["import", "d", "--layout=unisrec", f"--source={folder}", "--replace", "--user=x"]) == 2
    assert "--user does nothing with --layout=unisrec" in capsys.readouterr().err


OWN = """
interactions: clicks_*.csv
user: kunde
item: artikel
time: wann
time_format: "%d.%m.%Y"
items: products.csv
types: {title: text, price: float}
vectors: {image: "emb.npy,ids.txt"}
pictures: photos/{item_id}.jpg
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "my.yaml").write_text(OWN, encoding="utf-8")
    return write(
        tmp_path / "src",
        {
            "clicks_2024.csv": "kunde;artikel;wann\na;p1;31.05.2024\nb;p2;01.06.2024\n",
            "products.csv": "artikel,price,title\np1,1.5,A bag\np2,2.5,A hat\n",
            "emb.npy": np.eye(2, dtype=np.float32),
            "ids.txt": "p1\np2\n",
        },
    )


def test_a_layout_of_ones_own_from_the_shell(own, capsys):
    assert main(["import", "d", "--layout=my.yaml", f"--source={own}"]) == 0
    text = capsys.readouterr().out
    assert read("inter")["timestamp:float"].tolist() == ["1717113600", "1717200000"]
    assert "vectors image: 2 x 2, 2 of 2" in text and "--model=MMGCN" in text
    assert "extract d --text=title" in text and f"'--image={own}/photos/{{item_id}}.jpg'" in text
    # What is said on the command line wins.
    assert main(["import", "d", "--layout=my.yaml", f"--source={own}", "--types=title=token", "--replace"]) == 0
    assert read("item").columns.tolist() == ["item_id:token", "price:float", "title:token"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"usr": "kunde"}, "'usr' is no key of a layout. Did you mean 'user'"),
        ({"interactions": "no_*.csv"}, "lacks my.yaml, interactions: expected no_"),
        ({"types": "title"}, "my.yaml, types: expected names and values"),
        ({"user": "who"}, "there is no column 'who'"),
    ],
)
def test_mistakes_in_a_layout_of_ones_own(change, words, own, capsys):
    layout = {**yaml.safe_load(OWN), **change}
    Path("my.yaml").write_text(yaml.safe_dump(layout))
    assert main(["import", "d", "--layout=my.yaml", f"--source={own}"]) == 2
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--layout=movielens"], "--layout needs --source"),
        (["--source=."], "--source does nothing without --layout"),
        (["--layout=movielens", "--source=no"], "there is no folder no"),
        (["--layout=movielnes", "--source=."], "Did you mean 'movielens'"),
        (["--layout=movielens", "--source=."], "lacks the ratings: expected ratings.dat"),
        (["--layout=microlens", "--source=."], "lacks the pairs"),
        (["--layout=no.yaml", "--source=."], "there is no file no.yaml"),
    ],
)
def test_mistakes_of_the_command_line(arguments, words, capsys):
    assert main(["import", "d", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error


def test_every_layout_is_in_the_help(capsys):
    assert main(["import", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in LAYOUTS)
