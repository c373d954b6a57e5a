"""What every baseline keeps: names and numbers of users, items and modalities decide nothing, rankings draw nothing.

And the files of options that restore what was published.
"""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np
import pytest
import torch
import yaml
from recbole.data.interaction import Interaction
from recbole.utils import ModelType, get_model

from recbole_mm.config import properties_directory
from tests.model.conftest import build, total_loss, train_steps
from tests.model.tiny import tiny_dataset, tiny_model
from tests.model.toy_world import batch_of, random_world, scores

BASELINES = ("VBPR", "FREEDOM", "BM3", "SLMRec", "MGCN", "LATTICE", "LGMRec", "ItemKNNCBF", "DRAGON", "SMORE")
PAIRS, FEATURES = random_world(3, 3)
TRIPLES = [(0, PAIRS[0][1], 8), (2, 3, 4), (5, 1, 2), (5, 2, 3), (0, 0, 5)]
OPTIONS = {"embedding_size": 4, "knn_k": 3, "feature_norm": "none", "modality_weight": {"image": 2.0}}
# Losses without chance; those of evaluation have no noise.
STEADY = {"FREEDOM": {"edge_dropout": 0.0}}


def make(name, pairs=PAIRS, features=FEATURES, **options):
    return tiny_model(name, pairs, features, **{**OPTIONS, **STEADY.get(name, {}), **options}).double().eval()


@lru_cache(maxsize=1)
def original(name):
    model = make(name)
    return model, scores(model), loss_of(model, TRIPLES)


def loss_of(model, triples):
    with torch.no_grad():
        return total_loss(model.eval(), batch_of(triples))


def copy_parameters(source, target, order=lambda key, value: value, rename=lambda key: key):
    """Write the parameters of one model into another one's, under other keys and in another order of rows."""
    target.load_state_dict({rename(key): order(key, value) for key, value in source.state_dict().items()})


@pytest.mark.parametrize("name", BASELINES)
def test_other_numbers_of_users_and_items_change_nothing(name):
    model, expected, loss = original(name)
    random = np.random.default_rng(0)
    user, item = random.permutation(6), random.permutation(9)
    moved = {}
    for modality, feature in FEATURES.items():
        moved[modality] = np.empty_like(feature)
        moved[modality][item] = feature
    # Old row of each new row, the padding staying in front.
    rows = {7: np.r_[0, 1 + user.argsort()], 10: np.r_[0, 1 + item.argsort()]}
    other = make(name, [(int(user[u]), int(item[i])) for u, i in PAIRS], moved)
    copy_parameters(model, other, lambda _, v: v[torch.from_numpy(rows[len(v)])] if v.dim() and len(v) in rows else v)
    torch.testing.assert_close(scores(other)[user][:, item], expected, rtol=1e-9, atol=1e-12)
    triples = [(int(user[u]), int(item[p]), int(item[n])) for u, p, n in TRIPLES]
    torch.testing.assert_close(loss_of(other, triples), loss, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", BASELINES)
def test_other_names_of_modalities_change_nothing(name):
    """Of those whose names have no meaning: ``image`` has a share of its own in FREEDOM and DRAGON."""
    model, expected, loss = original(name)
    names = {"audio": "acoustics", "image": "image", "text": "title"}
    other = make(name, features={names[m]: feature for m, feature in FEATURES.items()})
    copy_parameters(model, other, rename=lambda key: re.sub(r"\b(audio|text)\b", lambda m: names[m[1]], key))
    assert torch.equal(scores(other), expected) and torch.equal(loss_of(other, TRIPLES), loss)


# Linear maps without a bias, or without a mask, read what stands in place of a feature: see their notes.
READ_FILLINGS = ("VBPR", "LGMRec", "DRAGON")


@pytest.mark.parametrize("name", BASELINES)
def test_what_fills_a_missing_feature_is_read_by_those_that_say_so(name):
    _, expected, _ = original(name)
    assert any(np.isnan(feature).any() for feature in FEATURES.values())
    filled = make(name, missing_feature="mean")
    copy_parameters(original(name)[0], filled)
    assert torch.equal(scores(filled), expected) == (name not in READ_FILLINGS)


@pytest.mark.parametrize("name", BASELINES)
def test_a_ranking_draws_no_random_number_and_repeats_itself(name):
    model, expected, _ = original(name)
    model.train()
    if model.type != ModelType.TRADITIONAL:
        total_loss(model, batch_of(TRIPLES))  # what a step leaves behind is none of the ranking's business
    state = torch.get_rng_state()
    assert torch.equal(scores(model), expected)
    pairs = Interaction({"user_id": torch.tensor([1, 4]), "item_id": torch.tensor([9, 2])})
    torch.testing.assert_close(model.predict(pairs), expected[[0, 3], [8, 1]])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", BASELINES)
def test_the_reference_is_what_was_published(name):
    """Whatever our defaults do to new items and to features, its file of options takes it back."""
    folder = properties_directory()
    file = folder / "experiment" / f"{name}-reference.yaml"
    ours = yaml.safe_load((folder / "model" / f"{name}.yaml").read_text(encoding="utf-8"))
    published = {**ours, **(yaml.safe_load(file.read_text(encoding="utf-8")))}
    assert published.get("new_item_neighbours", 0) == 0
    assert published.get("feature_norm", "none") == ("l2" if name == "SLMRec" else "none")
    assert published.get("distinct_ids", False) is False


# Of 19,445 users, 7,050 items, image vectors of 4,096 numbers and text vectors of 384, with the published sizes.
PARAMETERS = {
    "VBPR": 3_238_410, "FREEDOM": 1_982_528, "BM3": 1_986_688, "SLMRec": 2_019_712, "MGCN": 2_003_392,
    "LATTICE": 1_982_530, "LGMRec": 2_000_320, "DRAGON": 3_708_138, "SMORE": 2_024_198,
}  # fmt: skip


@pytest.mark.parametrize("name", PARAMETERS)
def test_numbers_of_parameters_on_amazon_baby(name):
    """Read off a small model: what is as long as its users, items and vectors stands for Baby's."""
    features = {"image": FEATURES["audio"].repeat(11, axis=1), "text": FEATURES["image"][:, :1].repeat(23, axis=1)}
    model = make(name, features=features, embedding_size=64, modality_weight=None)
    sizes = {7: 19_445, 10: 7_050, 22: 4_096, 23: 384}  # the padding rows are nobody's
    assert {model.n_users, model.n_items, *model.features.dims.values()} == set(sizes)
    assert sum(np.prod([sizes.get(n, n) for n in p.shape]) for p in model.parameters()) == PARAMETERS[name]


# LGMRec knows a new item by the hyperedges alone, which a few steps do not sort out; BM3 ranks it by an untrained id.
PLANTED = {name: 0.75 for name in BASELINES} | {"LGMRec": 0.55, "BM3": None}


@pytest.mark.parametrize("name", BASELINES)
def test_planted_new_items_are_ranked_by_their_own_content(name):
    """Share of the new items that are behind the one which a user will like, after some steps; no neighbours help."""
    built = build(name, cold_start={"entity": "item"}, train_batch_size=256, new_item_neighbours=0)
    if built.model.type != ModelType.TRADITIONAL:
        train_steps(built, 30, 0.005)
    new, areas = torch.as_tensor(built.train_data._dataset.cold_start.items), []
    for interaction, _, user, item in built.test_data:
        with torch.no_grad():
            table = built.model.full_sort_predict(interaction).view(len(interaction), -1)
        for row, positive in zip(user.tolist(), item.tolist()):
            others = table[row, new[new != positive]]
            areas.append(
                ((table[row, positive] > others).double() + (table[row, positive] == others) / 2).mean().item()
            )
    least = PLANTED[name]
    assert np.mean(areas) > least if least else np.mean(areas) < 0.6


@pytest.mark.parametrize(
    ("name", "key", "before"),
    [
        ("MGCN", "contrast_by_length", False),
        ("SMORE", "contrast_by_length", False),
        ("DRAGON", "edge_dropout", 0),
        ("LATTICE", "refresh_epochs", 1),
        ("VBPR", "dense_backend", "torch"),
    ],
)
def test_a_checkpoint_from_before_an_option_is_what_it_was(name, key, before):
    config, dataset = tiny_dataset(name, PAIRS, FEATURES, **OPTIONS)
    del config.final_config_dict[key]
    assert getattr(get_model(name)(config, dataset), key) == before
