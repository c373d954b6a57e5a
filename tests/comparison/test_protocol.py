from __future__ import annotations

import numpy as np
import pytest
import torch
from recbole.quick_start import run_recbole
from recbole.utils import ModelType

from recbole_mm.comparison.protocol import make_protocol
from recbole_mm.experiment.job import Job, prepare
from recbole_mm.experiment.split import describe_split
from tests.options import QUICK, SEQUENTIAL

TINY = {"SASRec": {key: value for key, value in SEQUENTIAL.items() if key != "train_neg_sample_args"}}


def job(protocol, model, **options):
    settings = {**protocol.settings[model], **options}
    return Job(model, protocol.dataset, settings, protocol.seed, protocol.seed, protocol.mask_seen)


@pytest.fixture(scope="module")
def mixed():
    """General, sequential and context-aware models under one protocol, prepared."""
    with torch.random.fork_rng():
        protocol = make_protocol(["BPR", "SASRec", "MMGCN", "FM"], "mm-toy", None, QUICK, TINY)
        return protocol, {name: prepare(job(protocol, name)) for name in protocol.settings}


def test_general_models_keep_recboles_own_evaluation():
    protocol = make_protocol(["BPR", "MMGCN"], "mm-toy", None, QUICK)
    assert not protocol.mask_seen and len(protocol.notes) == 1 and protocol.failures == {}
    eval_args = protocol.settings["MMGCN"]["eval_args"]
    assert eval_args == protocol.settings["BPR"]["eval_args"]
    assert eval_args["split"] == {"RS": [0.8, 0.1, 0.1]} and eval_args["order"] == "RO"
    assert protocol.settings["BPR"]["eval_batch_size"] == "auto"


def test_sequential_models_among_themselves_keep_recboles_evaluation():
    protocol = make_protocol(["SASRec", "GRU4Rec"], "mm-toy", None, QUICK)
    assert not protocol.mask_seen
    assert protocol.settings["SASRec"]["eval_args"]["split"] == {"LS": "valid_and_test"}
    assert protocol.settings["SASRec"]["train_neg_sample_args"] is None
    assert any("SASRec is trained with cross entropy" in note for note in protocol.notes)
    assert protocol.shared["user_inter_num_interval"] == "[0,inf)"


def test_mixed_kinds_share_split_and_candidates(mixed):
    protocol, prepared = mixed
    assert protocol.mask_seen and protocol.failures == {}
    assert len({entry.split["hash"] for entry in prepared.values()}) == 1
    assert len({entry.split["candidates"] for entry in prepared.values()}) == 1
    split = prepared["SASRec"].split
    assert split["valid"] == split["test"] == split["users"]
    text = " ".join(protocol.notes)
    assert "last item of each user" in text and "fewer than four" in text and "ranking all items" in text


def masked(loader):
    """User token to the item tokens that the evaluation masks."""
    found, dataset = {}, loader._dataset
    for interaction, history, _, _ in loader:
        users = dataset.id2token("user_id", interaction["user_id"].numpy())
        for user in users:
            found[user] = set()
        for row, item in zip(history[0].tolist(), history[1].tolist()):
            found[users[row]].add(dataset.id2token("item_id", item))
    return found


@pytest.mark.parametrize("part", ["valid_data", "test_data"])
def test_mixed_kinds_mask_the_same_items(mixed, part):
    _, prepared = mixed
    general, sequential = masked(getattr(prepared["BPR"], part)), masked(getattr(prepared["SASRec"], part))
    assert general == sequential and len(general) > 100 and all(general.values())


def test_the_target_is_never_masked(mixed):
    for _, (rows, items), _, targets in mixed[1]["SASRec"].test_data:
        assert not (items == targets[rows]).any()


def test_the_masked_items_get_no_rank(mixed):
    """What the trainer ranks is RecBole's own evaluation with the mask applied."""
    prepared = mixed[1]["SASRec"]
    prepared.trainer.tot_item_num = prepared.test_data._dataset.item_num
    prepared.model.eval()
    with torch.no_grad():
        for batch in prepared.test_data:
            _, scores, rows, targets = prepared.trainer._full_sort_batch_eval(batch)
            assert torch.isinf(scores[batch[1]]).all() and torch.isfinite(scores[rows, targets]).all()


def test_a_general_run_of_a_mixed_comparison_is_recboles_too(mixed):
    protocol, _ = mixed
    entry = prepare(job(protocol, "BPR"))
    entry.trainer.fit(entry.train_data, entry.valid_data, saved=False)
    test = entry.trainer.evaluate(entry.test_data, load_best_model=False)
    result = run_recbole(model="BPR", dataset="mm-toy", config_dict=protocol.settings["BPR"], saved=False)
    assert dict(result["test_result"]) == dict(test)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}}}, "one split only.*split"),
        ({"eval_args": {"order": "RO"}}, "one split only.*order"),
        ({"eval_args": {"mode": "uni50"}}, "one split only.*mode"),
        ({"eval_args": {"mode": {"valid": "uni50", "test": "full"}}}, "one split only.*mode"),
        ({"benchmark_filename": ["train", "valid", "test"]}, "benchmark_filename"),
        ({"load_col": {"inter": ["user_id", "item_id"]}}, "add it to load_col"),
        ({"TIME_FIELD": "when"}, "no 'when'.*timestamp"),
    ],
)
def test_what_cannot_be_shared_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_protocol(["BPR", "SASRec"], "mm-toy", None, {**QUICK, **options})


def test_a_callers_user_filter_stays_and_the_hash_tells_the_difference():
    options = {**QUICK, "user_inter_num_interval": "[1,inf)", "eval_args": {"split": {"LS": "valid_and_test"}}}
    protocol = make_protocol(["BPR", "SASRec"], "mm-toy", None, options, TINY)
    assert protocol.settings["BPR"]["user_inter_num_interval"] == "[1,inf)"
    split = prepare(job(protocol, "BPR")).split
    sequential = job(protocol, "SASRec")
    with pytest.raises(ValueError, match=r"another split.*\[4,inf\)"):
        prepare(Job(**{**vars(sequential), "split": split["hash"]}))


@pytest.mark.parametrize("model", ["BPR", "SASRec"])
def test_a_rating_threshold_is_not_mixed_with_ranking(model):
    with pytest.raises(ValueError, match=f"threshold=.* which {model} cannot be trained on"):
        make_protocol([model, "FM", "CMBF"], "mm-toy", None, {**QUICK, "threshold": {"rating": 3}})


def test_models_of_single_pairs_predict_the_labels_of_context_models():
    """The same ratings, labels and metrics for CMBF as for FM, which alone gets RecBole's own protocol."""
    options = {"threshold": {"rating": 4}, "state": "ERROR", "load_col": {"inter": ["user_id", "item_id", "rating"]}}
    protocol = make_protocol(["CMBF", "FM"], "mm-toy", None, options)
    alone = make_protocol(["FM"], "mm-toy", None, options)
    assert protocol.shared == alone.shared and protocol.shared["eval_args"]["mode"] == {
        "valid": "labeled",
        "test": "labeled",
    }
    assert all(settings["train_neg_sample_args"] is None for settings in protocol.settings.values())
    assert any("threshold={'rating': 4}" in note for note in protocol.notes)
    data = {name: prepare(job(protocol, name)) for name in ("CMBF", "FM")}
    assert data["CMBF"].split == data["FM"].split


def test_context_models_among_themselves_keep_their_metrics():
    protocol = make_protocol(["FM", "LR"], "mm-toy", None, {"threshold": {"rating": 4}, "state": "ERROR"})
    assert protocol.shared["metrics"] == ["AUC", "LogLoss"] and protocol.shared["threshold"] == {"rating": 4}


def test_sampled_candidates_are_pointed_out():
    protocol = make_protocol(["BPR", "Pop"], "mm-toy", None, {**QUICK, "eval_args": {"mode": "uni50"}})
    assert any("Sampled candidates" in note for note in protocol.notes)


def test_a_model_that_cannot_be_configured_fails_alone():
    protocol = make_protocol(["BPR", "KGAT", "XGBoost"], "mm-toy", None, QUICK)
    assert "BPR" in protocol.settings and "XGBoost" in protocol.failures
    assert "No module named" in protocol.failures["XGBoost"]


def test_options_come_from_files_dict_and_command_line_as_in_recbole(tmp_path, monkeypatch):
    (tmp_path / "a.yaml").write_text("embedding_size: 8\nlearning_rate: 0.1\ntrain_batch_size: 64\nmodel: Pop\n")
    monkeypatch.setattr("sys.argv", ["script", "--train_batch_size=128", "--seed=11"])
    options = {**QUICK, "learning_rate": 0.2}
    protocol = make_protocol(["BPR"], "mm-toy", [str(tmp_path / "a.yaml")], options)
    settings = protocol.settings["BPR"]
    assert (settings["embedding_size"], settings["learning_rate"], settings["train_batch_size"]) == (8, 0.2, 128)
    assert protocol.seed == 11 and "seed" not in settings and "model" not in settings


def test_a_bad_option_file_is_an_error_of_the_caller(tmp_path):
    with pytest.raises(FileNotFoundError):
        make_protocol(["BPR"], "mm-toy", [str(tmp_path / "missing.yaml")], QUICK)


def test_relative_paths_are_made_absolute(tmp_path):
    (tmp_path / "features").mkdir()
    protocol = make_protocol(["BPR"], "mm-toy", None, {**QUICK, "feature_path": "features"})
    assert protocol.settings["BPR"]["feature_path"] == str(tmp_path / "features")


def test_the_time_field_is_looked_for_in_the_encoding_of_the_files(tmp_path):
    folder = tmp_path / "dataset" / "latin"
    folder.mkdir(parents=True)
    rows = [f"Zoë{user}\ti{item}\t{10 * user + item}" for user in range(6) for item in range(6)]
    text = "\n".join(["user_id:token\titem_id:token\ttimestamp:float", *rows])
    (folder / "latin.inter").write_bytes(text.encode("latin-1"))
    protocol = make_protocol(["BPR", "SASRec"], "latin", None, {**QUICK, "encoding": "latin-1"})
    assert protocol.shared["eval_args"]["split"] == {"LS": "valid_and_test"} and not protocol.failures


def test_the_fingerprint_follows_the_data(tmp_path):
    from recbole_mm.paths import dataset_atomic_dir

    folder = tmp_path / "dataset" / "copy"
    folder.mkdir(parents=True)
    for file in (dataset_atomic_dir() / "mm-toy").glob("mm-toy.*"):
        (folder / file.name.replace("mm-toy", "copy", 1)).write_bytes(file.read_bytes())
    first = make_protocol(["BPR"], "copy", None, QUICK).fingerprint
    assert make_protocol(["BPR", "MMGCN"], "copy", None, QUICK).fingerprint == first
    with (folder / "copy.item").open("a") as stream:
        stream.write("\n")
    assert make_protocol(["BPR"], "copy", None, QUICK).fingerprint != first


def test_the_split_hash_is_about_pairs_only(mixed):
    entry = mixed[1]["BPR"]
    loaders = entry.train_data, entry.valid_data, entry.test_data
    before = describe_split(*loaders)
    feat = entry.test_data._dataset.inter_feat
    order = torch.randperm(len(feat))
    entry.test_data._dataset.inter_feat = feat[order]
    assert describe_split(*loaders)["hash"] == before["hash"]
    changed = feat.interaction["item_id"].clone()
    changed[0] = changed[0] % 80 + 1
    entry.test_data._dataset.inter_feat = type(feat)({**feat.interaction, "item_id": changed})
    after = describe_split(*loaders)
    entry.test_data._dataset.inter_feat = feat
    assert after["hash"] != before["hash"] and after["parts"]["train"] == before["parts"]["train"]
    assert after["parts"]["test"] != before["parts"]["test"]


def test_the_split_hash_does_not_know_internal_ids(mixed):
    entry = mixed[1]["BPR"]
    dataset = entry.train_data._dataset
    loaders = entry.train_data, entry.valid_data, entry.test_data
    before = describe_split(*loaders)["hash"]
    tokens = dataset.field2id_token["item_id"]
    permutation = np.concatenate([[0], np.random.default_rng(0).permutation(np.arange(1, len(tokens)))])
    renumbered = np.empty_like(tokens)
    renumbered[permutation] = tokens
    parts = [loader._dataset for loader in loaders]
    feats = [part.inter_feat for part in parts]
    try:
        dataset.field2id_token["item_id"] = renumbered
        for part, feat in zip(parts, feats):
            items = torch.from_numpy(permutation)[feat["item_id"]]
            part.inter_feat = type(feat)({**feat.interaction, "item_id": items})
        assert describe_split(*loaders)["hash"] == before
    finally:
        dataset.field2id_token["item_id"] = tokens
        for part, feat in zip(parts, feats):
            part.inter_feat = feat


def test_kinds_of_the_models_in_these_tests():
    from recbole.utils import get_model

    assert get_model("SASRec").type == ModelType.SEQUENTIAL and get_model("FM").type == ModelType.CONTEXT


def test_a_validation_metric_that_nobody_computes_is_refused():
    options = {**QUICK, "valid_metric": "MRR@10"}
    with pytest.raises(ValueError, match=r"valid_metric=MRR@10.*Recall@5, Recall@10, NDCG@5.*such as"):
        make_protocol(["BPR"], "mm-toy", None, options)
    make_protocol(["BPR"], "mm-toy", None, {**QUICK, "metrics": ["GAUC"], "valid_metric": "gauc"})


def test_the_devices_are_those_of_the_environment(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert str(make_protocol(["BPR"], "mm-toy", None, QUICK).settings["BPR"]["gpu_id"]) == "3"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    assert str(make_protocol(["BPR"], "mm-toy", None, {**QUICK, "gpu_id": "1"}).settings["BPR"]["gpu_id"]) == "1"
