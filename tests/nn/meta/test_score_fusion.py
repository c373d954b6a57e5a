"""The prediction fusion against hand-computed values."""

from __future__ import annotations

import math

import pytest
import torch

from recbole_mm.nn.meta.score_fusion import ScoreFusion

SCORES = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0], [0.0, 0.0, 3.0]])


def with_logits(logits):
    """A fusion whose MLP gives the three models these logits, whatever their order: model m has the state e_m."""
    fusion = ScoreFusion(3, 3, [1.0, 1.0, 1.0], hidden=3)
    with torch.no_grad():
        fusion.mlp[0].weight.copy_(torch.eye(3))
        fusion.mlp[0].bias.zero_()
        # LN of e_m is sqrt(2) at m and -sqrt(1/2) elsewhere, which the ReLU cuts off.
        fusion.mlp[2].weight.copy_(torch.tensor([logits]) / math.sqrt(2))
    return fusion


def test_hand_computed_fusion():
    fusion = with_logits([0.0, math.log(2), 0.0])
    weights = fusion.weights(torch.eye(3).unsqueeze(0))
    torch.testing.assert_close(weights, torch.tensor([[0.25, 0.5, 0.25]]), rtol=0, atol=1e-5)
    fused = fusion(torch.eye(3).unsqueeze(0), SCORES.unsqueeze(0))
    torch.testing.assert_close(fused, torch.tensor([[0.129408, -0.176776, 0.047369]]), rtol=0, atol=1e-5)


def test_weights_sum_to_one_and_depend_on_the_instance():
    torch.manual_seed(0)
    fusion = ScoreFusion(6, 4, [1.0, 1.0])
    with torch.no_grad():
        fusion.mlp[-1].weight.normal_()
    weights = fusion.weights(torch.randn(5, 2, 6))
    torch.testing.assert_close(weights.sum(-1), torch.ones(5))
    assert weights[:, 0].std() > 0.01


def test_shifting_or_scaling_one_models_scores_changes_nothing():
    fusion = with_logits([0.3, 0.1, -0.2])
    states, scores = torch.eye(3).unsqueeze(0), SCORES.unsqueeze(0).clone()
    before = fusion(states, scores)
    scores[0, 1] = scores[0, 1] * 4 + 7
    torch.testing.assert_close(fusion(states, scores), before, rtol=1e-4, atol=1e-5)


def test_untrained_fusion_is_the_weighted_mean_of_standardised_scores():
    torch.manual_seed(0)
    states, scores = torch.randn(5, 2, 6), torch.randn(5, 2, 9)
    plain = (scores - scores.mean(-1, keepdim=True)) / scores.std(-1, correction=0, keepdim=True)
    for prior in ([1.0, 1.0], [3.0, 1.0]):
        share = torch.tensor(prior) / sum(prior)
        expected = (share[:, None] * plain).sum(1)
        for method in ("attention", "weight"):
            torch.testing.assert_close(
                ScoreFusion(6, 9, prior, method=method)(states, scores), expected, rtol=1e-4, atol=1e-4
            )


def test_equal_priors_are_no_priors_bit_for_bit():
    fusion = with_logits([0.3, 0.1, -0.2])
    states = torch.randn(4, 3, 3)
    logits = fusion.mlp(fusion.state_norm(states)).squeeze(-1)
    assert torch.equal(fusion.weights(states), logits.softmax(-1))


def test_what_is_trained():
    names = {name for name, _ in ScoreFusion(6, 9, [1.0]).named_parameters()}
    assert {"score_norm.weight", "state_norm.bias", "mlp.2.weight"} <= names
    assert "score_norm.weight" not in dict(ScoreFusion(6, 9, [1.0], affine=False).named_parameters())
    assert not list(ScoreFusion(6, 9, [1.0], method="weight").parameters())


def test_no_final_activation():
    assert with_logits([-1.0, -2.0, 0.0]).weights(torch.eye(3).unsqueeze(0))[0].tolist() == pytest.approx(
        torch.tensor([-1.0, -2.0, 0.0]).softmax(0).tolist(), abs=1e-4
    )


def test_states_and_scores_without_spread_stay_finite():
    fusion = with_logits([0.0, 0.0, 0.0])
    assert fusion(torch.zeros(2, 3, 3), torch.zeros(2, 3, 3)).eq(0).all()
