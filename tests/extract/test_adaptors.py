"""timm and ONNX behind the protocol: with stand-ins for the packages, and what is said where they are missing."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from recbole_mm.extract.encoders import make_encoder

Image = pytest.importorskip("PIL.Image")


class Network(nn.Module):
    """Mean colour of a picture, and the same per quarter as a map of channels."""

    num_features = 3

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward_features(self, batch):
        return nn.functional.adaptive_avg_pool2d(batch, 2) * self.scale[:, None, None]

    def forward(self, batch):
        return self.forward_features(batch).mean(dim=(2, 3))


@pytest.fixture
def timm(monkeypatch):
    """As much of timm as is called."""
    module, data = ModuleType("timm"), ModuleType("timm.data")
    calls = {}

    def create_model(name, **options):
        if name != "net":
            raise RuntimeError(f"Unknown model ({name})")
        calls.update(options)
        return Network()

    module.create_model, module.data = create_model, data
    data.resolve_model_data_config = lambda model: {"size": 4}
    data.create_transform = lambda size, is_training: (
        lambda picture: torch.from_numpy(np.asarray(picture.resize((size, size)), dtype=np.float32)).permute(2, 0, 1)
    )
    monkeypatch.setitem(sys.modules, "timm", module)
    monkeypatch.setitem(sys.modules, "timm.data", data)
    return calls


def red():
    return Image.new("RGB", (8, 6), (200, 0, 100))


def test_timm(timm, tmp_path):
    encoder = make_encoder("image", "timm:net")
    assert timm == {"pretrained": True, "num_classes": 0} and encoder.name == "timm:net" and encoder.dim == 3
    assert encoder.encode([red(), red()]).tolist() == [[200, 0, 100]] * 2
    patches = make_encoder("image", "timm:net", patches=True)
    assert patches.encode([red()]).tolist() == [[[200, 0, 100]] * 4]
    save_file({"scale": torch.full((3,), 2.0), "head.weight": torch.ones(1)}, tmp_path / "w.safetensors")
    own = make_encoder("image", f"timm:net@{tmp_path}/w.safetensors")
    assert not timm["pretrained"] and own.encode([red()]).tolist() == [[400, 0, 200]]
    assert own.fingerprint != encoder.fingerprint == patches.fingerprint
    torch.save({"state_dict": {"scale": torch.full((3,), 3.0)}}, tmp_path / "w.pth")
    assert make_encoder("image", f"timm:net@{tmp_path}/w.pth").encode([red()]).tolist() == [[600, 0, 300]]


def test_mistakes_with_timm(timm, tmp_path):
    torch.save({"other": torch.ones(1)}, tmp_path / "other.pth")
    torch.save({"scale": Network()}, tmp_path / "pickle.pth")
    for word, words in [
        ("timm", "needs the name of a network"),
        ("timm:nte", "Unknown model"),
        ("timm:net@no.pth", "there is no file no.pth"),
        (f"timm:net@{tmp_path}/other.pth", "lacks 1 weights of the network, such as scale"),
        (f"timm:net@{tmp_path}/pickle.pth", "holds no plain tensors"),
    ]:
        with pytest.raises(ValueError, match=words):
            make_encoder("image", word)
    with pytest.raises(ValueError, match="reads image, not text"):
        make_encoder("text", "timm:net")


class Session:
    """A network of onnxruntime whose output is the mean colour of each quarter, or of each token its number."""

    def __init__(self, file, providers):
        if b"onnx" not in open(file, "rb").read():  # noqa: SIM115
            raise RuntimeError("Invalid protobuf")
        self.providers = providers
        self.text = "text" in str(file)

    def get_inputs(self):
        names = [("input_ids", ["n", "t"]), ("attention_mask", ["n", "t"])] if self.text else [("x", ["n", 3, 4, 4])]
        return [type("Input", (), {"name": name, "shape": shape})() for name, shape in names]

    def run(self, outputs, feed):
        if self.text:
            return [np.repeat(feed["input_ids"][:, :, None], 2, axis=2).astype(np.float32)]
        assert feed["x"].dtype == np.float32 and feed["x"].shape[1:] == (3, 4, 4)
        return [feed["x"][:, :, ::2, ::2]]


@pytest.fixture
def onnx(monkeypatch, tmp_path):
    module = ModuleType("onnxruntime")
    module.InferenceSession = Session
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    (tmp_path / "net.onnx").write_bytes(b"onnx")
    (tmp_path / "text").mkdir()
    (tmp_path / "text/model.onnx").write_bytes(b"onnx")
    (tmp_path / "bad.onnx").write_bytes(b"?")
    return tmp_path


def test_onnx_pictures(onnx):
    encoder = make_encoder("image", f"onnx:{onnx}/net.onnx")
    expected = (np.array([200, 0, 100]) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(encoder.encode([red(), red()]), [expected] * 2, rtol=1e-5)
    assert encoder.dim == 3 and encoder.name == "onnx:net"
    assert make_encoder("image", f"onnx:{onnx}/net.onnx", patches=True).encode([red()]).shape == (1, 4, 3)


def test_onnx_texts_are_means_without_padding(onnx, monkeypatch):
    transformers = pytest.importorskip("transformers")

    class Tokenizer:
        def __call__(self, texts, **options):
            longest = max(map(len, texts))
            ids = [[len(text)] * len(text) + [9] * (longest - len(text)) for text in texts]
            mask = [[1] * len(text) + [0] * (longest - len(text)) for text in texts]
            return {"input_ids": ids, "attention_mask": mask, "token_type_ids": mask}

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *a, **o: Tokenizer())
    encoder = make_encoder("text", f"onnx:{onnx}/text")
    assert encoder.encode(["a", "bbb"]).tolist() == [[1, 1], [3, 3]] and encoder.name == "onnx:text"


def test_mistakes_with_onnx(onnx):
    for word, words in [
        ("onnx", "needs a file"),
        ("onnx:no.onnx", "there is no file no.onnx"),
        (f"onnx:{onnx}/bad.onnx", "no network that onnxruntime reads"),
    ]:
        with pytest.raises(ValueError, match=words):
            make_encoder("image", word)


@pytest.mark.parametrize(("word", "package"), [("timm:net", "timm"), ("onnx:net.onnx", "onnxruntime")])
def test_a_missing_package_is_named_with_its_remedy(word, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"needs {package}: pip install 'recbole-mm\[encoders\]'"):
        make_encoder("image", word)


def test_a_missing_transformers_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"encoder=transformers:x.*pip install 'recbole-mm\[extract\]'"):
        make_encoder("text", "transformers:x")
