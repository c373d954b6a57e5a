"""Meta-learning: the algebra of MAML, and the vectorised inner loops of real learners against plain loops."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from recbole_mm.nn.attention.sequence import SequenceEncoder
from recbole_mm.nn.meta.learner import FeatureLearner, IdLearner
from recbole_mm.nn.meta.maml import adapt, straight_through, task_losses
from recbole_mm.nn.meta.tasks import TaskBatch

N_ITEMS, WIDTH, DIM, LENGTH = 9, 3, 4, 5


def half_square(parameters, target):
    return (parameters["x"] - target).square() / 2


def query_after(x, second_order, steps=5, rate=0.1):
    """Query loss of L_s = L_q = x^2 / 2 after the inner loop, differentiable in x."""
    zero = torch.zeros(1, dtype=torch.float64)
    adapted = adapt(half_square, {"x": x}, [zero], steps, rate, second_order=second_order)
    if not second_order:
        adapted = straight_through({"x": x}, adapted)
    return task_losses(half_square, adapted, [zero]).sum(), adapted["x"]


@pytest.mark.parametrize(("second_order", "expected"), [(False, 0.59049), (True, 0.3486784401)])
def test_algebra_of_maml(second_order, expected):
    x = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    loss, adapted = query_after(x, second_order)
    assert adapted.item() == pytest.approx(0.59049, abs=1e-15)
    (slope,) = torch.autograd.grad(loss, x)
    assert slope.item() == pytest.approx(expected, abs=1e-14)


def test_second_order_is_the_derivative_of_the_adapted_loss():
    step = 1e-5
    at = [query_after(torch.tensor(1.0 + sign * step, dtype=torch.float64), True)[0].item() for sign in (1, -1)]
    assert (at[0] - at[1]) / (2 * step) == pytest.approx(0.3486784401, abs=1e-9)


def test_straight_through_is_the_adapted_value_bit_for_bit_and_sums_gradients():
    theta = torch.randn(3, requires_grad=True)
    phi = torch.randn(4, 3)
    out = straight_through({"w": theta}, {"w": phi})["w"]
    assert torch.equal(out, phi)
    weight = torch.randn(4, 3)
    (out * weight).sum().backward()
    torch.testing.assert_close(theta.grad, weight.sum(0))


def make_learner(kind, attention=0.5, dropout=0.0, seed=0):
    torch.manual_seed(seed)
    encoder = SequenceEncoder(DIM, LENGTH, 2, 2, 6, dropout, dropout)
    feature = torch.randn(N_ITEMS, WIDTH, dtype=torch.float64)
    learner = (
        IdLearner(encoder, N_ITEMS, DIM, WIDTH, attention) if kind == "id" else FeatureLearner(encoder, DIM, feature)
    )
    learner = learner.double()
    with torch.no_grad():  # larger than the initial 0.02, so that everything matters
        for parameter in learner.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return learner, feature


CANDIDATES = torch.tensor([4, 1, 7, 2])


def make_batch(n_tasks=3, n_windows=2, seed=1, shared=False):
    generator = torch.Generator().manual_seed(seed)
    window = torch.randint(1, N_ITEMS, (n_tasks, n_windows, LENGTH), generator=generator)
    size = torch.randint(1, LENGTH + 1, (n_tasks, n_windows, 1), generator=generator)
    window = window.masked_fill(torch.arange(LENGTH) >= size, 0)
    target, negative = torch.randint(1, N_ITEMS, (2, *window.shape), generator=generator)
    target = target * window.ne(0) * (torch.rand(window.shape, generator=generator) < 0.8)
    target[0] = 0  # a user without instances
    return TaskBatch(window, target, CANDIDATES if shared else negative)


def plain_loss(learner, batch, feature, user):
    """BPR or cross entropy of one user's instances, one window and position at a time."""
    terms = []
    for row, window in enumerate(batch.window[user]):
        state = learner.states(window[None], feature)[0]
        for position, target in enumerate(batch.target[user, row]):
            if target > 0 and batch.negative.dim() == 1:
                asked = torch.cat([target[None], CANDIDATES[CANDIDATES.ne(target)]])
                scores = learner.embed(asked, feature) @ state[position]
                terms.append(F.cross_entropy(scores, torch.tensor(0)))
            elif target > 0:
                vectors = learner.embed(torch.stack([target, batch.negative[user, row, position]]), feature)
                terms.append(F.softplus(state[position] @ (vectors[1] - vectors[0])))
    return torch.stack(terms).mean() if terms else 0.0 * sum(p.sum() for p in learner.parameters())


def plain_adapt(learner, batch, feature, user, steps, rate, scope):
    """A copy of the learner after plain gradient descent on one user."""
    clone = copy.deepcopy(learner)
    named = dict(clone.named_parameters())
    names = [name for name in named if scope == "all" or name.startswith("encoder.")]
    for _ in range(steps):
        loss = plain_loss(clone, batch, feature, user)
        slopes = torch.autograd.grad(loss, [named[name] for name in names], allow_unused=True)
        with torch.no_grad():
            for name, slope in zip(names, slopes):
                if slope is not None:
                    named[name] -= rate * slope
    return clone


@pytest.mark.parametrize("shared", [False, True], ids=["bpr", "cross entropy"])
@pytest.mark.parametrize("scope", ["local", "all"])
@pytest.mark.parametrize("kind", ["id", "text"])
def test_vectorised_adaptation_is_the_loop_over_users(kind, scope, shared):
    learner, feature = make_learner(kind)
    before = copy.deepcopy(learner.state_dict())
    batch, query = make_batch(shared=shared), make_batch(seed=2, shared=shared)
    adapted = learner.adapt(batch, feature, 3, 0.1, scope)
    losses = learner.losses(adapted, query, feature, scope)
    states = learner.adapted_states(adapted, query.window, feature)
    scores = learner.adapted_scores(adapted, states[:, 0, 0], feature)
    for user in range(3):
        clone = plain_adapt(learner, batch, feature, user, 3, 0.1, scope)
        for name, values in adapted.items():
            torch.testing.assert_close(values[user], clone.get_parameter(name).data, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(losses[user], plain_loss(clone, query, feature, user), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(states[user], clone.states(query.window[user], feature), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(scores[user], clone.scores(states[user, 0, 0], feature), rtol=1e-10, atol=1e-12)
    assert all(torch.equal(before[name], value) for name, value in learner.state_dict().items()), "start was written to"


def test_adaptation_changes_local_parameters_only_where_there_is_support():
    learner, feature = make_learner("id")
    adapted = learner.adapt(make_batch(), feature, 2, 0.1)
    assert set(adapted) == {name for name, _ in learner.named_parameters() if name.startswith("encoder.")}
    for name, values in adapted.items():
        assert torch.equal(values[0], learner.get_parameter(name)), "user without instances"
        if "norm_bias" in name:
            assert not torch.equal(values[1], learner.get_parameter(name))
            assert not torch.equal(values[1], values[2])


def test_plain_loss_is_the_mean_over_all_instances():
    learner, feature = make_learner("id")
    for shared in (False, True):
        batch = make_batch(shared=shared)
        count = batch.target.ne(0).sum(dim=(1, 2))
        expected = sum(n * plain_loss(learner, batch, feature, user) for user, n in enumerate(count)) / count.sum()
        torch.testing.assert_close(learner.plain_loss(batch, feature), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("kind", ["id", "text"])
def test_without_steps_the_query_loss_is_multi_task_bpr(kind):
    learner, feature = make_learner(kind)
    query = make_batch(seed=2)
    adapted = straight_through(learner.parameters_of("local"), learner.adapt(make_batch(), feature, 0, 0.1))
    loss = learner.losses(adapted, query, feature).mean()
    expected = torch.stack([plain_loss(learner, query, feature, user) for user in range(3)]).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-14)
    names, parameters = zip(*learner.named_parameters())
    for name, slope, reference in zip(
        names,
        torch.autograd.grad(loss, parameters, allow_unused=True),
        torch.autograd.grad(expected, parameters, allow_unused=True),
    ):
        torch.testing.assert_close(slope, reference, rtol=1e-9, atol=1e-12, msg=name)


def meta_loss(learner, feature, second_order):
    support, query = make_batch(), make_batch(seed=2)
    adapted = learner.adapt(support, feature, 3, 0.2, second_order=second_order)
    if not second_order:
        adapted = straight_through(learner.parameters_of("local"), adapted)
    return learner.losses(adapted, query, feature).mean()


@pytest.mark.parametrize("kind", ["id", "text"])
def test_second_order_gradient_is_the_finite_difference(kind):
    learner, feature = make_learner(kind)
    slopes = torch.autograd.grad(meta_loss(learner, feature, True), list(learner.parameters()))
    first = torch.autograd.grad(meta_loss(learner, feature, False), list(learner.parameters()))
    step, differs = 1e-5, 0.0
    for index, (name, parameter) in enumerate(learner.named_parameters()):
        direction = torch.randn_like(parameter)
        at = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * step * direction)
                at.append(meta_loss(learner, feature, False).item())  # the value is the same, without a graph
                parameter.sub_(sign * step * direction)
        numeric = (at[0] - at[1]) / (2 * step)
        analytic = (slopes[index] * direction).sum().item()
        assert analytic == pytest.approx(numeric, rel=1e-5, abs=1e-9), name
        differs = max(differs, abs(analytic - (first[index] * direction).sum().item()))
    assert differs > 1e-3, "first and second order agree, so the test shows nothing"


@pytest.mark.parametrize("kind", ["id", "text"])
def test_first_order_gradient_is_the_gradient_at_the_adapted_parameters(kind):
    learner, feature = make_learner(kind)
    support, query = make_batch(), make_batch(seed=2)
    meta_loss(learner, feature, False).backward()
    expected = {name: torch.zeros_like(parameter) for name, parameter in learner.named_parameters()}
    for user in range(3):
        clone = plain_adapt(learner, support, feature, user, 3, 0.2, "local")
        loss = plain_loss(clone, query, feature, user) / 3
        for (name, _), slope in zip(
            clone.named_parameters(), torch.autograd.grad(loss, list(clone.parameters()), allow_unused=True)
        ):
            if slope is not None:
                expected[name] += slope
    for name, parameter in learner.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-8, atol=1e-11, msg=name)


def test_dropout_differs_between_tasks_and_runs():
    learner, feature = make_learner("id", dropout=0.5)
    one = make_batch(seed=2)
    same = TaskBatch(*(tensor[1:2].expand(2, -1, -1) for tensor in one))
    adapted = learner.train().adapt(same, feature, 1, 0.1)
    assert not torch.equal(adapted["encoder.norm_bias"][0], adapted["encoder.norm_bias"][1])
    quiet = learner.eval().adapt(same, feature, 1, 0.1)
    assert torch.equal(quiet["encoder.norm_bias"][0], quiet["encoder.norm_bias"][1])


def test_padding_has_no_gradient_in_the_id_learner():
    learner, feature = make_learner("id")
    meta_loss(learner, feature, False).backward()
    assert torch.equal(learner.item_embedding.grad[0], torch.zeros(DIM, dtype=torch.float64))


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="3 heads for width 4"):
        SequenceEncoder(4, 5, n_heads=3)


def test_encoder_is_a_module_of_plain_parameters():
    # Profilers hook leaf modules such as nn.Linear, and their in-place counters break torch.func.grad.
    leaves = [m for m in SequenceEncoder(4, 5).modules() if isinstance(m, (nn.Linear, nn.LayerNorm, nn.Dropout))]
    assert not leaves
