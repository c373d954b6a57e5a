"""MML: its learners against SASRec and plain loops, adaptation, generator, and what each option does."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch
from recbole.config import Config
from recbole.data.interaction import Interaction
from recbole.utils import get_model, init_seed
from torch.nn import functional as F

from recbole_mm.config import properties_directory
from recbole_mm.nn.attention.sequence import INITIAL_SCALE, MASKED, NORM_EPSILON
from recbole_mm.nn.meta.replacement import draw_replacement
from recbole_mm.nn.meta.tasks import TaskTable
from tests.model.conftest import MODALITIES, build, total_loss, train_steps
from tests.model.sasrec_names import sasrec_with, under_sasrecs_names

TINY = {
    "embedding_size": 8,
    "n_layers": 1,
    "inner_size": 12,
    "MAX_ITEM_LIST_LENGTH": 10,
    "fusion_hidden_size": 6,
    "hidden_dropout_prob": 0.0,
    "attn_dropout_prob": 0.0,
    "inner_learning_rate": 0.1,
    "adapt_learning_rate": 0.1,
}


def tiny(**options):
    """MML small enough for loops, in double precision, with parameters large enough to matter."""
    built = build("MML", **{**TINY, **options})
    model = built.model.double()
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        model.learners["id"].item_embedding[0] = 0
    model.eval()
    return built


def evaluation_batch(built):
    return next(iter(built.test_data))[0]


def task_tables(built):
    """Support and query of every user, as the trainer makes them."""
    model = built.model
    rows = model.rows(built.train_data.dataset.inter_feat)
    return (
        TaskTable(rows.select(rows.age >= 1), model.n_users, "windows"),
        TaskTable(rows, model.n_users, "windows", 1),
    )


def tasks(built, n_users=6, seed=0):
    support, query = task_tables(built)
    torch.manual_seed(seed)
    users, pool = support.users[:n_users], torch.arange(1, built.model.n_items)
    return support.batch(users, pool), query.batch(users, pool)


def test_id_learner_without_feature_attention_is_recboles_sasrec():
    built = tiny(feature_attention=0.0, n_layers=2)
    learner = built.model.learners["id"]
    assert {name for name, _ in learner.named_parameters() if not name.startswith("encoder.")} == {"item_embedding"}
    parts, pairs = (learner.item_embedding, learner.encoder), {"distribution": "uniform", "sample_num": 1}
    sasrec = sasrec_with(built, *parts, n_layers=2, loss_type="BPR", train_neg_sample_args=pairs)
    batch = built.batch()
    last = built.model(batch["item_id_list"], batch["item_length"])["id"]
    torch.testing.assert_close(last, sasrec(batch["item_id_list"], batch["item_length"]), rtol=1e-9, atol=1e-11)
    scores = learner.scores(last, built.model.attributes)
    torch.testing.assert_close(scores, sasrec.full_sort_predict(batch), rtol=1e-9, atol=1e-11)
    # RecBole's loss is -ln(1e-10 + sigmoid(gap)).
    loss, expected = built.model.calculate_loss(batch)[0], sasrec.calculate_loss(batch)
    torch.testing.assert_close(loss, expected, rtol=1e-8, atol=1e-9)
    loss.backward()
    expected.backward()
    gradients = under_sasrecs_names(*parts, lambda parameter: parameter.grad)
    for name, parameter in sasrec.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-6, atol=1e-9, msg=name)


def test_feature_attention_adds_the_weighted_similarity_where_the_mask_allows():
    built = tiny(feature_attention=0.7)
    learner, feature = built.model.learners["id"], built.model.attributes
    window = torch.tensor([[3, 5, 3, 0]])
    bias = learner.attention_bias(window, feature)[0]
    for i in range(4):
        for j in range(4):
            item_i, item_j = window[0, i], window[0, j]
            left = learner.attention_project @ feature[item_i].double() + learner.attention_offset
            right = learner.attention_project @ feature[item_j].double() + learner.attention_offset
            expected = 0.7 * (left @ right) if j <= i and item_j > 0 else torch.tensor(-1e5)
            assert bias[i, j].item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("name", ["id", "text"])
def test_no_state_sees_a_later_item(name):
    built = tiny(feature_attention=0.7)
    learner, feature = built.model.learners[name], built.model.learner_features[name]
    windows = torch.tensor([[3, 5, 3, 8, 9, 0]])
    states = learner.states(windows, feature)
    for k in range(5):
        changed = windows.clone()
        changed[0, k] = 11
        other = learner.states(changed, feature)
        assert torch.equal(states[0, :k], other[0, :k])
        assert not torch.allclose(states[0, k], other[0, k])
    assert states[0, 5].eq(0).all()
    assert torch.allclose(learner.states(windows[:, :5], feature), states[:, :5])


def test_learners_are_those_of_the_modalities():
    assert list(build("MML", modalities=["text"]).model.learners) == ["id", "text"]
    assert list(build("MML").model.learners) == ["id", *MODALITIES]


def plain_scores(model, user, history):
    """Scores of all items by one history of one user, every step written out."""
    features, states, scores = model.learner_features, [], []
    s, items = model.settings, torch.arange(1, model.n_items)
    support = model.support.batch(torch.tensor([user]), items, fixed=True, n_candidates=s.n_candidates)
    for name, learner in model.learners.items():
        clone = copy.deepcopy(learner)
        for _ in range(model.settings.adapt_steps):
            terms = []
            for row, (window, targets) in enumerate(zip(support.window[0], support.target[0])):
                state = clone.states(window[None], features[name])[0]
                for position in targets.nonzero().flatten():
                    others = support.negative if s.n_candidates else support.negative[0, row, position][None]
                    asked = torch.cat([targets[position][None], others[others != targets[position]]])
                    gap = clone.embed(asked, features[name]) @ state[position]
                    terms.append(F.cross_entropy(gap, torch.tensor(0)))  # with one other, BPR
            if not terms:
                break
            local = [p for n, p in clone.named_parameters() if n.startswith("encoder.") or clone_all(model)]
            slopes = torch.autograd.grad(torch.stack(terms).mean(), local, allow_unused=True)
            with torch.no_grad():
                for parameter, slope in zip(local, slopes):
                    parameter -= model.settings.adapt_learning_rate[name] * (0 if slope is None else slope)
        state = clone.states(history[None], features[name])[0]
        full = torch.zeros(model.max_seq_length, state.shape[1], dtype=state.dtype)
        full[: len(history)] = state
        states.append(full.flatten())
        size = int(history.ne(0).sum())
        scores.append(state[size - 1] @ clone.embed(torch.arange(model.n_items), features[name]).T)
    return model.fusion(torch.stack(states)[None], torch.stack(scores)[None])[0]


def clone_all(model):
    return model.settings.adapt_scope == "all"


@pytest.mark.parametrize(
    "options",
    [
        {"adapt_steps": 3},
        {"adapt_steps": 2, "n_candidates": 20},
        {"adapt_steps": 0},
        {"adapt_steps": 2, "adapt_scope": "all"},
        {"adapt_steps": 3, "task_loss": "bpr"},
    ],
    ids=str,
)
def test_ranking_is_the_plain_loop(options):
    built = tiny(**options)
    batch = evaluation_batch(built)
    with torch.no_grad():
        table = built.model.full_sort_predict(batch).view(len(batch), -1)
    for row in (0, 5, 17):
        expected = plain_scores(built.model, int(batch["user_id"][row]), batch["item_id_list"][row])
        torch.testing.assert_close(table[row].double(), expected.detach(), rtol=1e-5, atol=1e-6)


def test_memory_budget_and_repeated_users_do_not_change_the_scores():
    reference, small = tiny(), tiny(task_memory_mb=1)
    batch = evaluation_batch(reference)
    index = torch.tensor([4, 2, 4, 7, 0, 2])
    with torch.no_grad():
        table = reference.model.full_sort_predict(batch).view(len(batch), -1)
        torch.testing.assert_close(small.model.full_sort_predict(batch).view(len(batch), -1), table)
        some = reference.model.full_sort_predict(batch[index]).view(6, -1)
        torch.testing.assert_close(some, table[index])
        items = torch.tensor([3, 1, 5, 5, 9, 1])
        pairs = Interaction({**batch[index].interaction, "item_id": items})
        torch.testing.assert_close(reference.model.predict(pairs), table[index, items])


def test_adaptation_happens_once_per_evaluation(monkeypatch):
    built = tiny()
    calls = []
    adapt = type(built.model.learners).adapt
    monkeypatch.setattr(type(built.model.learners), "adapt", lambda self, *a: calls.append(1) or adapt(self, *a))
    batch = evaluation_batch(built)
    with torch.no_grad():
        first = built.model.full_sort_predict(batch)
        assert len(calls) == 1
        assert torch.equal(built.model.full_sort_predict(batch), first)
        built.model.full_sort_predict(batch[:3])
        assert len(calls) == 1
        built.model.learners["id"].encoder.position.mul_(1.1)
        assert not torch.equal(built.model.full_sort_predict(batch), first)
        assert len(calls) == 2
        built.model.eval()
        built.model.full_sort_predict(batch)
        assert len(calls) == 3


def test_support_can_be_handed_in_by_the_data_set():
    plain = tiny()
    dataset = copy.copy(plain.train_data.dataset)
    inter = dataset.inter_feat
    chosen = int(inter["user_id"].mode().values)
    dataset.support_interactions = inter[(inter["user_id"] == chosen).nonzero().squeeze(1)[:2]]
    model = get_model("MML")(plain.config, dataset).double()
    model.load_state_dict(plain.model.state_dict())
    model.eval()
    assert model.support.users.tolist() == [chosen]
    for user in (chosen, chosen + 1):
        adapted = model.adapted(torch.tensor([user]))["text"]
        same = [torch.equal(adapted[name][0], model.learners["text"].get_parameter(name)) for name in adapted]
        assert all(same) == (user != chosen)
    assert not torch.equal(model.adapted(torch.tensor([chosen]))["text"]["encoder.norm_bias"],
                           plain.model.adapted(torch.tensor([chosen]))["text"]["encoder.norm_bias"])  # fmt: skip


def test_a_history_without_items_scores_finitely():
    built = tiny()
    batch = evaluation_batch(built)[:2]
    empty = Interaction({**batch.interaction, "item_id_list": torch.zeros_like(batch["item_id_list"])})
    assert built.model.full_sort_predict(empty).isfinite().all()


def test_longer_histories_than_the_models_are_refused():
    built = tiny()
    batch = evaluation_batch(built)[:1]
    long = Interaction({**batch.interaction, "item_id_list": torch.ones(1, 11, dtype=torch.long)})
    with pytest.raises(ValueError, match="histories of 11 items; MAX_ITEM_LIST_LENGTH is 10"):
        built.model.full_sort_predict(long)


@pytest.mark.parametrize("order", ["first", "second"])
def test_meta_losses_leave_the_model_as_it_was_and_reach_every_parameter(order):
    built = tiny(meta_order=order)
    before = copy.deepcopy(built.model.state_dict())
    losses = built.model.train().meta_losses(*tasks(built))
    assert len(losses) == 1 + len(MODALITIES)
    sum(losses).backward()
    assert all(torch.equal(before[name], value) for name, value in built.model.state_dict().items())
    for name, parameter in built.model.learners.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert all(p.grad is None for part in (built.model.generator, built.model.fusion) for p in part.parameters())


def test_orders_share_the_loss_and_differ_in_the_gradient():
    gradients, losses = [], []
    for order in ("first", "second"):
        built = tiny(meta_order=order)
        loss = sum(built.model.meta_losses(*tasks(built)))
        loss.backward()
        losses.append(loss.item())
        gradients.append(built.model.learners["id"].encoder.norm_weight.grad)
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    assert not torch.allclose(gradients[0], gradients[1], rtol=1e-3)


def generator_loss(built, **change):
    """The generator's loss for given settings, with the same draws each time."""
    model = built.model
    object.__setattr__(model.settings, "generate_rate", change.get("rate", 0.5))
    torch.manual_seed(5)
    return model.generator_loss(*tasks(built, seed=5))


def test_generator_stage_trains_the_generator_alone():
    built = tiny()
    built.model.train_only(built.model.generator)
    generator_loss(built).backward()
    gradients = {name: p.grad for name, p in built.model.named_parameters() if p.grad is not None}
    assert gradients and all(name.startswith("generator.") for name in gradients)
    # The offset c and the part of w that sees the item itself are the same for all neighbours: softmax drops them.
    moving = {name: grad for name, grad in gradients.items() if not name.endswith("score_bias")}
    assert all(grad.abs().sum() > 0 for grad in moving.values())


def test_generate_rate_zero_never_asks_the_generator_and_one_never_asks_the_table():
    built = tiny()
    built.model.train_only(built.model.generator)
    loss = generator_loss(built, rate=0.0)
    assert not loss.requires_grad or all(
        slope is None or slope.eq(0).all()
        for slope in torch.autograd.grad(loss, list(built.model.generator.parameters()), allow_unused=True)
    )
    everything, half = generator_loss(built, rate=1.0).item(), generator_loss(built, rate=0.5).item()
    with torch.no_grad():
        built.model.learners["id"].item_embedding.mul_(3)
    assert generator_loss(built, rate=1.0).item() == everything
    assert generator_loss(built, rate=0.5).item() != half


def test_generator_loss_is_the_plain_loop():
    built = tiny(inner_steps=2)
    model = built.model
    support, query = tasks(built, seed=5)
    object.__setattr__(model.settings, "generate_rate", 0.5)
    torch.manual_seed(5)
    loss = model.generator_loss(support, query)
    torch.manual_seed(5)
    drawn = [draw_replacement(torch.stack(batch, dim=1).flatten(1), 0.5) for batch in (support, query)]
    table, learner = model.learners["id"].item_embedding.detach(), model.learners["id"]

    def plain(generator, batch, replacement, user):
        ids = torch.stack(batch, dim=1)[user].flatten()
        vectors = [table[item] for item in ids]
        made = generator(replacement.item[user], *model.generator_tables)
        for slot, vector in zip(replacement.slot[user].tolist(), made):
            if slot < len(vectors):
                vectors[slot] = vector
        window, positive, negative = torch.stack(vectors).view(3, *batch.window[user].shape, -1)
        state = learner.encoder(window, learner.attention_bias(batch.window[user], model.attributes))
        gap = (state * (negative - positive)).sum(-1)
        return F.softplus(gap[batch.target[user] > 0]).mean()

    expected = []
    for user in range(len(support.window)):
        clone = copy.deepcopy(model.generator).requires_grad_(True)
        for _ in range(2):
            value = plain(clone, support, drawn[0], user)
            slopes = torch.autograd.grad(value, list(clone.parameters()), allow_unused=True)
            with torch.no_grad():
                for parameter, slope in zip(clone.parameters(), slopes):
                    parameter -= 0.1 * (0 if slope is None else slope)
        expected.append(plain(clone, query, drawn[1], user))
    torch.testing.assert_close(loss, torch.stack(expected).mean(), rtol=1e-9, atol=1e-11)


def test_only_rows_of_unseen_items_are_overwritten():
    built = tiny()
    model = built.model
    seen = set(built.train_data.dataset.inter_feat["item_id"].tolist())
    seen |= set(built.train_data.dataset.inter_feat["item_id_list"].flatten().tolist())
    cold = torch.tensor([item for item in range(1, model.n_items) if item not in seen])
    known = torch.stack(list(model.features.observed.values())).any(0)
    assert model.cold_items.nonzero().flatten().tolist() == cold.tolist()
    if not known[cold].any():  # mm-toy's split may leave no item unseen; then make two of them unseen
        cold = torch.tensor([4, 9])
        model.cold_items[cold] = True
    before = model.learners["id"].item_embedding.detach().clone()
    assert model.fill_cold_items() == int(known[cold].sum())
    after = model.learners["id"].item_embedding.detach()
    changed = cold[known[cold]]
    torch.testing.assert_close(after[changed], model.generator(changed, *model.generator_tables).detach())
    warm = torch.ones(model.n_items, dtype=torch.bool)
    warm[changed] = False
    assert torch.equal(after[warm], before[warm]) and after[0].eq(0).all()


def test_modality_weight_is_the_prior_of_the_fusion():
    model = build("MML", modality_weight={"image": 3.0}).model
    weight = torch.tensor([1.0, *model.features.weight.values()])
    torch.testing.assert_close(model.fusion.log_prior, weight.log())
    assert torch.equal(build("MML").model.fusion.log_prior, torch.zeros(4))


def test_a_modality_cannot_be_called_id(tmp_path):
    source = properties_directory().parent / "dataset_atomic" / "mm-toy" / "mm-toy.item.text.npz"
    shutil.copy(source, tmp_path / "mm-toy.item.id.npz")
    with pytest.raises(ValueError, match="rename the modality 'id'"):
        build("MML", feature_path=str(tmp_path))


def observed(**options):
    """What a model does under some options: its parameters' shapes, losses of all stages, and scores."""
    built = build(
        "MML",
        **{**TINY, "hidden_dropout_prob": 0.1, "attn_dropout_prob": 0.1, "modalities": ["image", "text"], **options},
    )
    model = built.model.train()
    init_seed(1, True)
    support, query = tasks(built, n_users=4)
    found = [{name: tuple(value.shape) for name, value in model.state_dict().items()}]
    torch.manual_seed(0)
    found.append(total_loss(model, built.batch(64)).item())
    for part, loss in ((model.learners, lambda: sum(model.meta_losses(support, query))),
                       (model.generator, lambda: model.generator_loss(support, query))):  # fmt: skip
        model.train_only(part)
        torch.manual_seed(0)
        value = loss()
        found.append(value.item())
        if value.requires_grad:
            slopes = torch.autograd.grad(value, list(part.parameters()), allow_unused=True)
            found.append([slope.abs().sum().item() for slope in slopes if slope is not None])
    with torch.no_grad():
        found.append(model.eval().full_sort_predict(evaluation_batch(built)).tolist())
    found.append([len(chunk) for chunk in model.task_chunks(model.support, model.support.users)])
    found.append(model.support.count.tolist())
    return found


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("embedding_size", 12),
        ("n_layers", 2),
        ("n_heads", 1),
        ("inner_size", 16),
        ("hidden_dropout_prob", 0.4),
        ("attn_dropout_prob", 0.4),
        ("feature_attention", 0.5),
        ("train_features", True),
        ("instances", "prefixes"),
        ("max_support", 2),
        ("meta_order", "second"),
        ("inner_steps", 1),
        ("inner_learning_rate", 0.05),
        ("adapt_steps", 1),
        ("adapt_learning_rate", {"id": 0.1, "image": 0.1, "text": 0.5}),
        ("adapt_scope", "all"),
        ("task_memory_mb", 1.0),
        ("knn_k", 2),
        ("generate_rate", 0.5),
        ("generator_features", "separate"),
        ("fusion_method", "weight"),
        ("fusion_hidden_size", 9),
        ("fusion_score_affine", False),
    ],
)
def test_every_option_changes_something(option, value):
    assert observed(**{option: value}) != observed()


def test_wrong_values_are_refused():
    for option, value, message in (
        ("meta_order", "third", "one of first, second"),
        ("instances", "window", "Did you mean 'windows'"),
        ("generate_rate", 1.5, "from 0 to 1"),
        ("adapt_learning_rate", {"id": 0.1}, "no value for audio"),
        ("n_heads", 3, "n_heads must divide embedding_size"),
    ):
        with pytest.raises(ValueError, match=message):
            build("MML", **{option: value})


def test_trained_feature_tables_start_from_the_features():
    model = build("MML", train_features=True).model
    for modality, feature in model.features.items():
        assert torch.equal(model.learners[modality].table, feature)
    assert not [p for p in build("MML").model.learners.named_parameters() if p[0].endswith(".table")]


ARCHITECTURE = {
    "embedding_size": 64, "n_layers": 2, "n_heads": 2, "inner_size": 256, "hidden_dropout_prob": 0.5,
    "attn_dropout_prob": 0.5, "feature_attention": 0.001, "meta_order": "first", "inner_steps": 5,
    "inner_learning_rate": 1e-3, "knn_k": 5, "generator_features": "concat", "fusion_method": "attention",
    "fusion_hidden_size": 128, "fusion_score_affine": True,
}  # fmt: skip
PROCEDURE = {
    "train_features": True, "instances": "prefixes", "max_support": None, "query_size": 1, "meta_batch_size": 2048,
    "adapt_scope": "all", "adapt_steps": 50, "generator_epochs": 10, "fusion_batch_size": 2048,
}  # fmt: skip
RANGES = {
    "generate_rate": (0.1, 0.15), "generator_learning_rate": (5e-4, 1e-3), "fusion_user_rate": (0.1, 0.25),
    "fusion_epochs": (1, 100), "fusion_learning_rate": (1e-5, 5e-4),
}  # fmt: skip


def test_defaults_and_the_experiment_file_have_the_authors_sizes():
    path = properties_directory() / "experiment" / "MML-paper.yaml"
    paper = Config("MML", "mm-toy", config_file_list=[str(path)], config_dict={"state": "ERROR", "use_gpu": False})
    assert (paper["epochs"], paper["eval_step"]) == (10, 0) and 5e-4 <= paper["learning_rate"] <= 1e-3
    built = build("MML")
    model = get_model("MML")(paper, built.train_data.dataset)
    for settings in (model.settings, built.model.settings):
        assert {key: getattr(settings, key) for key in ARCHITECTURE} == ARCHITECTURE
        assert all(low <= getattr(settings, key) <= high for key, (low, high) in RANGES.items())
        assert all(3e-3 <= rate <= 5e-3 for rate in settings.feature_learning_rate.values())
    assert {key: getattr(model.settings, key) for key in PROCEDURE} == PROCEDURE
    assert all(0.07 <= rate <= 0.5 for rate in model.settings.adapt_learning_rate.values())
    assert model.max_seq_length == built.model.max_seq_length == 50
    assert (INITIAL_SCALE, NORM_EPSILON, MASKED) == (0.02, 1e-12, -1e5)


def test_stock_training_lowers_every_learners_loss():
    built = build("MML", **{**TINY, "train_batch_size": 256})
    batch = built.batch()
    before = [loss.item() for loss in built.model.calculate_loss(batch)]
    train_steps(built, 30)
    after = [loss.item() for loss in built.model.calculate_loss(batch)]
    assert all(now < then for now, then in zip(after, before))


def test_the_same_options_do_the_same():
    assert observed() == observed()
