"""The check of trainings: each alarm provoked, healthy runs silent, and nothing of a training changed by it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recbole_mm
from recbole_mm.config.health import ALARMS, health_alarms
from recbole_mm.host.health import final
from recbole_mm.host.health.alarms import judge_end, judge_loss, new_history
from recbole_mm.nn.diagnosis import Part
from recbole_mm.nn.loss import bpr_loss
from recbole_mm.trainer.checkpoint import read_checkpoint
from tests.options import QUICK

LONGER = {**QUICK, "epochs": 5, "train_batch_size": 32, "stopping_step": 100}


class Patient(recbole_mm.MultimodalRecommender):
    """Matrix factorisation with content, whose subclasses each have one illness."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.user_embedding = nn.Embedding(self.n_users, 8)
        self.item_embedding = nn.Embedding(self.n_items, 8)
        self.project = nn.ModuleDict({m: nn.Linear(width, 8) for m, width in self.features.dims.items()})

    def read(self, modality: str, feature: Tensor) -> Tensor:
        return self.project[modality](feature)

    def forward(self) -> tuple[Tensor, Tensor]:
        content = sum(self.read(m, feature) for m, feature in self.features.items())
        return self.user_embedding.weight, self.item_embedding.weight + content

    def ranking(self, interaction: Any) -> Tensor:
        users, items = self.forward()
        user = users[interaction[self.USER_ID]]
        chosen, rejected = items[interaction[self.ITEM_ID]], items[interaction[self.NEG_ITEM_ID]]
        return bpr_loss((user * chosen).sum(1), (user * rejected).sum(1))

    def calculate_loss(self, interaction: Any) -> Any:
        return self.ranking(interaction)


class Drowned(Patient):
    def calculate_loss(self, interaction: Any) -> Any:
        return self.ranking(interaction), 1e5 * self.item_embedding.weight.square().mean()


class Deaf(Patient):
    def read(self, modality: str, feature: Tensor) -> Tensor:
        read = super().read(modality, feature)
        return read.detach() if modality == "image" else read


class Blind(Patient):
    def read(self, modality: str, feature: Tensor) -> Tensor:
        return super().read(modality, feature * 0 if modality == "image" else feature)


class Uniform(Patient):
    """All users are one."""

    def forward(self) -> tuple[Tensor, Tensor]:
        users, items = super().forward()
        return users[:1].expand(len(users), -1), items


class Idle(Patient):
    def diagnostics(self) -> dict[str, Part]:
        return {"the gate": Part("weights", torch.ones(5)), "the switch": Part("weights", torch.arange(5.0))}


class Unlearning(Patient):
    """Starts from the best factors of the training pairs and goes away from them."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        left, size, right = torch.linalg.svd(torch.from_numpy(self.interactions.toarray()).float())
        with torch.no_grad():
            for weight in self.project.parameters():
                weight.zero_()
            self.user_embedding.weight.copy_(10 * left[:, :8] * size[:8].sqrt())
            self.item_embedding.weight.copy_(10 * right[:8].T * size[:8].sqrt())

    def calculate_loss(self, interaction: Any) -> Any:
        return -self.ranking(interaction)


ILLNESSES = {
    Drowned: {"gradient": "part 2 of the loss has 1"},
    Deaf: {"modality_gradient": "of modality image"},
    Blind: {"dead_modality": "rows of modality image"},
    Uniform: {"popularity": "100% of the places", "collapse": "in a point"},
    Idle: {"idle_part": "the gate does nothing: its 5 values are all 1"},
    Unlearning: {"first_epoch": "best at its first time, after epoch 1"},
}


def alarms(result: dict[str, Any]) -> dict[str, str]:
    return {alarm["name"]: alarm["text"] for alarm in result["health"]["alarms"]}


@pytest.fixture
def clinic(clean_registry: None) -> Any:
    def run(model: type, **options: Any) -> dict[str, Any]:
        if model.__name__ not in recbole_mm.registered_models():
            recbole_mm.register(model)
        return recbole_mm.run(model.__name__, "mm-toy", config_dict={**LONGER, **options})

    return run


@pytest.mark.parametrize("model", ILLNESSES, ids=lambda model: model.__name__)
def test_each_illness_sets_off_its_alarm(model: type, clinic: Any, caplog: Any) -> None:
    found = alarms(clinic(model, learning_rate=0.01, state="WARNING", epochs=7))
    for name, text in ILLNESSES[model].items():
        assert text in found[name]
        warned = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING and found[name] in r.msg]
        assert len(warned) == 1 and warned[0].startswith(f"health: {model.__name__}: ")
    assert ("idle_part" in found) is (model is Idle) and ("dead_modality" in found) is (model is Blind)


def test_a_model_that_does_not_move_is_told_while_it_trains(caplog: Any) -> None:
    options = {**LONGER, "epochs": 4, "learning_rate": 1e-9, "state": "WARNING"}
    result = recbole_mm.run("BPR", "mm-toy", config_dict=options)
    found = alarms(result)
    assert "still at its untrained value 0.69" in found["loss"] and "below a ranking by popularity" in found["loss"]
    assert "a ranking by popularity has" in found["pop"]
    assert sum("untrained value" in record.getMessage() for record in caplog.records) == 1
    assert not alarms(recbole_mm.run("BPR", "mm-toy", config_dict={**options, "health": "gradient"}))


def test_a_batch_that_holds_all_data_is_told() -> None:
    """mm-toy has about a thousand training pairs, a batch of RecBole's 2,048."""
    options = {**QUICK, "epochs": 12, "stopping_step": 100}
    found = alarms(recbole_mm.run("MMGCN", "mm-toy", config_dict={**options, "shrink_batches": False}))
    assert "12 epochs were 12 steps in all" in found["few_steps"]
    smaller = alarms(recbole_mm.run("MMGCN", "mm-toy", config_dict=options))
    assert "few_steps" not in smaller


def test_popularity_is_the_figure_of_the_model_pop() -> None:
    pop = recbole_mm.run("Pop", "mm-toy", config_dict=QUICK)
    for model in ("BPR", "MMGCN"):
        result = recbole_mm.run(model, "mm-toy", config_dict={**LONGER, "epochs": 3})
        assert result["health"]["measures"]["popularity_score"] == pytest.approx(pop["best_valid_score"], abs=1e-4)


@pytest.mark.parametrize("seed", [1, 2020])
def test_new_items_alone_have_no_popularity(seed: int) -> None:
    protocol = {"entity": "item", "by": "ratio", "ratio": 0.2, "candidates": "cold"}
    options = {**LONGER, "seed": seed, "cold_start": protocol}
    result = recbole_mm.run("LightGCN", "mm-toy", config_dict=options)
    assert result["health"]["measures"]["popularity_score"] is None and "pop" not in alarms(result)


@pytest.mark.parametrize(
    "model, options",
    [
        ("FREEDOM", {"feature_weight": 0.0}),
        ("LATTICE", {"edge_gradient": "every_step", "skip_weight": 1.0}),
    ],
)
def test_a_projection_that_options_leave_out_is_no_illness(model: str, options: dict[str, Any]) -> None:
    result = recbole_mm.run(model, "mm-toy", config_dict={**QUICK, "epochs": 4, **options})
    assert not {"modality_gradient", "dead_modality"} & set(alarms(result))


def test_trained_features_are_permuted_too() -> None:
    options = {**QUICK, "epochs": 4, "train_features": True, "MAX_ITEM_LIST_LENGTH": 10, "n_layers": 1}
    result = recbole_mm.run("SASRecContent", "mm-toy", config_dict=options)
    assert max(result["health"]["measures"]["permuted"].values()) < 0.99
    assert "dead_modality" not in alarms(result)


def test_a_modality_of_one_item_cannot_be_permuted(clinic: Any, monkeypatch: Any) -> None:
    class Lonely(Patient):
        def __init__(self, config: Any, dataset: Any) -> None:
            super().__init__(config, dataset)
            self.features.observed["image"][2:] = False

    result = clinic(Lonely)
    assert "image" not in result["health"]["measures"]["permuted"] and "dead_modality" not in alarms(result)


@pytest.mark.parametrize("model", ["LightGCN", "GRCN", "DualGNN", "LGMRec", "MGAT", "BM3", "LATTICE", "MCPTR"])
def test_healthy_runs_are_silent(model: str) -> None:
    result = recbole_mm.run(model, "mm-toy", config_dict={**QUICK, "epochs": 8, "learning_rate": 0.005})
    assert alarms(result) == {}
    assert result["health"]["measures"]["effective_rank"]


@pytest.mark.parametrize("model", ["BPR", "LightGCN", "MMGCL", "HCGCN", "DMF", "MCPTR", "UVCAN", "SASRecContent"])
def test_training_is_the_same_to_the_last_bit(model: str) -> None:
    results = {}
    for health in (True, "off"):
        options = {**QUICK, "epochs": 4, "health": health, "saved": True}
        if model == "MCPTR":
            options.update(pretrain_epochs=2)
        results[health] = recbole_mm.run(model, "mm-toy", config_dict=options)
    on, off = results[True], results["off"]
    assert on["health"] is not None and off["health"] is None
    assert on["test_result"] == off["test_result"] and on["best_valid_score"] == off["best_valid_score"]
    states = [read_checkpoint(result["checkpoint"]) for result in (on, off)]
    for name, value in states[0]["state_dict"].items():
        assert torch.equal(value, states[1]["state_dict"][name]), name
    assert str(states[0]["training"]["random"]) == str(states[1]["training"]["random"])


def test_a_resumed_training_is_judged_like_an_undisturbed_one() -> None:
    options = {**LONGER, "learning_rate": 1e-9, "epochs": 6}
    whole = recbole_mm.run("BPR", "mm-toy", config_dict=options)
    first = recbole_mm.run("BPR", "mm-toy", config_dict={**options, "epochs": 4})
    resumed = recbole_mm.run("BPR", "mm-toy", config_dict=options, resume=first["checkpoint"])
    assert {"loss", "pop"} <= set(alarms(whole)) and alarms(resumed) == alarms(whole)
    assert resumed["health"]["measures"] == whole["health"]["measures"]


def test_a_comparison_says_it_below_its_table(tmp_path: Path) -> None:
    options = {**LONGER, "epochs": 4, "learning_rate": 1e-9}
    table = recbole_mm.compare(
        ["BPR"], "mm-toy", config_dict=options, seeds=2, in_process=True, output=tmp_path / "out", verbose=False
    )
    notes = [note for note in table.attrs["notes"] if note.startswith("Health, BPR (2 of 2 seeds): ")]
    assert any("untrained value" in note for note in notes)
    assert "Health, BPR" in (tmp_path / "out" / "table.md").read_text()
    records = [json.loads(file.read_text()) for file in (tmp_path / "out" / "runs").glob("*/run.json")]
    assert len(records) == 2 and all("untrained value" in alarms(record)["loss"] for record in records)


def test_short_trainings_and_other_evaluations_are_left_alone() -> None:
    assert recbole_mm.run("BPR", "mm-toy", config_dict=QUICK)["health"]["measures"] == {}
    sampled = {**QUICK, "epochs": 3, "eval_args": {"split": {"RS": [8, 1, 1]}, "mode": "uni20"}}
    measures = recbole_mm.run("MMGCN", "mm-toy", config_dict=sampled)["health"]["measures"]
    assert measures["popularity_score"] is None and "permuted" not in measures


def test_a_model_is_built_anew_only_where_that_is_little_beside_its_training(monkeypatch: Any) -> None:
    """FREEDOM reads features when its item graph is made, and then no more."""
    options = {**QUICK, "epochs": 3}
    monkeypatch.setattr(final, "_LITTLE", 1e9)
    with_it = recbole_mm.run("FREEDOM", "mm-toy", config_dict=options)["health"]["measures"]["permuted"]
    assert set(with_it) == {"audio", "image", "text"}
    monkeypatch.setattr(final, "_LITTLE", 0.0)
    monkeypatch.setattr(final, "_SHARE", 1e-9)
    monkeypatch.setattr(final, "_built_anew", lambda *_: pytest.fail("built anew"))
    said: list[str] = []
    monkeypatch.setattr(final, "getLogger", lambda: SimpleNamespace(info=said.append))
    without = recbole_mm.run("FREEDOM", "mm-toy", config_dict=options)["health"]
    assert without["measures"]["permuted"] == {} and alarms({"health": without}) == {}
    assert len(said) == 3 and "dead_modality is not looked for in audio: FREEDOM would have to be built" in said[0]
    assert recbole_mm.run("MMGCN", "mm-toy", config_dict=options)["health"]["measures"]["permuted"], (
        "it needs no building"
    )


def test_looks_at_gradients_take_few_of_the_steps() -> None:
    options = {**QUICK, "epochs": 10}
    few = recbole_mm.run("GRCN", "mm-toy", config_dict=options)["health"]["measures"]["gradient_shares"]
    assert few[-1][0] == 2, "epochs from 0: the second and the third"
    many = recbole_mm.run("GRCN", "mm-toy", config_dict={**options, "train_batch_size": 8})["health"]["measures"]
    assert many["gradient_shares"][-1][0] == 8


class TestJudgements:
    def history(self, **values: Any) -> dict[str, Any]:
        return {**new_history(), "first": 0.6931, "steps": 500, "loss": [0.69, 0.4, 0.3], **values}

    def names(self, history: dict[str, Any], final: dict[str, Any] | None = None, bigger: bool = True) -> list[str]:
        return [name for name, _ in judge_end(history, final or {}, bigger)]

    def test_a_low_loss_or_a_good_ranking_is_no_standstill(self) -> None:
        still = {"loss": [0.693, 0.6929, 0.6925], "valid": [[3, 0.05]], "pop": 0.1}
        assert [name for name, _ in judge_loss(self.history(**still), True)] == ["loss"]
        assert not list(judge_loss(self.history(**{**still, "loss": [0.69, 0.68, 0.65]}), True))
        assert not list(judge_loss(self.history(**{**still, "pop": 0.04}), True))
        assert not list(judge_loss(self.history(**{**still, "loss": [0.693, 0.693]}), True))
        assert list(judge_loss(self.history(**{**still, "loss": [0.693] * 6, "valid": []}), True))

    def test_the_ranking_part_may_have_the_whole_gradient(self) -> None:
        shares = [[1, 0.999, 0.001], [2, 0.999, 0.001]]
        assert not self.names(self.history(shares=shares))
        assert self.names(self.history(shares=[[1, 0.001, 0.999], [2, 0.001, 0.999]])) == ["gradient"]
        assert not self.names(self.history(shares=[[1, 0.001, 0.999], [2, 0.2, 0.8]]))

    def test_best_at_the_start(self) -> None:
        falling = [[1, 0.5], [2, 0.4], [3, 0.3], [4, 0.2], [5, 0.1]]
        assert self.names(self.history(valid=falling)) == ["first_epoch"]
        assert not self.names(self.history(valid=falling[:4]))
        assert not self.names(self.history(valid=[[1, 0.1], *falling[1:]]))
        assert self.names(self.history(valid=[[e, 1 - s] for e, s in falling]), bigger=False) == ["first_epoch"]
        assert not self.names(self.history(valid=[[1, 0.5], [2, 0.49], [3, 0.5], [4, 0.49], [5, 0.49]]))

    def test_few_steps(self) -> None:
        assert self.names(self.history(steps=30, loss=[0.6] * 10)) == ["few_steps"]
        assert not self.names(self.history(steps=40, loss=[0.6] * 10))
        assert not self.names(self.history(steps=9, loss=[0.6] * 9))
        assert not self.names(self.history(steps=300, loss=[0.6] * 200))

    def test_below_popularity(self) -> None:
        assert self.names(self.history(valid=[[3, 0.1], [4, 0.2]], pop=0.3)) == ["pop"]
        assert not self.names(self.history(valid=[[3, 0.1], [4, 0.3]], pop=0.3))
        assert not self.names(self.history(valid=[[3, 0.1], [4, 0.3]]))


def test_the_option_is_names_or_a_switch() -> None:
    assert health_alarms(None) == health_alarms("on") == health_alarms(True) == tuple(ALARMS)
    assert health_alarms("off") == health_alarms(False) == ()
    assert health_alarms(["pop"]) == ("pop",)
    with pytest.raises(ValueError, match="unknown alarm 'popp'. Did you mean 'pop'?"):
        health_alarms("popp")
    with pytest.raises(ValueError, match="expected True"):
        health_alarms(3)
