"""The contract that every registered model keeps, whatever its mathematics."""

from __future__ import annotations

import copy
import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from recbole.data.interaction import Interaction
from recbole.quick_start import run_recbole
from recbole.utils import ModelType, get_trainer, init_seed

from recbole_mm.config import SHARED_OPTIONS, properties_directory
from recbole_mm.config.names import read_keys
from recbole_mm.host.registry import registered_models
from recbole_mm.host.tags import tags_of
from recbole_mm.model.base import MultimodalModelMixin
from recbole_mm.trainer.stages import StagedTrainer
from tests.model.conftest import MODALITIES, total_loss, train_steps
from tests.model.conftest import build as build_model
from tests.model.tiny import tiny_model

pytestmark = pytest.mark.no_cover  # hundreds of trainings, a third faster so; the tests of each model measure its lines

# Every modality of MML has a sequence model of its own: with its default sizes the contract takes three times as long.
SMALLER = {"MML": {"MAX_ITEM_LIST_LENGTH": 10, "n_layers": 1, "inner_size": 64, "query_size": 5, "meta_batch_size": 64}}
SMALLER["MML"].update(warmup_epochs=1, inner_steps=2, adapt_steps=2, max_support=10)
# And a step still takes several times as long as another model's.
STEPS = {"MML": 50}
# BM3 has no negatives: a step tells where positives belong, never what is less liked, so that items come apart only as
# the penalty pulls the rest in. The area under the curve is .64 untrained, .74 after 100 steps, .80 after 150, .84
# after 200, .89 after 300: it gets there, at half the pace of the others, and has to by here.
STEPS["BM3"] = 200

# The stage of training that has the model's contrastive term.
CONTRASTED = {"UniSRec": {"train_stage": "pretrain"}}

SUBSETS = [list(names) for size in (1, 2, 3) for names in itertools.combinations(MODALITIES, size)]

# Options under which a model reads a feature file that it leaves alone otherwise.
READS_ALL = {"user_feature_source": "file", "review_source": "reviews", "cold_items": "content"}


def build(name, **options):
    """The model on mm-toy with the options of the contract."""
    return build_model(name, **{**SMALLER.get(name, {}), **options})


def scores(built):
    """Users of the test split and their scores of every item, shapes ``(n,)`` and ``(n, n_items)``."""
    built.model.eval()
    device = built.config["device"]
    rows = []
    with torch.no_grad():
        for batch in built.test_data:
            interaction = batch[0].to(device)
            rows.append((interaction["user_id"], built.model.full_sort_predict(interaction).view(len(interaction), -1)))
    ids, values = torch.cat([row[0] for row in rows]), torch.cat([row[1] for row in rows])
    return ids.cpu(), values.cpu()


def same(left, right):
    """Exact equality of two results of ``scores``."""
    return torch.equal(left[0], right[0]) and torch.equal(left[1], right[1])


def learns(name) -> bool:
    """Whether gradients train the model; RecBole calls those that nothing trains traditional."""
    return registered_models()[name].type != ModelType.TRADITIONAL


def training_keys() -> set[str]:
    """RecBole's own keys that a model yaml may set (its training procedure reads them, not the model)."""
    from recbole.utils.argument_list import (
        dataset_arguments,
        evaluation_arguments,
        general_arguments,
        training_arguments,
    )

    own = {"train_stage", "pre_model_path", "pretrain_epochs", "save_step"}
    return {*general_arguments, *training_arguments, *evaluation_arguments, *dataset_arguments, *own}


def documented_options(cls) -> set[str]:
    """The names under ``Options:`` in a model's docstring."""
    section = re.search(r"Options:\n(.*?)(?:\n\n|\Z)", cls.__doc__ or "", re.S)
    assert section, f"{cls.__name__} has no Options section"
    return set(re.findall(r"[a-z][a-z0-9_]+", re.sub(r"\(.*?\)", "", section.group(1))))


def test_docstring_yaml_and_code_agree_on_the_options(name):
    built = build(name)
    yaml_keys = read_keys(properties_directory() / "model" / f"{name}.yaml") - training_keys() - set(SHARED_OPTIONS)
    read = built.model.options.read - set(SHARED_OPTIONS) - training_keys()
    assert yaml_keys == read
    assert documented_options(registered_models()[name]) == yaml_keys


def test_every_tensor_is_a_parameter_or_a_buffer(name):
    model = build(name).model
    for module in model.modules():
        stray = [key for key, value in vars(module).items() if isinstance(value, torch.Tensor)]
        assert not stray, f"{type(module).__name__} holds tensors that .to(device) does not move: {stray}"


def few_scores(built):
    """Scores of every item for a few users of the test split, shape ``(8, n_items)``."""
    built.model.eval()
    interaction = next(iter(built.test_data))[0][:8]
    with torch.no_grad():
        return built.model.full_sort_predict(interaction).view(len(interaction), -1)


def rebuilt(built, state, change):
    """Scores of the same model, with the same parameters, after ``change`` of its data set's features."""
    dataset = built.train_data._dataset
    init_seed(built.config["seed"], True)
    model = type(built.model)(built.config, dataset.with_features(change(dataset.features)))
    model.load_state_dict(state)
    return few_scores(replace(built, model=model))


def test_tags_say_which_features_reach_the_scores(name):
    tags, cls = tags_of(name), registered_models()[name]
    options = {key: value for key, value in READS_ALL.items() if key in documented_options(cls)}
    built = build(name, **options)
    state, before = built.model.state_dict(), few_scores(built)

    def other(tables):
        return {modality: replace(table, feature=table.feature.flip(0)) for modality, table in tables.items()}

    for entity, attribute in (("item", "item"), ("user", "user"), ("review", "inter")):
        changed = {attribute: other(getattr(built.train_data._dataset.features, attribute))}
        after = rebuilt(built, state, lambda store, changed=changed: replace(store, **changed))
        assert torch.equal(before, after) != (entity in tags.uses), f"{name} and {entity} features"


def test_tags_say_whether_features_of_a_new_item_move_its_scores(name):
    built = build(name, cold_start={"entity": "item"})
    item = int(built.train_data._dataset.cold_start.items[0])
    state, before = built.model.state_dict(), few_scores(built)

    def change(store):
        tables = {modality: table.feature.clone() for modality, table in store.item.items()}
        for feature in tables.values():
            feature[item] = feature[item].flip(-1) + 1
        return replace(store, item={m: replace(store.item[m], feature=tables[m]) for m in tables})

    after = rebuilt(built, state, change)
    assert torch.equal(before[:, item], after[:, item]) != tags_of(name).ranks_new_items


def test_tags_say_whether_a_history_moves_the_scores(name):
    built, tags = build(name), tags_of(name)
    assert tags.new_users == tags.sequential
    if not tags.sequential:
        assert "item_id_list" not in built.test_data._dataset.inter_feat
        return
    batch = next(iter(built.test_data))[0][:8]
    built.model.eval()
    with torch.no_grad():
        before = built.model.full_sort_predict(batch)
        batch.interaction["item_id_list"] = batch["item_id_list"].roll(1, dims=0)
        assert not torch.equal(before, built.model.full_sort_predict(batch))


def test_tags_say_the_stages_of_training(name):
    built = build(name)
    trainer = get_trainer(built.config["MODEL_TYPE"], name)(built.config, built.model)
    stages = trainer.stages(built.train_data, built.valid_data) if isinstance(trainer, StagedTrainer) else ()
    assert tuple(stage.name for stage in stages) == tags_of(name).stages


def test_tags_say_whether_there_is_a_contrastive_term(name):
    """The yaml of a model with a term of its own sets its weight, that of another one leaves it at 0."""
    options = yaml.safe_load((properties_directory() / "model" / f"{name}.yaml").read_text(encoding="utf-8"))
    assert tags_of(name).contrastive == (options.get("contrastive_weight", 0) > 0)


@pytest.mark.parametrize("modalities", SUBSETS, ids="-".join)
def test_any_subset_of_modalities_trains_and_scores_finitely(name, modalities):
    if len(modalities) < tags_of(name).min_modalities:
        with pytest.raises(ValueError, match="item modalities at least"):
            build(name, modalities=modalities)
        return
    built = build(name, modalities=modalities)
    assert list(built.model.features) == modalities
    total_loss(built.model.train(), built.batch()).backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in built.model.parameters())
    _, values = scores(built)
    assert values[:, 1:].isfinite().all()


def test_order_of_modalities_never_matters(name):
    assert same(scores(build(name, modalities=["text", "image"])), scores(build(name, modalities=["image", "text"])))


def test_every_parameter_gets_a_finite_gradient(name):
    built = build(name)
    built.model.train()
    optimizer = torch.optim.SGD([p for p in built.model.parameters() if p.requires_grad], lr=1e-3)
    for interaction in itertools.islice(built.train_data, 2):
        total_loss(built.model, interaction).backward()
        optimizer.step()
    missing = [
        key for key, parameter in built.model.named_parameters() if parameter.requires_grad and parameter.grad is None
    ]
    assert not missing, f"parameters that no loss reaches: {missing}"
    assert all(p.grad.isfinite().all() for p in built.model.parameters() if p.requires_grad)


def test_predict_is_the_column_of_full_sort_predict(name):
    built = build(name)
    train_steps(built, 2)
    batch = next(iter(built.test_data))[0]
    with torch.no_grad():
        table = built.model.full_sort_predict(batch).view(len(batch), -1)
        for item in (1, 7, built.model.n_items - 1):
            pairs = Interaction({**batch.interaction, "item_id": torch.full((len(batch),), item)})
            single = built.model.predict(pairs)
            # predict may return probabilities and full sort logits, which rank alike.
            expected = table[:, item]
            if not torch.allclose(single, expected, rtol=1e-4, atol=1e-5):
                torch.testing.assert_close(single, expected.sigmoid(), rtol=1e-4, atol=1e-5)


def test_state_dict_round_trip_gives_equal_scores(name):
    built = build(name)
    train_steps(built, 3)
    before = scores(built)
    state = copy.deepcopy(built.model.state_dict())
    fresh = build(name)
    with torch.no_grad():
        for parameter in fresh.model.parameters():
            parameter.add_(1.0)
    fresh.model.load_state_dict(state)
    assert same(before, scores(fresh))


def test_loading_and_training_drop_the_evaluation_cache(name):
    built = build(name)
    initial = copy.deepcopy(built.model.state_dict())
    first = scores(built)
    train_steps(built, 3)
    assert same(first, scores(built)) != learns(name), "training changes the scores of what it trains"
    built.model.load_state_dict(initial)
    assert same(first, scores(built))


def test_evaluation_in_inference_mode_leaves_a_model_that_trains(name):
    built = build(name)
    expected = scores(build(name))
    with torch.inference_mode():
        assert same(scores(built), expected)
    assert same(scores(built), expected)
    total_loss(built.model.train(), built.batch(64)).backward()


def test_evaluation_computes_the_representations_once(name, monkeypatch):
    built = build(name, eval_batch_size=20 * 100)
    if type(built.model).full_sort_predict is not MultimodalModelMixin.full_sort_predict:
        pytest.skip("scores are no inner products of representations")
    assert len(built.test_data) > 1
    calls, forward = [], built.model.forward
    monkeypatch.setattr(built.model, "forward", lambda: calls.append(1) or forward())
    scores(built)
    scores(built)
    assert len(calls) == 2, "once per evaluation, whatever the number of batches"


def test_checkpoint_holds_no_feature_table(name):
    built = build(name)
    keys = built.model.state_dict().keys()
    assert not [key for key in keys if "feature_" in key or "observed_" in key]


def test_untrained_copy_predicts_one_row(name):
    built = build(name)
    row = built.batch(1)
    clone = copy.deepcopy(built.model).eval()
    with torch.no_grad():
        assert clone.predict(row).isfinite().all()
    assert same(scores(built), scores(built))


def test_weight_zero_is_leaving_the_modality_out(name):
    left_out = scores(build(name, modalities=["image", "text", "profile"]))
    weighted = scores(build(name, modality_weight={"audio": 0}))
    assert same(left_out, weighted)


OPTIONS_PER_MODALITY = {"MMGCN": {"projection_dim": {"audio": 4}}, "MGAT": {"projection_dim": {"audio": 4}}}
OPTIONS_PER_MODALITY["MMGCL"] = {"mask_probability": {"audio": 0.5, "image": 0.25, "text": 0.25}}
_RATES = {"audio": 0.1, "image": 0.1, "text": 0.1}
OPTIONS_PER_MODALITY["MML"] = {"feature_learning_rate": _RATES, "adapt_learning_rate": {**_RATES, "id": 0.01}}


@pytest.mark.parametrize("name", OPTIONS_PER_MODALITY)
def test_options_may_name_a_modality_of_weight_zero(name):
    """As when a comparison trains a tuned model once more without each of its modalities."""
    weighted = build(name, modality_weight={"audio": 0}, **OPTIONS_PER_MODALITY[name])
    adapted = {} if name != "MML" else {"adapt_learning_rate": {"image": 0.1, "text": 0.1, "id": 0.01}}
    assert same(scores(weighted), scores(build(name, modality_weight={"audio": 0}, **adapted)))


def test_a_modality_with_a_name_that_torch_keeps_for_itself_is_refused():
    with pytest.raises(ValueError, match="'type'.*rename"):
        tiny_model("MMGCN", [(0, 0), (0, 1)], {"type": np.eye(2, dtype=np.float32)})


def test_equal_weights_are_no_weights_and_unequal_weights_act(name):
    plain, doubled = build(name), build(name, modality_weight={modality: 2.0 for modality in MODALITIES})
    unequal = build(name, modality_weight={"image": 3.0})
    for built in (plain, doubled, unequal):
        train_steps(built, 2)
    assert same(scores(plain), scores(doubled))
    assert not same(scores(plain), scores(unequal))


def test_contrastive_weight_adds_a_term_with_gradients(name):
    if not learns(name):
        with pytest.raises(ValueError, match="contrastive_weight"):
            build(name, contrastive_weight=0.5)
        return
    losses = {}
    for weight in (0.0, 0.5):
        built = build(name, contrastive_weight=weight, **CONTRASTED.get(name, {}))
        torch.manual_seed(0)
        loss = total_loss(built.model.train(), built.batch())
        loss.backward()
        assert loss.isfinite()
        losses[weight] = loss.item()
    assert losses[0.0] != losses[0.5]


@pytest.mark.parametrize("missing", ["zero", "mean", "knn", "drop"])
def test_missing_rows_score_finitely(name, missing):
    built = build(name, missing_feature=missing)
    train_steps(built, 2)
    _, values = scores(built)
    assert values[:, 1:].isfinite().all()


def test_training_on_several_threads_repeats_itself(name):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        runs = []
        for _ in range(4):
            built = build(name)
            runs.append((train_steps(built, 3), built.model.state_dict()))
    finally:
        torch.set_num_threads(before)
    for losses, state in runs[1:]:
        assert losses == runs[0][0]
        assert all(torch.equal(value, runs[0][1][key]) for key, value in state.items())


def test_training_lowers_the_loss_and_ranks_positives_first(name):
    if not learns(name):  # nothing is drawn or trained, but the content of mm-toy tells as much: .83 of ItemKNNCBF
        assert area_under_curve(build(name)) > 0.8
        return
    built = build(name, train_batch_size=256)
    losses = train_steps(built, STEPS.get(name, 100), built.config["learning_rate"])
    assert np.mean(losses[-10:]) < np.mean(losses[:10])
    assert area_under_curve(built) > 0.8


def area_under_curve(built) -> float:
    """Mean share of unseen items that a training positive outranks, over training pairs."""
    items = built.train_data._dataset.inter_feat["item_id"].numpy()
    users = built.train_data._dataset.inter_feat["user_id"].numpy()
    positives = {}
    for user, item in zip(users, items):
        positives.setdefault(int(user), set()).add(int(item))
    ids, values = scores(built)
    areas = []
    for user, row in zip(ids.tolist(), values.numpy()):
        liked = np.array(sorted(positives.get(user, ())))
        if len(liked) == 0:
            continue
        others = np.setdiff1d(np.arange(1, len(row)), liked)
        areas.append((row[liked][:, None] > row[others][None, :]).mean())
    return float(np.mean(areas))


def test_stock_run_recbole_drives_it_end_to_end_and_repeats_itself(name):
    options = {"epochs": 1, "state": "ERROR", "show_progress": False, "use_gpu": False, **SMALLER.get(name, {})}
    first, second = (run_recbole(model=name, dataset="mm-toy", config_dict=dict(options)) for _ in range(2))
    assert all(np.isfinite(value) for value in first["test_result"].values())
    assert first == second, "same seed, different result"


@pytest.mark.gpu
def test_cuda_scores_equal_cpu_scores(name):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    on_cpu = build(name)
    on_gpu = build(name, device="cuda", use_gpu=True)
    on_gpu.model.load_state_dict(on_cpu.model.state_dict())
    torch.testing.assert_close(scores(on_gpu)[1], scores(on_cpu)[1], rtol=1e-3, atol=1e-4)
    total_loss(on_gpu.model.train(), on_gpu.batch()).backward()
