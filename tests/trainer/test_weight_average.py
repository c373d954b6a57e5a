"""``weight_average``: the formula, what ranks and is kept, and trainings that go on."""

from __future__ import annotations

import pytest
import torch
from recbole.trainer import Trainer
from torch import nn

import recbole_mm
from recbole_mm.experiment.job import Job, train_and_test
from recbole_mm.host.general_models import forget_evaluation
from recbole_mm.host.session import begin_session
from recbole_mm.trainer.checkpoint import read_checkpoint
from recbole_mm.trainer.weight_average import WeightAverage
from tests.model.conftest import build, check_repeats_and_resumes
from tests.options import QUICK


def train(average: WeightAverage, model: nn.Linear, values: list[float]) -> None:
    for value in values:
        average.begin_epoch()
        nn.init.constant_(model.weight, value)


def mean_of(average: WeightAverage, model: nn.Linear) -> float:
    with average.ranking():
        return model.weight.item()


def test_half_is_the_plain_mean():
    model = nn.Linear(1, 1, bias=False).double()
    average = WeightAverage(model, 0.5)
    train(average, model, [3.0, 5.0, 10.0, -2.0])
    assert mean_of(average, model) == pytest.approx(4.0)
    assert model.weight.item() == -2.0


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.5])
def test_what_is_averaged_is_as_old_as_the_option_says(share):
    # Parameters that are the number of their epoch: the average is the mean epoch of what it averages.
    model = nn.Linear(1, 1, bias=False).double()
    average = WeightAverage(model, share)
    train(average, model, [float(epoch) for epoch in range(1, 2001)])
    assert 1 - mean_of(average, model) / 2000 == pytest.approx(share, rel=0.01)


def test_0_averages_nothing():
    model = nn.Linear(1, 1)
    average = WeightAverage(model, 0)
    train(average, model, [1.0, 2.0])
    with average.ranking() as state:
        assert state is None and model.weight.item() == 2.0
    average.finish()
    assert model.weight.item() == 2.0


def test_frozen_parameters_and_buffers_stay_as_they_are():
    model = nn.BatchNorm1d(2)
    model.bias.requires_grad_(False)
    average = WeightAverage(model, 0.5)
    for value in (1.0, 3.0):
        average.begin_epoch()
        for tensor in (model.weight.data, model.bias.data, model.running_mean):
            tensor.fill_(value)
    with average.ranking():
        assert [model.weight[0].item(), model.bias[0].item(), model.running_mean[0].item()] == [2.0, 3.0, 3.0]


def test_an_epoch_that_was_broken_off_does_not_count():
    model = nn.Linear(1, 1)
    average = WeightAverage(model, 0.5)
    train(average, model, [1.0])
    assert mean_of(average, model) == 1.0
    train(average, model, [9.0])
    average.begin()
    assert mean_of(average, model) == 1.0


@pytest.mark.parametrize("scores, best", [([0.1, 0.2, 0.3], "average"), ([0.1, 0.3, 0.2], "parameters")])
def test_a_trainer_keeps_and_leaves_the_better_of_the_two(scores, best, tmp_path, monkeypatch):
    built = build("GRCN", **QUICK, weight_average=0.5, checkpoint_dir=str(tmp_path))
    trainer, seen, ranked = Trainer(built.config, built.model), [], []
    model, original = built.model, Trainer._train_epoch
    name, table = next(iter(model.named_parameters()))

    def train_epoch(self, *args, **more):
        losses = original(self, *args, **more)
        seen.append(table.detach().clone())
        return losses

    def evaluate(_collected):
        ranked.append(table.detach().clone())
        return {"recall@10": scores[len(ranked) - 1]}

    monkeypatch.setattr(Trainer, "_train_epoch", train_epoch)
    monkeypatch.setattr(trainer.evaluator, "evaluate", evaluate)
    score, result = trainer.fit(built.train_data, built.valid_data)
    assert (score, result) == (0.3, {"recall@10": 0.3})
    mean = (seen[0] + seen[1]) / 2
    assert not torch.equal(seen[0], seen[1])
    torch.testing.assert_close(torch.stack(ranked), torch.stack([seen[0], seen[1], mean]))
    content = read_checkpoint(trainer.saved_model_file)
    kept, other = (mean, seen[1]) if best == "average" else (seen[1], mean)
    torch.testing.assert_close(table.detach(), kept)
    torch.testing.assert_close(content["state_dict"][name], kept)
    torch.testing.assert_close(content["training"]["average"]["other"][name], other)


def test_both_are_validated_on_the_same_candidates(tmp_path, monkeypatch):
    candidates, original = [], Trainer._neg_sample_batch_eval

    def noted(self, batch):
        candidates.append(batch[0]["item_id"])
        return original(self, batch)

    options = {**QUICK, "checkpoint_dir": str(tmp_path), "eval_args": {"mode": {"valid": "uni20", "test": "full"}}}
    monkeypatch.setattr(Trainer, "_neg_sample_batch_eval", noted)
    recbole_mm.run("MMGCN", "mm-toy", config_dict={**options, "weight_average": 0.5})
    first, *second = torch.cat(candidates).chunk(3)  # the first epoch is its own average
    assert torch.equal(second[0], second[1]) and not torch.equal(first, second[0])


@pytest.mark.parametrize("name", ["MMGCN", "BPR"])
def test_a_training_repeats_itself_and_goes_on_where_it_stopped(name, tmp_path):
    check_repeats_and_resumes(name, {**QUICK, "weight_average": 0.3}, tmp_path)


def test_a_validation_is_one_point_of_the_curve(tmp_path):
    run = Job("MMGCN", "mm-toy", {**QUICK, "epochs": 3, "weight_average": 0.5}, seed=2020, data_seed=2020)
    record, _ = train_and_test(run, str(tmp_path))
    assert [point["epoch"] for point in record["curve"]] == [1, 2, 3]
    scores = [point["valid"]["recall@10"] for point in record["curve"]]
    assert max(scores) == record["best_valid_score"]


@pytest.mark.parametrize("name", ["LightGCN", "DMF"])
def test_models_that_keep_an_evaluation_are_ranked_by_the_average(name, tmp_path):
    """RecBole's graph models would rank the average by the representations of the latest parameters."""
    built = build(name, **QUICK, weight_average=0.5, checkpoint_dir=str(tmp_path))
    average, model = begin_session(Trainer(built.config, built.model)).average, built.model.eval()
    users = next(iter(built.valid_data))[0]
    average.begin_epoch()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    with torch.no_grad():
        first = model.full_sort_predict(users)
        average.begin_epoch()
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.1)
        forget_evaluation(model)  # as a training step does
        latest = model.full_sort_predict(users)
        with average.applied():
            averaged = model.full_sort_predict(users)
            forget_evaluation(model)
            torch.testing.assert_close(averaged, model.full_sort_predict(users))
        assert not torch.allclose(averaged, latest) and not torch.allclose(averaged, first)
        torch.testing.assert_close(model.full_sort_predict(users), latest)


def test_a_training_is_the_same_with_and_without(tmp_path):
    """Only what is ranked differs: the parameters that training goes on with are those of a training without."""
    options = {**QUICK, "checkpoint_dir": str(tmp_path), "valid_metric_bigger": True}
    files = [recbole_mm.run("MMGCN", "mm-toy", config_dict={**options, "epochs": 1, "weight_average": 0})]
    files.append(recbole_mm.run("MMGCN", "mm-toy", config_dict={**options, "epochs": 1, "weight_average": 0.5}))
    plain, averaged = (read_checkpoint(result["checkpoint"]) for result in files)
    for name, value in averaged["training"]["average"]["other"].items():
        assert torch.equal(plain["state_dict"][name], value)


def test_trainers_of_stages_refuse_it(tmp_path):
    with pytest.raises(ValueError, match="weight_average: MCPTR trains in stages"):
        recbole_mm.run("MCPTR", "mm-toy", config_dict={**QUICK, "weight_average": 0.2, "checkpoint_dir": str(tmp_path)})
