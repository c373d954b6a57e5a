"""UVCAN against a plain reference, its defining properties, and its full ranking against pairs."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction

from recbole_mm.data.features.store import FeatureStore, FeatureTable
from recbole_mm.model.uvcan.uvcan import UVCAN
from recbole_mm.nn.graph.pooling import history_sum
from tests.model.conftest import build, total_loss, train_steps
from tests.model.tiny import tiny_model

SIDE = {"load_col": {"inter": ["user_id", "item_id"], "user": "*", "item": "*"}}
SMALL = {"embedding_size": 8, "attn_size": 6, "mlp_hidden": 5}
RANDOM = np.random.default_rng(0)
FEATURES = {
    "image": RANDOM.normal(size=(4, 3)).astype(np.float32),
    "text": RANDOM.normal(size=(4, 2)).astype(np.float32),
}
PATCHES = {"image": RANDOM.normal(size=(4, 5, 3)).astype(np.float32), "text": FEATURES["text"]}
# User 1 (internal 2) has one item; a repeated pair counts once.
PAIRS = [(0, 0), (0, 1), (1, 2), (2, 2), (2, 0), (2, 3), (0, 1)]


def batch(*triples):
    users, positives, negatives = (torch.tensor(ids) + 1 for ids in zip(*triples))
    return Interaction({"user_id": users, "item_id": positives, "neg_item_id": negatives})


BATCH = batch((0, 0, 2), (0, 1, 3), (1, 2, 0), (2, 3, 1), (2, 0, 1))


def additive(step, tokens, query):
    """Weights of a list of tokens."""
    bias = 0 if step.key.bias is None else step.key.bias
    logits = [step.score.weight[0] @ torch.tanh(step.key.weight @ t + step.query.weight @ query + bias) for t in tokens]
    return torch.stack(logits).softmax(dim=0)


def reference_item_tokens(model, item):
    tower = model.item_tokens
    tokens, patched = [tower.embedding.weight[item]], []
    queries = [tokens[0]]
    for modality, feature in model.features.items():
        weight, project = model.features.weight[modality], tower.project[modality]
        if feature.dim() == 3 and feature.shape[1] > 1:
            patched.append((modality, [weight * project(patch) for patch in feature[item]]))
            continue
        token = weight * project(feature[item].flatten())
        there = bool(model.features.observed[modality][item])
        queries.append(token if there else None)
        tokens += [token] if there else []
    for modality, patches in patched:
        for attention, query in zip(tower.patch_attention[modality], queries):
            if model.features.observed[modality][item] and query is not None:
                weights = additive(attention, patches, query)
                tokens.append(sum(w * p for w, p in zip(weights, patches)))
    return tokens + reference_fields(tower.side, item)


def reference_fields(side, row):
    tokens = []
    for field in side.embed:
        if hasattr(field, "present"):
            tokens += [field.project.weight @ field.values[row].double()] if field.present[row] else []
        else:
            ids = [i for i in field.values[row].tolist() if i]
            tokens += [torch.stack([field.embedding.weight[i] for i in ids]).mean(dim=0)] if ids else []
    return tokens


def reference_user_tokens(model, user, without=None):
    tower = model.user_tokens
    tokens = [tower.embedding.weight[user]]
    for modality, project in tower.project_file.items():
        bank = model.user_features
        if bank.observed[modality][user]:
            tokens.append(bank.weight[modality] * project(bank[modality][user]))
    history = {int(i) for u, i in zip(*model.training_pairs) if u == user}
    for modality, project in tower.project.items():
        feature, observed = model.features[modality], model.features.observed[modality]
        vectors = [
            feature[i].reshape(-1, feature.shape[-1]).mean(dim=0) for i in history if observed[i] and i != without
        ]
        if vectors:
            mean = torch.stack(vectors).mean(dim=0)
            tokens.append(model.features.weight[modality] * project(mean))
    return tokens + reference_fields(tower.side, user)


def reference_score(model, user_tokens, item_tokens):
    attention = model.co_attention
    tokens = {"user": user_tokens, "item": item_tokens}
    query = {side: torch.stack(t).mean(dim=0) for side, t in tokens.items()}
    other = {"user": "item", "item": "user"}
    for step in range(attention.n_steps):
        context = {}
        for side in attention.sides:
            weights = additive(attention.steps[side][step], tokens[side], query[other[side]])
            receiver = other[side] if attention.update == "san" else side
            context[receiver] = sum(w * t for w, t in zip(weights, tokens[side]))
        query = {side: query[side] + context.get(side, 0.0) for side in query}
    if model.score.kind == "dot":
        return query["user"] @ query["item"]
    hidden = torch.relu(model.score.hidden(torch.cat([query["user"], query["item"]])))
    return model.score.output(hidden).squeeze()


def reference_loss(model, interaction):
    ranking, lengths = [], []
    for user, positive, negative in zip(*(interaction[f].tolist() for f in ("user_id", "item_id", "neg_item_id"))):
        left_out = reference_user_tokens(model, user, positive)
        chosen, rejected = reference_item_tokens(model, positive), reference_item_tokens(model, negative)
        p, n = reference_score(model, left_out, chosen), reference_score(model, left_out, rejected)
        if model.loss == "bpr":
            ranking.append(-torch.log(torch.sigmoid(p - n)))
        else:
            ranking.append((-F.logsigmoid(p) - F.logsigmoid(-n)) / 2)
        lengths.append(sum(t.square().sum() for t in (*left_out, *chosen, *rejected)))
    return torch.stack(ranking).mean(), model.reg_weight * torch.stack(lengths).mean() / 2


def double(model):
    """The model in float64, without dropout, its biases at random: at zero they would hide what should be masked."""
    model, graph = model.double().eval(), model.interaction_graph()
    for index, m in enumerate(model.user_tokens.project):  # sums of float32 are not sums of float64
        feature = model.features[m].mean(dim=1) if model.features[m].dim() == 3 else model.features[m]
        total, _ = history_sum(graph.to_user, feature, model.features.observed[m])
        getattr(model.user_tokens, f"total_{index}").copy_(total)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.5, generator=generator)
    return model


CASES = {
    "default": {},
    "dan dot": {"memory_update": "dan", "score": "dot"},
    "san dot bce": {"score": "dot", "loss": "bce"},
    "dan": {"memory_update": "dan", "n_steps": 2},
    "user only": {"co_attention": "user_only"},
    "item only dan": {"co_attention": "item_only", "memory_update": "dan"},
    "none": {"co_attention": "none"},
    "no steps": {"n_steps": 0},
    "weights": {"modality_weight": {"image": 3.0, "text": 1.0}},
    "normalised": {"feature_norm": "l2"},
}


@pytest.mark.parametrize("features", [FEATURES, PATCHES], ids=["vectors", "patches"])
@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_scores_loss_and_gradients_equal_plain_loops(options, features):
    model = double(tiny_model("UVCAN", PAIRS, features, **SMALL, reg_weight=0.1, **options))
    torch.nn.init.normal_(model.user_tokens.embedding.weight)
    losses = model.calculate_loss(BATCH)
    expected = reference_loss(model, BATCH)
    for ours, theirs in zip(losses, expected):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12)
    names, parameters = zip(*model.named_parameters())
    ours, theirs = (torch.autograd.grad(sum(terms), parameters, allow_unused=True) for terms in (losses, expected))
    for name, own, other in zip(names, ours, theirs):
        # A bias that cancels between a positive and its negative has no gradient at all in neither.
        torch.testing.assert_close(
            torch.zeros(()) if own is None else own,
            torch.zeros(()) if other is None else other.to(own.dtype),
            rtol=1e-7,
            atol=1e-10,
            msg=lambda m, name=name: f"{name}: {m}",
            check_dtype=False,
        )
    scores = model.full_sort_predict(BATCH).view(len(BATCH), -1)
    for row, user in enumerate(BATCH["user_id"].tolist()):
        for item in range(1, model.n_items):
            plain = reference_score(model, reference_user_tokens(model, user), reference_item_tokens(model, item))
            assert scores[row, item].item() == pytest.approx(plain.item(), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("source", ["history", "file"])
def test_side_fields_and_missing_features_equal_plain_loops(source):
    model = double(build("UVCAN", **SMALL, **SIDE, user_feature_source=source, dropout=0.0).model)
    assert model.user_tokens.side.fields == ("gender", "age", "interests")
    assert model.item_tokens.side.fields == ("brand", "price", "tags")
    assert list(model.user_tokens.project_file) == (["profile"] if source == "file" else [])
    lacking = (~model.features.observed["audio"]).nonzero().flatten()[1:3].tolist()
    items = [*lacking, 5, 6]
    interaction = Interaction(
        {
            "user_id": torch.tensor([1, 2, 3, 50]),
            "item_id": torch.tensor(items),
            "neg_item_id": torch.tensor(items[::-1]),
        }
    )
    scores = model.predict(interaction)
    for row, (user, item) in enumerate(zip(interaction["user_id"].tolist(), items)):
        plain = reference_score(model, reference_user_tokens(model, user), reference_item_tokens(model, item))
        assert scores[row].item() == pytest.approx(plain.item(), rel=1e-5, abs=1e-7)
    for ours, theirs in zip(model.calculate_loss(training_batch(model)), reference_loss(model, training_batch(model))):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)


def training_batch(model, n=12):
    users, items = model.training_pairs
    rows = torch.linspace(0, len(users) - 1, n).long()
    return Interaction(
        {
            "user_id": users[rows],
            "item_id": items[rows],
            "neg_item_id": torch.arange(1, n + 1) % (model.n_items - 1) + 1,
        }
    )


@pytest.mark.parametrize("update", ["san", "dan"])
@pytest.mark.parametrize("score", ["mlp", "dot"])
def test_full_ranking_equals_pair_by_pair(update, score):
    built = build("UVCAN", **SIDE, memory_update=update, score=score)
    train_steps(built, 5)
    model = built.model
    interaction = next(iter(built.test_data))[0]
    with torch.no_grad():
        table = model.full_sort_predict(interaction).view(len(interaction), -1)
        pairs = Interaction(
            {
                "user_id": interaction["user_id"].repeat_interleave(model.n_items),
                "item_id": torch.arange(model.n_items).repeat(len(interaction)),
            }
        )
        torch.testing.assert_close(table.view(-1), model.predict(pairs), rtol=1e-5, atol=1e-5)


def test_full_ranking_gives_the_metrics_of_the_pair_by_pair_path():
    from recbole.trainer import Trainer

    def refuse(interaction):
        raise NotImplementedError

    results = []
    for by_pairs in (False, True):
        built = build("UVCAN", metrics=["Recall", "NDCG"], topk=[5])
        train_steps(built, 10)
        if by_pairs:
            built.model.full_sort_predict = refuse
        trainer = Trainer(built.config, built.model)
        results.append(trainer.evaluate(built.test_data, load_best_model=False))
    assert results[0] == results[1]


def test_chunks_do_not_change_scores():
    interaction = Interaction({"user_id": torch.arange(1, 60), "item_id": torch.arange(1, 60)})
    results = []
    for chunk in (None, 1, 7, 100000):
        model = build("UVCAN", eval_pair_chunk=chunk).model.eval()
        with torch.no_grad():
            results.append((model.full_sort_predict(interaction), model.predict(interaction)))
    for result in results[1:]:
        for ours, first in zip(result, results[0]):
            torch.testing.assert_close(ours, first, rtol=1e-5, atol=1e-6)


def test_a_positive_item_never_shows_in_its_own_user_tokens():
    before = tiny_model("UVCAN", PAIRS, FEATURES, **SMALL, feature_norm="none")
    moved = {m: f.copy() for m, f in FEATURES.items()}
    for feature in moved.values():
        feature[2] += 3.0
    after = tiny_model("UVCAN", PAIRS, moved, **SMALL, feature_norm="none")
    users, items = torch.tensor([2, 3, 3]), torch.tensor([3, 3, 1])  # (1, 2), (2, 2), (2, 0) counted from 1
    tokens = []
    for model in (before, after):
        everything, total = model.user_tokens(users)
        tokens.append((model.user_tokens.without(total, users, items), everything))
    assert not tokens[0][0].mask[0].any(), "nothing is left of a history of one item"
    torch.testing.assert_close(tokens[0][0].values[:2], tokens[1][0].values[:2])
    assert not torch.allclose(tokens[0][0].values[2], tokens[1][0].values[2])
    assert not torch.allclose(tokens[0][1].values[0], tokens[1][1].values[0]), "evaluation pools the whole history"


def test_the_loss_of_a_single_item_history_ignores_that_item_on_the_user_side():
    model = double(tiny_model("UVCAN", PAIRS, FEATURES, **SMALL, dropout=0.0))
    one = batch((1, 2, 0))
    model.calculate_loss(one)[0].backward()
    for project in model.user_tokens.project.values():
        assert project.weight.grad is None or not project.weight.grad.any(), "nothing is left of the history"
    users, _ = model._training_users(one["user_id"], one["item_id"])
    assert users.mask[0].tolist() == [True, False, False]


def test_swapping_two_items_that_look_alike_does_not_change_their_scores():
    """Of a history without the positive, nothing may tell which of the two items was left out of it."""
    alike = {m: f.copy() for m, f in FEATURES.items()}
    for feature in alike.values():
        feature[3] = feature[0]
    model = double(tiny_model("UVCAN", PAIRS, alike, **SMALL, dropout=0.0))
    with torch.no_grad():
        model.item_tokens.embedding.weight[4] = model.item_tokens.embedding.weight[1]
    ranking = model.calculate_loss(batch((0, 0, 3), (2, 0, 3)))[0]
    assert ranking.item() == pytest.approx(math.log(2), abs=1e-12)
    everything, total = model.user_tokens(torch.tensor([1]))
    left = model.user_tokens.without(total, torch.tensor([1]), torch.tensor([1]))
    assert not torch.allclose(left.values, everything.values[:, 1:]), "leaving the positive out matters here"


def test_history_is_the_training_split():
    built = build("UVCAN")
    users, items = built.model.training_pairs
    observed = built.model.features.observed["audio"]
    expected = torch.bincount(users[observed[items]], minlength=built.model.n_users)
    index = list(built.model.features).index("audio")
    assert torch.equal(built.model.user_tokens.count[:, index].long(), expected)


def test_large_and_small_batches_compute_the_same():
    model = build("UVCAN", **SMALL, **SIDE, dropout=0.0).model
    pairs = training_batch(model, 400)
    assert len(pairs) > max(model.n_users, model.n_items)
    whole = model.calculate_loss(pairs)
    parts = [model.calculate_loss(pairs[start : start + 20]) for start in range(0, 400, 20)]
    for term, pieces in zip(whole, zip(*parts)):
        torch.testing.assert_close(term, torch.stack(pieces).mean(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{}, SIDE, {"user_feature_source": "file"}], ids=["ids", "side fields", "files"])
@pytest.mark.parametrize("size", [20, 400])
def test_a_step_and_a_ranking_need_nothing_from_the_host(options, size):
    """Tensors without values stand for those of a GPU: reading one, or mixing them with the CPU's, is an error."""
    built = build("UVCAN", **options)
    interaction = built.batch(size).to("meta")
    model = built.model.to("meta")
    total_loss(model.train(), interaction).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    scores = model.eval().predict(interaction)
    assert scores.shape == (len(interaction),) and scores.is_meta


def test_missing_modality_gets_no_weight_unless_it_is_filled():
    for missing in ("zero", "mean", "knn"):
        model = build("UVCAN", missing_feature=missing).model.eval()
        lacking = (~model.features.observed["audio"][1:]).nonzero().flatten() + 1
        users, catalogue = model.representations()
        items = catalogue.tokens.rows(lacking)
        user = users.rows(torch.ones_like(lacking))
        slot = model.item_tokens.slots["audio"]
        for weights in model.co_attention(user, items).item_weights:
            assert torch.equal(weights[:, slot] > 0, torch.full((len(lacking), 1), missing != "zero"))
        assert not model.item_tokens.present[0, slot].any()


def test_one_patch_is_one_vector():
    one = {"image": FEATURES["image"][:, None, :], "text": FEATURES["text"]}
    flat, patched = (tiny_model("UVCAN", PAIRS, features, **SMALL) for features in (FEATURES, one))
    patched.load_state_dict(flat.state_dict())
    for model in (flat, patched):
        model.eval()
    torch.testing.assert_close(patched.full_sort_predict(BATCH), flat.full_sort_predict(BATCH))


def test_patches_are_pooled_once_under_the_id_and_once_under_each_other_modality():
    model = tiny_model("UVCAN", PAIRS, PATCHES, **SMALL)
    assert model.item_tokens.slots == {"text": [1], "image": [2, 3]}
    tokens = model.item_tokens().values
    assert not torch.allclose(tokens[1:, 2], tokens[1:, 3])
    total_loss(model.train(), BATCH).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_patches_stay_hidden_from_the_text_query_of_an_item_without_text():
    built = build("UVCAN", modalities=["image", "text"])
    dataset = built.train_data._dataset
    tables = dict(dataset.features.item)
    image, text = tables["image"].feature, tables["text"]
    tables["image"] = FeatureTable("image", "item", torch.stack([image, -image], dim=1), tables["image"].observed)
    observed = text.observed.clone()
    observed[3] = False
    tables["text"] = FeatureTable("text", "item", text.feature * observed[:, None], observed)
    store = FeatureStore(item=tables, available=("image", "text"))
    model = UVCAN(built.config, dataset.with_features(store))
    assert model.item_tokens.slots == {"text": [1], "image": [2, 3]}
    assert model.item_tokens().mask[3].tolist() == [True, False, True, False]


def test_user_files_replace_the_history_of_their_modality():
    files = {"image": RANDOM.normal(size=(3, 4)).astype(np.float32)}
    from_file = tiny_file_model(files)
    assert list(from_file.user_tokens.project_file) == ["image"] and list(from_file.user_tokens.project) == ["text"]
    model = double(from_file)
    torch.testing.assert_close(model.calculate_loss(BATCH)[0], reference_loss(model, BATCH)[0], rtol=1e-6, atol=1e-9)


def tiny_file_model(files, **options):
    from recbole.utils import get_model, init_seed

    from tests.model.tiny import tiny_dataset

    config, dataset = tiny_dataset("UVCAN", PAIRS, FEATURES, files, **SMALL, user_feature_source="file", **options)
    init_seed(config["seed"], True)
    return get_model("UVCAN")(config, dataset).eval()


def test_user_files_are_asked_for_in_vain():
    with pytest.raises(ValueError, match="'user_feature_source': file needs a user feature file"):
        tiny_model("UVCAN", PAIRS, FEATURES, user_feature_source="file")


OPTIONS = {
    "embedding_size": 16,
    "attn_size": 16,
    "n_steps": 2,
    "memory_update": "dan",
    "co_attention": "item_only",
    "score": "dot",
    "mlp_hidden": 16,
    "dropout": 0.0,
    "user_feature_source": "file",
    "side_fields": False,
    "loss": "bce",
    "reg_weight": 0.1,
}


@pytest.mark.parametrize("key", OPTIONS)
def test_every_option_changes_the_training(key):
    losses = []
    for options in ({}, {key: OPTIONS[key]}):
        losses.append(train_steps(build("UVCAN", **SIDE, **options), 3))
    assert losses[0] != losses[1]


def test_side_fields_pass_the_gradient_and_repeat_themselves():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        runs = []
        for _ in range(3):
            built = build("UVCAN", **SIDE)
            runs.append((train_steps(built, 3), copy.deepcopy(built.model.state_dict())))
    finally:
        torch.set_num_threads(before)
    for losses, state in runs[1:]:
        assert losses == runs[0][0]
        assert all(torch.equal(value, runs[0][1][key]) for key, value in state.items())
    model = built.model.train()
    total_loss(model, built.batch()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_tables_of_the_catalogue_are_made_once_per_evaluation():
    model = build("UVCAN").model.eval()
    users = Interaction({"user_id": torch.tensor([1, 2])})
    with torch.no_grad():
        model.full_sort_predict(users)
        tables = model.representations()[1].tables
        model.full_sort_predict(users)
        assert model.representations()[1].tables is tables
        model.train().eval()
        assert model.representations()[1].tables is None


def test_contrast_compares_the_modalities_of_the_positives():
    model = build("UVCAN", contrastive_weight=0.5, dropout=0.0).model
    interaction = training_batch(model)
    items = interaction["item_id"]
    tokens = model.item_tokens(items).values
    rows = {m: tokens[:, slots].mean(dim=1) for m, slots in model.item_tokens.slots.items()}
    torch.testing.assert_close(model.calculate_loss(interaction)[2], model.modality_contrast(rows, items))


def test_bce_is_the_mean_over_positives_and_negatives():
    model = build("UVCAN", loss="bce", dropout=0.0).model
    interaction = training_batch(model)
    users, items = (
        model._training_users(interaction["user_id"], interaction["item_id"]),
        model._training_items(interaction["item_id"], interaction["neg_item_id"]),
    )
    scores = torch.cat([model._score(users, items[0]), model._score(users, items[1])])
    labels = torch.cat([torch.ones(len(interaction)), torch.zeros(len(interaction))])
    expected = F.binary_cross_entropy_with_logits(scores, labels)
    torch.testing.assert_close(model.calculate_loss(interaction)[0], expected)


def test_autocast_trains_and_ranks_in_full_precision():
    built = build("UVCAN", **SIDE, dropout=0.0)
    interaction = built.batch()
    exact = total_loss(built.model, interaction)
    users = Interaction({"user_id": torch.arange(1, 30)})
    with torch.autocast("cpu", torch.bfloat16):
        loss = total_loss(built.model.train(), interaction)
        with torch.no_grad():
            scores = built.model.eval().full_sort_predict(users)
    assert loss.dtype == scores.dtype == torch.float32
    torch.testing.assert_close(loss, exact, rtol=1e-2, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(scores, built.model.train().eval().full_sort_predict(users), rtol=0, atol=0.02)


def test_says_when_side_fields_are_on_and_none_is_loaded(caplog):
    caplog.set_level("INFO")
    build("UVCAN")
    assert "load_col" in caplog.text
    caplog.clear()
    build("UVCAN", **SIDE)
    build("UVCAN", side_fields=False)
    assert "load_col" not in caplog.text
