"""HCGCN: its reductions to LightGCN and plain GCN, a dense reference, and the losses by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction
from torch.nn import functional as F

from recbole_mm.model.hcgcn import HCGCN
from recbole_mm.nn.graph.clustering import cluster_entropy
from recbole_mm.nn.loss import bpr_loss
from tests.model.conftest import build, total_loss, train_steps
from tests.model.tiny import assert_same_function, tiny_dataset, tiny_model
from tests.nn.graph.test_branches import dense_lightgcn

RANDOM = np.random.default_rng(3)
FEATURES = {
    "image": RANDOM.normal(size=(6, 3)).astype(np.float32),
    "text": RANDOM.normal(size=(6, 2)).astype(np.float32),
}
PAIRS = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2), (3, 4), (3, 5), (4, 4)]
# The last item has no image.
PARTLY = {"image": FEATURES["image"][:5], "text": FEATURES["text"]}
# The last item has neither.
LACKING = {"image": FEATURES["image"][:4], "text": FEATURES["text"][:5], "unused": FEATURES["text"]}
SMALL = {"embedding_size": 4, "knn_k": 2, "n_item_clusters": 3, "n_clusters": 2}


def reference_parts(model: HCGCN) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The equations of the docstring with dense matrices: users, items, and the shares P of nodes and q of items."""
    n_users = model.n_users
    n_nodes = n_users + model.n_items
    matrix = torch.zeros(n_nodes, n_nodes, dtype=torch.float64)
    users, items = model.training_pairs
    matrix[users, n_users + items] = 1.0
    matrix = matrix + matrix.T
    root = matrix.sum(dim=1).clamp(min=1).rsqrt()
    matrix = root[:, None] * matrix * root[None, :]
    embedding = torch.cat([model.user_embedding, model.item_embedding])
    share = (model.assign(matrix @ embedding + embedding) / model.temperature).softmax(dim=1)
    if model.hard:
        share = F.one_hot(share.argmax(dim=1), share.shape[1]).double()
    share = share.clone()
    share[0] = share[n_users] = 0.0
    n_clusters = share.shape[1]
    states = [matrix @ embedding for _ in range(n_clusters)]
    inside = [matrix @ torch.ones(n_nodes, 1, dtype=torch.float64) for _ in range(n_clusters)]
    plain = inside[0]
    total = embedding + states[0]
    for _ in range(2, model.n_layers + 1):
        plain = matrix @ plain
        inside = [share[:, [c]] * (matrix @ (share[:, [c]] * inside[c])) for c in range(n_clusters)]
        received = [share[:, [c]] * (matrix @ (share[:, [c]] * states[c])) for c in range(n_clusters)]
        kept = plain / sum(inside).clamp(min=1e-300)
        states, unscaled = [kept * state for state in received], received
        centres = torch.stack([(share[:, [c]] * states[c]).sum(dim=0) / share[:, c].sum() for c in range(n_clusters)])
        coarse = share.T @ matrix @ share
        messages = share @ ((coarse / coarse.sum(dim=1, keepdim=True)) @ centres)
        total = total + sum(states) + model.global_weight * messages
        states = unscaled
    total = total / (model.n_layers + 1)

    prior = torch.tensor([model.features.weight[m] for m in model.features], dtype=torch.float64).log()
    logits = model.modality_logits + prior
    content = []
    for item in range(model.n_items):
        present = [k for k, m in enumerate(model.features) if model.features.observed[m][item]]
        vector = torch.zeros(embedding.shape[1], dtype=torch.float64)
        if present:
            a = logits[present].softmax(dim=0)
            for weight, k in zip(a, present):
                m = list(model.features)[k]
                vector = vector + weight * model.project[m](model.features[m][item])
        content.append(vector)
    content = torch.stack(content)
    ends = F.normalize(content), F.normalize(model.centroids)
    distance = torch.cdist(*ends, compute_mode="donot_use_mm_for_euclid_dist") ** 2
    q = 1 / (1 + distance / model.spread)
    q = q / q.sum(dim=1, keepdim=True)
    graph = torch.zeros(model.n_items, model.n_items, dtype=torch.float64)
    inside = torch.zeros_like(graph)
    for a, part in zip(logits.softmax(dim=0), model.item_graphs):
        dense = torch.zeros_like(graph)
        dense[part.pattern.row, part.pattern.col] = part.values.double()
        graph = graph + a * dense
        kept = dense * (q @ q.T)
        inside = inside + a * kept * (dense.sum(dim=1) / kept.sum(dim=1).clamp(min=1e-300))[:, None]
    layers = [content]
    for layer in range(1, model.n_item_layers + 1):
        layers.append((graph if layer == 1 else inside) @ layers[-1])
    items = total[n_users:] + model.content_weight * F.normalize(torch.stack(layers).mean(dim=0))
    return total[:n_users], items, share, q


def reference_scores(model: HCGCN) -> torch.Tensor:
    users, items, _, _ = reference_parts(model)
    return users @ items.T


def reference_losses(model: HCGCN, triples: list[tuple[int, int, int]]) -> list[torch.Tensor]:
    """The terms of the loss, one triple and one item at a time, with the target of this very step."""
    users, items, share, q = reference_parts(model)
    nodes = torch.cat([model.user_embedding, model.item_embedding])

    def ranking(left, right, scale):
        gaps = [scale * left[user] @ (right[near] - right[far]) for user, near, far in triples]
        return torch.stack([-torch.log(torch.sigmoid(gap)) for gap in gaps]).mean()

    def mean_square(index):
        return torch.stack([nodes[k].square().sum() for k in index]).sum() / (2 * len(triples))

    def imbalance(part):
        sizes = part.mean(dim=0)
        return sum(size * torch.log(size * len(sizes)) for size in sizes)

    torch.testing.assert_close(q.sum(dim=1), torch.ones(model.n_items, dtype=torch.float64))
    members = [item for item in range(1, model.n_items) if model.observed[item].any()]
    size = sum(q[item] for item in members).detach()
    divergence = []
    for item in members:
        target = q[item].detach() ** 2 / size
        target = target / target.sum()
        divergence.append((target * (target / q[item]).log()).sum())
    both = sorted(item for item in {near for _, near, _ in triples} if model.observed[item].all())
    views = [F.normalize(model.project[m](model.features[m][both])) for m in ("image", "text")]
    scores, diagonal = views[0] @ views[1].T / model.contrastive_temperature, torch.arange(len(both))
    return [
        ranking(users, items, 1.0),
        model.reg_weight
        * (
            mean_square([user for user, _, _ in triples])
            + mean_square([model.n_users + item for _, near, far in triples for item in (near, far)])
        ),
        model.co_cluster_weight * ranking(share[: model.n_users], share[model.n_users :], model.margin_scale),
        model.balance_weight * sum(imbalance(part) for part in (share[1 : model.n_users], share[model.n_users + 1 :])),
        model.item_cluster_weight * torch.stack(divergence).mean(),
        model.contrastive_weight * (F.cross_entropy(scores, diagonal) + F.cross_entropy(scores.T, diagonal)) / 2,
    ]


WEIGHTS = {
    "co_cluster_weight": 0.3,
    "balance_weight": 0.4,
    "item_cluster_weight": 0.7,
    "contrastive_weight": 0.5,
    "reg_weight": 0.2,
}


@pytest.mark.parametrize("features", [FEATURES, PARTLY, LACKING], ids=["all", "partly", "lacking"])
def test_losses_and_gradients_equal_plain_loops(features):
    options = {"modalities": ["image", "text"], "margin_scale": 2.0, **WEIGHTS, **SMALL}
    model = tiny_model("HCGCN", PAIRS, features, **options).double()
    triples = [(1, 1, 4), (1, 2, 5), (2, 2, 6), (4, 5, 1), (4, 6, 2), (5, 5, 3)]  # items 2 and 5 twice
    users, near, far = (torch.tensor(ids) for ids in zip(*triples))
    losses = model.train().calculate_loss(Interaction({"user_id": users, "item_id": near, "neg_item_id": far}))
    assert_same_function(torch.stack(losses), torch.stack(reference_losses(model, triples)), model)


@pytest.mark.parametrize("features", [FEATURES, PARTLY], ids=["all", "partly"])
@pytest.mark.parametrize("n_layers, n_item_layers, weight", [(2, 1, 1.0), (3, 2, 3.0), (1, 3, 1.0)])
def test_scores_and_gradients_equal_the_dense_reference(n_layers, n_item_layers, weight, features):
    options = {**SMALL, "n_layers": n_layers, "n_item_layers": n_item_layers, "modality_weight": {"image": weight}}
    model = tiny_model("HCGCN", PAIRS, features, **options).double()
    users, items = model()
    assert_same_function(users @ items.T, reference_scores(model), model)


def test_hard_assignment_equals_the_reference_with_one_hot_shares():
    model = tiny_model("HCGCN", PAIRS, FEATURES, assignment="hard", **SMALL).double()
    users, items = model()
    torch.testing.assert_close(users @ items.T, reference_scores(model), rtol=1e-9, atol=1e-11)


def test_one_cluster_without_global_messages_is_lightgcn():
    model = tiny_model("HCGCN", PAIRS, FEATURES, **{**SMALL, "n_clusters": 1, "global_weight": 0.0}).double()
    users, items, _ = model._user_item_states()
    values = model.graph.sym_norm(torch.float64)
    expected = dense_lightgcn(values, model.graph, model.user_embedding, model.item_embedding, model.n_layers)
    torch.testing.assert_close(users, expected[0])
    torch.testing.assert_close(items, expected[1])


def test_disconnected_blocks_with_hard_shares_are_independent():
    """Users 0-2 with items 0-2, and users 3-4 with items 4-5: each block is a LightGCN of its own."""
    model = tiny_model("HCGCN", PAIRS, FEATURES, **{**SMALL, "global_weight": 0.0, "assignment": "hard"}).double()
    users_in, items_in = torch.tensor([1, 2, 3]), torch.tensor([1, 2, 3])
    blocks = [torch.zeros(n, 2, dtype=torch.float64) for n in (model.n_users, model.n_items)]
    blocks[0][users_in, 0] = blocks[1][items_in, 0] = 1.0
    blocks[0][4:, 1] = blocks[1][5:, 1] = 1.0
    model._co_clusters = lambda users, items: (blocks[0], blocks[1])
    users, items, _ = model._user_item_states()
    values = model.graph.sym_norm(torch.float64)
    expected = dense_lightgcn(values, model.graph, model.user_embedding, model.item_embedding, model.n_layers)
    torch.testing.assert_close(users[1:], expected[0][1:])
    with torch.no_grad():
        model.user_embedding[4:] += 1
        model.item_embedding[5:] += 1
    again, _, _ = model._user_item_states()
    torch.testing.assert_close(again[users_in], users[users_in])


def test_content_starts_orthogonal_and_without_what_all_items_share():
    project = tiny_model("HCGCN", PAIRS, FEATURES, **SMALL).project
    for modality, width in (("image", 3), ("text", 2)):
        torch.testing.assert_close(project[modality].weight.T @ project[modality].weight, torch.eye(width))
        assert project[modality].bias.eq(0).all()


def test_checkpoints_without_the_options_of_content_score_as_they_were_trained():
    config, dataset = tiny_dataset("HCGCN", PAIRS, FEATURES, None, **SMALL)
    del config.final_config_dict["content_weight"], config.final_config_dict["initialisation"]
    torch.manual_seed(0)
    before = HCGCN(config, dataset)
    after = tiny_model("HCGCN", PAIRS, FEATURES, content_weight=1.0, initialisation="random", **SMALL)
    assert before.content_weight == 1 and before.project["text"].bias.ne(0).all()
    after.load_state_dict(before.state_dict())
    torch.testing.assert_close(torch.cat(before()), torch.cat(after()))


def test_co_cluster_ranking_loss_by_hand():
    user, near, far = torch.tensor([0.8, 0.2]), torch.tensor([0.9, 0.1]), torch.tensor([0.3, 0.7])
    assert bpr_loss((user * near).sum(), (user * far).sum()).item() == pytest.approx(0.5292604, abs=1e-7)


def test_shares_and_assignments_are_distributions_without_the_padding():
    model = build("HCGCN").model
    _, _, shares = model._user_item_states()
    for share in shares:
        assert share[0].eq(0).all()
        torch.testing.assert_close(share[1:].sum(dim=1), torch.ones(len(share) - 1))


def test_all_weights_zero_leave_the_ranking_loss():
    zero = {
        "co_cluster_weight": 0.0,
        "balance_weight": 0.0,
        "item_cluster_weight": 0.0,
        "contrastive_weight": 0.0,
        "reg_weight": 0.0,
    }
    built = build("HCGCN", **zero)
    batch = built.batch(30)
    loss = total_loss(built.model.train(), batch)  # the first step takes the scale of the item clusters
    users, items = built.model()
    gap = (users[batch["user_id"]] * (items[batch["item_id"]] - items[batch["neg_item_id"]])).sum(dim=1)
    torch.testing.assert_close(loss, -F.logsigmoid(gap).mean())


@pytest.mark.parametrize(
    "weight", ["co_cluster_weight", "balance_weight", "item_cluster_weight", "contrastive_weight", "reg_weight"]
)
def test_every_weight_scales_its_own_term(weight):
    losses = []
    for value in (1.0, 2.0):
        built = build("HCGCN", **{weight: value})
        losses.append(built.model.train().calculate_loss(built.batch(40)))
    doubled = [torch.isclose(b, 2 * a) and bool(a > 0) for a, b in zip(*losses)]
    assert sum(bool(x) for x in doubled) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"n_layers": 3},
        {"n_item_layers": 1},
        {"n_clusters": 2},
        {"n_item_clusters": 3},
        {"knn_k": 2},
        {"assignment": "hard"},
        {"assignment_temperature": 0.5},
        {"global_weight": 0.0},
        {"margin_scale": 3.0},
        {"content_weight": 1.0},
        {"initialisation": "random"},
    ],
    ids=str,
)
def test_every_option_changes_the_loss(options):
    losses = [
        total_loss(built.model.train(), built.batch(40)).item() for built in (build("HCGCN"), build("HCGCN", **options))
    ]
    assert losses[0] != losses[1]


def test_single_modality_has_all_the_weight():
    model = tiny_model("HCGCN", PAIRS, {"text": FEATURES["text"]}, **SMALL)
    assert model._modality_shares().tolist() == [1.0]


def test_target_is_refreshed_by_steps_and_survives_saving():
    built = build("HCGCN", refresh_steps=3)
    model = built.model
    targets = []
    for _ in range(4):
        train_steps(built, 1)
        targets.append(model.target.clone())
    assert torch.equal(targets[0], targets[1]) and torch.equal(targets[1], targets[2])
    assert not torch.equal(targets[2], targets[3])
    fresh = build("HCGCN", refresh_steps=3).model
    fresh.load_state_dict(model.state_dict())
    assert fresh._steps == 4 and torch.equal(fresh.target, model.target)


@pytest.mark.parametrize("n_negatives", [1, 3])
def test_the_target_is_refreshed_once_an_epoch_by_default(n_negatives):
    built = build("HCGCN", train_neg_sample_args={"distribution": "uniform", "sample_num": n_negatives})
    assert built.model.refresh_steps == len(built.train_data) > 1


@pytest.mark.parametrize("missing", ["mean", "knn"])
def test_filled_rows_change_nothing(missing):
    """What the class says: a modality that an item lacks is masked, whatever stands in its row."""
    plain, filled = (tiny_model("HCGCN", PAIRS, PARTLY, missing_feature=m, **SMALL) for m in ("zero", missing))
    assert not torch.equal(plain.features["image"], filled.features["image"])
    for ours, theirs in zip(plain.eval().representations(), filled.eval().representations()):
        assert torch.equal(ours, theirs)


def test_fewer_items_with_content_than_clusters():
    assert len(tiny_model("HCGCN", PAIRS, FEATURES, n_item_clusters=50).centroids) == 6


def planted_blocks(n_clusters):
    """HCGCN after training on six groups of users who click one of six groups of items each, and two others."""
    generator = np.random.default_rng(5)
    pairs = [(u, i) for u in range(60) for i in generator.permutation(np.arange(u % 6, 48, 6))[:5]]
    pairs = sorted({*pairs, *((u, i) for u in range(60) for i in generator.integers(0, 48, 2))})
    centres = generator.normal(size=(6, 8))
    content = (centres[np.arange(48) % 6] + 0.3 * generator.normal(size=(48, 8))).astype(np.float32)
    model = tiny_model("HCGCN", pairs, {"image": content}, embedding_size=16, n_clusters=n_clusters).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    users, items = (torch.tensor(side) + 1 for side in zip(*pairs))
    draw = torch.Generator().manual_seed(0)
    for _ in range(160):
        other = torch.randint(1, 49, items.shape, generator=draw)
        optimizer.zero_grad()
        sum(model.calculate_loss(Interaction({"user_id": users, "item_id": items, "neg_item_id": other}))).backward()
        optimizer.step()
    return model.eval()


def test_clusters_are_at_work_after_training():
    one, eight = (planted_blocks(n_clusters) for n_clusters in (1, 8))
    with torch.no_grad():
        _, _, (users, items) = eight._user_item_states()
        clusters = eight._item_clusters(eight._fused_content(eight._projected()))
        lists = [model.full_sort_predict(Interaction({"user_id": torch.arange(1, 61)})).view(60, -1).topk(12).indices
                 for model in (one, eight)]  # fmt: skip
    for share in (users, items, clusters):
        sizes, rows = cluster_entropy(share, torch.arange(len(share)) > 0)
        assert sizes > 0.8 and rows < 0.8, (sizes, rows)
    shared = [len(set(a) & set(b)) / 12 for a, b in zip(*(ids.tolist() for ids in lists))]
    assert np.mean(shared) < 0.98


def test_diagnostics_see_the_item_clusters_that_the_convolution_uses():
    model = tiny_model("HCGCN", PAIRS, FEATURES, **SMALL).eval()
    with torch.no_grad():
        used = model._item_clusters(model._fused_content(model._projected()))[model._clustered_items()]
        assert torch.equal(model.diagnostics()["the clustering of items"].values, used)
