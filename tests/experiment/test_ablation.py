from __future__ import annotations

import numpy as np
import pytest
import torch

from recbole_mm.data.features.permute import permute_modality
from recbole_mm.data.features.table import FeatureStore, FeatureTable, InteractionFeatures
from recbole_mm.experiment.ablation import permuted_results, without_modality
from recbole_mm.experiment.job import Job, prepare, train
from tests.options import QUICK


def store():
    generator = torch.Generator().manual_seed(0)

    def table(modality, entity, n):
        feature = torch.rand(n, 3, generator=generator)
        observed = torch.rand(n, generator=generator) > 0.3
        observed[0] = False
        return FeatureTable(modality, entity, feature * observed[:, None], observed)

    reviews = InteractionFeatures("text", torch.arange(9), torch.arange(9), torch.arange(9.0)[:, None])
    return FeatureStore(
        item={"image": table("image", "item", 40), "text": table("text", "item", 40)},
        user={"text": table("text", "user", 20)},
        inter={"text": reviews},
        available=("image", "text"),
    )


def test_a_permutation_exchanges_observed_rows_only():
    before = store()
    after = permute_modality(before, "text", seed=3)
    old, new = before.item["text"], after.item["text"]
    assert not torch.equal(old.feature, new.feature)
    assert torch.equal(old.observed, new.observed) and not new.feature[~new.observed].any()
    rows = [{tuple(row) for row in table.feature[table.observed].tolist()} for table in (old, new)]
    assert rows[0] == rows[1]
    assert sorted(after.inter["text"].feature.flatten().tolist()) == list(range(9))
    assert torch.equal(after.inter["text"].user, before.inter["text"].user)
    assert not torch.equal(after.user["text"].feature, before.user["text"].feature)


def test_other_modalities_are_shared_and_the_original_is_kept():
    before = store()
    copy = before.item["text"].feature.clone()
    after = permute_modality(before, "text", seed=3)
    assert after.item["image"] is before.item["image"] and torch.equal(before.item["text"].feature, copy)


def test_the_seed_decides_and_no_global_state_is_used():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, again, other = (permute_modality(store(), "image", seed).item["image"].feature for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.rand(1), expected)


def test_leaving_out_keeps_the_other_weights():
    assert without_modality({}, "image", ["image", "text"]) == {"modality_weight": {"image": 0.0, "text": 1.0}}
    given = {"modality_weight": {"image": 2.0, "text": 0.5}, "epochs": 3}
    assert without_modality(given, "text", ["image", "text"]) == {
        "modality_weight": {"image": 2.0, "text": 0.0},
        "epochs": 3,
    }
    assert without_modality({"modality_weight": 2.0}, "text", ["image", "text"])["modality_weight"]["image"] == 2.0


@pytest.fixture(scope="module")
def trained_mmgcn():
    with torch.random.fork_rng():
        prepared = prepare(Job("MMGCN", "mm-toy", {**QUICK, "epochs": 6, "learning_rate": 0.01}, 2020, 2020))
        train(prepared, saved=False)
        return prepared


def test_a_model_that_uses_its_modalities_suffers_from_permuted_rows(trained_mmgcn):
    """mm-toy's items are told apart by topic and style, which image and text show."""
    trainer = trained_mmgcn.trainer
    before = trainer.evaluate(trained_mmgcn.test_data, load_best_model=False)
    results, users = permuted_results(trained_mmgcn, seed=1)
    assert set(results) == {"audio", "image", "text"}
    assert any(results[modality] != dict(before) for modality in results)
    assert users["permuted/image/recall@10"].mean() == pytest.approx(results["image"]["recall@10"], abs=5.1e-5)
    assert not any(name.endswith("/user") for name in users)
    again = trainer.evaluate(trained_mmgcn.test_data, load_best_model=False)
    assert again == before  # the trained model is back, with its own features


def test_the_permuted_model_has_the_trained_parameters_and_the_permuted_features(trained_mmgcn, monkeypatch):
    from recbole_mm.experiment import ablation

    seen = []
    trainer = trained_mmgcn.trainer
    evaluate = trainer.evaluate
    monkeypatch.setattr(
        trainer, "evaluate", lambda *args, **kwargs: seen.append(trainer.model) or evaluate(*args, **kwargs)
    )
    ablation.permuted_results(trained_mmgcn, seed=1)
    for modality, model in zip(("audio", "image", "text"), seen):
        for name, value in trainer.model.state_dict().items():
            assert torch.equal(model.state_dict()[name], value)
        for other, feature in trainer.model.features.items():
            assert torch.equal(model.features[other], feature) == (other != modality)


def test_a_model_without_features_has_no_ablation():
    prepared = prepare(Job("BPR", "mm-toy", QUICK, 2020, 2020))
    assert permuted_results(prepared, 1) == ({}, {})


def test_patches_are_permuted_as_a_whole():
    feature = torch.arange(24.0).reshape(4, 3, 2)
    table = FeatureTable("image", "item", feature, torch.tensor([False, True, True, True]))
    after = permute_modality(FeatureStore(item={"image": table}), "image", 0).item["image"].feature
    assert {tuple(row.flatten().tolist()) for row in after[1:]} == {
        tuple(row.flatten().tolist()) for row in feature[1:]
    }
    assert np.allclose(after[0], feature[0])
