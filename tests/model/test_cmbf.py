"""CMBF against a plain reference, its defining properties, its full ranking and both protocols."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction
from recbole.quick_start import run_recbole
from torch.nn import functional as F

from recbole_mm.config import properties_directory
from recbole_mm.model.user_tokens import UserTokens
from recbole_mm.nn.attention.cross_modal_folded import FoldedNetwork
from recbole_mm.nn.diagnosis import idle
from tests.model.conftest import build, config_for, total_loss, train_steps
from tests.model.tiny import tiny_model
from tests.nn.attention.test_cross_modal import most_numbers_at_once, reference_network

SIDE = {"load_col": {"inter": ["user_id", "item_id"], "user": "*", "item": "*"}}
SMALL = {"embedding_size": 4, "image_feature_dim": 3, "n_image_layers": 1, "n_text_layers": 1, "n_cross_layers": 2}
RANDOM = np.random.default_rng(0)
FEATURES = {
    "image": RANDOM.normal(size=(4, 5)).astype(np.float32),
    "text": RANDOM.normal(size=(4, 2)).astype(np.float32),
}
PATCHES = {"image": RANDOM.normal(size=(4, 3, 5)).astype(np.float32), "text": FEATURES["text"]}
PAIRS = [(0, 0), (0, 1), (1, 2), (2, 2), (2, 0), (2, 3), (0, 1)]


def batch(*triples):
    users, items, labels = (torch.tensor(column) for column in zip(*triples))
    return Interaction({"user_id": users + 1, "item_id": items + 1, "label": labels.float()})


# The third pair is in nobody's history but the label says nothing about that; user 1 has one item.
BATCH = batch((0, 0, 1), (0, 1, 0), (0, 3, 1), (1, 2, 1), (2, 3, 1), (1, 0, 0))
SAMPLED = batch((0, 0, 1), (0, 1, 1), (2, 2, 1), (0, 2, 0), (0, 3, 0), (2, 1, 0))


def reference_tokens(model, user, item, left_out):
    """Image tokens and fields of one pair; an absent field is ``None``."""
    weight, features, observed = model.features.weight, model.features, model.features.observed
    tower, people = model.item_tokens, model.user_tokens
    name = model.image_tokens.modality
    feature, embed = features[name][item], model.image_tokens.embed
    if model.image_tokens.patched:
        image = [weight[name] * embed(patch) for patch in feature]
    else:
        image = [weight[name] * x * w for x, w in zip(embed.reduce(feature.flatten()), embed.vector)]
    fields = [people.embedding.weight[user], *reference_fields(people.side, user)]
    history = {int(i) for u, i in zip(*model.training_pairs) if u == user}
    training = model.training and left_out in history
    for modality, project in people.project.items():
        vectors = [
            features[modality][i].reshape(-1, features.dims[modality]).mean(dim=0)
            for i in history
            if observed[modality][i] and not (training and i == left_out)
        ]
        fields.append(weight[modality] * project(torch.stack(vectors).mean(dim=0)) if vectors else None)
    fields.append(tower.embedding.weight[item])
    for modality, project in tower.project.items():
        vector = features[modality][item].reshape(-1, features.dims[modality]).mean(dim=0)
        tokens = [project(vector)] if hasattr(project, "weight") else project(vector.unsqueeze(0))[0]
        fields += [weight[modality] * token if observed[modality][item] else None for token in tokens]
    return image, fields + reference_fields(tower.side, item)


def reference_fields(side, row):
    tokens = []
    for field in side.embed:
        if hasattr(field, "present"):
            tokens.append(field.project.weight @ field.values[row].double() if field.present[row] else None)
        else:
            ids = [i for i in field.values[row].tolist() if i]
            tokens.append(torch.stack([field.embedding.weight[i] for i in ids]).mean(dim=0) if ids else None)
    return tokens


def reference_logit(model, user, item, left_out=None):
    image, fields = reference_tokens(model, user, item, left_out)
    mask = torch.tensor([[token is not None for token in fields]])
    text = torch.stack([torch.zeros(model.network.dim).double() if t is None else t for t in fields])[None]
    present = model.features.observed[model.image_tokens.modality][item : item + 1]
    image, text = reference_network(model.network, torch.stack(image)[None], text, mask, present)
    pooled = image[0].mean(dim=0) if model.image_pool == "mean" else image[0].flatten()
    length = sum(token.square().sum() for token in fields if token is not None)
    return model.output(torch.cat([pooled, text[0].flatten()])).squeeze(), length


def reference_loss(model, interaction):
    losses, lengths = [], []
    rows = list(zip(*(interaction[f].tolist() for f in ("user_id", "item_id", "label"))))
    n_positive = sum(label for _, _, label in rows)
    known = set(zip(*(side.tolist() for side in model.training_pairs)))
    for index, (user, item, label) in enumerate(rows):
        # Sampled negatives lie below the positives and meet their histories; a pair of the history leaves itself out.
        partner = rows[int(index % n_positive)]
        left_out = partner[1] if (user, item) not in known and partner[0] == user else item
        logit, length = reference_logit(model, user, item, left_out)
        probability = torch.sigmoid(logit)
        losses.append(-torch.log(probability if label else 1 - probability))
        lengths.append(length)
    return torch.stack(losses).mean(), model.reg_weight * torch.stack(lengths).mean() / 2


CASES = {
    "default": {},
    "paper users": {"user_feature_source": "none"},
    "flatten": {"image_pool": "flatten"},
    "mlp": {"final_mlp": [5, 3]},
    "text as fields": {"text_as_fields": 2},
    "every entry": {"image_feature_dim": None},
    "no norm": {"use_layer_norm": False},
    "text in the image branch": {"image_modality": "text"},
    "weights": {"modality_weight": {"image": 3.0, "text": 1.0}},
    "one modality": {"modalities": ["text"]},
}


# Patches differ from vectors in the image branch alone, or where the branch is text, as one token of their mean.
WITH_PATCHES = ("default", "flatten", "text as fields", "text in the image branch", "weights")


@pytest.mark.parametrize(
    ("case", "features"),
    [(case, FEATURES) for case in CASES] + [(case, PATCHES) for case in WITH_PATCHES],
    ids=[f"{case}-vectors" for case in CASES] + [f"{case}-patches" for case in WITH_PATCHES],
)
def test_scores_loss_and_gradients_equal_plain_loops(case, features):
    options = {**SMALL, "dropout": 0.0, "reg_weight": 0.1, **CASES[case]}
    model = tiny_model("CMBF", PAIRS, features, **options).double()
    model.train()
    for rows in (SAMPLED, BATCH):
        losses, expected = model.calculate_loss(rows), reference_loss(model, rows)
        for ours, theirs in zip(losses, expected):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)
    # Sums over a history are made in float32, and normalising tokens that hardly vary magnifies their rounding.
    rtol = 1e-7 if model.user_tokens.n_pooled == 0 else 1e-4
    names, parameters = zip(*model.named_parameters())
    pairs = [torch.autograd.grad(sum(terms), parameters, allow_unused=True) for terms in (losses, expected)]
    for name, own, other in zip(names, *pairs):
        assert own is not None, name
        other = torch.zeros_like(own) if other is None else other
        torch.testing.assert_close(own, other, rtol=rtol, atol=rtol / 1e3, msg=lambda m, name=name: f"{name}: {m}")
    model.eval()
    users = Interaction({"user_id": BATCH["user_id"].unique()})
    with torch.no_grad():
        scores = model.full_sort_predict(users).view(len(users), -1)
        for row, user in enumerate(users["user_id"].tolist()):
            for item in range(1, model.n_items):
                plain = reference_logit(model, user, item)[0].item()
                assert scores[row, item].item() == pytest.approx(plain, rel=rtol, abs=rtol / 1e3)


def test_side_fields_and_missing_features_equal_plain_loops():
    model = build("CMBF", **SMALL, **SIDE).model.double().eval()
    assert model.user_tokens.side.fields == ("gender", "age", "interests")
    assert model.item_tokens.side.fields == ("brand", "price", "tags")
    lacking = [
        int((~model.features.observed[m][1:]).nonzero()[0]) + 1
        for m in model.features
        if not model.features.observed[m][1:].all()
    ]
    items = [*lacking, 5, 6]
    pairs = Interaction({"user_id": torch.arange(1, len(items) + 1), "item_id": torch.tensor(items)})
    for row, (ours, item) in enumerate(zip(model.predict(pairs), items)):
        plain = torch.sigmoid(reference_logit(model, row + 1, item)[0])
        assert ours.item() == pytest.approx(plain.item(), rel=1e-5)


def test_multi_valued_field_is_the_mean_of_its_embeddings():
    side = build("CMBF", **SMALL, **SIDE).model.item_tokens.side
    field = side.embed[side.fields.index("tags")]
    tokens, _ = field(None)
    several = (field.values.ne(0).sum(dim=1) > 1).nonzero()[0].item()
    ids = field.values[several][field.values[several] != 0]
    torch.testing.assert_close(tokens[several], field.embedding.weight[ids].mean(dim=0))


def test_default_layers_are_those_of_the_paper():
    network = build("CMBF").model.network
    assert (len(network.image_layers), len(network.text_layers), len(network.cross_layers)) == (2, 2, 3)


@pytest.mark.parametrize(
    ("modalities", "options", "branch"),
    [
        (None, {}, "image"),
        (["audio", "text"], {}, "widest"),
        (["audio"], {}, "audio"),
        (None, {"image_modality": "audio"}, "audio"),
    ],
)
def test_which_modality_is_the_image_branch(modalities, options, branch):
    model = build("CMBF", modalities=modalities, **options).model
    expected = max(model.features.dims, key=model.features.dims.get) if branch == "widest" else branch
    assert model.image_tokens.modality == expected
    assert sorted([expected, *model.item_tokens.slots]) == sorted(model.features)


def test_unknown_image_modality_is_refused():
    with pytest.raises(ValueError, match=r"'image_modality': 'imgae' is no modality in use. Did you mean 'image'"):
        build("CMBF", image_modality="imgae")


def test_the_user_changes_the_image_branch_through_the_cross_layers_only():
    for n_cross_layers in (0, 3):
        model = build("CMBF", n_cross_layers=n_cross_layers).model.eval()
        seen = []
        model.output.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
        with torch.no_grad():
            model.predict(Interaction({"user_id": torch.tensor([1, 2]), "item_id": torch.tensor([5, 5])}))
        image = seen[0][:, : model.network.dim]
        assert torch.allclose(image[0], image[1]) == (n_cross_layers == 0)


def test_an_item_without_image_is_scored_by_its_text_alone():
    model = build("CMBF").model.eval()
    lacking = int((~model.has_image[1:]).nonzero()[0]) + 1
    pair = Interaction({"user_id": torch.tensor([1]), "item_id": torch.tensor([lacking])})
    with torch.no_grad():
        before = model.predict(pair)
        model.image_tokens.embed.vector.add_(1.0)
        for layer in model.network.cross_layers:
            layer.image.weight.mul_(-2.0)
            layer.image_layer.output.bias.add_(1.0)
        assert torch.equal(before, model.predict(pair))
        model.item_tokens.embedding.weight.add_(1.0)
        assert not torch.equal(before, model.predict(pair))


@pytest.mark.parametrize("side", [{}, SIDE], ids=["ids", "side fields"])
def test_full_ranking_equals_pair_by_pair_whatever_the_chunks(side):
    built = build("CMBF", **side)
    train_steps(built, 3)
    interaction = next(iter(built.test_data))[0][:3]
    n_items = built.model.n_items
    users = interaction["user_id"].repeat_interleave(n_items)
    pairs = Interaction({"user_id": users, "item_id": torch.arange(n_items).repeat(len(interaction))})
    results = []
    with torch.no_grad():
        for chunk in (None, 7, 100, 10**6):
            built.model.pair_chunk = chunk
            built.model.train().eval()
            results.append(built.model.predict(pairs))
            results.append(built.model.full_sort_predict(interaction).sigmoid())
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-5, atol=1e-6)


def test_full_ranking_gives_the_metrics_of_the_pair_by_pair_path():
    from recbole.trainer import Trainer

    def refuse(interaction):
        raise NotImplementedError

    results = []
    for by_pairs in (False, True):
        built = build("CMBF", metrics=["Recall", "NDCG"], topk=[5])
        train_steps(built, 3)
        if by_pairs:
            built.model.full_sort_predict = refuse
        results.append(Trainer(built.config, built.model).evaluate(built.test_data, load_best_model=False))
    assert results[0] == results[1]


def test_the_image_tower_runs_once_per_evaluation():
    model = build("CMBF").model.eval()
    calls = []
    model.image_tokens.register_forward_hook(lambda *_: calls.append(1))
    users = Interaction({"user_id": torch.tensor([1, 2]), "item_id": torch.tensor([3, 4])})
    with torch.no_grad():
        model.full_sort_predict(users)
        once = len(calls)
        model.full_sort_predict(users)
        model.predict(users)
        assert len(calls) == once
        model.train().eval()
        model.predict(users)
        assert len(calls) == 2 * once


@pytest.mark.parametrize("options", [{}, {"final_mlp": [512], **SIDE}], ids=["plain", "side fields and head"])
def test_a_chunk_keeps_to_the_memory_budget(options, tmp_path):
    budget = 2**19
    model = build("CMBF", eval_memory_mb=budget / 2**20, **options).model.eval()
    users, items = torch.arange(1, 4), torch.arange(1, 61)
    interaction = Interaction({"user_id": users})
    pairs = Interaction({"user_id": users.repeat(20), "item_id": items})
    assert model._chunk(model.network) < len(items) < 2 * model.n_items
    with torch.no_grad():
        assert model._chunk(model._evaluated()) < len(items)
        model.representations()
    # Beside a chunk are the tokens of the users and all scores, or the columns of the pairs; and the folded weights.
    beside = 5 * len(users) * model.n_text * model.network.dim + 2 * len(users) * model.n_items
    folded = 1.2 * sum(parameter.numel() for parameter in model.network.parameters())
    ranked = most_numbers_at_once(lambda: model.full_sort_predict(interaction), tmp_path)
    assert budget / 2 < 4 * ranked < budget + 4 * (beside + folded)
    scored = most_numbers_at_once(lambda: model.predict(pairs), tmp_path)
    assert budget / 2 < 4 * scored < budget + 4 * (10 * len(pairs) + folded)


def test_which_budget_a_chunk_has():
    small, large = (build("CMBF", image_feature_dim=n).model for n in (8, 64))
    with torch.no_grad():
        assert isinstance(small.eval()._evaluated(), FoldedNetwork) and large.eval()._evaluated() is large.network
    for fold in (lambda network: network, FoldedNetwork):

        def chunk(model, fold=fold):
            return model._chunk(fold(model.network))

        assert chunk(small) > 3 * chunk(large) > 3
        assert chunk(small) == chunk(build("CMBF", eval_memory_mb=1e4).model), "a CPU's cache, not its memory"
        assert chunk(small) // (8 if fold is not FoldedNetwork else 4) == chunk(build("CMBF", eval_memory_mb=1).model)
        assert chunk(build("CMBF", eval_memory_mb=1e-6).model) == 1
        assert chunk(build("CMBF", eval_pair_chunk=7).model) == 7


def test_only_an_evaluation_without_a_gradient_is_folded():
    model = build("CMBF").model.eval()
    assert model._evaluated() is model.network
    with torch.no_grad():
        assert isinstance(model._evaluated(), FoldedNetwork)
        assert model.train()._evaluated() is model.network
    bare = build("CMBF", n_image_layers=0, n_text_layers=0, n_cross_layers=0).model.eval()
    with torch.no_grad():
        assert bare.predict(Interaction({"user_id": torch.tensor([1]), "item_id": torch.tensor([2])})).isfinite()


@pytest.mark.parametrize("options", [{}, SIDE, {"use_layer_norm": False, "image_pool": "flatten"}])
def test_the_folded_network_scores_as_the_plain_one(options, monkeypatch):
    model = build("CMBF", **options).model.double().eval()
    users = Interaction({"user_id": torch.arange(model.n_users)})
    with torch.no_grad():
        folded = model.full_sort_predict(users)
        monkeypatch.setattr(model, "_evaluated", lambda: model.network)
        torch.testing.assert_close(folded, model.full_sort_predict(users), rtol=1e-12, atol=1e-12)


def test_the_scored_item_leaves_the_history_of_training_pairs_only():
    model = tiny_model("CMBF", PAIRS, FEATURES, **SMALL, dropout=0.0)
    users, items = torch.tensor([2, 2, 3]), torch.tensor([3, 1, 3])  # (1, 2), (1, 0), (2, 2) counted from 1
    tokens = model._training_users(users, items, torch.tensor([1.0, 0.0, 1.0]))
    whole = model.user_tokens(users)[0]
    n_pooled = model.user_tokens.n_pooled
    assert n_pooled == 2
    assert tokens.mask[:, -2:].tolist() == [[False, False], [True, True], [True, True]]
    torch.testing.assert_close(tokens.values[1], whole.values[1])
    assert not torch.allclose(tokens.values[2, -2:], whole.values[2, -2:])


def test_swapping_two_items_that_look_alike_does_not_change_their_scores():
    """Of a history without the positive, nothing may tell which of the two items was left out of it."""
    alike = {m: f.copy() for m, f in FEATURES.items()}
    for feature in alike.values():
        feature[3] = feature[0]
    model = tiny_model("CMBF", PAIRS, alike, **SMALL, dropout=0.0).double().train()
    with torch.no_grad():
        model.item_tokens.embedding.weight[4] = model.item_tokens.embedding.weight[1]
    rows = batch((0, 0, 1), (0, 3, 0))
    both = model.calculate_loss(rows)[0]
    swapped = model.calculate_loss(batch((0, 0, 1), (0, 0, 0)))[0]
    torch.testing.assert_close(both, swapped)
    tokens = model._training_users(rows["user_id"], rows["item_id"], rows["label"])
    assert torch.equal(tokens.values[0], tokens.values[1])
    whole = model.user_tokens(rows["user_id"])[0]
    assert not torch.allclose(tokens.values[0], whole.values[0]), "leaving the positive out matters here"


def test_users_come_from_files_when_asked():
    model = build("CMBF", user_feature_source="file").model
    assert isinstance(model.user_tokens, UserTokens) and list(model.user_tokens.project_file) == ["profile"]
    with pytest.raises(ValueError, match="'user_feature_source': file needs a user feature file"):
        tiny_model("CMBF", PAIRS, FEATURES, user_feature_source="file")


OPTIONS = {
    "embedding_size": 8,
    "image_modality": "text",
    "image_feature_dim": 4,
    "text_as_fields": 2,
    "side_fields": False,
    "user_feature_source": "none",
    "n_image_layers": 1,
    "n_text_layers": 1,
    "n_cross_layers": 2,
    "n_heads": 4,
    "cross_heads": 4,
    "use_layer_norm": False,
    "dropout": 0.0,
    "image_pool": "flatten",
    "final_mlp": [8],
    "loss": "bpr",
    "reg_weight": 0.1,
}


@pytest.fixture(scope="module")
def default_losses():
    return train_steps(build("CMBF", **SIDE), 2)


@pytest.mark.parametrize("key", OPTIONS)
def test_every_option_changes_the_training(key, default_losses):
    assert train_steps(build("CMBF", **SIDE, **{key: OPTIONS[key]}), 2) != default_losses


def test_side_fields_files_and_patches_pass_the_gradient():
    model = build("CMBF", **SIDE, user_feature_source="file").model.train()
    total_loss(model, build("CMBF", **SIDE, user_feature_source="file").batch()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_missing_images_count_as_present_when_they_are_filled():
    assert not build("CMBF").model.has_image[1:].all()
    filled = build("CMBF", missing_feature="mean").model
    assert filled.has_image[1:].all() and not filled.has_image[0]


def test_the_experiment_file_gives_the_click_through_protocol():
    path = properties_directory() / "experiment" / "CMBF-ctr.yaml"
    options = {"state": "ERROR", "show_progress": False, "use_gpu": False, "epochs": 2}
    columns = {"load_col": {"inter": ["user_id", "item_id", "rating"], "user": "*", "item": "*"}}
    result = run_recbole(
        model="CMBF", dataset="mm-toy", config_file_list=[str(path)], config_dict={**options, **columns}
    )
    assert set(result["test_result"]) == {"auc", "logloss"}
    assert 0.0 < result["test_result"]["logloss"] < 1.0, "log loss needs probabilities"


def test_a_label_trains_without_sampled_negatives():
    path = properties_directory() / "experiment" / "CMBF-ctr.yaml"
    import yaml

    options = yaml.safe_load(path.read_text())
    options["load_col"] = {"inter": ["user_id", "item_id", "rating"]}
    assert config_for("CMBF", **options)["train_neg_sample_args"]["distribution"] == "none"
    built = build("CMBF", **options)
    interaction = built.batch()
    assert set(interaction["label"].unique().tolist()) == {0.0, 1.0}
    state = copy.deepcopy(built.model.state_dict())
    losses = train_steps(built, 4, 1e-3)
    assert np.isfinite(losses).all()
    assert any(not torch.equal(value, state[key]) for key, value in built.model.state_dict().items())


def test_bpr_compares_every_positive_with_its_own_negatives():
    """Two positives with two blocks of negatives below them: four pairs, each with the positive in its place."""
    model = build("CMBF", loss="bpr", dropout=0.0).model
    logits = torch.tensor([2.0, -1.0, 0.5, 0.25, 1.0, -3.0])
    label = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    pairs = [(2.0, 0.5), (-1.0, 0.25), (2.0, 1.0), (-1.0, -3.0)]
    expected = torch.stack([F.softplus(torch.tensor(far - near)) for near, far in pairs]).mean()
    torch.testing.assert_close(model._ranking(logits, label), expected)


def test_bpr_without_negatives_is_refused():
    with pytest.raises(ValueError, match="train_neg_sample_args draws none"):
        build("CMBF", loss="bpr", train_neg_sample_args=None)


def test_diagnostics_tell_a_branch_that_is_the_same_for_all_items():
    model = tiny_model("CMBF", PAIRS, FEATURES, **SMALL).eval()
    assert [idle(part) for part in model.diagnostics().values()] == [None, None]
    with torch.no_grad():
        model.item_tokens.embedding.weight.zero_()
        for project in (*model.item_tokens.project.values(), model.image_tokens):
            for parameter in project.parameters():
                parameter.zero_()
    model.train().eval()
    assert all(idle(part) for part in model.diagnostics().values())
