"""The rearranged network is the published one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from recbole_mm.extract.efficientnet import fold

efficientnet = pytest.importorskip("efficientnet_lite_pytorch", reason="needs recbole-mm[extract]")


def test_a_folded_network_gives_the_same_features_with_fewer_passes():
    torch.manual_seed(0)
    model = efficientnet.EfficientNet.from_name("efficientnet-lite0").eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):  # as after training: with its initial values it does nothing
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.1)
            nn.init.normal_(layer.running_mean, std=0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    folded = fold(copy.deepcopy(model))
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in folded.modules())
    paddings = [layer.padding for layer in folded.modules() if isinstance(layer, nn.ZeroPad2d)]
    assert paddings and all(len(set(padding)) > 1 for padding in paddings)  # those with equal sides are gone
    batch = torch.rand(2, 3, 224, 224)
    with torch.inference_mode():
        expected = model.extract_features(batch)
        found = folded.to(memory_format=torch.channels_last).extract_features(batch)
    assert expected.std() > 0.01
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))
