"""Cross-modal layers: golden numbers, a plain float64 reference with gradients, and what defines the fusion."""

from __future__ import annotations

import json

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from recbole_mm.nn.attention import multi_head
from recbole_mm.nn.attention.cross_modal import CrossModalLayer, CrossModalNetwork, ScalarTokens, SelfAttentionLayer
from tests.nn.attention.test_multi_head import random, reference_attention


def reference_norm(layer, tokens):
    if isinstance(layer, torch.nn.Identity):
        return tokens
    centred = tokens - tokens.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt() * layer.weight + layer.bias


def reference_layer(layer, tokens, mask=None):
    query, key, value = (tokens @ part.T for part in layer.project.weight.chunk(3))
    attended = reference_attention(query, key, value, layer.n_heads, mask) @ layer.output.weight.T + layer.output.bias
    y = reference_norm(layer.norm[0], tokens + attended)
    inner = torch.clamp(y @ layer.expand.weight.T + layer.expand.bias, min=0)
    return reference_norm(layer.norm[1], y + inner @ layer.contract.weight.T + layer.contract.bias)


def reference_network(network, image, text, mask=None, present=None):
    for layer in network.image_layers:
        image = reference_layer(layer, image)
    for layer in network.text_layers:
        text = reference_layer(layer, text, mask)
    for layer in network.cross_layers:
        (gq, gk, gv), (tq, tk, tv) = (
            [x @ part.T for part in module.weight.chunk(3)] for x, module in ((image, layer.image), (text, layer.text))
        )
        found = reference_attention(gq, tk, tv, layer.cross_heads, mask)
        asked = reference_attention(tq, gk, gv, layer.cross_heads)
        if present is not None:
            asked = torch.stack([a if there else t for a, t, there in zip(asked, text, present)])
        image, text = reference_layer(layer.image_layer, found), reference_layer(layer.text_layer, asked, mask)
    text = text if mask is None else text * mask[:, :, None]
    return image if present is None else image * present[:, None, None], text


def run(network, image, text, mask=None, present=None):
    image = network.image_input(network.image_tower(image))
    return network(image, network.text_input(text), mask, present)


def identity_layer():
    """A fusion layer of one head with identity maps, no normalisation and a feed-forward network that adds nothing."""
    layer = CrossModalLayer(2, 1, 1, use_layer_norm=False)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        for module in (layer.image, layer.text, layer.image_layer.project, layer.text_layer.project):
            module.weight.copy_(torch.eye(2).repeat(3, 1))
        for branch in (layer.image_layer, layer.text_layer):
            branch.output.weight.copy_(torch.eye(2))
    return layer


def test_golden_fusion_layer():
    layer = identity_layer()
    image, text = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0], [1.0, 1.0]]])
    found, asked = layer.cross(layer.image(image), layer.text(text))
    torch.testing.assert_close(found, torch.tensor([[[0.669762, 1.0]]]), rtol=0, atol=5e-7)
    torch.testing.assert_close(asked, torch.tensor([[[1.0, 0.0], [1.0, 0.0]]]))
    image, text = layer(layer.image(image), text)
    torch.testing.assert_close(image, torch.tensor([[[1.339523, 2.0]]]), rtol=0, atol=1e-6)
    torch.testing.assert_close(text, torch.tensor([[[2.0, 0.0], [2.0, 0.0]]]))


CASES = {
    "default": {},
    "no norm": {"use_layer_norm": False},
    "no text layers": {"n_text_layers": 0},
    "no image layers": {"n_image_layers": 0},
    "no cross layers": {"n_cross_layers": 0},
    "nothing": {"n_image_layers": 0, "n_text_layers": 0, "n_cross_layers": 0},
    "cross heads": {"cross_heads": 4},
}
SIZES = {"n_image_layers": 2, "n_text_layers": 2, "n_cross_layers": 3, "n_heads": 2, "cross_heads": 1}


def network(**options):
    torch.manual_seed(0)
    return CrossModalNetwork(4, **{**SIZES, **options}).double().eval()


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
@pytest.mark.parametrize("masked", [False, True])
def test_network_and_gradients_equal_the_plain_reference(options, masked):
    model = network(**options)
    inputs = [random(2, n, 4, seed=n).requires_grad_() for n in (3, 2)]
    rows = (torch.tensor([[True, False], [True, True]]), torch.tensor([True, False])) if masked else (None, None)
    outputs = run(model, *inputs, *rows), reference_network(model, *inputs, *rows)
    for ours, theirs in zip(*outputs):
        torch.testing.assert_close(ours, theirs)
    targets = [*inputs, *model.parameters()]
    gradients = [
        torch.autograd.grad(sum(x.pow(3).sum() for x in pair), targets, allow_unused=True, materialize_grads=True)
        for pair in outputs
    ]
    for ours, theirs in zip(*gradients):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


def test_layers_are_distinct():
    model = network()
    assert [len(x) for x in (model.image_layers, model.text_layers, model.cross_layers)] == [2, 2, 3]
    layers = [module for module in model.modules() if isinstance(module, SelfAttentionLayer)]
    assert len(layers) == 2 + 2 + 3 * 2
    assert len({id(parameter) for layer in layers for parameter in layer.parameters()}) == 11 * len(layers)
    assert len({id(getattr(layer, b).weight) for layer in model.cross_layers for b in ("image", "text")}) == 6


def test_no_residual_passes_the_cross_attention():
    layer = CrossModalLayer(4, 2, 2).double()
    image, nothing = random(2, 3, 4), torch.zeros(2, 2, 4).double()
    found, _ = layer.cross(layer.image(image), layer.text(nothing))
    assert torch.equal(found, torch.zeros_like(found))
    _, asked = layer.cross(layer.image(torch.zeros_like(image)), layer.text(random(2, 2, 4)))
    assert torch.equal(asked, torch.zeros_like(asked))


@pytest.mark.parametrize("n_cross_layers", [0, 1, 3])
def test_the_text_reaches_the_image_branch_through_the_cross_layers_only(n_cross_layers):
    model = network(n_cross_layers=n_cross_layers)
    image, text = random(2, 3, 4), random(2, 2, 4)
    before = run(model, image, text)[0]
    text[:, 0] += 1.0
    assert torch.allclose(before, run(model, image, text)[0]) == (n_cross_layers == 0)


def test_an_absent_token_and_an_absent_image_change_nothing():
    model = network()
    image, text = random(2, 3, 4), random(2, 2, 4)
    mask, present = torch.tensor([[True, False], [True, False]]), torch.tensor([True, False])
    shorter = run(model, image, text[:, :1], None, present)
    for noise in (1.0, 1e3):
        text[:, 1] += noise
        image[1] += noise
        found, fields = run(model, image, text, mask, present)
        torch.testing.assert_close(found, shorter[0])
        torch.testing.assert_close(fields[:, :1], shorter[1])
        assert not fields[:, 1].any() and not found[1].any()


def test_a_scalar_scales_its_token():
    tokens = ScalarTokens(3, 3, 2)
    vectors = torch.tensor([[1.0, -2.0, 0.5]])
    doubled = vectors * torch.tensor([1.0, 2.0, 1.0])
    torch.testing.assert_close(tokens(vectors)[0], vectors[0][:, None] * tokens.vector)
    torch.testing.assert_close(tokens(doubled), tokens(vectors) * torch.tensor([1.0, 2.0, 1.0])[:, None])
    reduced = ScalarTokens(3, 2, 4)
    assert reduced(vectors).shape == (1, 2, 4)
    torch.testing.assert_close(reduced(vectors)[0], reduced.reduce(vectors)[0][:, None] * reduced.vector)


def test_dropout_acts_in_training_only():
    layer = SelfAttentionLayer(4, 2, dropout=0.5).double()
    tokens = random(2, 3, 4)
    assert not torch.equal(layer(tokens), layer(tokens))
    assert torch.equal(layer.eval()(tokens), layer(tokens))


@pytest.mark.parametrize("option", ["n_heads", "cross_heads"])
def test_heads_must_divide_the_width(option):
    with pytest.raises(ValueError, match=f"{option}: expected a divisor of the token width 4, got 3"):
        network(**{option: 3})


def most_numbers_at_once(compute, folder):
    """Plain count of the float32 numbers that are allocated at once, from every allocation of ``compute``."""
    with torch.no_grad(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        compute()
    profiler.export_chrome_trace(str(folder / "trace.json"))
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    live = most = 0
    for event in sorted((event for event in events if event.get("name") == "[memory]"), key=lambda event: event["ts"]):
        live += event["args"]["Bytes"]
        most = max(most, live)
    return most / 4


@pytest.mark.parametrize("limit", [0, 16], ids=["torch", "few"])
@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        ((8, 8), {}),
        ((24, 8), {"cross_heads": 4}),
        ((3, 40), {"n_heads": 4}),
        ((8, 8), {"n_text_layers": 0}),
        ((8, 8), {"n_cross_layers": 0}),
    ],
)
def test_the_estimate_of_memory_is_what_a_pair_takes(sizes, options, limit, monkeypatch, tmp_path):
    monkeypatch.setattr(multi_head, "FEW_TOKENS", limit)
    torch.manual_seed(0)
    model = CrossModalNetwork(16, **{**SIZES, "cross_heads": 2, **options}).eval()
    n_pairs, (n_image, n_text) = 200, sizes
    tokens = torch.randn(n_pairs, n_image, 16), torch.randn(n_pairs, n_text, 16)
    mask, present = torch.rand(n_pairs, n_text) > 0.3, torch.rand(n_pairs) > 0.3
    mask[:, 0] = True
    with torch.no_grad():
        image, text = model.image_input(tokens[0]), model.text_input(tokens[1])
    counted = most_numbers_at_once(lambda: model(image.clone(), text.clone(), mask, present), tmp_path) / n_pairs
    assert counted <= model.numbers(n_image, n_text, on_cpu=True) <= 1.5 * counted
    counted = most_numbers_at_once(lambda: model.image_tower(tokens[0].clone()), tmp_path) / n_pairs
    assert counted <= model.tower_numbers(n_image, on_cpu=True) <= 1.5 * counted
