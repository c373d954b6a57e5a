import logging
import math

import pytest
import yaml
from recbole.config import Config
from recbole.model.context_aware_recommender.fm import FM
from recbole.model.general_recommender.bpr import BPR
from recbole.model.general_recommender.neumf import NeuMF
from recbole.model.sequential_recommender.gru4rec import GRU4Rec
from recbole.utils import ModelType

from recbole_mm.config import (
    SHARED_OPTIONS,
    ModelOptions,
    active_weights,
    check_command_line,
    check_config,
    check_modalities,
    known_keys,
    modality_names,
    properties_directory,
    read_options,
    resolve_eval_batch_size,
    suggest,
)
from recbole_mm.config.metrics import settle_valid_metric
from recbole_mm.config.names import key_sources, read_keys
from recbole_mm.config.slices import SLICES, slice_names, tail_share


def options(**values):
    return ModelOptions(values, "MMGCN")


class TestModelOptions:
    def test_reads_each_kind(self):
        view = options(a=3, b=0.5, c=True, d="sum", e=[8, 4], f=None, g="x", h=2)
        assert view.integer("a", minimum=3, maximum=3) == 3
        assert view.number("b") == 0.5 and view.number("a") == 3.0 and isinstance(view.number("a"), float)
        assert view.boolean("c") is True
        assert view.choice("d", ["sum", "mean"]) == "sum"
        assert view.integers("e", minimum=4) == [8, 4]
        assert view.optional_integer("f") is None and view.optional_integer("h") == 2
        assert view.optional_number("f") is None and view.optional_number("b") == 0.5
        assert view.optional_texts("f") is None and view.optional_texts("g") == ["x"]
        with pytest.raises(ValueError, match="non-empty text"):
            view.optional_texts("e")
        with pytest.raises(ValueError, match="list of names"):
            view.optional_texts("a")
        assert view.optional_text("f") is None and view.optional_text("g") == "x" and view.text("g") == "x"
        assert view.read == set("abcdefgh")

    def test_empty_list_is_a_list(self):
        assert options(sizes=[]).integers("sizes") == []

    def test_missing_key_names_the_yaml(self):
        with pytest.raises(KeyError, match=r"'n_layers'.*properties/model/MMGCN\.yaml"):
            options().integer("n_layers")

    def test_missing_key_counts_as_read(self):
        view = options()
        with pytest.raises(KeyError):
            view.text("name")
        assert view.read == {"name"}

    @pytest.mark.parametrize(
        ("kind", "arguments", "before", "later"),
        [
            ("integer", {"minimum": 1}, 1, 3),
            ("number", {"minimum": 0}, 0.0, 0.5),
            ("boolean", {}, False, True),
            ("choice", {"allowed": ["sum", "mean"]}, "sum", "mean"),
            ("optional_text", {}, None, "x"),
        ],
    )
    def test_what_an_option_was_before_it_existed(self, kind, arguments, before, later):
        old, new = options(), options(young=later)
        assert getattr(old, kind)("young", **arguments, before=before) == before and old.read == {"young"}
        assert getattr(new, kind)("young", **arguments, before=before) == later

    def test_what_an_option_was_before_is_no_value_of_another_kind(self):
        with pytest.raises(ValueError, match="'young': expected an integer of at least 1"):
            options().integer("young", minimum=1, before=0)
        with pytest.raises(ValueError, match="'young': expected True or False"):
            options(young=None).boolean("young", before=False)  # a key without a value is not a missing one

    @pytest.mark.parametrize("value", ["two", "2", 2.0, True, None, [2]])
    def test_no_integer(self, value):
        with pytest.raises(ValueError, match=r"'n_layers': expected an integer.* got " + ".*" + type(value).__name__):
            options(n_layers=value).integer("n_layers", minimum=1)

    @pytest.mark.parametrize("value", ["0.1", True, None, math.nan, math.inf, -math.inf, {}])
    def test_no_number(self, value):
        with pytest.raises(ValueError, match="expected a finite number"):
            options(rate=value).number("rate")

    @pytest.mark.parametrize("value", ["False", "True", 0, 1, None])
    def test_no_truth_value(self, value):
        with pytest.raises(ValueError, match="expected True or False"):
            options(concat=value).boolean("concat")

    @pytest.mark.parametrize(("minimum", "maximum", "text"), [(1, None, "at least 1"), (None, -1, "at most -1")])
    def test_bounds(self, minimum, maximum, text):
        with pytest.raises(ValueError, match=text):
            options(n=0).integer("n", minimum, maximum)
        with pytest.raises(ValueError, match=text):
            options(n=0.0).number("n", minimum, maximum)

    def test_bounds_are_inclusive(self):
        assert options(n=1).integer("n", 1, 1) == 1
        with pytest.raises(ValueError, match="from 0 to 1"):
            options(n=1.01).number("n", 0, 1)

    def test_choice_names_the_nearest(self):
        with pytest.raises(ValueError, match=r"one of sum, mean, got 'maen' \(str\)\. Did you mean 'mean'"):
            options(fusion="maen").choice("fusion", ["sum", "mean"])
        with pytest.raises(ValueError, match="expected one of"):
            options(fusion=["sum"]).choice("fusion", ["sum"])

    @pytest.mark.parametrize("value", ["", 3, None])
    def test_no_text(self, value):
        with pytest.raises(ValueError, match="non-empty text"):
            options(name=value).text("name")

    @pytest.mark.parametrize("value", ["[1]", 1, None, [1, "2"], [0]])
    def test_no_integers(self, value):
        with pytest.raises(ValueError, match="'sizes'"):
            options(sizes=value).integers("sizes", minimum=1)


class TestPerModality:
    NAMES = ("image", "text")

    def test_one_value_for_all(self):
        assert options(dim=8).per_modality("dim", self.NAMES, "integer") == {"image": 8, "text": 8}

    def test_mapping_keeps_the_order_of_the_modalities(self):
        read = options(dim={"text": 4, "image": 8}).per_modality("dim", self.NAMES, "integer")
        assert list(read.items()) == [("image", 8), ("text", 4)]

    def test_unknown_modality(self):
        with pytest.raises(ValueError, match=r"unknown modality 'imge'\. Did you mean 'image'\?.*image, text"):
            options(dim={"imge": 4}).per_modality("dim", self.NAMES, "integer")

    def test_incomplete_mapping(self):
        view = options(dim={"text": 4})
        with pytest.raises(ValueError, match="no value for image"):
            view.per_modality("dim", self.NAMES, "integer")
        assert view.per_modality("dim", self.NAMES, "integer", default=16) == {"image": 16, "text": 4}

    def test_none_takes_the_default(self):
        assert options(w=None).per_modality("w", self.NAMES, default=1.0) == {"image": 1.0, "text": 1.0}
        with pytest.raises(ValueError, match="finite number"):
            options(w=None).per_modality("w", self.NAMES)

    def test_kinds(self):
        view = options(a={"image": None, "text": 3}, b=False, c={"image": "l2", "text": "none"}, d=None)
        assert view.per_modality("a", self.NAMES, "optional_integer") == {"image": None, "text": 3}
        assert view.per_modality("b", self.NAMES, "boolean") == {"image": False, "text": False}
        assert view.per_modality("c", self.NAMES, "choice", allowed=["none", "l2"]) == {"image": "l2", "text": "none"}
        assert view.per_modality("d", self.NAMES, "optional_integer") == {"image": None, "text": None}

    def test_wrong_value_names_the_modality(self):
        with pytest.raises(ValueError, match=r"'dim\[text\]': expected an integer of at least 1"):
            options(dim={"image": 1, "text": 0}).per_modality("dim", self.NAMES, "integer", minimum=1)

    def test_unknown_kind(self):
        with pytest.raises(ValueError, match="kind must be one of"):
            options(dim=1).per_modality("dim", self.NAMES, "float")


class TestModalities:
    @pytest.mark.parametrize(
        ("value", "names"),
        [(None, None), ("image", ["image"]), ("image, text", ["image", "text"]), (("a", "b"), ["a", "b"])],
    )
    def test_spellings(self, value, names):
        assert modality_names(value) == names

    @pytest.mark.parametrize("value", [[], "", 3, [3], ["a", ""], {"a": 1}, ["a", "a"], "a,"])
    def test_refused(self, value):
        with pytest.raises(ValueError, match="modalities:"):
            modality_names(value)

    def test_unknown(self):
        check_modalities(["text"], {"text": 1, "image": 2})
        with pytest.raises(ValueError, match=r"modalities: unknown modality 'txt'\. Did you mean 'text'"):
            check_modalities(["text", "txt"], ["text", "image"])
        with pytest.raises(ValueError, match="no modality at all"):
            check_modalities(["text"], [])


class TestWeights:
    def test_weight_zero_leaves_out(self):
        assert active_weights({"image": 0, "text": 2}, ["image", "text"]) == {"text": 2.0}

    def test_unnamed_weigh_one(self):
        assert active_weights(None, ["b", "a"]) == {"b": 1.0, "a": 1.0}
        assert active_weights({"a": 0.5}, ["b", "a"]) == {"b": 1.0, "a": 0.5}
        assert active_weights(3, ["a"]) == {"a": 3.0}

    @pytest.mark.parametrize("value", [-1, math.nan, math.inf, True, "1", None, [1]])
    def test_no_weight(self, value):
        with pytest.raises(ValueError, match=r"modality_weight\[image\]: expected a finite number of at least 0"):
            active_weights({"image": value}, ["image"])

    @pytest.mark.parametrize("value", [-1, 0, math.nan, True, [1], "{'image': 1}"])
    def test_no_weight_for_all(self, value):
        with pytest.raises(ValueError, match="modality_weight"):
            active_weights(value, ["image"])

    def test_all_zero(self):
        with pytest.raises(ValueError, match="every one of image, text has weight 0"):
            active_weights({"image": 0, "text": 0.0}, ["image", "text"])

    def test_unknown_modality(self):
        with pytest.raises(ValueError, match=r"modality_weight: unknown modality 'imge'\. Did you mean 'image'"):
            active_weights({"imge": 1}, ["image", "text"])


class TestSharedOptions:
    def test_schema_is_overall_yaml(self):
        assert set(SHARED_OPTIONS) == read_keys(properties_directory() / "overall.yaml")

    def test_memory_default_is_the_yamls(self):
        defaults = yaml.safe_load((properties_directory() / "overall.yaml").read_text(encoding="utf-8"))
        general = {"MODEL_TYPE": ModelType.GENERAL, "eval_batch_size": "auto"}
        assert resolve_eval_batch_size({**defaults, **general}, BPR) == resolve_eval_batch_size(general, BPR)

    def test_defaults_pass(self):
        defaults = yaml.safe_load((properties_directory() / "overall.yaml").read_text(encoding="utf-8"))
        check_config(defaults, {}, {}, {}, BPR)

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("feature_norm", "l3", "none, l2, zscore, zscore_l2 or a mapping"),
            ("feature_norm", {"image": "zscore2"}, r"feature_norm\[image\].*Did you mean 'zscore"),
            ("feature_norm", None, "feature_norm"),
            ("missing_feature", "men", "Did you mean 'mean'"),
            ("missing_feature", {"image": "mean"}, "missing_feature"),
            ("contrastive_weight", -0.1, "at least 0"),
            ("contrastive_weight", math.nan, "finite"),
            ("contrastive_temperature", 0, "above 0"),
            ("feature_dtype", "float", "float32"),
            ("feature_path", 3, "folder"),
            ("eval_batch_size", "many", "'auto' or a positive integer"),
            ("eval_batch_size", 0, "'auto' or a positive integer"),
            ("eval_batch_size", True, "'auto' or a positive integer"),
            ("eval_memory_mb", 0, "above 0"),
            ("modality_weight", "{'imge': 1}", "without quotes"),
            ("modality_weight", 0, "leaves no feature"),
            ("modalities", [], "list of names"),
            ("slices", ["cold_item"], r"unknown slice 'cold_item'\. Did you mean 'cold_items'"),
            ("slices", "cold_items, cold", "unknown slice 'cold'"),
            ("slices", {"all": 1}, "True \\(every slice\\) or a list"),
            ("slices", 3, "True \\(every slice\\) or a list"),
            ("slices", ["all", "all"], "every slice once"),
            ("slice_tail", 0, "above 0 and below 1"),
            ("slice_tail", 1.0, "above 0 and below 1"),
            ("slice_tail", "0.2", "above 0 and below 1"),
            ("valid_metric", "Recall@10[cold_items]", "needs the slice 'cold_items', and slices has none"),
        ],
    )
    def test_refused_wherever_it_comes_from(self, key, value, message):
        for place in range(4):
            layers = [{}, {}, {}, {}]
            layers[place] = {key: value}
            with pytest.raises(ValueError, match=message):
                check_config(*layers, BPR)

    def test_weights_against_the_list_of_modalities(self):
        check_config({}, {"modalities": ["image"], "modality_weight": {"image": 2}}, {}, {})
        with pytest.raises(ValueError, match="unknown modality 'text'"):
            check_config({}, {"modalities": ["image"], "modality_weight": {"text": 1}}, {}, {})
        with pytest.raises(ValueError, match="has weight 0"):
            check_config({"modalities": "image"}, {}, {"modality_weight": {"image": 0}}, {})

    def test_the_last_layer_counts(self):
        check_config({}, {"feature_norm": "wrong"}, {"feature_norm": "l2"}, {})


class TestSlices:
    @pytest.mark.parametrize(
        ("value", "names"),
        [
            (None, ()),
            (False, ()),
            ([], ()),
            (True, SLICES),
            ("cold_items,all", ("cold_items", "all")),
            (["tail_users"], ("tail_users",)),
        ],
    )
    def test_ways_to_write_them(self, value, names):
        assert slice_names(value) == names

    def test_default_tail_is_the_yamls(self):
        defaults = yaml.safe_load((properties_directory() / "overall.yaml").read_text(encoding="utf-8"))
        assert defaults["slice_tail"] == tail_share(None) and slice_names(defaults["slices"]) == ()

    def test_a_slice_can_choose_the_epoch(self):
        check_config({}, {"slices": ["cold_items"], "valid_metric": "Recall@10[cold_items]"}, {}, {})

    @pytest.mark.parametrize("metric", ["Recall@10[cold_items,random]", "Recall@10[cold_items", "cases[cold_items]"])
    def test_what_cannot_choose_the_epoch(self, metric):
        with pytest.raises(ValueError, match=r"written like Recall@20\[cold_items\]"):
            check_config({}, {"slices": True, "valid_metric": metric}, {}, {})


class TestUnknownKeys:
    def test_suggest(self):
        assert suggest("learning_rat", ["learning_rate", "x"]) == " Did you mean 'learning_rate'?"
        assert suggest("MMGNC", ["MMGCN", "MMGCL"]).startswith(" Did you mean 'MMGCN'")
        assert suggest("zzz", ["learning_rate"]) == ""

    def test_command_line_is_refused(self):
        check_command_line({"learning_rate": 1, "modalities": 2, "n_layers": 3, "nproc": 4})
        with pytest.raises(ValueError, match=r"Unknown option 'learning_rat'.*Did you mean 'learning_rate'"):
            check_command_line({"learning_rat"})

    @pytest.mark.parametrize("place", [1, 2, 3])
    def test_elsewhere_a_warning(self, place, caplog):
        layers = [{}, {}, {}, {}]
        layers[place] = {"epoch": 3}
        with caplog.at_level(logging.WARNING):
            check_config(*layers, BPR)
        assert "Unknown option 'epoch'" in caplog.text and "'epochs'" in caplog.text

    @pytest.mark.parametrize(
        "key",
        [
            "n_layers",  # a model's yaml
            "threshold",  # RecBole's overall.yaml
            "benchmark_filename",  # an argument list
            "kg_reverse_r",  # a data set yaml
            "xgb_early_stopping_rounds",  # only in RecBole's source
            "model",
        ],
    )
    def test_known(self, key, caplog):
        with caplog.at_level(logging.WARNING):
            check_config({}, {key: None}, {}, {}, BPR)
        assert not caplog.text

    def test_options_of_every_model_are_known(self, caplog):
        keys = {key for file in (properties_directory() / "model").glob("*.yaml") for key in read_keys(file)}
        assert keys and keys <= known_keys()

    def test_own_model_source_is_read(self, caplog):
        class Mine(BPR):
            def __init__(self, config, dataset):
                self.width = config["my_own_width"]

        assert "my_own_width" in key_sources(Mine) and "my_own_width" not in key_sources(BPR)
        with caplog.at_level(logging.WARNING):
            check_config({}, {}, {"my_own_width": 3}, {}, Mine)
        assert not caplog.text

    def test_class_without_source(self):
        assert key_sources(type("Typed", (BPR,), {"__module__": "nowhere"})) >= {"xgb_early_stopping_rounds"}

    def test_internal_keys_are_known(self, caplog):
        check_config({"users_registered_option": 3}, {}, {"users_registered_option": 4}, {})
        assert not caplog.text


class TestValues:
    INTERNAL = {"epochs": 300, "concat": True, "n_layers": 2, "dropout_prob": 0.1, "gpu_id": "0"}

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [("n_layers", "ten", "an integer"), ("dropout_prob", "low", "a number"), ("concat", "False", "True or False")],
    )
    def test_text_where_a_number_belongs(self, key, value, message, caplog):
        with pytest.raises(ValueError, match=f"{key}: expected {message}"):
            check_config(self.INTERNAL, {}, {}, {key: value}, BPR)
        with caplog.at_level(logging.WARNING):
            check_config(self.INTERNAL, {key: value}, {}, {}, BPR)
        assert f"{key}: expected {message}" in caplog.text

    def test_options_of_our_models_are_refused_in_files_too(self):
        class MMGCN:
            """Stands for the model: only the name counts."""

        with pytest.raises(ValueError, match=r"n_layers: expected an integer \(default 2\), got the text 'two'"):
            check_config(self.INTERNAL, {"n_layers": "two"}, {}, {}, MMGCN)

    def test_right_kinds(self, caplog):
        check_config(self.INTERNAL, {}, {}, {"epochs": 3, "learning_rate": 1, "gpu_id": "1,2", "concat": False}, BPR)
        assert not caplog.text


class TestOptionFiles:
    def test_reads(self, tmp_path):
        file = tmp_path / "a.yaml"
        file.write_text("epochs: 3\n", encoding="utf-8")
        assert read_options(file) == {"epochs": 3}

    @pytest.mark.parametrize(("text", "message"), [("a: [1", "is not yaml"), ("- 1", "holds no options"), ("", "None")])
    def test_refused(self, tmp_path, text, message):
        file = tmp_path / "a.yaml"
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            read_options(file)
        with pytest.raises(FileNotFoundError, match="nix.yaml"):
            read_options(tmp_path / "nix.yaml")


class TestEvalBatchSize:
    BUDGET = 128 * 2**20 // 16

    @staticmethod
    def resolve(model_class, kind, mode, **more):
        merged = {"eval_batch_size": "auto", "MODEL_TYPE": kind, "eval_args": {"mode": mode}, **more}
        return resolve_eval_batch_size(merged, model_class)

    def test_number_stays(self):
        assert self.resolve(BPR, ModelType.GENERAL, "full", eval_batch_size=7) == 7

    def test_scores_of_general_models(self):
        assert self.resolve(BPR, ModelType.GENERAL, "full") == self.BUDGET == 8_388_608
        assert self.resolve(BPR, ModelType.GENERAL, "full", eval_memory_mb=16) == 2**20
        assert self.resolve(BPR, ModelType.TRADITIONAL, {"valid": "full", "test": "full"}) == self.BUDGET

    def test_never_zero(self):
        assert self.resolve(BPR, ModelType.GENERAL, "full", eval_memory_mb=1e-6) == 1
        assert self.resolve(GRU4Rec, ModelType.SEQUENTIAL, "full", eval_memory_mb=1e-6) == 1

    def test_pairs_without_full_sort_predict(self):
        # RecBole then calls predict() with users x items pairs, which must not be millions at once.
        assert self.resolve(NeuMF, ModelType.GENERAL, "full") == 65_536
        assert self.resolve(None, ModelType.GENERAL, "full") == 65_536

    def test_sequences_are_counted_otherwise(self):
        # RecBole takes the number as sequences, and each one is a row of scores.
        assert self.resolve(GRU4Rec, ModelType.SEQUENTIAL, "full") == 256
        assert self.resolve(GRU4Rec, ModelType.SEQUENTIAL, "uni100") == 4_096

    @pytest.mark.parametrize(
        ("mode", "pairs"), [("uni100", 25_856), ("pop999", 65_536), ("labeled", 65_536), ("uni1", 512)]
    )
    def test_pairs_of_sampled_modes(self, mode, pairs):
        assert self.resolve(BPR, ModelType.GENERAL, mode) == pairs

    def test_two_modes_take_the_smaller(self):
        assert self.resolve(BPR, ModelType.GENERAL, {"valid": "uni100", "test": "full"}) == 25_856

    def test_other_families_keep_the_default(self):
        assert self.resolve(FM, ModelType.CONTEXT, "labeled") == 4_096

    def test_missing_options(self):
        assert resolve_eval_batch_size({"MODEL_TYPE": ModelType.GENERAL}, BPR) == self.BUDGET

    @pytest.mark.parametrize("size", [0, -1, 2.5, True, "atuo"])
    def test_refused(self, size):
        with pytest.raises(ValueError, match="eval_batch_size: expected 'auto' or a positive integer"):
            self.resolve(BPR, ModelType.GENERAL, "full", eval_batch_size=size)

    @pytest.mark.parametrize("memory", [0, -1, "1", True, math.inf, math.nan])
    def test_memory_refused(self, memory):
        with pytest.raises(ValueError, match="eval_memory_mb"):
            self.resolve(BPR, ModelType.GENERAL, "full", eval_memory_mb=memory)

    @pytest.mark.parametrize("mode", ["ful", "uni", "uniform100", 3, "top10"])
    def test_mode_refused(self, mode):
        with pytest.raises(ValueError, match="mode expected full, labeled, uniN or popN"):
            self.resolve(BPR, ModelType.GENERAL, mode)

    @pytest.mark.parametrize(
        ("model", "more", "size"),
        [
            ("BPR", {"eval_args": {"mode": "full"}}, 8_388_608),
            ("BPR", {"eval_args": {"mode": {"valid": "uni100"}}}, 25_856),
            ("NeuMF", {}, 65_536),
            ("GRU4Rec", {"loss_type": "BPR"}, 256),
            ("FM", {}, 4_096),
        ],
    )
    def test_recbole_models_may_ask_for_it(self, model, more, size):
        config = Config(model=model, dataset="ml-100k", config_dict={"eval_batch_size": "auto", **more})
        assert config["eval_batch_size"] == size

    def test_recbole_models_keep_their_default(self):
        assert Config(model="BPR", dataset="ml-100k")["eval_batch_size"] == 4096


class TestThroughConfig:
    """RecBole's own Config does the checks, whoever makes it."""

    def test_unknown_modality_text(self):
        config = Config(model="MMGCN", dataset="ml-100k", config_dict={"modality_weight": "{'text': 1}"})
        assert config["modality_weight"] == {"text": 1}  # RecBole evaluates texts in dicts

    def test_wrong_value(self):
        with pytest.raises(ValueError, match="feature_norm"):
            Config(model="MMGCN", dataset="ml-100k", config_dict={"feature_norm": "l3"})

    def test_foreign_arguments_only_warn(self, monkeypatch, caplog):
        monkeypatch.setattr("sys.argv", ["my_script.py", "--my_argument=3"])
        with caplog.at_level(logging.WARNING):
            config = Config(model="MMGCN", dataset="ml-100k")
        assert config["my_argument"] == 3 and "my_argument" in caplog.text

    def test_yaml_text_is_no_truth_value(self, tmp_path):
        file = tmp_path / "a.yaml"
        file.write_text("concat: 'False'\n", encoding="utf-8")
        with pytest.raises(ValueError, match="concat: expected True or False"):
            Config(model="MMGCN", dataset="ml-100k", config_file_list=[str(file)])


def test_labels_are_not_evaluated_by_metrics_of_lists() -> None:
    options = {"metrics": ["Recall"], "topk": [10], "valid_metric": "Recall@10"}
    assert settle_valid_metric({**options, "eval_args": {"mode": {"valid": "full", "test": "full"}}}, True)[1] == ""
    for mode in ("labeled", {"valid": "full", "test": "labeled"}):
        with pytest.raises(ValueError, match=r"mode labeled compares .* Recall measure lists"):
            settle_valid_metric({**options, "eval_args": {"mode": mode}}, True)
    labelled = {"metrics": ["AUC"], "topk": [10], "valid_metric": "AUC", "eval_args": {"mode": "labeled"}}
    assert settle_valid_metric(labelled, True) == ("AUC", "")


def test_whole_catalogues_are_not_evaluated_by_metrics_of_labels() -> None:
    for chosen in (
        {"metrics": ["AUC"]},
        {"metrics": "LogLoss", "eval_args": {"mode": {"valid": "uni9", "test": "full"}}},
    ):
        with pytest.raises(ValueError, match=r"metrics: (AUC|LogLoss) compares scores .* Choose .* or mode labeled"):
            Config(model="BPR", dataset="mm-toy", config_dict={**chosen, "valid_metric": "AUC"})
    for mode in ("labeled", "uni100"):
        kept = {"metrics": ["AUC"], "valid_metric": "AUC", "eval_args": {"mode": mode}}
        assert Config(model="BPR", dataset="mm-toy", config_dict=kept)["metrics"] == ["AUC"]
