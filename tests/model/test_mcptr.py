"""MCPTR's pre-training against plain loops, its golden numbers, and the change to fine-tuning."""

from __future__ import annotations

import copy
import dataclasses
import itertools

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction
from torch.nn import functional as F

from recbole_mm.data.features.store import FeatureStore, InteractionFeatures
from recbole_mm.model.feature_bank import FeatureBank
from recbole_mm.model.mcptr.encoders import homogeneous_graph
from recbole_mm.model.mcptr.mcptr import MCPTR
from tests.model.conftest import build as build_model
from tests.model.conftest import total_loss, train_steps
from tests.model.tiny import tiny_dataset

PAIRS = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 3), (2, 3), (2, 0), (3, 2), (3, 3), (3, 3)]
TEXT = np.array([[1.0, 0.2], [-0.4, 1.0], [0.6, -0.8], [0.3, 0.9], [0.5, 0.1]], dtype=np.float32)
IMAGE = np.array([[0.9, 0.1, 0.4], [0.2, -1.0, 0.7], [1.0, 0.3, -0.6], [0.8, 0.5, 0.1]], dtype=np.float32)
# Of users 1, 2 and 3 (internal ids); the last two are no training pairs: they belong to validation or test.
REVIEWED = [(1, 1), (1, 2), (1, 3), (2, 2), (3, 4), (3, 2), (2, 1)]
SIZES = {
    "new_item_neighbours": 0,
    "embedding_size": 4,
    "graph_topk": 2,
    "max_reviews": 5,
    "feature_norm": "none",
    "pretrain_reg_weight": 0.1,
}


def build(name, **options):
    """The model with new items by their own vectors."""
    return build_model(name, **{"new_item_neighbours": 0, **options})


def reviews(pairs=REVIEWED):
    user, item = torch.tensor(pairs).T.contiguous()
    order = torch.argsort(user * 100 + item)
    feature = torch.randn(len(pairs), 3, generator=torch.Generator().manual_seed(3))
    return InteractionFeatures("text", user[order], item[order], feature[order])


def tiny(inter=None, user_features=None, features=None, pairs=None, **options):
    features = {"image": IMAGE, "text": TEXT} if features is None else features
    config, dataset = tiny_dataset("MCPTR", pairs or PAIRS, features, user_features, **{**SIZES, **options})
    if inter is not None:
        store: FeatureStore = dataclasses.replace(dataset.features, inter={"text": inter})
        dataset = dataset.with_features(store)
    torch.manual_seed(0)
    return MCPTR(config, dataset)


def batch(users=(1, 2, 1, 4), positives=(1, 2, 3, 4), negatives=(4, 5, 5, 1)):
    ids = {"user_id": users, "item_id": positives, "neg_item_id": negatives}
    return Interaction({key: torch.tensor(value) for key, value in ids.items()})


def dense_graph(pairs, n, top_k):
    """The homogeneous graph of rows that share columns, by loops. ``pairs`` are (row, column)."""
    columns = [{column for row, column in pairs if row == node} for node in range(n)]
    count = np.array([[len(a & b) for b in columns] for a in columns], dtype=float)
    np.fill_diagonal(count, 0)
    kept = np.zeros_like(count)
    for row in range(n):
        for column in sorted(range(n), key=lambda other: (-count[row, other], other))[:top_k]:
            kept[row, column] = count[row, column]
    return np.maximum(kept, kept.T) + np.eye(n)


def normalised(adjacency):
    degree = adjacency.sum(axis=1)
    return torch.from_numpy(adjacency / np.sqrt(degree[:, None] * degree[None, :]))


class Reference:
    """MCPTR's pre-training in float64, one user and one item at a time."""

    def __init__(self, model, review_rows, review_vectors, user_features=None):
        self.p = {key: value.detach().double().requires_grad_() for key, value in model.encoders.state_dict().items()}
        pairs = {(u + 1, i + 1) for u, i in PAIRS}
        self.n_users, self.n_items = model.n_users, model.n_items
        self.graphs = {
            "user": normalised(dense_graph(pairs, self.n_users, 2)),
            "item": normalised(dense_graph({(i, u) for u, i in pairs}, self.n_items, 2)),
        }
        self.reviews = {
            user: [(i, x.double()) for (u, i), x in zip(review_rows, review_vectors) if u == user and (u, i) in pairs]
            for user in range(self.n_users)
        }
        self.features = {
            "image": {i + 1: torch.from_numpy(row).double() for i, row in enumerate(IMAGE)},
            "text": {i + 1: torch.from_numpy(row).double() for i, row in enumerate(TEXT)},
        }
        self.user_features = user_features or {}
        self.nodes = {side: self.convolve(side) for side in ("user", "item")}

    def convolve(self, side):
        state = self.p[f"{side}_graph.embedding.weight"]
        state = (self.graphs[side] @ state @ self.p[f"{side}_graph.weights.0"]).relu()
        return self.graphs[side] @ state @ self.p[f"{side}_graph.weights.1"]

    def linear(self, name, x):
        return self.p[f"{name}.weight"] @ x + self.p[f"{name}.bias"]

    def fuse(self, side, tokens):
        query, key, value = (self.p[f"{side}_fusion.{name}.weight"] for name in ("query", "key", "value"))
        rows = []
        for asking in tokens:
            logits = torch.stack([(query @ asking) @ (key @ other) / 2.0 for other in tokens])  # sqrt(d) = 2
            weights = logits.softmax(dim=0)
            rows.append(sum(weight * (value @ other) for weight, other in zip(weights, tokens)))
        return sum(rows) / len(rows)

    def item(self, item):
        encoded = {m: self.linear(f"project.{m}", rows[item]) for m, rows in self.features.items() if item in rows}
        return self.fuse("item", [*encoded.values(), self.nodes["item"][item]]), encoded

    def user(self, user, without=None):
        tokens = [self.nodes["user"][user]]
        own = [self.linear("reviews.text.project", x) for item, x in self.reviews[user] if item != without]
        if own:
            hidden = [torch.tanh(self.linear("reviews.text.hidden", r)) for r in own]
            logits = torch.stack([self.p["reviews.text.query.weight"][0] @ h for h in hidden])
            tokens.append(sum(weight * r for weight, r in zip(logits.softmax(dim=0), own)))
        if user in self.user_features:
            tokens.append(self.linear("user_project.profile", self.user_features[user]))
        return self.fuse("user", tokens)

    def losses(self, interaction, weight, temperature):
        users, positives, negatives = (interaction[key].tolist() for key in ("user_id", "item_id", "neg_item_id"))
        terms = []
        for user, positive, negative in zip(users, positives, negatives):
            state = self.user(user, without=positive)
            terms += [F.softplus(-state @ self.item(positive)[0]), F.softplus(state @ self.item(negative)[0])]
        used = [self.p["user_graph.embedding.weight"][user] for user in users]
        items = [self.p["item_graph.embedding.weight"][item] for item in positives + negatives]
        penalty = sum(x.square().sum() for x in used + items) / (2 * len(used))
        views = {"image": [], "text": []}
        for item in sorted(set(positives)):
            encoded = self.item(item)[1]
            if len(encoded) == 2:
                for modality, x in encoded.items():
                    views[modality].append(F.normalize(self.linear(f"align.{modality}", x), dim=0))
        scores = torch.stack(views["image"]) @ torch.stack(views["text"]).T / temperature
        target = torch.arange(len(scores))
        contrast = (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2
        return torch.stack(terms).mean(), 0.1 * penalty, weight * contrast


PROFILE = {"profile": np.array([[0.3, 0.7], [1.0, -0.2], [0.1, 0.1]], dtype=np.float32)}


@pytest.fixture(scope="module")
def compared():
    found = reviews()
    model = tiny(found, PROFILE, contrastive_weight=0.7).double()
    profile = {u + 1: torch.from_numpy(row).double() for u, row in enumerate(PROFILE["profile"])}
    rows = list(zip(found.user.tolist(), found.item.tolist()))
    return model, Reference(model, rows, found.feature, profile)


def test_representations_agree_with_loops(compared):
    model, reference = compared
    users, items = model.eval().representations()
    for user in range(1, model.n_users):
        torch.testing.assert_close(users[user], reference.user(user), rtol=1e-6, atol=1e-6)
    for item in range(1, model.n_items):
        torch.testing.assert_close(items[item], reference.item(item)[0], rtol=1e-6, atol=1e-6)
    assert (users[0] == 0).all() and (items[0] == 0).all(), "the padding"


def test_loss_and_gradients_agree_with_loops(compared):
    model, reference = compared
    ours = model.train().calculate_loss(batch())
    theirs = reference.losses(batch(), weight=0.7, temperature=0.2)
    for mine, expected in zip(ours, theirs):
        torch.testing.assert_close(mine, expected, rtol=1e-6, atol=1e-7)
    parameters = dict(model.encoders.named_parameters())
    gradients = torch.autograd.grad(sum(ours), list(parameters.values()))
    expected = torch.autograd.grad(sum(theirs), [reference.p[name] for name in parameters])
    for name, mine, other in zip(parameters, gradients, expected):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}")


def likeness_of_untrained_scores(kinds, **options):
    """Users like one item of a kind each: how far untrained scores, centred, go with the likeness of contents."""
    model = tiny(features={"text": kinds}, pairs=[(k, k) for k in range(len(kinds))], embedding_size=32, **options)
    users, items = (table[1:] for table in model.eval().representations())
    scores = users @ items.T
    scores = scores - scores.mean(dim=0) - scores.mean(dim=1, keepdim=True)
    likeness = torch.from_numpy(np.corrcoef(kinds)).to(scores.dtype)
    return torch.corrcoef(torch.stack([scores.flatten(), likeness.flatten()]))[0, 1].item()


def test_an_aligned_start_puts_untrained_users_near_their_items():
    kinds = np.random.default_rng(3).normal(size=(32, 64)).astype(np.float32)
    assert likeness_of_untrained_scores(kinds, initialisation="aligned") > 0.5
    assert abs(likeness_of_untrained_scores(kinds, initialisation="random")) < 0.2


def test_an_aligned_start_shares_maps_where_vectors_are_of_one_kind():
    encoders = tiny().encoders
    project = encoders.project["text"]
    torch.testing.assert_close(project.weight.T @ project.weight, 9 * torch.eye(2))
    assert torch.equal(encoders.reviews["text"].project.weight, project.weight)
    assert not any(layer.bias.any() for layer in (project, encoders.reviews["text"].project))
    for fusion in (encoders.user_fusion, encoders.item_fusion):
        assert torch.equal(fusion.value.weight, torch.eye(4))
    wider = tiny(reviews()).encoders.reviews["text"].project.weight  # of three numbers, the items' texts have two
    torch.testing.assert_close(wider.T @ wider, 9 * torch.eye(3))
    graphs = (tiny(initialisation=start).encoders.item_graph.embedding.weight for start in ("aligned", "random"))
    assert next(graphs).norm() < 0.2 * next(graphs).norm()


def test_a_random_start_is_that_of_checkpoints_without_the_option():
    config, dataset = tiny_dataset("MCPTR", PAIRS, {"image": IMAGE, "text": TEXT}, None, **SIZES)
    del config.final_config_dict["initialisation"], config.final_config_dict["graph_rate"]
    torch.manual_seed(0)
    before = MCPTR(config, dataset)
    after = tiny(initialisation="random", graph_rate=1.0)
    assert before.graph_rate == 1 and len(before.pretraining_groups(0.1)) == 1
    assert all(torch.equal(value, after.state_dict()[key]) for key, value in before.state_dict().items())
    assert not torch.equal(before.encoders.project["text"].weight, tiny().encoders.project["text"].weight)


def test_the_graph_encoders_have_their_own_rate():
    model = tiny(graph_rate=0.5)
    others, graphs = model.pretraining_groups(0.1)
    names = {id(parameter): name for name, parameter in model.encoders.named_parameters()}
    found = [{names.pop(id(parameter)) for parameter in group["params"]} for group in (others, graphs)]
    assert not names, "every parameter is in one group"
    assert found[1] and all(name.startswith(("user_graph.", "item_graph.")) for name in found[1])
    assert not any("_graph." in name for name in found[0])
    assert "lr" not in others and graphs["lr"] == pytest.approx(0.05)


def aligned_model(**options):
    """Two items whose views are the golden ones, before and after alignment."""
    features = {
        "image": np.array([[1, 0], [0.6, 0.8]], dtype=np.float32),
        "text": np.array([[1, 0], [0, 1]], dtype=np.float32),
    }
    options = {"embedding_size": 2, "contrastive_weight": 1.0, "contrastive_temperature": 0.5, **options}
    model = tiny(features=features, pairs=[(0, 0), (0, 1), (1, 1)], **options)
    with torch.no_grad():
        for layer in [*model.encoders.project.values(), *model.encoders.align.values()]:
            torch.nn.init.eye_(layer.weight)
            layer.bias.zero_()
    return model


def test_golden_numbers_of_the_alignment():
    model = aligned_model()
    pair = batch((1, 2), (1, 2), (2, 1))
    assert float(model.calculate_loss(pair)[2].detach()) == pytest.approx(0.298736, abs=1e-6)
    scores = torch.tensor([[2.0, 1.2], [0.0, 1.6]])
    rows = F.cross_entropy(scores, torch.arange(2), reduction="none").tolist()
    columns = F.cross_entropy(scores.T, torch.arange(2), reduction="none").tolist()
    assert rows == pytest.approx([0.371101, 0.183901], abs=1e-6)
    assert columns == pytest.approx([0.126928, 0.513015], abs=1e-6)


def test_repeated_items_count_once_in_the_alignment():
    model = aligned_model()
    repeated = batch((1, 2, 1, 1, 2), (1, 2, 1, 1, 2), (2, 1, 2, 2, 1))
    assert float(model.calculate_loss(repeated)[2].detach()) == pytest.approx(0.298736, abs=1e-6)


def test_without_contrastive_weight_nothing_reaches_the_alignment():
    model = tiny(contrastive_weight=0.0)
    losses = model.calculate_loss(batch())
    assert len(losses) == 2
    sum(losses).backward()
    assert all(parameter.grad is None for parameter in model.encoders.align.parameters())


def test_three_modalities_are_aligned_in_pairs():
    features = {"audio": TEXT[:, ::-1].copy(), "image": IMAGE, "text": TEXT}
    model = tiny(features=features, contrastive_weight=1.0)
    parts = []
    for pair in itertools.combinations(features, 2):
        encoded = {m: model.encoders.align[m](model.encoders.project[m](model.features[m][1:5])) for m in pair}
        views = [F.normalize(x, dim=1) for x in encoded.values()]
        scores, target = views[0] @ views[1].T / 0.2, torch.arange(4)
        parts.append((F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2)
    loss = model.calculate_loss(batch((1, 2, 1, 4), (1, 2, 3, 4), (5, 5, 5, 5)))[2]
    torch.testing.assert_close(loss, sum(parts) / 3)


def test_one_modality_has_nothing_to_align():
    model = tiny(features={"image": IMAGE}, contrastive_weight=1.0)
    assert len(model.calculate_loss(batch(negatives=(4, 4, 4, 1)))) == 2
    assert not list(model.encoders.align.parameters())


def test_an_item_without_image_is_its_other_modalities():
    model = tiny()
    before = model.eval().representations()[1]
    assert not model.features.observed["image"][5], "item 5 has no image"
    with torch.no_grad():
        model.encoders.project["image"].bias.add_(1.0)
    after = model.representations()[1]
    torch.testing.assert_close(after[5], before[5], rtol=0, atol=0)
    assert not torch.equal(after[1], before[1])


@pytest.mark.parametrize("top_k", [1, 2, 10])
def test_homogeneous_graphs_hold_training_pairs_only(top_k):
    built = build("MCPTR", graph_topk=top_k)
    model, dataset = built.model, built.train_data._dataset
    pairs = set(zip(dataset.inter_feat["user_id"].tolist(), dataset.inter_feat["item_id"].tolist()))
    for graph, edges, n in (
        (homogeneous_graph(model.interactions, top_k), pairs, model.n_users),
        (homogeneous_graph(model.interactions.T.tocsr(), top_k), {(i, u) for u, i in pairs}, model.n_items),
    ):
        np.testing.assert_array_equal(graph.toarray(), dense_graph(edges, n, top_k))


def test_reviews_of_other_splits_are_never_read():
    model = tiny(reviews())
    table = model.tables.reviews["text"]
    known = {(user, int(item)) for user in range(5) for item in table.slot_items[user] if item > 0}
    assert known == {(1, 1), (1, 2), (1, 3), (2, 2), (3, 4)}
    assert len(table.feature) == 5
    changed = reviews()
    changed.feature[[k for k in range(7) if (int(changed.user[k]), int(changed.item[k])) in {(3, 2), (2, 1)}]] = 99.0
    for left, right in zip(model.eval().representations(), tiny(changed, feature_norm="none").eval().representations()):
        torch.testing.assert_close(left, right, rtol=0, atol=0)


def test_statistics_of_the_reviews_are_those_of_training():
    table = tiny(reviews(), feature_norm="zscore").tables.reviews["text"]
    torch.testing.assert_close(table.feature.mean(dim=0), torch.zeros(3), rtol=0, atol=1e-6)


def test_the_scored_review_is_left_out_in_training():
    plain, changed = reviews(), reviews()
    changed.feature[0] += 5.0  # user 1's review of item 1
    pair = batch((1, 1), (1, 2), (4, 4))
    states = []
    for found in (plain, changed):
        model = tiny(found)
        node = model.encoders.user_graph(model.tables.user_graph)
        left = model.encoders.batch_reviews(model.tables, pair["user_id"], without=pair["item_id"])
        states.append(model.encoders.users(model.tables, node, pair["user_id"], left))
    torch.testing.assert_close(states[0][0], states[1][0], rtol=0, atol=0)
    assert not torch.allclose(states[0][1], states[1][1]), "user 1's vector for item 2 reads the review of item 1"


def test_latest_reviews_are_kept():
    # Later lines of the training split have later timestamps: user 1 has items 1, 2, 3 in this order.
    table = tiny(reviews(), max_reviews=2).tables.reviews["text"]
    assert table.slot_items[1].tolist() == [3, 2]
    features = tiny(max_reviews=2, review_source="item_text").tables.reviews["text"]
    assert features.slots[1].tolist() == [3, 2]
    assert features.slots[4].tolist() == [4, 3], "a repeated pair is one review"


def test_item_texts_stand_for_reviews():
    model = tiny()
    assert model.tables.reviews["text"].feature is model.features["text"], "nothing is copied"
    assert tiny(reviews(), review_source="item_text").tables.reviews["text"].feature.shape == (6, 2)
    assert tiny(reviews()).tables.reviews["text"].feature.shape == (5, 3)


def test_reviews_of_no_training_pair_leave_the_texts_of_items():
    model = tiny(reviews([(3, 2), (2, 1)]))
    assert model.tables.reviews["text"].feature is model.features["text"]


@pytest.mark.parametrize("options", [{"features": {"image": IMAGE}}, {"review_source": "reviews"}])
def test_without_reviews_a_user_is_the_user_graph(options, caplog):
    with caplog.at_level("WARNING"):
        model = tiny(**options)
    assert "known by the user graph alone" in caplog.text
    users, _ = model.eval().representations()
    node = model.encoders.user_graph(model.tables.user_graph)
    torch.testing.assert_close(users, model.encoders.user_fusion.value(node))


CHANGES = {
    "embedding_size": 6,
    "graph_topk": 1,
    "graph_encoder": "lightgcn",
    "graph_layers": 1,
    "review_source": "item_text",
    "text_modality": "image",
    "max_reviews": 1,
    "modality_weight": {"text": 2.0},
}


@pytest.mark.parametrize("option", CHANGES)
def test_every_option_changes_the_representations(option):
    inter = None if option in ("text_modality", "max_reviews") else reviews()
    base = tiny(inter).eval().representations()
    other = tiny(inter, **{option: CHANGES[option]}).eval().representations()
    assert any(x.shape != y.shape or not torch.equal(x, y) for x, y in zip(base, other))


def test_regularisation_has_its_weight():
    light, heavy = (tiny(pretrain_reg_weight=weight).calculate_loss(batch())[1] for weight in (0.1, 0.3))
    torch.testing.assert_close(heavy, 3 * light)


@pytest.mark.parametrize("chunk", [8, 200])
def test_chunks_change_nothing(chunk, monkeypatch):
    model = tiny(reviews(), PROFILE).eval()
    whole = model.representations()
    model._forget_representations()
    monkeypatch.setattr("recbole_mm.model.mcptr.encoders.CHUNK", chunk)
    for left, right in zip(whole, model.representations()):
        torch.testing.assert_close(left, right)


def scores(built):
    users = Interaction({"user_id": torch.arange(1, built.model.n_users)})
    built.model.eval()
    with torch.no_grad():
        return built.model.full_sort_predict(users).view(len(users), -1)


@pytest.mark.parametrize("options", [{"finetune_model": "BPR"}, {"finetune_model": "LightGCN", "n_layers": 0}])
def test_fine_tuning_starts_where_pre_training_ended(options):
    built = build("MCPTR", **options)
    train_steps(built, 5)
    before, tables = scores(built), built.model.pretrained()
    built.model.start_finetuning()
    assert torch.equal(scores(built), before)
    pairs = Interaction({"user_id": torch.arange(1, 6), "item_id": torch.arange(2, 7)})
    dots = (tables[0][1:6] * tables[1][2:7]).sum(dim=1)
    torch.testing.assert_close(built.model.predict(pairs), dots)


@pytest.mark.parametrize("name", ["BPR", "LightGCN", "NGCF", "NeuMF"])
def test_each_recommender_starts_from_the_tables_and_trains_alone(name):
    built = build("MCPTR", finetune_model=name, train_batch_size=256)
    train_steps(built, 3)
    tables = [table.clone() for table in built.model.pretrained()]
    built.model.start_finetuning()
    model, recommender = built.model, built.model.recommender
    assert type(recommender).__module__.startswith("recbole.model.general_recommender")
    kinds = ("mf_", "mlp_") if name == "NeuMF" else ("",)
    for kind in kinds:
        for entity, table in zip(("user", "item"), tables):
            assert torch.equal(getattr(recommender, f"{entity}_{kind}embedding").weight, table)
    assert all(key.startswith("recommender.") for key, _ in model.named_parameters()), "the encoders are gone"
    first = scores(built)
    losses = train_steps(built, 40)
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    after = scores(built)
    assert after.shape == first.shape and not torch.equal(after, first)
    column = Interaction({"user_id": torch.arange(1, model.n_users), "item_id": torch.full((model.n_users - 1,), 7)})
    with torch.no_grad():
        torch.testing.assert_close(model.predict(column), after[:, 7], rtol=1e-4, atol=1e-5)


def test_a_step_of_fine_tuning_moves_the_users_of_its_pairs_only():
    built = build("MCPTR", finetune_model="BPR")
    built.model.start_finetuning()
    row = built.batch(1)
    total_loss(built.model.train(), row).backward()
    moved = built.model.recommender.user_embedding.weight.grad.abs().sum(dim=1) > 0
    assert moved.nonzero().squeeze(1).tolist() == row["user_id"].tolist()


@pytest.mark.parametrize("name", ["BPR", "LightGCN", "NGCF", "NeuMF"])
def test_fine_tuning_sees_interactions_only(name):
    """Without features, reviews and homogeneous graphs it is the same to the last bit."""
    states = []
    for taken in (False, True):
        built = build("MCPTR", finetune_model=name)
        built.model.start_finetuning()
        if taken:
            built.model.tables = None
            built.model.features = built.model.user_features = FeatureBank({}, {})
        losses = train_steps(built, 3)
        states.append((losses, built.model.state_dict(), scores(built)))
    (losses, state, table), (again, other, ranked) = states
    assert losses == again and torch.equal(table, ranked)
    assert all(torch.equal(value, other[key]) for key, value in state.items())


def test_pointwise_batches_are_those_of_recboles_loader():
    built = build("MCPTR", finetune_model="NeuMF")
    built.model.start_finetuning()
    rows, recommender = built.batch(4), built.model.recommender.eval()
    pairs = Interaction(
        {
            "user_id": torch.cat([rows["user_id"]] * 2),
            "item_id": torch.cat([rows["item_id"], rows["neg_item_id"]]),
            "label": torch.tensor([1.0] * 4 + [0.0] * 4),
        }
    )
    torch.testing.assert_close(built.model.calculate_loss(rows), recommender.calculate_loss(pairs))


def test_pair_scoring_in_chunks_is_exact(monkeypatch):
    built = build("MCPTR", finetune_model="NeuMF")
    built.model.start_finetuning()
    whole = scores(built)
    monkeypatch.setattr("recbole_mm.model.mcptr.finetune.PAIRS", 100)
    torch.testing.assert_close(scores(built), whole)


def test_other_widths_are_refused_or_start_anew():
    narrow = build("MCPTR", finetune_model="NeuMF", mf_embedding_size=8).model
    with pytest.raises(ValueError, match=r"NeuMF.user_mf_embedding has shape \(\d+, 8\), the pre-trained table"):
        narrow.start_finetuning()
    model = build("MCPTR", finetune_model="NeuMF", mlp_embedding_size=8).model
    model.start_finetuning()
    assert model.recommender.user_mlp_embedding.weight.shape[1] == 8
    assert model.recommender.user_mf_embedding.weight.shape[1] == 64


def test_options_of_the_recommender_are_recboles_unless_set():
    model = build("MCPTR", finetune_model="NGCF", message_dropout=0.3).model
    model.start_finetuning()
    assert model.recommender.message_dropout == 0.3
    assert model.recommender.reg_weight == pytest.approx(1e-5)
    assert model.recommender.hidden_size_list == [64, 64, 64, 64]


def test_a_state_dict_brings_its_stage_along():
    built, other = build("MCPTR"), build("MCPTR")
    pretrained = copy.deepcopy(built.model.state_dict())
    before = scores(built)
    built.model.start_finetuning()
    train_steps(built, 2)
    other.model.load_state_dict(built.model.state_dict())
    assert other.model.stage == "finetune"
    assert torch.equal(scores(other), scores(built))
    other.model.load_state_dict(pretrained)
    assert other.model.stage == "pretrain"
    assert torch.equal(scores(other), before)


@pytest.mark.parametrize("finetune_model", ["LightGCN", "BPR"])
def test_neighbours_stand_in_for_new_items_in_both_stages(finetune_model):
    model = build_model("MCPTR", new_item_neighbours=2, finetune_model=finetune_model).model.eval()
    users, items = torch.arange(1, model.n_users), torch.arange(model.n_items)
    for _ in range(2):
        with torch.no_grad():
            ranked = model.full_sort_predict(Interaction({"user_id": users})).view(len(users), -1)
            pairs = {"user_id": users.repeat_interleave(len(items)), "item_id": items.repeat(len(users))}
            torch.testing.assert_close(model.predict(Interaction(pairs)).view_as(ranked), ranked)
        assert len(model.new_item_ids)
        torch.testing.assert_close(ranked[:, model.new_item_ids], ranked[:, model.new_item_near].mean(dim=2))
        model.start_finetuning() if model.stage == "pretrain" else None
        model.eval()


def test_loading_drops_what_the_recommender_kept():
    built = build("MCPTR", finetune_model="LightGCN")
    built.model.start_finetuning()
    first, state = scores(built), built.model.state_dict()
    users = Interaction({"user_id": torch.arange(1, built.model.n_users)})
    assert built.model.recommender.restore_user_e is not None, "RecBole's LightGCN keeps its last evaluation"
    table = "recommender.user_embedding.weight"
    built.model.load_state_dict({**state, table: -state[table]})
    assert not torch.equal(built.model.full_sort_predict(users), first.view(-1))


def test_both_stages_can_be_copied_and_printed():
    model = build("MCPTR").model
    for _ in range(2):
        clone = copy.deepcopy(model).eval()
        assert clone.stage == model.stage
        row = Interaction({"user_id": torch.tensor([1]), "item_id": torch.tensor([2])})
        with torch.no_grad():
            assert clone.predict(row).isfinite().all()
        assert "Trainable parameters" in str(model)
        model.start_finetuning() if model.stage == "pretrain" else None


def test_fine_tuned_model_has_no_pre_trained_tables():
    model = build("MCPTR").model
    model.start_finetuning()
    with pytest.raises(ValueError, match="in the stage finetune, where there are no encoders"):
        model.pretrained()


def test_representations_of_the_fine_tuned_model():
    for name in ("BPR", "LightGCN", "NGCF"):
        built = build("MCPTR", finetune_model=name)
        built.model.start_finetuning()
        users, items = built.model.eval().representations()
        torch.testing.assert_close(users[1:] @ items.T, scores(built))
    built = build("MCPTR", finetune_model="NeuMF")
    built.model.start_finetuning()
    with pytest.raises(NotImplementedError, match="scores pairs"):
        built.model.representations()


def test_unknown_recommender_is_refused():
    with pytest.raises(ValueError, match="Did you mean 'LightGCN'"):
        build("MCPTR", finetune_model="LightGCM")
