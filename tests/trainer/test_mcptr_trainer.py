"""The two stages of MCPTR: order, checkpoints, resuming, and the export of the pre-trained tables."""

from __future__ import annotations

import glob
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.quick_start import load_data_and_model, run_recbole
from recbole.trainer import PretrainTrainer
from recbole.utils import get_trainer

import recbole_mm
from recbole_mm.data.features.pretrained import write_pretrained
from tests.model.conftest import build

OPTIONS = {"pretrain_epochs": 3, "epochs": 3, "checkpoint_dir": "saved", "embedding_size": 16, "finetune_model": "BPR"}


def prepare(**options):
    built = build("MCPTR", **{**OPTIONS, **options})
    built.rewind()
    return built, get_trainer(built.config["MODEL_TYPE"], "MCPTR")(built.config, built.model)


def fit(built, trainer):
    return trainer.fit(built.train_data, built.valid_data, verbose=False)


def trained(**options):
    built, trainer = prepare(**options)
    fit(built, trainer)
    return built, trainer


def same_state(left, right):
    left, right = left.state_dict(), right.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def kinds(folder):
    """What the files of a folder are, without the state of a training that was not followed by a test."""
    return {file.rsplit("-", 1)[1] for file in os.listdir(folder)} - {"resume.pth"}


def load(file):
    return torch.load(file, weights_only=False)


def test_stock_run_recbole_runs_both_stages():
    options = {**OPTIONS, "state": "ERROR", "show_progress": False, "use_gpu": False, "finetune_model": "LightGCN"}
    result = run_recbole(model="MCPTR", dataset="mm-toy", config_dict=options)
    assert all(np.isfinite(value) for value in result["test_result"].values())
    assert [file.rsplit("-", 1)[1] for file in sorted(glob.glob("saved/*"))] == ["finetune.pth", "pretrain.pth"]
    pretrained = load(glob.glob("saved/*pretrain.pth")[0])
    finetuned = load(glob.glob("saved/*finetune.pth")[0])
    assert int(pretrained["state_dict"]["finished_stages"]) == 1
    assert int(finetuned["state_dict"]["finished_stages"]) == 2
    assert all(key.startswith(("recommender.", "finished")) for key in finetuned["state_dict"])


def at_the_start_of_fine_tuning(**options):
    """Train; returns the scores of every item and the two tables just before the first step of fine-tuning."""
    built, trainer = prepare(**options)
    plain, seen = trainer._plain_epoch, []

    def observed(train_data, index, show_progress):
        if trainer._stage.name == "finetune" and not seen:
            recommender = built.model.eval().recommender
            with torch.no_grad():
                seen.append(built.model.full_sort_predict(users(built)))
            seen.extend(
                table.weight.detach().clone() for table in (recommender.user_embedding, recommender.item_embedding)
            )
        return plain(train_data, index, show_progress)

    trainer._plain_epoch = observed
    fit(built, trainer)
    return built, seen


@pytest.mark.parametrize("options", [{"finetune_model": "BPR"}, {"finetune_model": "LightGCN", "n_layers": 0}])
def test_fine_tuning_starts_exactly_where_pre_training_ended(options):
    built, (scores, *tables) = at_the_start_of_fine_tuning(**options)
    _, pretrained, *_ = load_data_and_model(glob.glob("saved/*pretrain.pth")[0])
    assert pretrained.stage == "pretrain"
    assert torch.equal(pretrained.eval().full_sort_predict(users(built)), scores)
    assert all(torch.equal(left, right) for left, right in zip(pretrained.pretrained(), tables))


def users(built):
    return next(iter(built.test_data))[0]


def test_the_trainer_is_built_on_recboles():
    built, trainer = prepare()
    assert isinstance(trainer, PretrainTrainer) and isinstance(trainer, recbole_mm.trainer.MCPTRTrainer)
    rates = []
    build_optimizer = trainer._build_optimizer

    def observed(**arguments):
        optimizer = build_optimizer(**arguments)
        rates.append((optimizer.param_groups[0]["lr"], sum(len(group["params"]) for group in optimizer.param_groups)))
        return optimizer

    trainer._build_optimizer = observed
    encoders = len(list(built.model.parameters()))
    built.model.finetune_learning_rate = 5e-4
    fit(built, trainer)
    assert rates == [(3e-3, encoders), (5e-4, 2)]


def test_graph_encoders_can_stand_still_in_pre_training():
    start, _ = prepare(graph_rate=0.0, train_stage="pretrain")
    built, _ = trained(graph_rate=0.0, train_stage="pretrain")
    old, new = start.model.encoders.state_dict(), built.model.encoders.state_dict()
    kept = {key for key in old if torch.equal(old[key], new[key])}
    assert {key for key in old if "_graph." in key} <= kept
    assert not kept & {"project.text.weight", "user_fusion.value.weight", "reviews.text.project.weight"}


@pytest.mark.parametrize("graph_rate", [0.03, 1.0])
def test_pre_training_goes_on_with_its_rates(graph_rate):
    expected, _ = trained(graph_rate=graph_rate, train_stage="pretrain")
    trainer = interrupted("pretrain", 2, graph_rate=graph_rate, train_stage="pretrain")
    built, again = trained(graph_rate=graph_rate, train_stage="pretrain", pre_model_path=trainer.resume_file)
    assert same_state(built.model, expected.model)
    assert len(again.optimizer.param_groups) == (1 if graph_rate == 1 else 2)


def test_the_best_epoch_of_fine_tuning_is_evaluated():
    built, trainer = trained(epochs=6)
    best = trainer.best_valid_result
    with torch.no_grad():
        built.model.recommender.user_embedding.weight.neg_()
    assert trainer.evaluate(built.valid_data, load_best_model=True) == best
    _, model, *_ = load_data_and_model(trainer.saved_model_file)
    assert same_state(model, built.model)
    trainer.model = model
    assert trainer.evaluate(built.valid_data, load_best_model=False) == best


def test_a_fresh_trainer_evaluates_either_checkpoint():
    built, trainer = trained()
    expected = trainer.evaluate(built.test_data, load_best_model=False)
    fresh, other = prepare()
    other.eval_collector.data_collect(fresh.train_data)
    assert other.evaluate(fresh.test_data, model_file=trainer.saved_model_file) == expected
    assert other.evaluate(fresh.test_data, model_file=glob.glob("saved/*pretrain.pth")[0]) is not None
    assert fresh.model.stage == "pretrain"


def test_the_stages_one_by_one_are_the_stages_at_once():
    _, whole = trained(train_stage="pretrain")
    assert whole.model.stage == "pretrain" and whole.best_valid_result is not None
    _, (_, *tables) = at_the_start_of_fine_tuning(train_stage="finetune", pre_model_path=whole.saved_model_file)
    assert all(torch.equal(left, right) for left, right in zip(whole.model.pretrained(), tables))
    trained(pre_model_path=whole.saved_model_file, checkpoint_dir="both")
    assert kinds("both") == {"finetune.pth"}, "what is left to do"


def test_pretrain_of_recboles_trainer_runs_the_first_stage():
    built, trainer = prepare()
    trainer.pretrain(built.train_data, verbose=False)
    assert built.model.stage == "pretrain" and int(built.model.finished_stages) == 1
    assert same_state(built.model, trained(train_stage="pretrain")[0].model)


def test_numbered_checkpoints_of_pre_training():
    _, trainer = trained(save_step=2, train_stage="pretrain")
    names = {file[len(trainer._base) :] for file in glob.glob("saved/*")}
    assert names - {"-resume.pth"} == {"-pretrain-2.pth", "-pretrain.pth"}
    assert trainer.saved_model_file.endswith("-pretrain.pth")


def test_numbered_checkpoints_are_fine_tuned_like_the_last():
    trained(save_step=2, train_stage="pretrain")
    trained(pretrain_epochs=2, train_stage="pretrain", checkpoint_dir="short")
    (numbered,), (short,) = glob.glob("saved/*pretrain-2.pth"), glob.glob("short/*pretrain.pth")
    for stage in ("finetune", "both"):
        models = [
            trained(train_stage=stage, pre_model_path=file, checkpoint_dir=f"{stage} it")[0].model
            for file in (numbered, short)
        ]
        assert same_state(*models)
        assert kinds(f"{stage} it") == {"finetune.pth"}


class PowerCutError(Exception):
    """The machine goes down."""


def interrupted(stage, epoch, **options):
    """Train until ``epoch`` of ``stage`` begins; returns the trainer."""
    built, trainer = prepare(**options)
    plain = trainer._plain_epoch

    def stop(train_data, index, show_progress):
        if (trainer._stage.name, index) == (stage, epoch):
            raise PowerCutError
        return plain(train_data, index, show_progress)

    trainer._plain_epoch = stop
    with pytest.raises(PowerCutError):
        fit(built, trainer)
    return trainer


WAYS = {
    "pre_model_path": "resume",
    "resume_checkpoint": "resume",
    "resume_checkpoint of the stage's file": "{stage}",
    "resume_checkpoint of a numbered file": "pretrain-1",
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_going_on_is_as_if_never_interrupted(stage, way):
    expected = trained()[0].model
    trainer = interrupted(stage, 2, save_step=1)
    assert os.path.isfile(trainer.resume_file)
    file = f"{trainer._base}-{WAYS[way].format(stage=stage)}.pth"
    assert os.path.isfile(file)
    built, again = prepare(**({"pre_model_path": file} if way == "pre_model_path" else {}))
    if way != "pre_model_path":
        again.resume_checkpoint(file)
    fit(built, again)
    assert same_state(built.model, expected)
    again.evaluate(built.test_data)
    assert not os.path.isfile(trainer.resume_file)
    assert again.saved_model_file == f"{trainer._base}-finetune.pth"


def test_resume_of_recbole_mm_run():
    trainer = interrupted("finetune", 1, finetune_model="LightGCN")
    options = {**OPTIONS, "state": "ERROR", "show_progress": False, "use_gpu": False, "train_batch_size": 512}
    options["finetune_model"] = "LightGCN"
    result = recbole_mm.run("MCPTR", "mm-toy", config_dict=options, resume=f"{trainer._base}-finetune.pth")
    assert result["checkpoint"] == f"{trainer._base}-finetune.pth"
    with pytest.raises(ValueError, match="finetune_model: 'LightGCN' there, 'BPR' here"):
        recbole_mm.run("MCPTR", "mm-toy", config_dict={**options, "finetune_model": "BPR"}, resume=result["checkpoint"])
    with pytest.raises(ValueError, match="has finished every stage"):
        recbole_mm.run("MCPTR", "mm-toy", config_dict=options, resume=result["checkpoint"])


def test_going_on_with_fine_tuning_needs_its_options():
    light = {"finetune_model": "LightGCN", "n_layers": 1}
    trainer = interrupted("finetune", 1, **light)
    options = {**OPTIONS, **light, "state": "ERROR", "show_progress": False, "use_gpu": False, "train_batch_size": 512}
    message = "n_layers: 1 there, 2 here"
    with pytest.raises(ValueError, match=f"the options differ from those of .*{message}"):
        recbole_mm.run("MCPTR", "mm-toy", config_dict={**options, "n_layers": 2}, resume=trainer.resume_file)
    with pytest.raises(ValueError, match=f"fine-tuning began with other options .*{message}.*-pretrain.pth"):
        trained(pre_model_path=trainer.resume_file, finetune_model="LightGCN")  # RecBole's default is 2
    with pytest.raises(ValueError, match="finetune_model: 'LightGCN' there, 'BPR' here"):
        trained(pre_model_path=trainer.resume_file)
    # Pre-training has no such options, so that any fine-tuning may follow it.
    trained(pre_model_path=f"{trainer._base}-pretrain.pth", finetune_model="BPR", checkpoint_dir="another")
    trained(pre_model_path=trainer.resume_file, **light)


def split(**changed):
    return {"eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO", "group_by": "user", **changed}}


@pytest.mark.parametrize(
    ("there", "here", "message"),
    [
        ({"seed": 1}, {"seed": 2}, "seed: 1 there, 2 here"),
        ({}, split(order="TO"), "eval_args.order: 'RO' there, 'TO' here"),
        (split(split={"RS": [0.9, 0.05, 0.05]}), {}, "eval_args.split"),
        ({}, {"user_inter_num_interval": "[6,inf)"}, "user_inter_num_interval"),
        ({}, {"cold_start": {"entity": "user"}}, "cold_start"),
    ],
)
@pytest.mark.parametrize("train_stage", ["finetune", "both"])
def test_tables_of_another_split_are_refused(there, here, message, train_stage):
    """They were trained on interactions that would be tested now."""
    _, trainer = trained(train_stage="pretrain", pretrain_epochs=1, **there)
    with pytest.raises(ValueError, match=f"another split .*{message}"):
        trained(train_stage=train_stage, pre_model_path=trainer.saved_model_file, **here)


def test_a_seed_that_does_not_split_may_change():
    ordered = split(order="TO")
    _, trainer = trained(train_stage="pretrain", pretrain_epochs=1, seed=1, **ordered)
    trained(train_stage="finetune", pre_model_path=trainer.saved_model_file, epochs=1, seed=2, **ordered)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_stage": "finetune"}, "needs the stage pretrain before it"),
        ({"train_stage": "all"}, "expected pretrain, finetune or both, got 'all'"),
        ({"pre_model_path": "nowhere.pth"}, "there is no file 'nowhere.pth'"),
        ({"pretrain_epochs": -1}, "pretrain_epochs: expected a whole number of at least 0, got -1"),
        ({"save_step": 2.5}, "save_step: expected a whole number of at least 0, got 2.5"),
    ],
)
def test_what_cannot_be_meant_is_refused(options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        trained(**options)


def test_fine_tuned_models_cannot_be_pre_trained():
    _, trainer = trained()
    with pytest.raises(ValueError, match="pre_model_path is a checkpoint of fine-tuning"):
        trained(train_stage="pretrain", pre_model_path=trainer.saved_model_file)


def test_fine_tuning_can_go_on_from_its_own_checkpoint():
    first, trainer = trained()
    _, (_, *tables) = at_the_start_of_fine_tuning(train_stage="finetune", pre_model_path=trainer.saved_model_file)
    assert torch.equal(tables[0], first.model.recommender.user_embedding.weight)
    assert torch.equal(tables[1], first.model.recommender.item_embedding.weight)


def test_no_epoch_of_pre_training_fine_tunes_untrained_tables():
    built, trainer = trained(pretrain_epochs=0)
    assert built.model.stage == "finetune" and trainer.best_valid_result is not None


def test_no_epoch_of_fine_tuning_evaluates_the_pre_trained_tables():
    built, trainer = trained(epochs=0)
    alone, _ = trained(train_stage="pretrain", checkpoint_dir="alone")
    assert same_score(built, alone) and int(built.model.finished_stages) == 2
    expected = trainer.evaluate(built.valid_data, load_best_model=False)
    assert trainer.best_valid_result == expected
    assert trainer.evaluate(built.valid_data, load_best_model=True) == expected


def same_score(left, right):
    with torch.no_grad():
        scores = [built.model.eval().full_sort_predict(users(built)) for built in (left, right)]
    return torch.equal(*scores)


def test_tables_are_written_as_feature_files():
    built, _ = trained(pretrained_feature_path="tables")
    _, model, dataset, *_ = load_data_and_model(glob.glob("saved/*pretrain.pth")[0])
    assert sorted(os.listdir("tables")) == ["mm-toy.item.mcptr.npz", "mm-toy.user.mcptr.npz"]
    files = write_pretrained(model, dataset, "again")
    for file, table, field in zip(files, model.pretrained(), ("user_id", "item_id")):
        content, first = np.load(file), np.load(f"tables/{file.name}")
        assert np.array_equal(content["feature"], first["feature"])
        assert len(content["id"]) == len(table) - 1
        ids = dataset.token2id(field, content["id"].tolist())
        np.testing.assert_array_equal(content["feature"], table.numpy()[ids])
    with pytest.raises(ValueError, match="no encoders any more"):
        write_pretrained(built.model, dataset, "again")


def test_another_model_reads_the_tables():
    trained(pretrained_feature_path="tables", train_stage="pretrain")
    other = build("MMGCN", feature_path="tables", modalities=["mcptr"])
    assert other.model.features["mcptr"].shape[1] == OPTIONS["embedding_size"]
    assert other.model.user_features["mcptr"].shape[1] == OPTIONS["embedding_size"]


def test_a_file_that_cannot_be_written_leaves_the_old_one(monkeypatch):
    built, _ = trained(train_stage="pretrain")
    dataset = built.train_data._dataset
    write_pretrained(built.model, dataset, "tables")
    before = {file: file.read_bytes() for file in Path("tables").iterdir()}

    def full(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        write_pretrained(built.model, dataset, "tables")
    assert {file: file.read_bytes() for file in Path("tables").iterdir()} == before


@pytest.mark.slow
def test_ml_100k_trains():
    result = run_recbole(
        model="MCPTR",
        dataset="ml-100k",
        config_dict={**OPTIONS, "pretrain_epochs": 1, "epochs": 1, "state": "ERROR", "show_progress": False},
    )
    assert all(np.isfinite(value) for value in result["test_result"].values())
