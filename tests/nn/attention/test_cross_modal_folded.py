"""The folded cross-modal network against the plain reference and the network that it folds."""

from __future__ import annotations

import pytest
import torch

from recbole_mm.nn.attention.cross_modal import CrossModalNetwork
from recbole_mm.nn.attention.cross_modal_folded import FoldedNetwork
from tests.nn.attention.test_cross_modal import CASES, SIZES, most_numbers_at_once, network, reference_network
from tests.nn.attention.test_multi_head import random


def scattered(**options):
    """A network whose biases, gains and shifts are not those that it starts with."""
    model = network(**options)
    with torch.no_grad():
        for index, parameter in enumerate(model.parameters()):
            parameter.add_(0.3 * random(*parameter.shape, seed=index))
    return model


def folded(model, image, text, *masks):
    fold = FoldedNetwork(model)
    return fold(fold.image_input(model.image_tower(image)), fold.text_input(text), *masks)


@pytest.mark.parametrize("options", [options for options in CASES.values() if options != CASES["nothing"]])
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_the_plain_reference(options, masked):
    model = scattered(**options)
    inputs = [random(2, n, 4, seed=n) for n in (3, 2)]
    rows = (torch.tensor([[True, False], [True, True]]), torch.tensor([True, False])) if masked else (None, None)
    for ours, theirs in zip(folded(model, *inputs, *rows), reference_network(model, *inputs, *rows)):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_it_is_the_network_with_absent_image_tokens_and_large_logits():
    model = scattered(cross_heads=4)
    with torch.no_grad():
        for layer in model.cross_layers:
            layer.image.weight.mul_(1e3)  # exp of such logits alone is infinite
    image, text = random(3, 3, 4), random(3, 2, 4)
    mask = torch.tensor([[True, False], [True, True], [False, True]])
    image_mask = torch.tensor([[True, False, True], [True, True, True], [False, True, False]])
    masks = mask, torch.tensor([True, True, False]), image_mask
    plain = model(model.image_input(model.image_tower(image)), model.text_input(text), *masks)
    for ours, theirs in zip(folded(model, image, text, *masks), plain):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_a_table_that_is_used_again_remembers_nothing():
    model = scattered()
    fold, mask = FoldedNetwork(model), torch.tensor([[True, False], [True, True]])
    inputs = [(random(n, 3, 4, seed=n), random(n, 2, 4, seed=n + 9)) for n in (2, 2, 5, 2)]
    first = [fold(*pair, mask if len(pair[0]) == 2 else None) for pair in inputs]
    for pair, outputs in zip(inputs, first):
        for ours, theirs in zip(FoldedNetwork(model)(*pair, mask if len(pair[0]) == 2 else None), outputs):
            assert torch.equal(ours, theirs)


def test_narrow_weights_are_widened():
    model = scattered().to(torch.bfloat16)
    inputs = [random(2, n, 4, seed=n).to(torch.bfloat16) for n in (3, 2)]
    narrow = FoldedNetwork(model)(*inputs)
    for ours, wide in zip(narrow, FoldedNetwork(model.float())(*(x.float() for x in inputs))):
        assert ours.dtype == torch.bfloat16 and torch.equal(ours, wide.to(torch.bfloat16))


@pytest.mark.parametrize(
    ("sizes", "options"),
    [((8, 8), {}), ((16, 5), {"cross_heads": 4}), ((3, 16), {"n_heads": 4}), ((8, 8), {"n_cross_layers": 0})],
)
def test_the_estimate_of_memory_is_what_a_pair_takes(sizes, options, tmp_path):
    torch.manual_seed(0)
    model = CrossModalNetwork(16, **{**SIZES, "cross_heads": 2, **options}).eval()
    n_pairs, (n_image, n_text) = 200, sizes
    tokens = torch.randn(n_pairs, n_image, 16), torch.randn(n_pairs, n_text, 16)
    mask, present = torch.rand(n_pairs, n_text) > 0.3, torch.rand(n_pairs) > 0.3
    mask[:, 0] = True
    fold = FoldedNetwork(model)
    counted = most_numbers_at_once(lambda: fold(*(x.clone() for x in tokens), mask, present), tmp_path) / n_pairs
    assert counted <= fold.numbers(n_image, n_text) <= 1.5 * counted
