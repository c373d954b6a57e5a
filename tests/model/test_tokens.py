"""Side fields as tokens, on hand-made tables and on what RecBole reads."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset
from recbole.data.interaction import Interaction
from recbole.utils import FeatureType

import recbole_mm  # noqa: F401
from recbole_mm.model.tokens import SideFields

DIM = 3


def dataset(columns, types, numerical=(), n_tokens=None):
    n = len(next(iter(columns.values()), [None]))
    feat = Interaction({"user_id": torch.arange(n), **columns})
    return SimpleNamespace(
        uid_field="user_id",
        iid_field="item_id",
        user_feat=feat,
        item_feat=None,
        user_num=n,
        item_num=7,
        field2type={"user_id": FeatureType.TOKEN, **types},
        num=lambda field: (n_tokens or {})[field],
        config={"numerical_features": list(numerical)},
    )


def test_token_field_is_its_embedding_and_padding_is_missing():
    data = dataset({"gender": torch.tensor([1, 2, 1, 0])}, {"gender": FeatureType.TOKEN}, n_tokens={"gender": 3})
    fields = SideFields(data, "user", DIM)
    tokens, mask = fields()
    table = fields.embed[0].embedding.weight
    assert tokens.shape == (4, 1, DIM)
    assert torch.equal(tokens[1, 0], table[2]) and torch.equal(tokens[2, 0], table[1])
    assert mask.squeeze(1).tolist() == [False, True, True, False]
    assert torch.equal(tokens[~mask], torch.zeros(2, DIM))


@pytest.mark.parametrize("ids", [None, torch.tensor([2, 0])], ids=["all", "some"])
def test_without_fields_the_tokens_are_where_the_model_is(ids):
    fields = SideFields(dataset({}, {}), "item", DIM).double().to("meta")
    tokens, mask = fields(None if ids is None else ids.to("meta"))
    n = 7 if ids is None else 2
    assert tokens.shape == (n, 0, DIM) and mask.shape == (n, 0) and mask.dtype == torch.bool
    assert tokens.is_meta and mask.is_meta and tokens.dtype == torch.float64
    assert not fields.state_dict()


def test_token_sequence_is_the_mean_of_its_real_values():
    values = torch.tensor([[0, 0, 0], [3, 1, 0], [2, 2, 1], [0, 0, 0]])
    data = dataset({"tags": values}, {"tags": FeatureType.TOKEN_SEQ}, n_tokens={"tags": 4})
    fields = SideFields(data, "user", DIM)
    tokens, mask = fields()
    table = fields.embed[0].embedding.weight
    torch.testing.assert_close(tokens[1, 0], (table[3] + table[1]) / 2)
    torch.testing.assert_close(tokens[2, 0], (2 * table[2] + table[1]) / 3)
    assert mask.squeeze(1).tolist() == [False, True, True, False]
    tokens.sum().backward()
    assert torch.equal(table.grad[0], torch.zeros(DIM))


@pytest.mark.parametrize("scale, shift", [(1.0, 0.0), (0.02, -0.4), (1000.0, 5.0)])
def test_float_field_is_standardised_whatever_scaled_it_before(scale, shift):
    raw = torch.tensor([99.0, 1.0, 2.0, 6.0])
    data = dataset({"age": raw * scale + shift}, {"age": FeatureType.FLOAT})
    fields = SideFields(data, "user", DIM)
    tokens, mask = fields()
    vector = fields.embed[0].project.weight[:, 0]
    standard = (raw[1:] - 3.0) / raw[1:].std(unbiased=False)
    torch.testing.assert_close(tokens[1:, 0], standard[:, None] * vector)
    assert mask.squeeze(1).tolist() == [False, True, True, True]
    assert torch.equal(tokens[0, 0], torch.zeros(DIM))


def test_statistics_are_those_of_the_known_entities():
    known = torch.tensor([False, True, True, False])
    types = {"age": FeatureType.FLOAT, "kind": FeatureType.TOKEN}
    columns = {"age": torch.tensor([0.0, 1.0, 3.0, 50.0]), "kind": torch.tensor([0, 1, 1, 2])}
    fields = SideFields(dataset(columns, types, n_tokens={"kind": 3}), "user", DIM, known=known)
    assert fields.fields == ("age",)  # only the new one is of another kind
    torch.testing.assert_close(fields.embed[0].values[1:, 0], torch.tensor([-1.0, 1.0, 48.0]))


def test_discretised_float_is_read_by_its_value():
    pairs = torch.tensor([[9.0, 0.0], [1.0, 1.0], [2.0, 1.0], [6.0, 2.0]])
    plain = SideFields(dataset({"age": pairs[:, 0]}, {"age": FeatureType.FLOAT}), "user", DIM)
    discretised = SideFields(dataset({"age": pairs}, {"age": FeatureType.FLOAT}, numerical=["age"]), "user", DIM)
    assert torch.equal(discretised.embed[0].values, plain.embed[0].values)


def test_not_a_number_is_missing():
    data = dataset({"age": torch.tensor([0.0, 1.0, float("nan"), 3.0])}, {"age": FeatureType.FLOAT})
    tokens, mask = SideFields(data, "user", DIM)()
    assert tokens.isfinite().all()
    assert mask.squeeze(1).tolist() == [False, True, False, True]


def test_float_sequence_is_a_linear_map_of_standardised_positions():
    values = torch.tensor([[0.0, 0.0], [1.0, 5.0], [3.0, 7.0], [0.0, 0.0]])
    fields = SideFields(dataset({"stats": values}, {"stats": FeatureType.FLOAT_SEQ}), "user", DIM)
    tokens, mask = fields()
    weight = fields.embed[0].project.weight
    torch.testing.assert_close(tokens[1, 0], -weight.sum(dim=1))
    torch.testing.assert_close(tokens[2, 0], weight.sum(dim=1))
    assert mask.squeeze(1).tolist() == [False, True, True, False]


def test_fields_without_information_are_left_out():
    columns = {
        "same": torch.tensor([0, 1, 1, 1]),
        "none": torch.tensor([0, 0, 0, 0]),
        "flat": torch.tensor([7.0, 3.0, 3.0, 3.0]),
        "real": torch.tensor([0, 1, 0, 0]),
    }
    types = dict.fromkeys(columns, FeatureType.TOKEN) | {"flat": FeatureType.FLOAT}
    fields = SideFields(dataset(columns, types, n_tokens={"same": 2, "none": 1, "real": 2}), "user", DIM)
    assert fields.fields == ("real",)


def test_rows_are_those_of_the_full_table():
    columns = {"gender": torch.tensor([0, 2, 1, 0]), "age": torch.tensor([0.0, 4.0, 9.0, 1.0])}
    types = {"gender": FeatureType.TOKEN, "age": FeatureType.FLOAT}
    fields = SideFields(dataset(columns, types, n_tokens={"gender": 3}), "user", DIM)
    ids = torch.tensor([3, 1, 1, 0])
    for part, whole in zip(fields(ids), fields()):
        assert torch.equal(part, whole[ids])


def test_no_table_gives_no_fields():
    fields = SideFields(dataset({"age": torch.rand(4)}, {"age": FeatureType.FLOAT}), "item", DIM)
    assert len(fields) == 0 and not list(fields.parameters())
    tokens, mask = fields()
    assert tokens.shape == (7, 0, DIM) and mask.shape == (7, 0)
    assert fields(torch.tensor([1, 2]))[0].shape == (2, 0, DIM)


def test_unknown_entity_is_refused():
    with pytest.raises(ValueError, match="one of user, item, got 'inter'"):
        SideFields(dataset({"age": torch.rand(4)}, {"age": FeatureType.FLOAT}), "inter", DIM)


def test_tables_are_not_in_the_checkpoint_and_survive_a_copy():
    columns = {"gender": torch.tensor([0, 2, 1, 0]), "age": torch.tensor([0.0, 4.0, 9.0, 1.0])}
    types = {"gender": FeatureType.TOKEN, "age": FeatureType.FLOAT}
    fields = SideFields(dataset(columns, types, n_tokens={"gender": 3}), "user", DIM)
    assert all("embedding" in key or "project" in key for key in fields.state_dict())
    assert torch.equal(copy.deepcopy(fields)()[0], fields()[0])


@pytest.mark.parametrize("normalize_all", [True, False])
def test_fields_that_recbole_reads(normalize_all):
    config = Config(
        model="MMGCN",
        dataset="mm-toy",
        config_dict={
            "state": "ERROR",
            "load_col": {"inter": ["user_id", "item_id"], "user": "*", "item": "*"},
            "normalize_all": normalize_all,
        },
    )
    data = create_dataset(config)
    data.build()
    users, items = SideFields(data, "user", DIM), SideFields(data, "item", DIM)
    assert users.fields == ("gender", "age", "interests")
    assert items.fields == ("brand", "price", "tags")
    for side, n in ((users, data.user_num), (items, data.item_num)):
        tokens, mask = side()
        assert tokens.shape == (n, 3, DIM) and tokens.isfinite().all()
        assert not mask[0].any() and mask[1:].any(dim=0).all()
        assert (~mask[1:, 0]).any(), "the synthetic data lacks some values on purpose"
    ages = users.embed[1].values[1:]
    assert abs(ages.mean()) < 1e-5 and abs(ages.std(unbiased=False) - 1) < 1e-5
