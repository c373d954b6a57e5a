"""MMGCN against a plain reference, the paper's hand cases and the authors' parameter count."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from recbole_mm.model import mmgcn
from recbole_mm.model.mmgcn import MMGCN
from tests.model.conftest import build, total_loss, train_steps
from tests.model.tiny import assert_same_function, tiny_dataset, tiny_model

WIDE = np.random.default_rng(0).normal(size=(4, 600)).astype(np.float32)
FEATURES = {"image": np.arange(12, dtype=np.float32).reshape(4, 3) - 5, "text": np.eye(4, 2, dtype=np.float32) + 0.5}
PAIRS = [(0, 0), (0, 1), (1, 1), (1, 2), (2, 2), (2, 0), (0, 1)]


def _table(model, table):
    """Rows of a trained table as the model reads them."""
    return F.normalize(table) if model.normalize_tables else table


def reference_scores(model: MMGCN) -> torch.Tensor:
    """MMGCN over one dense adjacency matrix, node by node, in the order of the paper."""
    n_users, n_nodes = model.n_users, model.n_users + model.n_items
    adjacency = torch.zeros(n_nodes, n_nodes, dtype=torch.float64)
    for user, item in zip(*model.training_pairs):
        adjacency[user, n_users + item] = adjacency[n_users + item, user] = 1.0
    embedding = torch.cat([model.user_embedding, model.item_embedding])
    total = torch.zeros(n_nodes, embedding.shape[1], dtype=torch.float64)
    for modality, feature in model.features.items():
        items = F.normalize(model.project[modality](feature))
        state = torch.cat([_table(model, model.preference[modality]), items])
        for layers in model.layers:
            layer = layers[modality]
            transformed = state @ layer.convolve
            received = []
            for node in range(n_nodes):
                neighbours = adjacency[node].nonzero().flatten()
                mean = transformed[neighbours].mean(dim=0) if len(neighbours) else torch.zeros_like(transformed[0])
                received.append(F.leaky_relu(mean, layer.slope))
            own = F.leaky_relu(layer.own(state), layer.slope) + embedding
            if layer.concat:
                state = F.leaky_relu(layer.gate(torch.cat([torch.stack(received), own], dim=1)), layer.slope)
            else:
                state = F.leaky_relu(layer.gate(torch.stack(received)) + own, layer.slope)
        total = total + model.features.weight[modality] * state / len(model.features)
    return total[:n_users] @ total[n_users:].T


@pytest.mark.parametrize("together", [0, mmgcn.TOGETHER])
@pytest.mark.parametrize("concat", [True, False])
@pytest.mark.parametrize("n_layers", [1, 2, 3])
@pytest.mark.parametrize(("projection", "normalize"), [(None, True), (2, False), ({"image": 4}, False)])
def test_scores_and_gradients_equal_the_plain_reference(concat, n_layers, projection, normalize, together, monkeypatch):
    options = {"concat": concat, "n_layers": n_layers, "projection_dim": projection, "embedding_size": 5}
    options["normalize_tables"] = normalize
    options.update({"initialisation": "random", "negative_slope": 0.01} if normalize else {})
    monkeypatch.setattr(mmgcn, "TOGETHER", together)
    model = tiny_model("MMGCN", PAIRS, FEATURES, **options).double()
    users, items = model()
    assert_same_function(users @ items.T, reference_scores(model), model)


@pytest.mark.parametrize("extra_users", [0, 6])
def test_the_batch_rows_equal_the_full_forward(extra_users):
    """The products change sides with the sizes of the two halves, and the last layer is cut to the batch."""
    pairs = PAIRS + [(3 + user, user % 4) for user in range(extra_users)]
    model = tiny_model("MMGCN", pairs, FEATURES, embedding_size=5).double()
    user, item = torch.tensor([1, 2]), torch.tensor([3])
    users, items = model.modality_states(user, item)
    all_users, all_items = model()
    torch.testing.assert_close(model.features.weighted_mean(users), all_users[user], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model.features.weighted_mean(items), all_items[item], rtol=1e-12, atol=1e-12)


def test_reference_options_have_the_authors_parameter_count():
    features = {"image": np.ones((3, 4096), dtype=np.float32), "text": np.ones((3, 384), dtype=np.float32)}
    options = {"embedding_size": 64, "n_layers": 3, "concat": True, "projection_dim": {"image": 256}}
    pairs = [(0, 0), (0, 1), (1, 2)]
    frozen = tiny_model("MMGCN", pairs, features, trainable_embeddings=False, **options)
    trainable = sum(p.numel() for p in frozen.parameters() if p.requires_grad)
    assert trainable == 1_418_240
    default = tiny_model("MMGCN", pairs, features, trainable_embeddings=True, **options)
    n_users, n_nodes = default.n_users, default.n_users + default.n_items
    tables = n_users * (256 + 384) + n_nodes * 64
    assert sum(p.numel() for p in default.parameters() if p.requires_grad) == trainable + tables


def test_one_user_two_items_by_hand():
    """Normalised states (1; 1, -1): the user's mean message is 0 and each item receives W^c."""
    features = {"text": np.array([[2.0], [-3.0]], dtype=np.float32)}
    model = tiny_model("MMGCN", [(0, 0), (0, 1)], features, normalize_tables=True, feature_norm="none").double()
    with torch.no_grad():
        model.preference["text"].fill_(0.5)
    users = F.normalize(model.preference["text"])
    items = F.normalize(model.project["text"](model.features["text"]))
    assert users[1].item() == 1.0 and items[1:].flatten().tolist() == [1.0, -1.0]
    to_users, to_items, _, _ = model._messages(model.layers[0], model.graph, {"text": users}, {"text": items})
    convolve = model.layers[0]["text"].convolve.item()
    assert to_users["text"][1].item() == pytest.approx(0.0)
    assert to_items["text"][1:].flatten().tolist() == pytest.approx([convolve, convolve])


def test_permuting_items_permutes_scores():
    order = torch.tensor([2, 0, 3, 1])
    model = tiny_model("MMGCN", PAIRS, FEATURES).double()
    place = order.argsort().tolist()
    permuted_features = {m: feature[order.numpy()] for m, feature in FEATURES.items()}
    permuted = tiny_model("MMGCN", [(u, place[i]) for u, i in PAIRS], permuted_features).double()
    state = model.state_dict()
    state["item_embedding"] = state["item_embedding"][torch.cat([torch.tensor([0]), order + 1])]
    permuted.load_state_dict(state)
    users, items = model()
    users_p, items_p = permuted()
    expected = (users @ items.T)[:, torch.cat([torch.tensor([0]), order + 1])]
    torch.testing.assert_close(users_p @ items_p.T, expected, rtol=1e-12, atol=1e-12)


def test_padding_and_isolated_nodes_influence_nothing():
    model = tiny_model("MMGCN", PAIRS, FEATURES).double()
    users, items = model()
    before = (users @ items.T)[1:, 1:].detach().clone()
    with torch.no_grad():
        model.user_embedding[0] += 1
        model.item_embedding[0] += 1
        for table in model.preference.values():
            table[0] += 1
    users, items = model()
    assert torch.equal((users @ items.T)[1:, 1:], before)


def test_wide_features_are_projected_by_default_and_zero_keeps_them():
    assert tiny_model("MMGCN", PAIRS, {"image": WIDE}).preference["image"].shape[1] == 256
    assert tiny_model("MMGCN", PAIRS, {"image": WIDE}, projection_dim=0).preference["image"].shape[1] == 600
    assert tiny_model("MMGCN", PAIRS, FEATURES).preference["image"].shape[1] == 3


def test_a_negative_width_is_refused():
    with pytest.raises(ValueError, match="projection_dim.*at least 0"):
        build("MMGCN", projection_dim=-1)


def test_loss_terms_equal_their_formulas():
    built = build("MMGCN", reg_weight=0.5)
    model, batch = built.model.train(), built.batch(8)
    user, positive, negative = batch["user_id"], batch["item_id"], batch["neg_item_id"]
    users, items = model()
    gap = (users[user] * (items[positive] - items[negative])).sum(dim=1)
    ranking, penalty = model.calculate_loss(batch)
    torch.testing.assert_close(ranking, -F.logsigmoid(gap).mean())
    rows = model.user_embedding[user], model.item_embedding[positive], model.item_embedding[negative]
    squares = sum((table**2).sum() for table in rows) / (2 * len(user))
    preferences = sum((table[user] ** 2).sum() for table in model.preference.values()) / (2 * len(user))
    torch.testing.assert_close(penalty, 0.5 * (squares + preferences / len(model.preference)))


def test_frozen_tables_stay_and_their_penalty_changes_nothing():
    states = []
    for reg_weight in (0.0, 10.0):
        built = build("MMGCN", trainable_embeddings=False, reg_weight=reg_weight)
        before = built.model.user_embedding.clone()
        train_steps(built, 3)
        assert torch.equal(before, built.model.user_embedding)
        states.append(built.model.state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


@pytest.mark.parametrize("options", [{"n_layers": 3}, {"concat": True}, {"projection_dim": 7}, {"embedding_size": 8}])
def test_every_option_changes_the_model(options):
    plain, changed = build("MMGCN"), build("MMGCN", **options)
    shapes = [tuple(p.shape) for p in plain.model.parameters()]
    assert shapes != [tuple(p.shape) for p in changed.model.parameters()]
    assert total_loss(changed.model.train(), changed.batch()).isfinite()


@pytest.mark.parametrize("value", ["False", 1, None])
def test_a_text_is_no_boolean(value):
    with pytest.raises(ValueError, match="concat"):
        build("MMGCN", concat=value if value != "False" else "'False'")


@pytest.mark.parametrize("concat", [True, False])
def test_aligned_maps_make_untrained_scores_follow_content(concat):
    """Users like one item of a kind; untrained scores, centred, go with the likeness of contents or with nothing."""
    generator = np.random.default_rng(3)
    kinds = generator.normal(size=(32, 64)).astype(np.float32)
    pairs = [(user, user) for user in range(32)]
    likeness = torch.corrcoef(torch.from_numpy(np.concatenate([kinds, kinds])))[:32, 32:]
    follows = {}
    for start in ("aligned", "random"):
        options = {"embedding_size": 64, "concat": concat, "initialisation": start}
        users, items = tiny_model("MMGCN", pairs, {"text": kinds}, **options).eval()()
        scores = (users @ items.T)[1:, 1:].detach()
        scores = scores - scores.mean(dim=0) - scores.mean(dim=1, keepdim=True)
        follows[start] = torch.corrcoef(torch.stack([scores.flatten(), likeness.flatten()]))[0, 1].item()
    assert follows["aligned"] > 0.15 > 0.1 > abs(follows["random"]), follows


def test_what_is_no_content_starts_short():
    aligned, random = (tiny_model("MMGCN", PAIRS, {"image": WIDE}, initialisation=x) for x in ("aligned", "random"))
    for name in ("user_embedding", "item_embedding"):
        assert getattr(aligned, name).norm() < 0.2 * getattr(random, name).norm()
    assert 0 < aligned.project["image"].bias.norm() < 0.2 * random.project["image"].bias.norm()
    own = aligned.layers[0]["image"].own
    torch.testing.assert_close(own.weight @ own.weight.T, 9 * torch.eye(len(own.weight)), rtol=1e-4, atol=1e-4)
    assert not own.bias.any()


def test_a_checkpoint_from_before_the_slope_was_an_option_is_as_published():
    config, dataset = tiny_dataset("MMGCN", PAIRS, FEATURES)
    assert MMGCN(config, dataset).layers[0]["image"].slope == 0.2
    del config.final_config_dict["negative_slope"]
    assert MMGCN(config, dataset).layers[0]["image"].slope == 0.01


@pytest.mark.parametrize("together", [0, mmgcn.TOGETHER])
@pytest.mark.parametrize(("n_layers", "normalize"), [(1, False), (1, True), (2, False)])
def test_the_loss_of_a_cut_step_equals_that_of_the_whole_graph(n_layers, normalize, together, monkeypatch):
    """With fewer rows in a batch than in the tables, the last layer is computed for the batch alone."""
    monkeypatch.setattr(mmgcn, "TOGETHER", together)
    pairs = PAIRS + [(3 + user, user % 4) for user in range(6)]
    options = {"embedding_size": 5, "n_layers": n_layers, "normalize_tables": normalize, "reg_weight": 0.3}
    model = tiny_model("MMGCN", pairs, FEATURES, **options).double()
    user, positive, negative = torch.tensor([2, 2]), torch.tensor([1, 2]), torch.tensor([3, 2])
    batch = {model.USER_ID: user, model.ITEM_ID: positive, model.NEG_ITEM_ID: negative}
    users, items = model()
    gap = (users[user] * (items[positive] - items[negative])).sum(dim=1)
    penalty = model.user_embedding[user].square().sum() + model.item_embedding[[1, 2, 3, 2]].square().sum()
    penalty = penalty + sum(table[user].square().sum() for table in model.preference.values()) / len(FEATURES)
    expected = -F.logsigmoid(gap).mean() + 0.3 * penalty / (2 * len(user))
    value = total_loss(model, batch)
    torch.testing.assert_close(value, expected, rtol=1e-12, atol=0)
    parameters = list(model.parameters())
    gradients = (torch.autograd.grad(loss, parameters) for loss in (value, expected))
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)
