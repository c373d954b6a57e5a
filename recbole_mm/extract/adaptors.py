"""Encoders over timm and ONNX, for whoever has these packages: a local file of weights is read, nothing is executed."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_mm.extract.weights import grey, state_hash

__all__ = ["OnnxEncoder", "TimmEncoder"]

# Means and deviations of ImageNet, in which picture networks are trained unless they say otherwise.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class TimmEncoder:
    """Pictures through a network of timm without its classifier, with the network's own transform.

    Args:
        kind: ``image``.
        name: ``NAME``, whose weights timm fetches, or ``NAME@FILE`` with weights of yours (.safetensors, or a state
            dict of tensors).
        device: Where it computes.
        patches: The vectors of the places of a picture instead of one.

    Raises:
        ImportError: timm is not installed.
        ValueError: No name, no such network, or weights of another one.
        FileNotFoundError: There is no such file.
    """

    def __init__(self, kind: str, name: str, device: str, patches: bool) -> None:
        try:
            import timm
            from timm.data import create_transform, resolve_model_data_config
        except ImportError as error:
            raise ImportError(f"encoder=timm needs timm: pip install 'recbole-mm[encoders]' ({error})") from error
        network, _, file = name.partition("@")
        if not network:
            raise ValueError("encoder=timm needs the name of a network: timm:resnet50, or timm:resnet50@FILE.")
        try:
            model: Any = timm.create_model(network, pretrained=not file, num_classes=0)
        except RuntimeError as error:  # what timm raises for a name that it does not know
            raise ValueError(f"encoder=timm:{network}: {error}.") from error
        if file:
            _load(model, Path(file).expanduser())
        self._model = model.eval().to(device)
        self._transform: Any = create_transform(**resolve_model_data_config(model), is_training=False)
        self._device, self._patches = device, patches
        self.name, self.fingerprint = f"timm:{network}", state_hash(model.state_dict())
        self.dim = int(self.encode([grey()]).shape[-1])

    def encode(self, inputs: list[Any]) -> np.ndarray:
        """Vectors of pictures, ``(n, dim)``, or ``(n, R, dim)`` of their places."""
        batch = torch.stack([self._transform(picture) for picture in inputs]).to(self._device)
        with torch.inference_mode():
            found: Tensor = self._model.forward_features(batch) if self._patches else self._model(batch)
        if found.dim() == 4:  # maps of convolutional networks, channels first or last
            channels_first = found.shape[1] == self._model.num_features
            found = found.flatten(2).transpose(1, 2) if channels_first else found.flatten(1, 2)
        return found.float().cpu().numpy()


class OnnxEncoder:
    """Pictures, or texts, through a network in ONNX form.

    Pictures are cut to the middle square, scaled to the network's own size and normalised as ImageNet. For texts, the
    folder has ``model.onnx`` and the tokenizer's files beside it. Of an output with several vectors for an input the
    mean is taken, without padding.

    Args:
        kind: ``image`` or ``text``.
        name: The ``.onnx`` file, or the folder of one.
        device: ``cpu`` or ``cuda``.
        patches: All vectors of an input instead of their mean.

    Raises:
        ImportError: onnxruntime is not installed.
        ValueError: No name, or a file that is no such network.
        FileNotFoundError: There is no such file.
    """

    def __init__(self, kind: str, name: str, device: str, patches: bool) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError(
                f"encoder=onnx needs onnxruntime: pip install 'recbole-mm[encoders]' ({error})"
            ) from error
        if not name:
            raise ValueError("encoder=onnx needs a file: onnx:FILE.onnx, or onnx:FOLDER with a tokenizer for texts.")
        path = Path(name).expanduser()
        file = path / "model.onnx" if path.is_dir() else path
        if not file.is_file():
            raise FileNotFoundError(f"there is no file {file}.")
        self._tokenizer: Any = None
        if kind == "text":
            from transformers import AutoTokenizer

            self._tokenizer = AutoTokenizer.from_pretrained(str(file.parent), local_files_only=True)
        providers = ["CUDAExecutionProvider"] if device.startswith("cuda") else []
        try:
            self._session: Any = onnxruntime.InferenceSession(str(file), providers=[*providers, "CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a class of its own for each fault
            raise ValueError(f"encoder=onnx:{name}: {file} is no network that onnxruntime reads ({error}).") from error
        self._inputs = {entry.name: entry.shape for entry in self._session.get_inputs()}
        self._patches = patches
        self.name = f"onnx:{file.stem if file.name != 'model.onnx' else file.parent.name}"
        self.fingerprint = hashlib.sha256(file.read_bytes()).hexdigest()
        self.dim = int(self.encode(["x"] if kind == "text" else [grey()]).shape[-1])

    def encode(self, inputs: list[Any]) -> np.ndarray:
        """Vectors of pictures or texts, ``(n, dim)``, or ``(n, R, dim)`` with ``patches``."""
        mask = None
        if self._tokenizer is not None:
            tokens = self._tokenizer(inputs, padding=True, truncation=True, return_tensors="np")
            feed = {name: np.asarray(tokens[name], dtype=np.int64) for name in self._inputs if name in tokens}
            mask = np.asarray(tokens["attention_mask"], dtype=np.float32)
        else:
            (name, shape), *_ = self._inputs.items()
            side = shape[-1] if isinstance(shape[-1], int) else 224
            feed = {name: np.stack([_pixels(picture, side) for picture in inputs])}
        found = np.asarray(self._session.run(None, feed)[0], dtype=np.float32)
        if found.ndim == 4:
            found = found.reshape(*found.shape[:2], -1).transpose(0, 2, 1)
        if found.ndim == 2 or self._patches:
            return found
        weight = np.ones(found.shape[:2], dtype=np.float32) if mask is None else mask
        return (found * weight[:, :, None]).sum(axis=1) / np.maximum(weight.sum(axis=1, keepdims=True), 1.0)


def _pixels(picture: Any, side: int) -> np.ndarray:
    """The middle square of a picture, ``(3, side, side)``."""
    from PIL import Image

    width, height = picture.size
    half = min(width, height) / 2
    box = (width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half)
    square = np.asarray(picture.resize((side, side), Image.Resampling.BICUBIC, box=box), dtype=np.float32) / 255.0
    return ((square - np.array(_MEAN, dtype=np.float32)) / np.array(_STD, dtype=np.float32)).transpose(2, 0, 1)


def _load(model: Any, file: Path) -> None:
    """Weights of a file into a network; those of a classifier are left out."""
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}.")
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        weights: dict[str, Any] = dict(load_file(str(file)))
    else:
        try:
            weights = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever the damage, or a forbidden object, leads to
            raise ValueError(f"{file} holds no plain tensors ({error}); save it as .safetensors.") from error
    weights = weights.get("state_dict", weights)
    missing = model.load_state_dict(weights, strict=False).missing_keys
    if missing:
        raise ValueError(
            f"{file} lacks {len(missing)} weights of the network, such as {missing[0]}; is it another one?"
        )
