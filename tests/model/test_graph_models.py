"""What the graph models have in common: relabelling, precision, evaluation, memory and planted blocks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction

from tests.model.conftest import build, total_loss
from tests.model.largest import LargestTensor
from tests.model.tiny import tiny_model

MODELS = ("MMGCN", "GRCN", "DualGNN", "MMGCL", "MGAT", "BM3", "SLMRec", "LGMRec", "DRAGON", "SMORE")
WIDTH = {"SMORE": 10}  # a spectrum of width 8 would be as long as the table of users
FEATURES = {"image": np.arange(18, dtype=np.float32).reshape(6, 3) - 7, "text": np.eye(6, 2, dtype=np.float32) + 0.5}
PAIRS = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2), (2, 4), (3, 3), (3, 2)]


@pytest.mark.parametrize("name", MODELS)
def test_relabelling_users_and_items_relabels_the_scores(name):
    users, items = torch.tensor([2, 0, 3, 1]), torch.tensor([4, 2, 0, 5, 3, 1])  # place i now holds users[i], items[i]
    model = tiny_model(name, PAIRS, FEATURES, embedding_size=WIDTH.get(name, 8)).double()
    new_user, new_item = users.argsort().tolist(), items.argsort().tolist()
    relabelled = tiny_model(
        name,
        [(new_user[u], new_item[i]) for u, i in PAIRS],
        {modality: feature[items.numpy()] for modality, feature in FEATURES.items()},
        embedding_size=WIDTH.get(name, 8),
    ).double()
    users, items = (torch.cat([torch.tensor([0]), place + 1]) for place in (users, items))
    order = {5: users, 7: items, 12: torch.cat([users, items + 5])}  # by the length of a table: users, items or both
    state = model.state_dict()
    relabelled.load_state_dict({k: v[order[len(v)]] if len(v) in order else v for k, v in state.items()})
    (left, right), (left_new, right_new) = model.eval()(), relabelled.eval()()
    torch.testing.assert_close(left_new @ right_new.T, (left @ right.T)[users][:, items], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_single_precision_is_close_to_double(name):
    model = build(name).model.eval()
    users, items = model()
    single = users @ items.T
    users, items = model.double()()
    torch.testing.assert_close(single.double(), users @ items.T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", (*MODELS, "HCGCN"))
def test_mixed_precision_trains(name, dtype):
    built = build(name, contrastive_weight=0.1)
    model, losses = built.model.train(), []
    for enabled in (True, False):
        batch = built.batch(64)
        with torch.autocast("cpu", dtype=dtype, enabled=enabled):
            losses.append(total_loss(model, batch))
    losses[0].backward()
    torch.testing.assert_close(losses[0], losses[1], rtol=0.01, atol=0.01)
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_an_evaluation_changes_nothing_in_training(name):
    """Neither the numbers that a step draws nor what it computes depends on an evaluation before it."""
    losses = []
    for evaluate in (False, True):
        built = build(name)
        optimizer, batch = torch.optim.Adam(built.model.parameters(), lr=0.01), built.batch(64)
        torch.manual_seed(3)
        for _ in range(3):
            if evaluate:
                built.model.eval().full_sort_predict(batch)
            loss = total_loss(built.model.train(), batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[:3] == losses[3:]


@pytest.mark.parametrize("name", MODELS)
def test_nothing_dense_joins_users_items_or_edges_with_a_width(name):
    """Neither users x users, users x items nor items x items, nor a vector per edge."""
    narrow = {"content_size": 16} if name == "GRCN" else {}
    built = build(name, modalities=["text"], embedding_size=16, **narrow)
    model, batch = built.model, built.batch(32)
    with LargestTensor() as largest:
        total_loss(model.train(), batch).backward()
        with torch.no_grad():
            model.eval()()
    limit = min(model.n_users, model.n_items) ** 2
    assert limit < 16 * model.graph.n_edges, "the data set is too small to tell"
    assert largest.elements < limit


def planted(name, features, steps, **options):
    """Users and items in four blocks of five; a user likes four items of his block. Their recall at 5."""
    liked = [[5 * (u // 5) + i for i in range(5) if i != u % 5] for u in range(20)]
    model = tiny_model(name, [(u, i) for u in range(20) for i in liked[u]], {"text": features}, **options).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    user = torch.arange(20).repeat_interleave(4) + 1
    positive = torch.tensor(liked).flatten() + 1
    others = torch.tensor([[i for i in range(20) if i not in row] for row in liked]) + 1
    for _ in range(steps):
        negative = others[user - 1, torch.randint(16, (80,))]
        loss = total_loss(model, Interaction({"user_id": user, "item_id": positive, "neg_item_id": negative}))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        users, items = model()
        top = (users[1:] @ items[1:].T).topk(5).indices.tolist()
    return np.mean([len(set(row) & set(best)) / 4 for row, best in zip(liked, top)])


BLOCKS = np.repeat(np.eye(4, dtype=np.float32), 5, axis=0)


@pytest.mark.parametrize("name", MODELS)
def test_planted_blocks_are_found(name):
    assert planted(name, BLOCKS, 60) >= 0.9


def test_content_alone_needs_the_right_content():
    """DualGNN without propagation sees an item through its features only."""
    shuffled = BLOCKS[np.random.default_rng(0).permutation(20)]
    right, wrong = (planted("DualGNN", features, 60, n_layers=0) for features in (BLOCKS, shuffled))
    assert right >= 0.9 and wrong < right - 0.2


@pytest.mark.parametrize("name", ["DualGNN", "GRCN"])
def test_a_modality_that_says_nothing_changes_nothing(name):
    """Where modalities are summed, one with zero vectors on both sides leaves the scores of the others alone."""
    one = tiny_model(name, PAIRS, {"text": FEATURES["text"]}, embedding_size=8).double()
    two = tiny_model(name, PAIRS, FEATURES, embedding_size=8).double()
    with torch.no_grad():
        for parameter in (two.preference["image"], *two.project["image"].parameters()):
            parameter.zero_()
        if name == "GRCN":
            two.confidence[:, 0] = -10.0  # the maximum over modalities is never this one's
            two.confidence[:, 1:] = one.confidence.abs()
            one.confidence.abs_()
        else:
            two.alpha[:, 1:] = one.alpha
    shared = {k: v for k, v in one.state_dict().items() if k not in ("alpha", "confidence")}
    assert not two.load_state_dict(shared, strict=False).unexpected_keys
    (left, right), (left_two, right_two) = one(), two()
    torch.testing.assert_close(left_two @ right_two.T, left @ right.T, rtol=1e-10, atol=1e-12)
