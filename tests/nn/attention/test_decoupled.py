"""The decoupled encoder against loops over pairs of positions, and states of single positions against all of them."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from recbole_mm.nn.attention.decoupled import ATTENTION_FUSIONS, DecoupledEncoder
from recbole_mm.nn.attention.sequence import SequenceEncoder, causal_bias

DIM, HEADS, LENGTH = 4, 2, 3
WINDOWS = torch.tensor([[3, 5, 3], [2, 0, 0]])


def norm(x):
    return (x - x.mean()) / (x.var(correction=0) + 1e-12).sqrt()


def encoder_of(fusion, n_layers=1, weights=(0.5,)):
    torch.manual_seed(0)
    encoder = DecoupledEncoder(DIM, LENGTH, list(weights), n_layers, HEADS, 6, 0.0, 0.0, fusion).double()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return encoder


def inputs():
    torch.manual_seed(1)
    read = torch.randn(2, LENGTH, DIM, dtype=torch.float64)
    side = torch.randn(2, LENGTH, DIM, dtype=torch.float64)
    return read, causal_bias(WINDOWS).double(), [side], [torch.tensor([[True, False, True], [True, True, True]])]


def loop(encoder, row):
    """States of one sequence, every pair of positions written out."""
    read, bias, (side,), (there,) = inputs()
    layer, size = encoder.layers[0], DIM // HEADS
    state = [norm(x) * encoder.norm_weight + encoder.norm_bias for x in read[row]]
    sources = [
        ([norm(x) * encoder.side_norm_weight[0] + encoder.side_norm_bias[0] for x in side[row]], there[row], 0.5),
        ([norm(x) * encoder.side_norm_weight[1] + encoder.side_norm_bias[1] for x in encoder.position], [True] * 3, 1),
    ]
    maps = layer.query_key_value_weight, layer.query_key_value_bias
    own = [(maps[0] @ x + maps[1]).split(DIM) for x in state]
    result = []
    for i in range(LENGTH):
        found = []
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            logits = []
            for j in range(LENGTH):
                pair = [own[i][0][part] @ own[j][1][part] / size**0.5]
                for index, (vectors, has, weight) in enumerate(sources):
                    query = (vectors[i] @ layer.side_query[index])[part]
                    key = (vectors[j] @ layer.side_key[index])[part]
                    pair.append(weight * query @ key / size**0.5 * bool(has[i]) * bool(has[j]))
                pair = torch.stack(pair)
                if layer.attention_fusion == "concat":
                    pair = pair * layer.combine
                elif layer.attention_fusion == "gate":
                    pair = pair * torch.sigmoid(pair @ layer.combine)
                logits.append(pair.sum() + bias[row, i, j])
            shares = torch.stack(logits).softmax(0)
            found.append(sum(shares[j] * own[j][2][part] for j in range(LENGTH)))
        mixed = layer.output_weight @ torch.cat(found) + layer.output_bias
        x = norm(state[i] + mixed) * layer.attention_norm_weight + layer.attention_norm_bias
        inner = layer.contract_weight @ F.gelu(layer.expand_weight @ x + layer.expand_bias) + layer.contract_bias
        result.append(norm(x + inner) * layer.feed_forward_norm_weight + layer.feed_forward_norm_bias)
    return torch.stack(result)


@pytest.mark.parametrize("fusion", ATTENTION_FUSIONS)
def test_it_is_the_plain_loop(fusion):
    encoder = encoder_of(fusion)
    states = encoder(*inputs())
    for row in range(2):
        torch.testing.assert_close(states[row], loop(encoder, row), rtol=1e-9, atol=1e-10)


def test_sides_move_the_attention_and_never_the_values():
    encoder = encoder_of("sum")
    read, bias, sides, there = inputs()
    same = read[:, :1].expand_as(read)  # whatever the attention, it finds the same value
    torch.testing.assert_close(encoder(same, bias, sides, there), encoder(same, bias, [-sides[0]], there))
    assert not torch.allclose(encoder(read, bias, sides, there), encoder(read, bias, [-sides[0]], there))


@pytest.mark.parametrize("fusion", ATTENTION_FUSIONS)
def test_the_state_of_one_position_is_that_of_all(fusion):
    encoder = encoder_of(fusion, n_layers=2)
    read, bias, sides, there = inputs()
    place = torch.tensor([1, 0])
    every = encoder(read, bias, sides, there)[torch.arange(2), place]
    torch.testing.assert_close(encoder.last(read, bias, place, sides, there), every, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("n_layers", [1, 2])
def test_the_state_of_one_position_of_the_plain_encoder(n_layers):
    torch.manual_seed(0)
    encoder = SequenceEncoder(DIM, LENGTH, n_layers, HEADS, 6, 0.0, 0.0).double()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    read, bias, *_ = inputs()
    place = torch.tensor([2, 0])
    every, one = encoder(read, bias)[torch.arange(2), place], encoder.last(read, bias, place)
    torch.testing.assert_close(one, every, rtol=1e-10, atol=1e-12)
    parameters = list(encoder.parameters())
    slopes = [torch.autograd.grad(x.square().sum() + x.sum(), parameters) for x in (every, one)]
    for left, right in zip(*slopes):
        torch.testing.assert_close(left, right, rtol=1e-8, atol=1e-10)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="got 3 heads for width 4"):
        DecoupledEncoder(4, 3, [1.0], n_heads=3)
