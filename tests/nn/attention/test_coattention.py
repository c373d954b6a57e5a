"""Stacked co-attention against plain loops in float64, and the grid of all pairs against pairs."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from recbole_mm.nn.attention.coattention import AdditiveAttention, CoAttention, PairScore, Tokens, take_rows
from recbole_mm.nn.attention.coattention_grid import score_grid, side_tables

UPDATES, DIRECTIONS, SCORES = ("san", "dan"), ("both", "user_only", "item_only", "none"), ("mlp", "dot")
DIM, HIDDEN = 4, 3


def random_tokens(batch, n_tokens, dim=DIM, dtype=torch.float64, scale=1.0):
    mask = torch.rand(batch, n_tokens) < 0.7
    mask[:, 0] = True
    return Tokens(scale * torch.randn(batch, n_tokens, dim, dtype=dtype), mask)


def full(values):
    return Tokens(values, torch.ones(values.shape[:2], dtype=torch.bool))


def make(update="san", attend="both", n_steps=3, dim=DIM, hidden=HIDDEN, dtype=torch.float64, dropout=0.0):
    torch.manual_seed(1)
    return CoAttention(dim, hidden, n_steps, update, attend, dropout).to(dtype).eval()


def plain_weights(step, tokens, query):
    """Weights of a list of present tokens, scalar by scalar."""
    key, look, bias, score = (
        p.detach() for p in (step.key.weight, step.query.weight, step.key.bias, step.score.weight[0])
    )
    logits = []
    for token in tokens:
        compared = [
            math.tanh(float(key[j] @ token + look[j] @ query + bias[j])) * float(score[j]) for j in range(len(score))
        ]
        logits.append(sum(compared))
    exponentials = [math.exp(value) for value in logits]
    return [value / sum(exponentials) for value in exponentials]


def plain(model, users, items, pair):
    """Final queries and weights of one pair, from the definition."""
    present = {
        side: [token for token, there in zip(tokens.values[pair], tokens.mask[pair]) if there]
        for side, tokens in (("user", users), ("item", items))
    }
    query = {side: sum(tokens) / len(tokens) for side, tokens in present.items()}
    found = {"user": [], "item": []}
    for step in range(model.n_steps):
        context = {}
        for side, other in (("user", "item"), ("item", "user")):
            if side in model.sides:
                weights = plain_weights(model.steps[side][step], present[side], query[other])
                found[side].append(weights)
                context[side] = sum(w * t for w, t in zip(weights, present[side]))
        if model.update == "san":
            context = {{"user": "item", "item": "user"}[side]: value for side, value in context.items()}
        query = {side: query[side] + context.get(side, 0.0) for side in query}
    return query, found


def test_golden_numbers():
    model = CoAttention(2, 2, 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        for steps in model.steps.values():
            for step in steps:
                step.key.weight.copy_(torch.eye(2))
                step.query.weight.copy_(torch.eye(2))
                step.score.weight.fill_(1.0)
        result = model(full(torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])), full(torch.eye(2).unsqueeze(0)))
    expected = [[0.363742, 0.636258], [0.435511, 0.564489], [0.476017, 0.523983]]
    torch.testing.assert_close(torch.cat(result.item_weights), torch.tensor(expected), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.cat(result.user_weights), torch.full((3, 2), 0.5))
    torch.testing.assert_close(result.user, torch.tensor([[2.275270, 1.724730]]), atol=2e-6, rtol=0)
    torch.testing.assert_close(result.item, torch.tensor([[3.5, 0.5]]))
    score = PairScore("dot", 2, 2)(result.user, result.item)
    assert score.item() == pytest.approx(8.825809, abs=5e-6)


@pytest.mark.parametrize("update, attend", list(itertools.product(UPDATES, DIRECTIONS)))
def test_equals_plain_loops(update, attend):
    model = make(update, attend)
    users, items = random_tokens(6, 3), random_tokens(6, 4)
    result = model(users, items)
    for pair in range(6):
        query, found = plain(model, users, items, pair)
        torch.testing.assert_close(result.user[pair], query["user"])
        torch.testing.assert_close(result.item[pair], query["item"])
        for side, tokens, weights in (
            ("user", users, result.user_weights),
            ("item", items, result.item_weights),
        ):
            assert len(weights) == len(found[side]) == (3 if side in model.sides else 0)
            for step, expected in zip(weights, found[side]):
                assert step[pair][tokens.mask[pair]].tolist() == pytest.approx(expected, abs=1e-12)
                assert step[pair][~tokens.mask[pair]].eq(0).all()
                assert step[pair].sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize("update, attend", list(itertools.product(UPDATES, DIRECTIONS)))
def test_gradients_are_those_of_finite_differences(update, attend):
    model = make(update, attend, n_steps=2)
    users, items = random_tokens(3, 2), random_tokens(3, 3)

    def output(user_values, item_values, *_):
        result = model(Tokens(user_values, users.mask), Tokens(item_values, items.mask))
        return result.user, result.item

    inputs = (users.values.requires_grad_(), items.values.requires_grad_(), *model.parameters())
    assert torch.autograd.gradcheck(output, inputs)


def test_keys_computed_beforehand_change_nothing():
    model = make()
    users, items = random_tokens(6, 3), random_tokens(6, 4)
    given = model(users, items, model.keys("user", users.values), model.keys("item", items.values))
    torch.testing.assert_close(given.user, model(users, items).user)
    assert make(attend="item_only").keys("user", users.values).shape == (6, 3, 0)


@pytest.mark.parametrize("update", UPDATES)
def test_no_steps_and_no_direction_are_mean_pooling(update):
    users, items = full(torch.randn(2, 3, DIM)), full(torch.randn(2, 4, DIM))
    for model in (make(update, n_steps=0, dtype=torch.float32), make(update, "none", dtype=torch.float32)):
        result = model(users, items)
        torch.testing.assert_close(result.user, users.values.mean(dim=1))
        torch.testing.assert_close(result.item, items.values.mean(dim=1))
        assert not list(model.parameters()) and not result.user_weights and not result.item_weights


def test_single_tokens_have_a_closed_form():
    user, item = torch.randn(5, DIM, dtype=torch.float64), torch.randn(5, DIM, dtype=torch.float64)
    result = make("san")(full(user.unsqueeze(1)), full(item.unsqueeze(1)))
    assert all(torch.equal(w, torch.ones(5, 1)) for w in (*result.user_weights, *result.item_weights))
    torch.testing.assert_close(result.user, user + 3 * item)
    torch.testing.assert_close(result.item, item + 3 * user)
    result = make("dan")(full(user.unsqueeze(1)), full(item.unsqueeze(1)))
    torch.testing.assert_close(result.user, 4 * user)
    torch.testing.assert_close(result.item, 4 * item)


@pytest.mark.parametrize("update", UPDATES)
def test_order_of_tokens_does_not_matter(update):
    model, users, items = make(update), random_tokens(6, 3), random_tokens(6, 4)
    order = torch.tensor([2, 0, 3, 1])
    permuted = model(users, Tokens(items.values[:, order], items.mask[:, order]))
    torch.testing.assert_close(permuted.user, model(users, items).user)
    torch.testing.assert_close(permuted.item, model(users, items).item)


@pytest.mark.parametrize("update", UPDATES)
def test_masked_token_is_no_token(update):
    model, users = make(update), full(torch.randn(6, 3, DIM, dtype=torch.float64))
    items = full(torch.randn(6, 4, DIM, dtype=torch.float64))
    mask = torch.tensor([True, True, False, True]).expand(6, 4)
    masked = model(users, Tokens(items.values, mask))
    kept = [0, 1, 3]
    removed = model(users, full(items.values[:, kept]))
    torch.testing.assert_close(masked.user, removed.user)
    torch.testing.assert_close(masked.item, removed.item)


def test_item_weights_come_from_the_user_alone():
    model = make()
    items = full(torch.randn(1, 4, DIM, dtype=torch.float64).expand(6, 4, DIM))
    users = full(torch.randn(6, 3, DIM, dtype=torch.float64))
    first = model(users, items).item_weights[0]
    assert (first - first[0]).abs().max() > 1e-3
    with torch.no_grad():
        for step in model.steps["item"]:
            step.query.weight.zero_()
    for weights in model(users, items).item_weights:
        torch.testing.assert_close(weights, weights[:1].expand(6, 4))


def test_both_directions_read_the_step_before():
    both = make("san", n_steps=1)
    users, items = random_tokens(6, 3), random_tokens(6, 4)
    alone = make("san", "item_only", n_steps=1)
    alone.steps["item"].load_state_dict(both.steps["item"].state_dict())
    torch.testing.assert_close(both(users, items).user, alone(users, items).user)


def test_dropout_acts_in_training_only_and_keeps_the_mean():
    model = make(dropout=0.5, n_steps=1)
    users, items = full(torch.randn(1, 1, DIM, dtype=torch.float64)), full(torch.ones(1, 1, DIM, dtype=torch.float64))
    n = 4000
    many = Tokens(users.values.expand(n, 1, DIM), users.mask.expand(n, 1))
    others = Tokens(items.values.expand(n, 1, DIM), items.mask.expand(n, 1))
    model.train()
    context = model(many, others).user - many.values[:, 0]
    assert set(context.round(decimals=6).unique().tolist()) == {0.0, 2.0}
    assert context.mean().item() == pytest.approx(1.0, abs=0.05)
    model.eval()
    torch.testing.assert_close(model(many, others).user - many.values[:, 0], torch.ones(n, DIM, dtype=torch.float64))


def test_additive_attention_without_bias():
    attention = AdditiveAttention(DIM, HIDDEN, bias=False)
    tokens, query = torch.randn(2, 5, DIM), torch.randn(2, DIM)
    weights = attention(attention.keys(tokens), query, torch.ones(2, 5, dtype=torch.bool))
    compared = torch.tanh(tokens @ attention.key.weight.T + (query @ attention.query.weight.T).unsqueeze(1))
    torch.testing.assert_close(weights, (compared @ attention.score.weight[0]).softmax(dim=1))


def test_pair_score():
    user, item = torch.randn(3, DIM), torch.randn(3, DIM)
    torch.testing.assert_close(PairScore("dot", DIM, 5)(user, item), torch.einsum("bd,bd->b", user, item))
    score = PairScore("mlp", DIM, 5)
    hidden = torch.relu(torch.cat([user, item], dim=1) @ score.hidden.weight.T + score.hidden.bias)
    torch.testing.assert_close(score(user, item), hidden @ score.output.weight[0] + score.output.bias)


def test_take_rows_is_indexing():
    table = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    index = torch.tensor([4, 0, 4])
    assert torch.equal(take_rows(table, index), table[index])
    assert torch.autograd.gradcheck(lambda x: take_rows(x, index), table)


@pytest.mark.parametrize(
    "arguments, message",
    [({"update": "sam"}, "got 'sam'"), ({"attend": "neither"}, "got 'san' and 'neither'")],
)
def test_unknown_choices_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        CoAttention(DIM, HIDDEN, 1, **arguments)
    with pytest.raises(ValueError, match="got 'cosine'"):
        PairScore("cosine", DIM, HIDDEN)


def grid_and_pairs(model, score, users, items, chunk):
    tables = side_tables(model, score, "user", users), side_tables(model, score, "item", items)
    with torch.no_grad():
        rows = torch.arange(len(users.mask)).repeat_interleave(len(items.mask))
        columns = torch.arange(len(items.mask)).repeat(len(users.mask))
        result = model(users.rows(rows), items.rows(columns))
        pairs = score(result.user, result.item).view(len(users.mask), len(items.mask))
    return score_grid(model, score, *tables, chunk), pairs, tables


@pytest.mark.parametrize("update, attend, kind", list(itertools.product(UPDATES, DIRECTIONS, SCORES)))
@pytest.mark.parametrize("n_steps", [0, 1, 3])
def test_grid_equals_pairs(update, attend, kind, n_steps):
    model, score = make(update, attend, n_steps), PairScore(kind, DIM, 5).double()
    users, items = random_tokens(5, 3), random_tokens(7, 4)
    for chunk in (1, 6, 100):
        grid, pairs, tables = grid_and_pairs(model, score, users, items, chunk)
        assert all(table.bounded for table in tables)
        torch.testing.assert_close(grid, pairs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 6, 100])
@pytest.mark.parametrize("n_items", [1, 7])
def test_tables_serve_more_than_one_grid(chunk, n_items):
    """A block of one row is contiguous as it is, so that exponentials in place would be those of the tables."""
    model, score = make(), PairScore("mlp", DIM, 5).double()
    tables = [side_tables(model, score, side, random_tokens(n, 3)) for side, n in (("user", 5), ("item", n_items))]
    first = score_grid(model, score, *tables, chunk)
    assert torch.equal(score_grid(model, score, *tables, chunk), first)


@pytest.mark.parametrize("update, kind", list(itertools.product(UPDATES, SCORES)))
def test_grid_equals_pairs_in_float32_at_real_sizes(update, kind):
    torch.manual_seed(0)
    model, score = CoAttention(64, 64, 3, update).eval(), PairScore(kind, 64, 64)
    users = random_tokens(20, 7, 64, torch.float32, 0.3)
    items = random_tokens(50, 6, 64, torch.float32, 0.3)
    grid, pairs, _ = grid_and_pairs(model, score, users, items, 256)
    torch.testing.assert_close(grid, pairs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("update, kind", list(itertools.product(UPDATES, SCORES)))
@pytest.mark.parametrize("user_scale, item_scale", [(300.0, 1.0), (1.0, 300.0), (300.0, 300.0)])
def test_grid_equals_pairs_beyond_the_range_of_exponentials(update, kind, user_scale, item_scale):
    model, score = make(update), PairScore(kind, DIM, 5).double()
    users, items = random_tokens(5, 3, scale=user_scale), random_tokens(7, 4, scale=item_scale)
    grid, pairs, tables = grid_and_pairs(model, score, users, items, 6)
    assert not all(table.bounded for table in tables)
    torch.testing.assert_close(grid, pairs, rtol=1e-9, atol=1e-9)


def test_exponentials_at_the_bound_stay_finite():
    model, score = make(dim=1, hidden=1, dtype=torch.float32), PairScore("dot", 1, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
        for steps in model.steps.values():
            for step in steps:
                step.key.bias.zero_()
    # Keys of -2 * 40 and bases of -2 * 20 are the largest that count as bounded with a query of at most 20 + 2 * 10.
    users, items = full(torch.tensor([[[10.0]], [[-10.0]]])), full(torch.tensor([[[-10.0]], [[10.0]], [[0.0]]]))
    grid, pairs, tables = grid_and_pairs(model, score, users, items, 4)
    assert all(table.bounded for table in tables)
    assert grid.isfinite().all()
    torch.testing.assert_close(grid, pairs)


def test_a_chunk_needs_a_pair():
    model, score = make(), PairScore("dot", DIM, 5).double()
    tables = [side_tables(model, score, side, random_tokens(2, 2)) for side in ("user", "item")]
    with pytest.raises(ValueError, match="pair_chunk must be at least 1, got 0"):
        score_grid(model, score, *tables, 0)
