"""UniSRec: its adaptor, the losses of its stages, items without embedding, histories, and what each option does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from recbole.utils import get_model
from torch.nn import functional as F

from recbole_mm.model.unisrec.adaptor import ExpertAdaptor, random_projection
from recbole_mm.model.unisrec.unisrec import drop_items
from tests.model.conftest import MODALITIES, build, stirred, total_loss
from tests.model.sasrec_names import sasrec_with

TINY = {
    "embedding_size": 8, "inner_size": 12, "MAX_ITEM_LIST_LENGTH": 10, "n_experts": 2,
    "hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "adaptor_dropout": 0.0,
}  # fmt: skip
NEW = {"cold_start": {"entity": "item", "ratio": 0.3}}


def tiny(**options):
    """A model in double precision with parameters large enough to matter."""
    return stirred(build("UniSRec", **{**TINY, **options}))


def adaptor(width, dim, n_experts):
    torch.manual_seed(0)
    return ExpertAdaptor(width, dim, n_experts, 0.0).double().eval()


# --- the adaptor


def test_the_adaptor_has_the_published_number_of_parameters():
    assert sum(parameter.numel() for parameter in adaptor(384, 64, 8).parameters()) == 205_824


def test_one_expert_is_a_whitening():
    one, feature = adaptor(3, 2, 1), torch.randn(4, 3, dtype=torch.float64)
    with torch.no_grad():
        one.shift.copy_(torch.tensor([[0.5, -1.0, 2.0]]))
        one.gate.normal_()
    expected = (feature - one.shift[0]) @ one.whiten[0]
    torch.testing.assert_close(one(feature), expected)


def test_at_first_every_expert_has_the_same_share():
    four, feature = adaptor(3, 2, 4), torch.randn(5, 3, dtype=torch.float64)
    with torch.no_grad():
        four.shift.normal_()
    whitened = torch.stack([(feature - four.shift[k]) @ four.whiten[k] for k in range(4)])
    torch.testing.assert_close(four(feature), whitened.mean(dim=0))


def test_gates_have_noise_in_training_alone():
    four, feature = adaptor(3, 2, 4), torch.randn(5, 3, dtype=torch.float64)
    with torch.no_grad():
        four.noise.normal_()
    assert torch.equal(four(feature), four(feature))
    four.train()
    torch.manual_seed(7)
    found = four(feature)
    torch.manual_seed(7)
    draw = torch.randn(5, 4, dtype=torch.float64)
    share = (draw * (F.softplus(feature @ four.noise) + 0.01)).softmax(dim=1)
    whitened = torch.stack([(feature - four.shift[k]) @ four.whiten[k] for k in range(4)], dim=1)
    torch.testing.assert_close(found, (share.unsqueeze(2) * whitened).sum(dim=1))


def test_random_projections_keep_angles_and_are_always_the_same():
    torch.manual_seed(0)
    feature = torch.randn(20, 400)
    found = random_projection(feature, 300)
    assert found.shape == (20, 300) and torch.equal(found, random_projection(feature, 300))
    assert random_projection(feature, 400) is feature
    before, after = (F.normalize(x) @ F.normalize(x).T for x in (feature, found))
    assert (before - after).abs().max() < 0.3 and (found.norm(dim=1) / feature.norm(dim=1) - 1).abs().max() < 0.2


# --- losses


def one_by_one(model, states, vectors, targets):
    """The loss of pre-training, one row at a time."""
    losses = []
    for b, target in enumerate(targets.tolist()):
        others = [j for j, other in enumerate(targets.tolist()) if j == b or other != target]
        scores = torch.stack([F.cosine_similarity(states[b], vectors[j], dim=0) for j in others]) / model.temperature
        losses.append(scores.logsumexp(dim=0) - scores[others.index(b)])
    return losses


def pretraining(**options):
    built = tiny(train_stage="pretrain", **options)
    model, batch = built.model, built.batch(30)
    assert model.item_embedding is None
    history, length, target = batch["item_id_list"], batch["item_length"], batch["item_id"]
    target[5] = target[3]
    return model, history, length, target


def test_rows_with_the_same_target_are_no_negatives():
    model, history, length, target = pretraining(contrastive_weight=0.0)
    states, vectors = model(history, length), model.item_vectors()[1][target]
    expected = one_by_one(model, states, vectors, target)
    (loss,) = model.pretraining_losses(history, length, target)
    torch.testing.assert_close(loss, torch.stack(expected).mean(), rtol=1e-6, atol=1e-7)
    # A copy of a row changes nothing for the rows of its own target.
    rows = torch.tensor([3, 5, 8, 3, 5])
    alone, copied = (one_by_one(model, states[some], vectors[some], target[some]) for some in (rows[:3], rows))
    torch.testing.assert_close(alone[0], copied[0])
    for some in (rows[[0, 2]], rows):
        expected = torch.stack(one_by_one(model, states[some], vectors[some], target[some])).mean()
        (loss,) = model.pretraining_losses(history[some], length[some], target[some])
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-7)


def test_a_batch_of_one_target_has_no_loss():
    model, history, length, target = pretraining(contrastive_weight=0.0)
    same = torch.full_like(target, 4)
    assert model.pretraining_losses(history, length, same)[0].item() == pytest.approx(0.0, abs=1e-9)


def test_the_contrast_compares_with_histories_without_some_items():
    model, history, length, target = pretraining(contrastive_weight=0.5, item_drop_rate=1.0)
    states = model(history, length)
    last = history.gather(1, (length - 1)[:, None])  # what stays of a history of which everything is dropped
    view = model(last, torch.ones_like(length))
    expected = torch.stack(one_by_one(model, states, view, target)).mean() * 0.5
    torch.testing.assert_close(model.pretraining_losses(history, length, target)[1], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("stage", ["inductive_ft", "transductive_ft"])
def test_fine_tuning_is_the_cross_entropy_of_the_scores(stage):
    built = tiny(train_stage=stage, **NEW)
    model, batch = built.model, built.batch(40)
    scores = model.full_sort_predict(batch).view(len(batch), -1)
    assert scores.abs().max() <= 1 / model.temperature + 1e-9
    expected = F.cross_entropy(scores.masked_fill(~model.seen, -torch.inf), batch["item_id"])
    torch.testing.assert_close(model.calculate_loss(batch), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("stage", ["pretrain", "inductive_ft", "transductive_ft"])
def test_states_are_those_of_recboles_sasrec_that_has_the_vectors_as_embeddings(stage):
    built = tiny(train_stage=stage)
    model, batch = built.model, built.batch(50)
    vectors = model.item_vectors()[1].detach()
    sasrec = sasrec_with(built, vectors, model.encoder)
    states = sasrec(batch["item_id_list"], batch["item_length"])
    torch.testing.assert_close(model(batch["item_id_list"], batch["item_length"]), states)
    cosines = F.normalize(states, dim=1) @ F.normalize(vectors, dim=1).T
    torch.testing.assert_close(model.full_sort_predict(batch).view(len(batch), -1), cosines / 0.07)


def test_transductive_vectors_have_an_embedding_added():
    inductive, transductive = (tiny(train_stage=f"{kind}_ft", **NEW).model for kind in ("inductive", "transductive"))
    state = {key: value for key, value in transductive.state_dict().items() if key != "item_embedding.weight"}
    inductive.load_state_dict(state)
    table = transductive.item_embedding.weight
    expected = inductive.item_vectors()[1] + torch.where(
        transductive.seen[:, None], table, table[transductive.seen].mean(dim=0)
    )
    torch.testing.assert_close(transductive.item_vectors()[1][1:], expected[1:])
    assert transductive.item_vectors()[1][0].eq(0).all()


def test_an_item_without_training_interaction_has_no_logit_and_no_gradient():
    built = tiny(**NEW)
    model, batch = built.model, built.batch(60)
    unseen = ~model.seen
    unseen[0] = False
    before = model.calculate_loss(batch)
    before.backward()
    assert unseen.any() and model.item_embedding.weight.grad[unseen].eq(0).all()
    with torch.no_grad():
        model.item_embedding.weight[unseen] += 5.0
    assert torch.equal(model.calculate_loss(batch), before)


def test_parameters_bring_their_embeddings_or_take_them_away():
    inductive, transductive = (tiny(train_stage=f"{kind}_ft").model for kind in ("inductive", "transductive"))
    states = inductive.state_dict(), transductive.state_dict()
    inductive.load_state_dict(states[1])
    assert inductive.phase == "transductive_ft" and "item_embedding.weight" in inductive.state_dict()
    transductive.load_state_dict(states[0])
    assert transductive.phase == "inductive_ft" and transductive.item_embedding is None


# --- modalities


def test_modalities_that_are_there_share_an_items_vector():
    built = tiny(train_stage="inductive_ft", modality_weight={"image": 3.0})
    model = built.model
    observed, weight = model.features.observed, model.features.weight
    lacking = next(int((~o[1:]).nonzero()[0]) + 1 for o in observed.values() if not o[1:].all())
    vectors = model.item_vectors()[1]
    for item in (1, lacking):
        there = [m for m in MODALITIES if observed[m][item]]
        total = sum(weight[m] for m in there)
        parts = [weight[m] / total * model.adaptor[m](model.features[m][item : item + 1].double())[0] for m in there]
        torch.testing.assert_close(vectors[item], sum(parts))


def with_augmented(**options):
    """A model whose image vectors are, in half of the steps, those of a modality of their width."""
    built = build("UniSRec", **TINY, modalities=["image"], train_stage="pretrain", contrastive_weight=1.0)
    dataset = built.train_data.dataset
    image = dataset.features.item["image"]
    other = replace(image, modality="image_b", feature=image.feature.flip(0) * image.observed[:, None])
    built.config["augmented_modality"] = {"image": "image_b"}
    for key, value in options.items():
        built.config[key] = value
    return built, get_model("UniSRec")(
        built.config,
        dataset.with_features(
            replace(dataset.features, item={"image": image, "image_b": other}, available=("image", "image_b"))
        ),
    )


def test_augmented_features_stand_for_the_modality_in_half_of_the_steps():
    built, model = with_augmented(item_drop_rate=0.0)
    model.eval()
    batch = built.batch(20)
    assert list(model.adaptor) == ["image"] and model.content_modalities == ("image",)
    assert model.ranked_modalities == ("image",)  # what health asks for
    found = set()
    for seed in range(12):
        torch.manual_seed(seed)
        found.add(round(model.calculate_loss(batch)[1].item(), 6))
    assert len(found) == 2, "histories with no item dropped, or of the other features"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"image": "nothing"}, "'nothing' is no modality in use"),
        ({"image": "image"}, "must hold augmented features"),
        ("image_b", "expected a mapping such as"),
    ],
)
def test_augmented_features_that_are_none_are_refused(value, message):
    with pytest.raises(ValueError, match=message):
        with_augmented(augmented_modality=value)


def test_features_are_brought_to_a_common_width():
    model = build("UniSRec", **TINY, project_to=5).model
    assert set(model.features.dims.values()) == {5}
    assert {a.whiten.shape[1] for a in model.adaptor.values()} == {5}
    assert model.features["text"][0].eq(0).all()


# --- histories


def test_some_items_are_dropped_and_one_stays():
    torch.manual_seed(0)
    history = torch.tensor([[3, 5, 8, 9], [4, 0, 0, 0], [0, 0, 0, 0]])
    length = torch.tensor([4, 1, 0])
    same, lengths = drop_items(history, length, 0.0)
    assert torch.equal(same, history) and lengths[:2].tolist() == [4, 1]
    alone, lengths = drop_items(history, length, 1.0)
    assert alone[:, 0].tolist() == [9, 4, 0] and lengths[:2].tolist() == [1, 1] and alone[:, 1:].eq(0).all()
    sizes = []
    for _ in range(300):
        some, lengths = drop_items(history, length, 0.2)
        row = some[0, : lengths[0]].tolist()
        assert row == [item for item in [3, 5, 8, 9] if item in row] and some[0, lengths[0] :].eq(0).all()
        sizes.append(len(row))
    assert 3.0 < sum(sizes) / len(sizes) < 3.4  # 4 x 0.8 on average


def test_a_later_item_changes_no_earlier_state():
    model = tiny().model
    table, seq = model.item_vectors()[0], torch.tensor([[3, 5, 8, 9]])
    for place in range(4):
        for later in range(4):
            changed = seq.clone()
            changed[0, later] = 11
            states = [model.states(table, x, torch.tensor([place])) for x in (seq, changed)]
            assert torch.equal(*states) == (later > place)


def test_padding_changes_nothing_and_short_histories_are_finite():
    model = tiny().model
    expected = model(torch.tensor([[3, 5, 8]]), torch.tensor([3]))
    for row in ([0, 0, 3, 5, 8], [3, 5, 8, 0, 0, 0]):
        torch.testing.assert_close(model.encode_history(torch.tensor([row])), expected)
    for rows in (torch.tensor([[4]]), torch.tensor([[0, 0]])):
        assert model.score_states(model.encode_history(rows)).isfinite().all()


# --- options


@pytest.mark.parametrize("stage", ["pretrain", "inductive_ft", "transductive_ft"])
def test_every_parameter_learns(stage):
    built = build("UniSRec", **{**TINY, "train_stage": stage})
    total_loss(built.model.train(), built.batch()).backward()
    for name, parameter in built.model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_stage": "finetune"}, "'train_stage': expected one of pretrain, inductive_ft, transductive_ft, both"),
        ({"finetune_stage": "both"}, "'finetune_stage': expected one of inductive_ft, transductive_ft"),
        ({"temperature": 0}, "temperature must be a positive number"),
        ({"n_heads": 3}, "n_heads must divide embedding_size"),
    ],
)
def test_what_cannot_be_meant_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build("UniSRec", **{**TINY, **options})
