"""The stages of UniSRec: order, freezing, several data sets, checkpoints of other ones, going on."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.quick_start import load_data_and_model
from recbole.utils import get_model, get_trainer, init_seed

import recbole_mm
from recbole_mm.trainer.pretraining_data import MixedRows, read_training_part, stack_features

OPTIONS = {
    "pretrain_epochs": 2, "epochs": 2, "checkpoint_dir": "saved", "embedding_size": 8, "inner_size": 8, "n_layers": 1,
    "n_experts": 2, "MAX_ITEM_LIST_LENGTH": 5, "train_batch_size": 16, "state": "ERROR", "show_progress": False,
    "use_gpu": False, "load_col": {"inter": ["user_id", "item_id", "timestamp"]}, "feature_norm": "none",
}  # fmt: skip


def write_data_set(root, name, n_users, n_items, width, seed):
    """A small synthetic data set with vectors ``text``."""
    random = np.random.default_rng(seed)
    folder = root / name
    folder.mkdir()
    rows = [
        f"u{user}\t{name}{item}\t{time}"
        for user in range(n_users)
        for time, item in enumerate(random.choice(n_items, size=6, replace=False))
    ]
    (folder / f"{name}.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n" + "\n".join(rows) + "\n")
    ids = np.array([f"{name}{item}" for item in range(n_items)])
    np.savez(folder / f"{name}.item.text.npz", id=ids, feature=random.normal(size=(n_items, width)).astype(np.float32))


@pytest.fixture(autouse=True)
def shops(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, n_users, n_items, width, seed in (("one", 14, 12, 6, 0), ("two", 9, 15, 6, 1), ("wide", 9, 10, 4, 2)):
        write_data_set(tmp_path, name, n_users, n_items, width, seed)


def prepare(dataset="one", **options):
    settings = {**OPTIONS, "data_path": os.getcwd(), **options}
    config = Config(model="UniSRec", dataset=dataset, config_dict=settings)
    init_seed(config["seed"], config["reproducibility"])
    data = data_preparation(config, create_dataset(config))
    model = get_model("UniSRec")(config, data[0].dataset)
    return data, get_trainer(config["MODEL_TYPE"], "UniSRec")(config, model)


def trained(dataset="one", **options):
    data, trainer = prepare(dataset, **options)
    trainer.fit(data[0], data[1], verbose=False)
    return trainer


def encoder_of(trainer):
    return {key: value.clone() for key, value in trainer.model.encoder.state_dict().items()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def test_both_pre_trains_and_then_tunes_all_but_the_encoder():
    trainer = trained(train_stage="both")
    files = {file.rsplit("-", 1)[1] for file in os.listdir("saved")}
    assert {"pretrain.pth", "transductive_ft.pth"} <= files and "inductive_ft.pth" not in files
    model = trainer.model
    assert int(model.finished_stages) == 3 and bool(model.pretrained)
    before = torch.load(f"{trainer._base}-pretrain.pth", weights_only=False)["state_dict"]
    assert "item_embedding.weight" not in before and int(before["finished_stages"]) == 1
    for key, value in model.state_dict().items():
        if key.startswith(("encoder.", "adaptor.")):
            assert torch.equal(value, before[key]) == key.startswith("encoder."), key
    assert all(parameter.requires_grad for parameter in model.parameters())
    _, loaded, *_, test_data = load_data_and_model(f"{trainer._base}-pretrain.pth")
    assert loaded.item_embedding is None
    assert loaded.full_sort_predict(next(iter(test_data))[0]).isfinite().all()


def test_from_scratch_everything_is_trained():
    _, fresh = prepare()
    trainer = trained()
    assert not same(encoder_of(fresh), encoder_of(trainer)) and not bool(trainer.model.pretrained)
    assert trainer.saved_model_file.endswith("transductive_ft.pth")


@pytest.mark.parametrize("freeze", [True, False])
def test_fine_tuning_goes_on_from_a_checkpoint(freeze):
    first = trained(train_stage="pretrain")
    options = {"pre_model_path": first.saved_model_file, "checkpoint_dir": "other", "freeze_encoder": freeze}
    second = trained(train_stage="inductive_ft", **options)
    assert same(encoder_of(first), encoder_of(second)) == freeze
    assert second.model.item_embedding is None and int(second.model.finished_stages) == 2
    third = trained(train_stage="both", finetune_stage="inductive_ft", **options)
    assert same(third.model.state_dict(), second.model.state_dict())
    options["pre_model_path"] = second.saved_model_file
    with pytest.raises(ValueError, match="has finished every stage"):
        trained(train_stage="both", finetune_stage="inductive_ft", **options)
    assert trained(train_stage="transductive_ft", **options).model.item_embedding is not None


def test_rows_and_items_of_several_data_sets_are_mixed():
    data, trainer = prepare()
    model, config = trainer.model, trainer.config
    state = torch.get_rng_state()
    part, bank = read_training_part("two", config, model)
    assert torch.equal(torch.get_rng_state(), state)
    stacked = stack_features([model.features, bank])
    assert len(stacked["text"]) == 1 + 12 + 15
    mixed = MixedRows([data[0].dataset, part], 16)
    n_rows = len(data[0].dataset.inter_feat) + len(part.inter_feat)
    batches = list(mixed)
    assert len(mixed) == len(batches) == -(-n_rows // 16)
    columns = {
        name: torch.cat([batch[name] for batch in batches]) for name in ("item_id_list", "item_length", "item_id")
    }
    assert len(columns["item_id"]) == n_rows
    assert torch.equal(columns["item_id_list"].ne(0).sum(dim=1), columns["item_length"])
    # The vectors of histories and next items are those of their data sets.
    for own, offset, features in ((data[0].dataset, 0, model.features["text"]), (part, 12, bank["text"])):
        rows = own.inter_feat
        theirs = torch.cat([rows["item_id_list"], rows["item_id"][:, None]], dim=1)
        moved = torch.where(theirs > 0, theirs + offset, 0)
        assert torch.equal(stacked["text"][moved], features[theirs])
        found = torch.cat([columns["item_id_list"], columns["item_id"][:, None]], dim=1).tolist()
        assert all(row in found for row in moved.tolist())


def test_other_data_sets_are_split_as_they_are_in_a_run_of_their_own():
    _, trainer = prepare()
    part, bank = read_training_part("two", trainer.config, trainer.model)
    data, other = prepare("two")
    rows, expected = part.inter_feat, data[0].dataset.inter_feat
    assert all(torch.equal(rows[name], expected[name]) for name in ("user_id", "item_id", "item_id_list"))
    assert torch.equal(bank["text"], other.model.features["text"])


def test_pre_training_on_others_alone_and_fine_tuning_here():
    trainer = trained(train_stage="both", pretrain_datasets=["two"])
    assert trainer.model.pretrain_features is None
    alone = trained(train_stage="both", pretrain_datasets=["one"], checkpoint_dir="other")
    assert not same(encoder_of(trainer), encoder_of(alone))


def test_another_data_set_goes_on_with_encoder_and_adaptors():
    first = trained(train_stage="both", pretrain_datasets=["one", "two"])
    second = trained("two", train_stage="transductive_ft", pre_model_path=first.saved_model_file)
    assert same(encoder_of(first), encoder_of(second))
    assert second.model.item_embedding.weight.shape[0] == 16 and int(second.model.finished_stages) == 3
    # It has read rows of this one, so they must not be tested now.
    split = {"eval_args": {"split": {"RS": [0.5, 0.2, 0.3]}, "order": "TO", "group_by": "user"}}
    with pytest.raises(ValueError, match="another split .*eval_args.split"):
        trained("two", train_stage="transductive_ft", pre_model_path=first.saved_model_file, **split)
    trained("one", train_stage="pretrain", checkpoint_dir="new", **split)
    file = next(file for file in os.listdir("new") if file.endswith("pretrain.pth"))
    trained("two", train_stage="inductive_ft", pre_model_path=f"new/{file}", epochs=1)


def test_vectors_of_other_widths_need_a_common_one():
    with pytest.raises(ValueError, match="text vectors of wide have 4 numbers, those of one 6. Set project_to"):
        trained(train_stage="pretrain", pretrain_datasets=["one", "wide"])
    first = trained(train_stage="pretrain", pretrain_datasets=["one", "wide"], project_to=5)
    trained("wide", train_stage="inductive_ft", pre_model_path=first.saved_model_file, project_to=5)
    with pytest.raises(ValueError, match="adaptors of .* are of other modalities or widths .*text.gate"):
        trained("wide", train_stage="inductive_ft", pre_model_path=first.saved_model_file)


def test_data_sets_that_are_none_are_named():
    with pytest.raises((ValueError, FileNotFoundError), match="three"):
        trained(train_stage="pretrain", pretrain_datasets=["one", "three"])


class PowerCutError(Exception):
    """The machine goes down."""


def interrupted(stage, monkeypatch, **options):
    """A run that stops in the second epoch of a stage."""
    data, trainer = prepare(**options)
    epoch = trainer._train_epoch

    def stop(train_data, index, *args, **kwargs):
        if (trainer.stage_name, index) == (stage, 1):
            raise PowerCutError
        return epoch(train_data, index, *args, **kwargs)

    monkeypatch.setattr(trainer, "_train_epoch", stop)
    with pytest.raises(PowerCutError):
        trainer.fit(data[0], data[1], verbose=False)
    return trainer


@pytest.mark.parametrize("stage", ["pretrain", "transductive_ft"])
def test_going_on_is_as_if_never_interrupted(stage, monkeypatch):
    options = {"train_stage": "both", "pretrain_datasets": ["one", "two"]}
    expected = trained(**options, checkpoint_dir="whole").model.state_dict()
    file = interrupted(stage, monkeypatch, **options).resume_file
    with pytest.raises(ValueError, match=f"interrupted in the stage {stage}"):
        trained(train_stage="inductive_ft", pre_model_path=file)
    if stage == "pretrain":
        with pytest.raises(ValueError, match="a run on one was interrupted in the stage pretrain"):
            trained("two", train_stage="inductive_ft", pre_model_path=file)
    assert same(trained(**options, pre_model_path=file).model.state_dict(), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pretrain_epochs": -1}, "pretrain_epochs: expected a whole number of at least 0"),
        ({"train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}}, "should be None when the loss_type"),
    ],
)
def test_what_cannot_be_meant_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        prepare(**options)


def test_a_run_from_the_front_door():
    options = {**OPTIONS, "data_path": os.getcwd(), "train_stage": "both", "pretrain_datasets": ["one", "two"]}
    result = recbole_mm.run("UniSRec", "one", config_dict=options)
    assert np.isfinite(result["test_result"]["recall@10"])
