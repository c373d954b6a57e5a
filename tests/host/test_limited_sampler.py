"""Which items are drawn as negatives under a cold-start protocol."""

from __future__ import annotations

from typing import Any

import pytest

from tests.host.cold_data import BY_RATIO, LEAVE_ONE_OUT, config, loaders


def draws(model: str, **options: Any) -> tuple[Any, Any, Any]:
    made = config(model, train_neg_sample_args={"distribution": "uniform", "sample_num": 1}, **options)
    return loaders(made)


@pytest.mark.parametrize("distribution", ["uniform", "popularity"])
@pytest.mark.parametrize("model", ["BPR", "MML"])
def test_no_new_item_is_a_negative_in_training(model: str, distribution: str) -> None:
    made = config(
        model, cold_start={"entity": "item"}, train_neg_sample_args={"distribution": distribution, "sample_num": 1}
    )
    train = loaders(made)[0]
    drawn = {item for _ in range(3) for batch in train for item in batch["neg_item_id"].tolist()}
    warm = set(range(1, train._dataset.item_num)) - set(train._dataset.cold_start.items.tolist())
    assert drawn <= warm and len(drawn) > len(warm) / 2


@pytest.mark.parametrize("candidates", ["cold", "warm", "all"])
@pytest.mark.parametrize("model", ["BPR", "MML"])
def test_sampled_evaluation_draws_candidates(model: str, candidates: str) -> None:
    arguments = {**(LEAVE_ONE_OUT if model == "MML" else BY_RATIO), "mode": "uni20"}
    _, valid, test = draws(
        model, cold_start={"entity": "item", "candidates": candidates, "ratio": 0.4}, eval_args=arguments
    )
    cold = test._dataset.cold_start
    new = set(cold.items.tolist())
    for loader in (valid, test):
        drawn = {item for batch in loader for item in batch[0]["item_id"].tolist()}
        assert {"cold": drawn <= new, "warm": not drawn & new, "all": bool(drawn & new and drawn - new)}[candidates]


def test_support_interactions_are_no_negatives() -> None:
    _, valid, _ = draws("BPR", cold_start={"entity": "user"}, eval_args={**BY_RATIO, "mode": "uni50"})
    cold = valid._dataset.cold_start
    known = set(zip(*(ids.tolist() for ids in cold.known["valid"])))
    for interaction, *_ in valid:
        assert not known & set(zip(interaction["user_id"].tolist(), interaction["item_id"].tolist()))


def test_new_items_have_no_popularity() -> None:
    with pytest.raises(ValueError, match="new items have no popularity"):
        draws("BPR", cold_start={"entity": "item"}, eval_args={**BY_RATIO, "mode": "pop20"})
    draws("BPR", cold_start={"entity": "item", "candidates": "warm"}, eval_args={**BY_RATIO, "mode": "pop20"})


def test_a_user_who_has_had_every_candidate_is_an_error_and_not_an_endless_search() -> None:
    with pytest.raises(ValueError, match=r"user 'u\d+' has interacted with every one of the 2 items"):
        draws(
            "BPR", cold_start={"entity": "item", "candidates": "cold", "ratio": 0.025},
            eval_args={**BY_RATIO, "mode": "uni5"},
        )  # fmt: skip
