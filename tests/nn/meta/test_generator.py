"""The cold item generator against hand-computed values and loops."""

from __future__ import annotations

import math

import pytest
import torch

from recbole_mm.nn.meta.generator import EmbeddingGenerator, ItemGenerator, nearest_items
from recbole_mm.nn.meta.replacement import draw_replacement, replace


def golden():
    generator = EmbeddingGenerator(2, 2).double()
    with torch.no_grad():
        generator.project_weight.copy_(torch.eye(2))
        generator.project_bias.zero_()
        generator.score_weight.copy_(torch.tensor([1.0, 0.0, 1.0, 0.0]))
        generator.score_bias.zero_()
    return generator


OWN = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
NEAR = torch.tensor([[[1.0, 1.0], [0.0, 2.0]]], dtype=torch.float64)


def test_hand_computed_embedding():
    out = golden()(OWN, NEAR, torch.ones(1, 2, dtype=torch.bool))
    weight = math.exp(2) / (math.exp(2) + math.exp(1))
    assert weight == pytest.approx(0.731059, abs=1e-6)
    # z_i + a_1 [1, 1] + a_2 [0, 2] = [1 + .731059, -1 + .731059 + 2 * .268941]
    torch.testing.assert_close(out, torch.tensor([[1.731059, 0.268941]], dtype=torch.float64), rtol=0, atol=1e-6)


def test_missing_neighbours_are_left_out_and_output_is_not_negative():
    one = golden()(OWN, NEAR, torch.tensor([[True, False]]))
    assert one.tolist() == [[2.0, 0.0]]
    none = golden()(OWN, NEAR, torch.tensor([[False, False]]))
    assert none.tolist() == [[1.0, 0.0]]


def test_nearest_items_by_dot_product():
    torch.manual_seed(0)
    table = torch.randn(12, 3)
    table[[0, 5]] = 0
    table[7] = table[3]
    nearest = nearest_items(table, 4, block=5)
    for item in range(1, 12):
        others = [j for j in range(1, 12) if j not in (item, 5)]
        products = (table @ table[item]).tolist()
        expected = sorted(others, key=lambda j: (-products[j], j))[:4]
        if item == 5:  # no attributes: all products are equal, the smallest ids come first
            expected = others[:4]
        assert nearest[item].tolist() == expected
    assert nearest[0].tolist() == [0, 0, 0, 0]
    assert nearest_items(table[:3], 10**9).tolist() == [[0], [2], [1]], "no more columns than there are items"
    assert nearest_items(table[:1], 4).tolist() == [[0]]


def test_item_generator_averages_its_tables():
    torch.manual_seed(0)
    tables = [torch.randn(6, 2), torch.randn(6, 3)]
    generator = ItemGenerator(tables, 4, 2)
    items = torch.tensor([2, 5, 2])
    expected = 0
    for index, table in enumerate(tables):
        near = nearest_items(table, 2)[items]
        expected = expected + generator.generators[index](table[items], table[near], near.ne(0)) / 2
    torch.testing.assert_close(generator(items, *tables), expected)
    assert not [key for key in generator.state_dict() if "neighbors" in key]


def test_replacement_is_independent_of_padding_and_has_the_asked_rate():
    torch.manual_seed(0)
    ids = torch.randint(1, 9, (200, 100))
    ids[:, 50:] = 0
    chosen = draw_replacement(ids, 0.15)
    there = chosen.slot < 100
    assert (ids.gather(1, chosen.slot.clamp_max(99))[there] == chosen.item[there]).all()
    assert (chosen.slot[there] < 50).all()
    rate = there.sum() / (200 * 50)
    assert abs(rate - 0.15) < 0.02
    per_task = there.sum(1).float()
    assert per_task.var() == pytest.approx(50 * 0.15 * 0.85, rel=0.5)
    assert draw_replacement(ids, 0.0).slot.shape == (200, 0)
    everything = draw_replacement(ids, 1.0)
    assert everything.slot.tolist() == [list(range(50))] * 200


def test_replace_puts_vectors_and_gradients_into_their_slots():
    embedded = torch.randn(4, 2, requires_grad=True)
    generated = torch.randn(3, 2, requires_grad=True)
    out = replace(embedded, torch.tensor([3, 0, 4]), generated)
    assert torch.equal(out, torch.stack([generated[1], embedded[1], embedded[2], generated[0]]))
    out.sum().backward()
    assert embedded.grad.tolist() == [[0, 0], [1, 1], [1, 1], [0, 0]]
    assert generated.grad.tolist() == [[1, 1], [1, 1], [0, 0]]
