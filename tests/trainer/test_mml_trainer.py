"""The stages of MML: their order, what each may change, checkpoints, going on after an interruption."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from recbole.quick_start import load_data_and_model, run_recbole
from recbole.utils import init_seed

from recbole_mm.trainer import MMLTrainer
from tests.model.conftest import build

TINY = {
    "embedding_size": 8,
    "n_layers": 1,
    "inner_size": 12,
    "MAX_ITEM_LIST_LENGTH": 10,
    "fusion_hidden_size": 6,
    "meta_batch_size": 40,
    "query_size": 1,
    "warmup_epochs": 0,
    "modalities": ["image", "text"],
    "epochs": 2,
    "eval_step": 1,
    "generator_epochs": 2,
    "fusion_epochs": 3,
    "fusion_user_rate": 0.5,
    "generate_rate": 0.5,
    "generator_learning_rate": 0.1,
    "fusion_learning_rate": 0.01,
}


def trainer_for(**options):
    """A trainer and its data, ready to fit, always from the same random state."""
    built = build("MML", **{**TINY, **options})
    init_seed(built.config["seed"], True)
    return MMLTrainer(built.config, built.model), built


def state_of(model):
    return copy.deepcopy(model.state_dict())


def changed(before, after):
    """Names of the tensors that differ, without the count of stages."""
    return {name for name in before if not torch.equal(before[name], after[name])} - {"finished_stages"}


def record_stages(trainer, monkeypatch, stop=None):
    """Keep the state before each stage; raise KeyboardInterrupt when (stage, epoch) is reached."""
    states, begin, epoch = {}, trainer._begin, trainer._train_epoch

    def before_stage(stage, interrupted):
        states[stage.name] = state_of(trainer.model)
        begin(stage, interrupted)

    def before_epoch(data, index, *args, **kwargs):
        if stop == (trainer._stage.name, index):
            raise KeyboardInterrupt
        return epoch(data, index, *args, **kwargs)

    monkeypatch.setattr(trainer, "_begin", before_stage)
    monkeypatch.setattr(trainer, "_train_epoch", before_epoch)
    return states


def test_each_stage_changes_its_own_part_only(monkeypatch):
    trainer, built = trainer_for()
    built.model.cold_items[[4, 9]] = True  # mm-toy's split may leave no item without a training interaction
    states = record_stages(trainer, monkeypatch)
    score, result = trainer.fit(built.train_data, built.valid_data)
    assert list(states) == ["meta", "generator", "fusion"]
    assert all(name.startswith("learners.") for name in changed(states["meta"], states["generator"]))
    by_generator = changed(states["generator"], states["fusion"])
    assert {"learners.id.item_embedding"} == {name for name in by_generator if not name.startswith("generator.")}
    rows = states["generator"]["learners.id.item_embedding"] != states["fusion"]["learners.id.item_embedding"]
    cold = built.model.cold_items & torch.stack(list(built.model.features.observed.values())).any(0)
    assert set(rows.any(1).nonzero().flatten().tolist()) == set(cold.nonzero().flatten().tolist())
    generated = built.model.generator(cold.nonzero().flatten(), *built.model.generator_tables)
    assert torch.equal(states["fusion"]["learners.id.item_embedding"][cold], generated)
    by_fusion = changed(states["fusion"], state_of(built.model))
    assert by_fusion and all(name.startswith("fusion.") for name in by_fusion)
    assert int(built.model.finished_stages) == 3
    assert score == result[built.config["valid_metric"].lower()]


def test_every_stage_has_a_checkpoint_and_the_last_one_is_evaluated():
    trainer, built = trainer_for()
    trainer.fit(built.train_data, built.valid_data)
    result = trainer.evaluate(built.test_data)
    files = sorted(os.listdir("saved"))
    assert [name.rsplit("-", 1)[1] for name in files] == ["fusion.pth", "generator.pth", "meta.pth"]
    assert trainer.saved_model_file.endswith("-fusion.pth")
    _, model, _, _, _, test_data = load_data_and_model(trainer.saved_model_file)
    assert int(model.finished_stages) == 3
    assert MMLTrainer(built.config, model).evaluate(test_data, load_best_model=False) == result


@pytest.mark.parametrize("stop", [("meta", 1), ("generator", 0), ("generator", 1), ("fusion", 0), ("fusion", 2)])
def test_going_on_after_an_interruption_gives_the_uninterrupted_run(stop, monkeypatch):
    whole, built = trainer_for()
    expected = whole.fit(built.train_data, built.valid_data)
    parameters = state_of(built.model)
    for file in Path("saved").iterdir():
        file.unlink()

    first, built = trainer_for()
    record_stages(first, monkeypatch, stop)
    with pytest.raises(KeyboardInterrupt):
        first.fit(built.train_data, built.valid_data)
    assert os.path.isfile(first.resume_file)

    second, built = trainer_for(pre_model_path=first.resume_file)
    torch.rand(7)  # the state of the generators is part of the file
    assert second.fit(built.train_data, built.valid_data) == expected
    assert not changed(parameters, state_of(built.model))
    second.evaluate(built.test_data)
    assert not os.path.isfile(first.resume_file)


def test_stages_one_by_one_are_all_at_once():
    trainer, built = trainer_for()
    trainer.fit(built.train_data, built.valid_data)
    path, stages = None, []
    for stage in ("meta", "generator", "fusion"):
        single, built = trainer_for(train_stage=stage, pre_model_path=path)
        single.fit(built.train_data, built.valid_data)
        path = single.saved_model_file
        stages.append(state_of(built.model))
    assert (
        not changed(stages[0], stages[1])
        - {"learners.id.item_embedding"}
        - {name for name in stages[0] if name.startswith("generator.")}
    )
    assert [int(state["finished_stages"]) for state in stages] == [1, 2, 3]


@pytest.mark.parametrize(("stage", "before"), [("generator", "meta"), ("fusion", "generator")])
def test_a_stage_needs_the_ones_before_it(stage, before):
    trainer, built = trainer_for(train_stage=stage)
    with pytest.raises(ValueError, match=f"train_stage {stage} needs the stage {before}"):
        trainer.fit(built.train_data, built.valid_data)


def test_wrong_ways_to_start():
    for options, error, message in (
        ({"train_stage": "pretrain"}, ValueError, "meta, generator, fusion or all"),
        ({"pre_model_path": "nowhere.pth"}, FileNotFoundError, "no file 'nowhere.pth'"),
    ):
        trainer, built = trainer_for(**options)
        with pytest.raises(error, match=message):
            trainer.fit(built.train_data, built.valid_data)
    sampling = {"distribution": "popularity", "sample_num": 1}
    with pytest.raises(ValueError, match="one uniform negative"):
        trainer_for(train_neg_sample_args=sampling)


def test_an_interrupted_stage_must_be_finished_first(monkeypatch):
    trainer, built = trainer_for()
    record_stages(trainer, monkeypatch, ("meta", 1))
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(built.train_data, built.valid_data)
    other, built = trainer_for(pre_model_path=trainer.resume_file, train_stage="fusion")
    with pytest.raises(ValueError, match="interrupted in the stage meta"):
        other.fit(built.train_data, built.valid_data)
    os.remove(trainer.resume_file.replace("resume", "meta"))
    other, built = trainer_for(pre_model_path=trainer.resume_file)
    with pytest.raises(FileNotFoundError, match="kept its best parameters in"):
        other.fit(built.train_data, built.valid_data)


def test_an_early_stage_that_is_trained_again_and_interrupted_is_not_finished(monkeypatch):
    whole, built = trainer_for(generator_epochs=0, fusion_epochs=0)
    whole.fit(built.train_data, built.valid_data)
    again, built = trainer_for(train_stage="meta", pre_model_path=whole.saved_model_file, learning_rate=0.01)
    record_stages(again, monkeypatch, ("meta", 1))
    with pytest.raises(KeyboardInterrupt):
        again.fit(built.train_data, built.valid_data)
    last, built = trainer_for(pre_model_path=again.resume_file, generator_epochs=1, fusion_epochs=1)
    states = record_stages(last, monkeypatch)
    last.fit(built.train_data, built.valid_data)
    assert list(states) == ["meta", "generator", "fusion"]


def test_stages_of_one_model_share_one_split():
    """Who is new in this run must not have been trained on in the run before."""
    options = {"epochs": 1, "cold_start": {"entity": "user"}}
    first, built = trainer_for(train_stage="meta", seed=1, **options)
    first.fit(built.train_data, built.valid_data)
    path = first.saved_model_file
    for change, message in (
        ({"seed": 2}, "seed: 1 there, 2 here"),
        ({"seed": 1, "cold_start": {"entity": "user", "ratio": 0.3}}, "cold_start: .*ratio=0.2.* there, .*ratio=0.3"),
        ({"seed": 1, "cold_start": None}, "cold_start: .* there, None here"),
        ({"seed": 1, "user_inter_num_interval": "[4,inf)"}, r"user_inter_num_interval: .* there, '\[4,inf\)' here"),
    ):
        other, built = trainer_for(**{**options, **change, "pre_model_path": path})
        with pytest.raises(ValueError, match=f"pre_model_path: .*another split.*{message}"):
            other.fit(built.train_data, built.valid_data)
    evaluated = {"cold_start": {"entity": "user", "evaluate": "warm"}, "seed": 1, "epochs": 1, "generator_epochs": 0}
    same, built = trainer_for(**evaluated, train_stage="generator", pre_model_path=path)
    same.fit(built.train_data, built.valid_data)
    assert int(built.model.finished_stages) == 2


def test_nothing_is_written_unless_asked():
    trainer, built = trainer_for()
    score, _ = trainer.fit(built.train_data, built.valid_data, saved=False)
    assert not os.listdir("saved") and score > 0


def test_without_validation_data_the_last_parameters_count():
    trainer, built = trainer_for()
    score, result = trainer.fit(built.train_data)
    assert (score, result) == (-np.inf, None) and trainer.best_valid_result is None  # the fusion loss is no such score
    assert int(built.model.finished_stages) == 3
    assert trainer.evaluate(built.test_data)["recall@10"] >= 0


def test_stages_can_be_left_out():
    trainer, built = trainer_for(generator_epochs=0, fusion_epochs=0)
    built.model.cold_items[[4, 9]] = True
    before = state_of(built.model)
    trainer.fit(built.train_data, built.valid_data)
    assert all(name.startswith("learners.") for name in changed(before, state_of(built.model)))
    weighted, built = trainer_for(fusion_method="weight", epochs=1, generator_epochs=0)
    weighted.fit(built.train_data, built.valid_data)
    assert int(built.model.finished_stages) == 3


@pytest.mark.parametrize(
    ("left_out", "prefix"),
    [("epochs", "learners."), ("generator_epochs", "generator."), ("fusion_epochs", "fusion.")],
)
def test_no_epoch_leaves_the_part_of_that_stage_as_it_was(left_out, prefix):
    trainer, built = trainer_for(**{left_out: 0})
    # Generated rows of cold items belong to the generator's stage, whatever the learners do.
    built.model.cold_items[:] = False
    before = state_of(built.model)
    score, result = trainer.fit(built.train_data, built.valid_data)
    trained_parts = {name.split(".")[0] + "." for name in changed(before, state_of(built.model))}
    assert trained_parts == {"learners.", "generator.", "fusion."} - {prefix}
    assert int(built.model.finished_stages) == 3 and result is not None and score >= 0
    assert trainer.evaluate(built.valid_data, load_best_model=True) == result


def test_nothing_is_left_to_train_after_every_stage():
    trainer, built = trainer_for(epochs=1, generator_epochs=0, fusion_epochs=0)
    trainer.fit(built.train_data, built.valid_data)
    again, built = trainer_for(pre_model_path=trainer.saved_model_file)
    with pytest.raises(ValueError, match="has finished every stage.*set train_stage to fusion to train on"):
        again.fit(built.train_data, built.valid_data)
    chosen, built = trainer_for(pre_model_path=trainer.saved_model_file, train_stage="fusion", fusion_epochs=1)
    before = state_of(built.model)
    chosen.fit(built.train_data, built.valid_data)
    assert {name.split(".")[0] for name in changed(before, state_of(built.model)) if "fusion" in name} == {"fusion"}


SHORT = {"epochs": 1, "generator_epochs": 1, "fusion_epochs": 1}


def trained(**options):
    """Parameters after one epoch of each stage."""
    trainer, built = trainer_for(**{**SHORT, **options})
    trainer.fit(built.train_data, saved=False)
    return state_of(built.model)


@pytest.fixture(scope="module")
def trained_by_default():
    return trained()


@pytest.mark.parametrize(
    ("option", "value", "parts"),
    [
        ("query_size", 3, "learners generator fusion"),
        ("meta_batch_size", 60, "learners generator fusion"),
        ("learning_rate", 0.01, "learners generator fusion"),
        ("feature_learning_rate", {"image": 3e-3, "text": 0.01}, "learners fusion"),
        ("generator_learning_rate", 0.05, "learners generator fusion"),
        ("fusion_user_rate", 1.0, "fusion"),
        ("fusion_batch_size", 16, "fusion"),
        ("fusion_learning_rate", 0.05, "fusion"),
    ],
)
def test_every_option_of_a_stage_changes_what_it_trains(option, value, parts, trained_by_default):
    names = changed(trained_by_default, trained(**{option: value}))
    assert {name.split(".")[0] for name in names} == set(parts.split())
    if option == "feature_learning_rate":
        assert {name.split(".")[1] for name in names if name.startswith("learners.")} == {"text"}
    if option == "generator_learning_rate":  # by way of the rows of the items without a training interaction
        assert {name for name in names if name.startswith("learners.")} == {"learners.id.item_embedding"}


@pytest.mark.parametrize("options", [{}, {"fusion_method": "weight"}, {"generator_epochs": 0, "fusion_epochs": 0}])
def test_the_learners_can_be_trained_on_by_stock_training(options):
    trainer, built = trainer_for(**{**SHORT, **options})
    trainer.fit(built.train_data, saved=False)
    trainable = {name.split(".")[0] for name, p in built.model.named_parameters() if p.requires_grad}
    assert trainable == {"learners"}


def gradients(trainer, built, **settings):
    """Gradient of the first meta-batch, however it is chunked."""
    for name, value in settings.items():
        object.__setattr__(built.model.settings, name, value)
    trainer.stages(built.train_data, None)
    trainer.optimizer = trainer._enter_meta()
    found = {}

    def keep(part):
        if not found:
            found.update({name: p.grad.clone() for name, p in part.named_parameters()})

    trainer._step = keep
    torch.manual_seed(0)
    return trainer._meta_epoch(None, 0, False), found


@pytest.mark.parametrize("order", ["first", "second"])
def test_chunks_of_a_meta_batch_add_up(order, monkeypatch):
    options = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "meta_order": order}
    table = type(trainer_for(**options)[1].model.support)
    original = table.batch

    def same_negatives(self, users, pool, fixed=False, n_candidates=None):
        return original(self, users, pool, fixed=True, n_candidates=n_candidates)

    monkeypatch.setattr(table, "batch", same_negatives)
    results = [gradients(*trainer_for(**options, task_memory_mb=memory)) for memory in (4096.0, 1.0)]
    for left, right in zip(results[0][0], results[1][0]):
        assert left == pytest.approx(right, rel=1e-5)
    for name, value in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], value, rtol=1e-4, atol=1e-7)


def test_tasks_are_users_with_their_last_rows_as_query():
    for size in (1, 3):
        trainer, built = trainer_for(query_size=size, max_support=None)
        trainer.stages(built.train_data, None)
        inter = built.train_data.dataset.inter_feat
        for user in range(1, built.model.n_users):
            targets = inter["item_id"][inter["user_id"] == user].tolist()
            number = min(size, len(targets) // 2)
            query = trainer.query.target[trainer.query.start[user] :][: trainer.query.count[user]]
            support = trainer.support.target[trainer.support.start[user] :][: trainer.support.count[user]]
            assert sorted(query[query > 0].tolist()) == sorted(targets[len(targets) - number :])
            assert sorted(support[support > 0].tolist()) == sorted(targets[: len(targets) - number])
            assert (user in trainer.task_users) == (number > 0)
        assert set(trainer.pool.tolist()) == {i for i in range(1, built.model.n_items) if not built.model.cold_items[i]}


@pytest.mark.parametrize("scope", ["local", "all"])
def test_fusion_learns_from_what_evaluation_computes(scope):
    trainer, built = trainer_for(adapt_scope=scope, adapt_learning_rate=0.1)
    trainer.stages(built.train_data, None)
    built.model.eval()
    trainer._enter_fusion()
    data, model = trainer.fusion_data, built.model
    model.support = trainer.support  # evaluation that adapts to the same instances
    states, scores, target = data.query(torch.arange(data.n_query))
    inter = built.train_data.dataset.inter_feat
    with torch.no_grad():
        fused = model.fusion(states, scores)
        last = []
        for user in data.users.tolist():
            rows = (inter["user_id"] == user).nonzero().flatten()
            last.append(int(rows[-1]))
        expected = model.full_sort_predict(inter[torch.tensor(last)]).view(len(last), -1)
    assert sorted(target.tolist()) == sorted(inter["item_id"][last].tolist())
    for row, wanted in zip(fused, target):
        users = [i for i, index in enumerate(last) if int(inter["item_id"][index]) == int(wanted)]
        assert any(torch.allclose(row, expected[i], rtol=1e-4, atol=1e-4) for i in users)
    table = trainer.support
    instances = [(table.target[table.start[u] :][: table.count[u]] > 0).sum().item() for u in data.users.tolist()]
    assert data.n_support == sum(instances)
    assert "instances of" in str(data)


def test_fusion_stops_by_the_cross_entropy_of_the_queries_and_keeps_the_best():
    trainer, built = trainer_for(fusion_epochs=30, fusion_learning_rate=0.1, fusion_stopping_step=1, epochs=1)
    values, validate = [], trainer._fusion_validation
    trainer._fusion_validation = lambda *args: values.append(validate(*args)[0]) or (values[-1], {"x": values[-1]})
    trainer.fit(built.train_data, built.valid_data)
    assert 2 < len(values) < 30
    assert validate(None, False)[0] == pytest.approx(min(values), rel=1e-5)


def test_warm_up_comes_first_and_asks_every_instance(monkeypatch):
    trainer, built = trainer_for(warmup_epochs=2, epochs=1, generator_epochs=0, fusion_epochs=0, learning_rate=0.01)
    asked, stages = [], []
    for name in ("plain_losses", "meta_losses"):
        method = getattr(built.model, name)

        def watch(*tasks, method=method, name=name):
            stages.append(name)
            asked.append(int(tasks[-1].target.ne(0).sum()))
            return method(*tasks)

        monkeypatch.setattr(built.model, name, watch)
    trainer.fit(built.train_data, None)
    warm = stages.count("plain_losses")
    assert stages == ["plain_losses"] * warm + ["meta_losses"] * (len(stages) - warm) and 0 < warm < len(stages)
    assert sum(asked[: warm // 2]) == len(built.train_data.dataset.inter_feat)


@pytest.mark.parametrize("options", [{}, {"task_loss": "bpr"}, {"instances": "prefixes"}])
def test_parts_of_a_warm_up_batch_add_up(options, monkeypatch):
    results = []
    for parts in (None, 3):
        trainer, built = trainer_for(warmup_epochs=1, hidden_dropout_prob=0.0, attn_dropout_prob=0.0, **options)
        if parts:  # windows that fit into the memory
            room = built.model.settings.task_memory_mb * 2**20 / parts
            monkeypatch.setattr(type(built.model), "window_bytes", lambda self, length, room=room: room)
        trainer.stages(built.train_data, None)
        trainer.optimizer = trainer._enter_meta()
        steps, sizes, losses = [], [], built.model.plain_losses
        monkeypatch.setattr(
            trainer,
            "_step",
            lambda part, steps=steps: steps.append([p.grad.clone() for p in part.parameters() if p.grad is not None]),
        )
        monkeypatch.setattr(
            built.model,
            "plain_losses",
            lambda task, sizes=sizes, losses=losses: sizes.append(len(task.window.flatten(0, 1))) or losses(task),
        )
        results.append((trainer._warmup_epoch(0, False), steps, sizes))
    (whole, gradients_whole, all_at_once), (sum_of_parts, gradients_parts, sizes) = results
    assert max(sizes) == 3 < max(all_at_once) and len(sizes) > len(all_at_once) == len(gradients_parts)
    assert sum_of_parts == pytest.approx(whole, rel=1e-5)
    for left, right in zip(gradients_whole, gradients_parts):
        for one, other in zip(left, right):
            torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-7)


def test_warm_up_lowers_the_cross_entropy_of_every_learner():
    trainer, built = trainer_for(warmup_epochs=1, learning_rate=0.01)
    trainer.stages(built.train_data, None)
    trainer.optimizer = trainer._enter_meta()
    built.model.train()
    losses = torch.tensor([trainer._warmup_epoch(epoch, False) for epoch in range(6)])
    assert (losses[-1] < 0.97 * losses[0]).all()


def test_second_order_and_full_scope_train_end_to_end():
    trainer, built = trainer_for(
        meta_order="second", adapt_scope="all", instances="prefixes", max_support=None, contrastive_weight=0.1
    )
    before = state_of(built.model)
    score, _ = trainer.fit(built.train_data, built.valid_data)
    assert changed(before, state_of(built.model)) and 0 <= score <= 1
    assert all(value.isfinite().all() for value in built.model.state_dict().values())


def test_no_step_waits_for_a_copy_to_the_device(monkeypatch):
    trainer, built = trainer_for(epochs=1, generator_epochs=1, fusion_epochs=1)
    trainer.stages(built.train_data, None)
    trainer._enter_fusion()
    users, model, to, waits = trainer.task_users[:3], built.model, torch.Tensor.to, []

    def watch(self, *args, **kwargs):
        if args and isinstance(args[0], torch.device):
            waits.append(not kwargs.get("non_blocking", False))
        return to(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", watch)
    support, query = (table.batch(users, trainer.pool) for table in (trainer.support, trainer.query))
    for step in (
        lambda: model.meta_losses(support, query),
        lambda: model.generator_loss(support, query),
        lambda: trainer.fusion_data.support(torch.arange(2)),
    ):
        waits.clear()
        step()
        assert waits and not any(waits)


def test_progress_is_shown_for_every_stage(capsys):
    trainer, built = trainer_for()
    trainer.fit(built.train_data, built.valid_data, show_progress=True)
    shown = capsys.readouterr().err
    assert all(word in shown for word in ("meta     0", "generator     1", "fusion     0", "Evaluate"))


def test_mixed_precision_runs():
    trainer, built = trainer_for(enable_amp=True, epochs=1, generator_epochs=1, fusion_epochs=1)
    trainer.fit(built.train_data, built.valid_data)
    assert all(value.isfinite().all() for value in built.model.state_dict().values())


def test_gradients_can_be_clipped():
    still, built = trainer_for(epochs=1, generator_epochs=0, fusion_epochs=0, clip_grad_norm={"max_norm": 0.0})
    before = state_of(built.model)
    still.fit(built.train_data, built.valid_data)
    assert not changed(before, state_of(built.model))


def test_run_recbole_drives_all_stages():
    options = {**TINY, "state": "ERROR", "show_progress": False, "use_gpu": False}
    result = run_recbole(model="MML", dataset="mm-toy", config_dict=options)
    assert result["best_valid_result"] and result["test_result"]["recall@10"] >= 0
