"""A table of bad values of options, each with the words that its error must hold; one Config each, no training."""

from __future__ import annotations

from typing import Any

import pytest
from recbole.config import Config

NAN, INF = float("nan"), float("inf")

# Option, value, words of the message.
VALUES: list[tuple[str, Any, str]] = [
    ("n_layers", -1, "n_layers: expected at least 0, got -1"),
    ("hidden_size", 0, "hidden_size"),
    ("dropout_prob", 1.5, "dropout_prob: expected a number from 0 to 1"),
    ("attn_dropout_prob", -0.1, "attn_dropout_prob"),
    ("val_interval", {"rating": 3}, "val_interval[rating]: expected an interval in quotes"),
    ("val_interval", {"rating": "[5,1]"}, "val_interval[rating]"),
    ("val_interval", {"rating": "[3,inf"}, "val_interval[rating]"),
    ("user_inter_num_interval", "[5,2)", "user_inter_num_interval"),
    ("gpu_id", "0;1", "gpu_id: expected numbers of devices"),
    ("gpu_id", "cpu", "'' for none"),
    ("load_col", {"user": None}, "load_col[user]: expected a list of columns, or '*' for all"),
    ("load_col", {"intr": ["user_id"]}, "there is no file 'intr'. Did you mean 'inter'"),
    ("learning_rate", 0, "learning_rate: expected a finite number above 0, got 0"),
    ("learning_rate", -1e-3, "above 0"),
    ("learning_rate", NAN, "finite"),
    ("learning_rate", INF, "finite"),
    ("learning_rate", "fast", "learning_rate: expected a finite number"),
    ("learning_rate", True, "got True"),
    ("learning_rate", None, "got None"),
    ("learning_rate", [0.1], "(list)"),
    ("weight_decay", -0.1, "weight_decay: expected a finite number of at least 0"),
    ("weight_decay", "x", "weight_decay"),
    ("weight_decay", INF, "finite"),
    ("train_batch_size", 0, "train_batch_size: expected an integer of at least 1"),
    ("train_batch_size", -5, "got -5"),
    ("train_batch_size", 2.5, "(float)"),
    ("train_batch_size", "big", "got 'big'"),
    ("train_batch_size", True, "got True"),
    ("epochs", -1, "epochs: expected an integer of at least 0"),
    ("epochs", 1.5, "epochs"),
    ("epochs", "ten", "got 'ten'"),
    ("epochs", [1], "(list)"),
    ("eval_step", -1, "eval_step: expected an integer"),
    ("eval_step", 0.5, "eval_step"),
    ("eval_step", "1x", "eval_step"),
    ("stopping_step", -2, "stopping_step"),
    ("stopping_step", "never", "stopping_step"),
    ("learner", "adamm", "Did you mean 'adam'"),
    ("learner", 3, "learner: expected one of adam"),
    ("clip_grad_norm", 5, "{max_norm: 5}"),
    ("clip_grad_norm", {"maxnorm": 5}, "Did you mean 'max_norm'"),
    ("clip_grad_norm", {"max_norm": -1}, "clip_grad_norm[max_norm]"),
    ("loss_decimal_place", -1, "loss_decimal_place"),
    ("metric_decimal_place", "4 places", "metric_decimal_place"),
    ("metric_decimal_place", -4, "from 0 to 20"),
    ("seed", -1, "seed: expected an integer from 0"),
    ("seed", 2**40, "from 0 to 4,294,967,295"),
    ("seed", 1.5, "seed"),
    ("seed", "lucky", "seed"),
    ("worker", -1, "worker"),
    ("worker", "two", "worker"),
    ("topk", 0, "topk: expected a positive integer"),
    ("topk", -10, "topk"),
    ("topk", [], "topk"),
    ("topk", [10, 0], "got [10, 0]"),
    ("topk", [10, "x"], "topk"),
    ("topk", 2.5, "topk"),
    ("topk", "ten", "topk"),
    ("topk", None, "topk"),
    ("metrics", [], "metrics: expected a list of metrics"),
    ("metrics", ["Recal"], "Did you mean 'recall'"),
    ("metrics", "NDGC", "Did you mean 'ndcg'"),
    ("metrics", [3], "metrics"),
    ("metrics", None, "metrics"),
    ("metrics", ["Recall", "AUC"], "cannot be computed in one evaluation"),
    ("metrics", {"Recall": 10}, "metrics"),
    ("valid_metric", "", "valid_metric: expected a text"),
    ("valid_metric", 10, "valid_metric"),
    ("repeatable", "maybe", "repeatable: expected True or False"),
    ("reproducibility", 3, "reproducibility"),
    ("use_gpu", "cuda", "use_gpu: expected True or False"),
    ("show_progress", "no", "show_progress"),
    ("save_dataset", "yes", "save_dataset"),
    ("save_dataloaders", 2, "save_dataloaders"),
    ("enable_amp", "bf16", "enable_amp"),
    ("log_wandb", "off", "log_wandb"),
    ("data_path", "", "data_path: expected a text"),
    ("checkpoint_dir", "", "checkpoint_dir"),
    ("load_col", "inter", "load_col: expected a mapping"),
    ("load_col", {"inter": "user_id"}, "load_col[inter]: expected a list"),
    ("unload_col", ["rating"], "unload_col: expected a mapping"),
    ("benchmark_filename", "train", "benchmark_filename: expected the three endings"),
    ("benchmark_filename", ["train", "test"], "benchmark_filename"),
    ("user_inter_num_interval", 5, "user_inter_num_interval: expected an interval"),
    ("user_inter_num_interval", "5", "'[5,inf)'"),
    ("item_inter_num_interval", "[5,inf", "item_inter_num_interval"),
    ("item_inter_num_interval", "five", "item_inter_num_interval"),
    ("rm_dup_inter", "frist", "Did you mean 'first'"),
    ("rm_dup_inter", True, "rm_dup_inter"),
    ("filter_inter_by_user_or_item", "both", "filter_inter_by_user_or_item"),
    ("val_interval", "[3,inf)", "val_interval: expected a mapping"),
    ("threshold", 3, "threshold: expected a mapping"),
    ("MAX_ITEM_LIST_LENGTH", 0, "MAX_ITEM_LIST_LENGTH: expected an integer of at least 1"),
    ("embedding_size", 0, "embedding_size: expected an integer of at least 1"),
    ("embedding_size", 12.5, "embedding_size"),
    ("embedding_size", "wide", "embedding_size"),
    ("learning_rate", 10**400, "learning_rate: expected a finite number above 0"),
    ("weight_decay", 10**400, "weight_decay: expected a finite number"),
    ("embedding_size", 10**30, "embedding_size: expected an integer from 1 to 2,147,483,647"),
    ("train_batch_size", 2**31, "train_batch_size: expected an integer from 1 to 2,147,483,647"),
    ("epochs", 2**63, "epochs: expected an integer from 0 to 2,147,483,647"),
    ("topk", [10, 2**40], "topk: expected a positive integer"),
    ("stopping_step", -(10**30), "stopping_step: expected an integer of at least 0"),
    ("pre_model_path", {}, "pre_model_path: expected a path"),
    ("pre_model_path", ["a.pth"], "pre_model_path: expected a path"),
    # nested options
    ("eval_args", {"split": {"RS": [10**400, 1, 1]}}, "three shares"),
    ("train_neg_sample_args", {"distribution": "uniform", "sample_num": 2**40}, "[sample_num]"),
    ("modality_weight", 10**400, "modality_weight"),
    ("slice_tail", 10**400, "slice_tail"),
    ("cold_start", {"entity": "user", "ratio": 10**400}, "cold_start[ratio]"),
    ("cold_start", {"entity": "user", "seed": 2**32}, "cold_start[seed]"),
    ("eval_args", None, "eval_args: expected a mapping"),
    ("eval_args", "full", "eval_args: expected a mapping"),
    (
        "eval_args",
        {"splitt": {"RS": [8, 1, 1]}},
        "unknown key 'splitt', which RecBole would drop. Did you mean 'split'",
    ),
    ("eval_args", {"odrer": "TO"}, "Did you mean 'order'"),
    ("eval_args", {"groupby": "user"}, "Did you mean 'group_by'"),
    ("eval_args", {"modes": "full"}, "Did you mean 'mode'"),
    ("eval_args", {"split": {"RS": [1.2, -0.1, -0.1]}}, "eval_args[split][RS]: expected three shares"),
    ("eval_args", {"split": {"RS": [0.8, 0.2]}}, "three shares"),
    ("eval_args", {"split": {"RS": [0, 0.5, 0.5]}}, "training (above 0)"),
    ("eval_args", {"split": {"RS": [NAN, 1, 1]}}, "three shares"),
    ("eval_args", {"split": {"RS": ["8", "1", "1"]}}, "three shares"),
    ("eval_args", {"split": {"RS": 0.8}}, "three shares"),
    ("eval_args", {"split": {"SR": [8, 1, 1]}}, "unknown key 'SR'"),
    ("eval_args", {"split": {"RS": [8, 1, 1], "LS": "valid_and_test"}}, "expected one of"),
    ("eval_args", {"split": [8, 1, 1]}, "eval_args[split]"),
    ("eval_args", {"split": {"LS": "valid_and_tset"}}, "Did you mean 'valid_and_test'"),
    ("eval_args", {"order": "OT"}, "eval_args[order]: expected one of RO, TO"),
    ("eval_args", {"group_by": "item"}, "eval_args[group_by]"),
    ("eval_args", {"mode": "uni0"}, "ranks every positive alone"),
    ("eval_args", {"mode": "pop00"}, "ranks every positive alone"),
    ("eval_args", {"mode": "uni"}, "mode expected full, labeled"),
    ("eval_args", {"mode": "uni-5"}, "mode expected full"),
    ("eval_args", {"mode": "ful"}, "Did you mean 'full'"),
    ("eval_args", {"mode": {"valid": "full", "tset": "full"}}, "Did you mean 'test'"),
    ("eval_args", {"mode": {"valid": "uni0", "test": "full"}}, "ranks every positive alone"),
    ("eval_args", {"mode": 100}, "mode expected"),
    ("train_neg_sample_args", "uniform", "train_neg_sample_args: expected a mapping"),
    ("train_neg_sample_args", {"distributoin": "uniform"}, "Did you mean 'distribution'"),
    ("train_neg_sample_args", {"distribution": "uniform", "sample_nm": 2}, "Did you mean 'sample_num'"),
    ("train_neg_sample_args", {"distribution": "popular"}, "Did you mean 'popularity'"),
    ("train_neg_sample_args", {"distribution": "uniform", "sample_num": 0}, "[sample_num]"),
    ("train_neg_sample_args", {"distribution": "uniform", "sample_num": 1.5}, "[sample_num]"),
    ("train_neg_sample_args", {"distribution": "uniform", "alpha": -1}, "[alpha]"),
    ("train_neg_sample_args", {"distribution": "uniform", "alpha": "x"}, "[alpha]"),
    ("train_neg_sample_args", {"distribution": "uniform", "dynamic": "yes"}, "[dynamic]"),
    ("train_neg_sample_args", {"distribution": "uniform", "candidate_num": -1}, "[candidate_num]"),
    # the shared options
    ("modalities", [], "modalities: expected a list"),
    ("modalities", ["image", "image"], "every modality once"),
    ("modalities", 3, "modalities"),
    ("modality_weight", {"image": -1}, "modality_weight[image]"),
    ("modality_weight", 0, "leaves no feature"),
    ("modality_weight", NAN, "modality_weight"),
    ("feature_norm", "zscor", "Did you mean 'zscore'"),
    ("feature_norm", {"image": "l3"}, "feature_norm[image]"),
    ("missing_feature", "nought", "missing_feature: expected one of"),
    ("contrastive_weight", -1, "contrastive_weight"),
    ("contrastive_temperature", 0, "contrastive_temperature"),
    ("feature_dtype", "float64", "feature_dtype"),
    ("feature_path", "", "feature_path"),
    ("eval_batch_size", 0, "eval_batch_size"),
    ("eval_batch_size", "atuo", "eval_batch_size"),
    ("eval_memory_mb", -1, "eval_memory_mb"),
    ("slices", ["cold"], "unknown slice"),
    ("slice_tail", 2, "slice_tail"),
    ("cold_start", {"entity": "users"}, "cold_start[entity]"),
    ("cold_start", {"entity": "user", "ratio": 1}, "cold_start[ratio]"),
    ("cold_start", {"entitty": "user"}, "Did you mean 'entity'"),
    ("cold_features", "inductiv", "Did you mean 'inductive'"),
    ("dense_backend", "mkl", "auto, torch, onednn"),
    ("optimizer_fused", True, "auto, never"),
]


def test_the_table_is_as_long_as_it_is_said_to_be():
    assert len(VALUES) >= 120


@pytest.mark.parametrize(("option", "value", "words"), VALUES, ids=lambda entry: str(entry)[:40])
def test_a_bad_value_is_refused_before_anything_is_read(option: str, value: Any, words: str) -> None:
    with pytest.raises((ValueError, KeyError)) as caught:
        Config("MMGCN", "mm-toy", config_dict={"state": "ERROR", option: value})
    assert words in str(caught.value)
    assert option.split("[")[0] in str(caught.value)


@pytest.mark.parametrize("name", [1, None, True, ("a", "b")])
def test_a_name_that_is_no_text_is_refused(name: Any) -> None:
    with pytest.raises(ValueError, match="is no name of an option; expected a text"):
        Config("BPR", "mm-toy", config_dict={"state": "ERROR", name: 1})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("epochs", 0), ("eval_step", 0), ("learning_rate", 1), ("topk", 5), ("topk", [1, 2]), ("metrics", "Recall"),
        ("clip_grad_norm", {"max_norm": 5.0, "norm_type": 2}), ("user_inter_num_interval", "[5,inf);[0,2]"),
        ("user_inter_num_interval", None), ("rm_dup_inter", None), ("eval_args", {"split": {"RS": [8, 1, 1]}}),
        ("eval_args", {"split": {"LS": "test_only"}, "order": "TO", "group_by": "user", "mode": {"test": "uni100"}}),
        ("train_neg_sample_args", {"distribution": "popularity", "sample_num": 2, "alpha": 0.5, "dynamic": True,
                                   "candidate_num": 4}),
        ("threshold", {"rating": 3}), ("load_col", {"inter": ["user_id", "item_id"]}), ("load_col", None),
        ("seed", 2**32 - 1), ("benchmark_filename", ["train", "valid", "test"]), ("learner", "AdamW"),
    ],
)  # fmt: skip
def test_good_values_stay_good(option: str, value: Any) -> None:
    more = {"valid_metric": "Recall@5"} if option == "topk" else {}
    more = {"metrics": ["Recall"], "topk": [5], "valid_metric": "Recall@5"} if option in ("topk", "metrics") else {}
    if option == "topk":
        more = {"metrics": ["Recall"], "valid_metric": f"Recall@{value if isinstance(value, int) else value[0]}"}
    made = Config("BPR", "mm-toy", config_dict={"state": "ERROR", **more, option: value})
    assert made[option] is not None or value is None
