"""Each repair, by what RecBole does with it; and that other code and other versions are left alone."""

from __future__ import annotations

import importlib.util
import inspect
import io
import pickle
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import recbole
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.dataset import Dataset
from recbole.quick_start import quick_start, run_recbole
from recbole.trainer import trainer
from recbole.utils import get_model, logger

from recbole_mm.host import compat, editing, repairs
from recbole_mm.host.names import recbole_models


def write(folder: Path, **files: str) -> None:
    """Write atomic files of the data set ``small``; columns are separated by one or more blanks here, `_` is empty."""
    folder = folder / "small"
    folder.mkdir(exist_ok=True)
    for suffix, text in files.items():
        rows = [line.split() for line in text.strip().splitlines()]
        lines = ["\t".join("" if cell == "_" else cell.replace("+", " ") for cell in row) for row in rows]
        (folder / f"small.{suffix.replace('__', '.')}").write_text("\n".join(lines) + "\n", encoding="utf-8")


def dataset(folder: Path, model: str = "BPR", **options: Any) -> Any:
    return create_dataset(
        Config(model, "small", config_dict={"data_path": str(folder), "load_col": None, "state": "ERROR", **options})
    )


INTER = """
user_id:token item_id:token timestamp:float
a             x             1
a             y             2
b             y             3
b             z             4
c             x             5
"""
ITEM = """
item_id:token brand:token price:float tags:token_seq vector:float_seq
x             red         2           p+q            1+2+3
y             _           _           _              5
z             blue        6           q+r+s          _
"""


def rows(data: Any, field: str) -> dict[str, Any]:
    """The values of an item field by item token (still a table, before RecBole turns it into tensors)."""
    tokens = data.field2id_token["item_id"]
    return dict(zip(tokens[data.item_feat["item_id"]], data.item_feat[field]))


class TestMissingValues:
    def test_numbers_become_the_mean_and_tokens_the_padding(self, tmp_path: Path) -> None:
        write(tmp_path, inter=INTER, item=ITEM)
        data = dataset(tmp_path, normalize_all=False)
        assert rows(data, "price") == {"[PAD]": 4.0, "x": 2.0, "y": 4.0, "z": 6.0}
        brands = {item: data.field2id_token["brand"][int(brand)] for item, brand in rows(data, "brand").items()}
        assert brands == {"[PAD]": "[PAD]", "x": "red", "y": "[PAD]", "z": "blue"}

    def test_no_value_is_lost_on_the_way_to_tensors(self, tmp_path: Path) -> None:
        write(tmp_path, inter=INTER, item=ITEM)
        data = dataset(tmp_path, normalize_all=False)
        data._change_feat_format()
        assert data.item_feat["brand"].min() == 0
        assert data.item_feat["brand"].max() < data.num("brand")
        assert torch.isfinite(data.item_feat["price"]).all()

    def test_an_empty_cell_of_a_sequence_is_an_empty_sequence(self, tmp_path: Path) -> None:
        write(tmp_path, inter=INTER, item=ITEM)
        data = dataset(tmp_path, normalize_all=False)
        assert {item: len(tags) for item, tags in rows(data, "tags").items()} == {"[PAD]": 0, "x": 2, "y": 0, "z": 3}
        assert {item: list(vector) for item, vector in rows(data, "vector").items()} == {
            "[PAD]": [], "x": [1.0, 2.0, 3.0], "y": [5.0], "z": [],
        }  # fmt: skip


class TestSequences:
    def test_tokens_stay_with_their_row(self, tmp_path: Path) -> None:
        write(tmp_path, inter=INTER, item=ITEM)
        data = dataset(tmp_path, normalize_all=False)
        names = data.field2id_token["tags"]
        assert {item: list(names[tags.astype(int)]) for item, tags in rows(data, "tags").items()} == {
            "[PAD]": [], "x": ["p", "q"], "y": [], "z": ["q", "r", "s"],
        }  # fmt: skip

    def test_normalisation(self, tmp_path: Path) -> None:
        write(tmp_path, inter=INTER, item=ITEM)
        data = dataset(tmp_path, normalize_field=["vector"])
        assert {item: list(vector) for item, vector in rows(data, "vector").items()} == {
            "[PAD]": [], "x": [0.0, 0.25, 0.5], "y": [1.0], "z": [],
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("discretization", "expected"),
        [
            (None, {"[PAD]": [], "x": [(1.0, 1.0), (2.0, 1.0), (3.0, 1.0)], "y": [(5.0, 1.0)], "z": []}),
            (
                {"vector": {"method": "ED", "bucket": 4}},
                {"[PAD]": [], "x": [(1.0, 1.0), (1.0, 1.0), (1.0, 2.0)], "y": [(1.0, 4.0)], "z": []},
            ),
        ],
    )
    def test_discretisation(self, tmp_path: Path, discretization: Any, expected: Any) -> None:
        write(tmp_path, inter=INTER, item=ITEM)
        data = dataset(
            tmp_path, numerical_features=["vector", "price"], discretization=discretization, normalize_all=False
        )
        pairs = {item: [tuple(pair) for pair in zip(*cell)] for item, cell in rows(data, "vector").items()}
        assert pairs == expected

    def test_given_histories_know_their_length(self, tmp_path: Path) -> None:
        history = "user_id:token item_id_list:token_seq item_id:token\n"
        write(
            tmp_path,
            small__train__inter=history,
            train__inter=history + "a x+y z\nb x y",
            valid__inter=history + "a x+y+z x",
            test__inter=history + "a x+y+z+x y",
        )
        data = dataset(
            tmp_path, "GRU4Rec", benchmark_filename=["train", "valid", "test"], alias_of_item_id=["item_id_list"],
            train_neg_sample_args=None,
        )  # fmt: skip
        lengths = [part.inter_feat["item_length"].tolist() for part in data.build()]
        assert lengths == [[2, 1], [3], [4]]

    def test_items_and_entities_share_ids(self, tmp_path: Path) -> None:
        write(
            tmp_path,
            inter="user_id:token item_id:token seen:token_seq\na x y+z\na y _\nb z x",
            link="item_id:token entity_id:token\nx E1\ny E3\nz E2",
            kg="head_id:token relation_id:token tail_id:token\nE1 r E2\nE3 r E1",
        )
        data = dataset(tmp_path, "CKE", alias_of_item_id=["seen"])
        names = data.field2id_token["seen"]
        assert [list(names[cell]) for cell in data.inter_feat["seen"]] == [["y", "z"], [], ["x"]]
        assert list(names[data.inter_feat["item_id"]]) == ["x", "y", "z"]


class TestTorchLoad:
    def saved(self) -> io.BytesIO:
        buffer = io.BytesIO()
        torch.save({"config": types.SimpleNamespace(a=1)}, buffer, pickle_protocol=4)
        buffer.seek(0)
        return buffer

    def load_in(self, module: str, **options: Any) -> Any:
        """Load as a function of ``module`` would."""
        names: dict[str, Any] = {"__name__": module, "torch": torch, "buffer": self.saved(), "options": options}
        exec("def run():\n    return torch.load(buffer, **options)", names)
        return names["run"]()

    def test_recbole_reads_its_checkpoints(self) -> None:
        assert self.load_in("recbole.trainer.trainer")["config"].a == 1

    @pytest.mark.skipif(not compat.installed_repairs()["torch_load"], reason="this torch reads everything by default")
    @pytest.mark.parametrize("module", ["__main__", "recbole_mm.model.mmgcn", "recbolery.io", "user.recbole.tools"])
    def test_everybody_else_keeps_the_safe_default(self, module: str) -> None:
        with pytest.raises(pickle.UnpicklingError):
            self.load_in(module)

    def test_what_the_caller_says_counts(self) -> None:
        with pytest.raises(pickle.UnpicklingError):
            self.load_in("recbole.trainer.trainer", weights_only=True)
        assert self.load_in("__main__", weights_only=False)["config"].a == 1

    def test_it_still_pickles(self) -> None:
        assert pickle.loads(pickle.dumps(torch.load)) is torch.load


class TestRay:
    def test_importing_us_leaves_no_ray_behind(self, fresh_python: Any) -> None:
        code = "import sys, recbole_mm, recbole.quick_start; print({'ray', 'ray.tune'} & set(sys.modules))"
        assert fresh_python(code) == "set()"

    def test_a_broken_ray_is_still_broken_for_others(self, fresh_python: Any, tmp_path: Path) -> None:
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "__init__.py").write_text("raise ImportError('broken ray')")
        code = (
            "import sys; sys.path.insert(0, '.')\n"
            "import recbole_mm\n"
            "try:\n    import ray\nexcept ImportError as error:\n    print(error)"
        )
        assert fresh_python(code) == "broken ray"

    def test_a_report_outside_a_trial_is_nothing(self) -> None:
        if not compat.installed_repairs()["ray_import"]:
            pytest.skip("ray was imported before us")
        assert quick_start.tune.report(recall=0.5) is None

    @pytest.mark.parametrize("new", [False, True], ids=["keywords", "dictionary"])
    def test_a_report_within_a_trial_reaches_ray(self, new: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        got: dict[str, float] = {}
        tune: Any = types.ModuleType("ray.tune")

        def report_keywords(_metric: Any = None, **metrics: float) -> None:
            got.update(metrics)

        def report_dictionary(metrics: dict[str, float], *, checkpoint: Any = None) -> None:
            got.update(metrics)

        tune.report = report_dictionary if new else report_keywords
        monkeypatch.setitem(sys.modules, "ray.tune", tune)
        repairs._report_to_ray_tune(**{"recall@10": 0.5})
        assert got == {"recall@10": 0.5}


class TestNumpyAndScipy:
    def test_a_process_that_makes_no_config_can_make_batches(self, fresh_python: Any) -> None:
        code = (
            "import recbole_mm, numpy\n"
            "from recbole.data.interaction import Interaction\n"
            "print(Interaction({'rating': numpy.array([1.5, 2.0])})['rating'].tolist())"
        )
        assert fresh_python(code) == "[1.5, 2.0]"

    def test_aliases_are_those_recbole_means(self) -> None:
        Config.compatibility_settings(None)
        assert np.float is np.float64  # type: ignore[attr-defined]
        assert np.complex is np.complex128  # type: ignore[attr-defined]
        assert np.unicode is np.str_  # type: ignore[attr-defined]
        assert np.int is np.int_  # type: ignore[attr-defined]

    def test_graphs_filled_through_dok_matrix(self, tmp_path: Path) -> None:
        write(tmp_path, inter=INTER)
        config = Config("LightGCN", "small", config_dict={"data_path": str(tmp_path), "state": "ERROR"})
        data = create_dataset(config)
        train_data, _, _ = data_preparation(config, data)
        graph = get_model("LightGCN")(config, train_data._dataset).norm_adj_matrix.to_dense()
        pairs = train_data._dataset.inter_matrix().toarray() > 0
        n_users = pairs.shape[0]
        expected = np.zeros(graph.shape)
        expected[:n_users, n_users:] = pairs
        expected += expected.T
        degree = np.maximum(expected.sum(1), 1)
        expected /= np.sqrt(degree[:, None] * degree[None, :])
        np.testing.assert_allclose(graph.numpy(), expected, atol=1e-5)


class TestModelNames:
    @pytest.mark.parametrize(
        ("typed", "meant"), [("LigthGCN", "LightGCN"), ("lightgcn", "LightGCN"), ("MMGNC", "MMGCN")]
    )
    def test_a_misspelt_name_is_answered_with_the_nearest(self, typed: str, meant: str) -> None:
        with pytest.raises(ValueError, match=rf"no model named '{typed}'. Did you mean .*\b{meant}\b"):
            get_model(typed)

    def test_a_name_like_no_other(self) -> None:
        with pytest.raises(ValueError, match="no model named 'Qqqqqqq'. Models of recbole_mm and your own: .*MMGCN"):
            Config("Qqqqqqq", "mm-toy")

    def test_not_a_name(self) -> None:
        with pytest.raises(ValueError, match=r"got 3 \(int\)"):
            get_model(3)

    @pytest.mark.skipif(importlib.util.find_spec("lightgbm") is not None, reason="lightgbm is installed")
    def test_a_model_that_lacks_its_library_says_so(self) -> None:
        with pytest.raises(ModuleNotFoundError, match="lightgbm"):
            get_model("LightGBM")

    def test_all_models_of_recbole_are_known(self) -> None:
        folder = Path(recbole.__file__).parent / "properties" / "model"
        assert len(recbole_models()) == 94
        assert {file.stem.lower() for file in folder.glob("*.yaml")} <= {name.lower() for name in recbole_models()}

    def test_a_model_file_put_into_recbole_is_found(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "model" / "general_recommender").mkdir(parents=True)
        (tmp_path / "model" / "general_recommender" / "mine.py").write_text("class Mine: pass\n")
        import recbole.model.general_recommender as package

        from recbole_mm.host import names

        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / "model" / "general_recommender")])
        monkeypatch.setattr(names, "recbole_folder", lambda: tmp_path)
        assert get_model("Mine").__name__ == "Mine"
        monkeypatch.delitem(sys.modules, "recbole.model.general_recommender.mine")


class TestAnomalyDetection:
    @pytest.mark.parametrize("before", [False, True])
    def test_importing_sequential_models_leaves_it_as_it_was(self, before: bool) -> None:
        code = (
            f"import recbole_mm, torch; torch.autograd.set_detect_anomaly({before}); "
            "import recbole.model.sequential_recommender; print(torch.is_anomaly_enabled())"
        )
        root = Path(__file__).parents[2]
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
        assert done.stdout.split() == [str(before)]

    def test_recbole_alone_switches_it_on(self) -> None:
        """Otherwise the repair is needed no more."""
        text = (Path(recbole.__file__).parent / "model" / "sequential_recommender" / "sine.py").read_text()
        assert "torch.autograd.set_detect_anomaly(True)" in text


class TestItemMetrics:
    def test_metrics_that_count_training_items(self) -> None:
        metrics = ["ItemCoverage", "AveragePopularity", "ShannonEntropy", "GiniIndex", "TailPercentage", "Recall"]
        options = {"epochs": 1, "metrics": metrics, "topk": [80], "valid_metric": "Recall@80", "state": "ERROR"}
        result = run_recbole(model="Pop", dataset="mm-toy", config_dict=options)["test_result"]
        assert set(result) == {f"{name.lower()}@80" for name in metrics}
        assert result["itemcoverage@80"] == 1  # there are 80 items
        assert all(0 <= value < float("inf") for value in result.values())


class TestFolders:
    def test_a_folder_that_another_process_just_made(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as late:
            late.setattr("os.path.exists", lambda path: False)
            for module in (logger, trainer):
                module.ensure_dir(str(tmp_path))
                module.ensure_dir(str(tmp_path / module.__name__ / "new"))
        assert all((tmp_path / module.__name__ / "new").is_dir() for module in (logger, trainer))


class TestInstalling:
    def test_again_changes_nothing(self) -> None:
        before = (torch.load, Dataset._fill_nan.__code__, Dataset._remap.__code__, get_model.__code__, Config.__init__)
        compat.install()
        assert before == (
            torch.load, Dataset._fill_nan.__code__, Dataset._remap.__code__, get_model.__code__, Config.__init__,
        )  # fmt: skip

    def test_each_repair_again_finds_nothing_to_do(self) -> None:
        # Probes of libraries still say "needed" after the repair where the library itself is untouched (pandas).
        load = torch.load
        assert repairs.repair_torch_load() is False
        assert repairs.repair_dok_update() is False
        assert repairs.repair_get_model() is False
        assert repairs.repair_item_metrics() is False
        assert repairs.repair_ensure_dir() is False
        assert repairs.repair_ray_import() is False
        assert repairs.repair_numpy_aliases() is False or "float_" not in vars(np)
        assert torch.load is load

    def test_another_recbole_is_refused_with_all_versions(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(recbole, "__version__", "1.2.0")
        monkeypatch.setattr(compat, "_applied", {})
        with pytest.raises(
            RuntimeError, match=rf"1\.2\.1 and got 1\.2\.0 .*numpy {np.__version__}, pandas {pd.__version__}"
        ):
            compat.install()

    def test_other_code_is_refused(self) -> None:
        with pytest.raises(RuntimeError, match=r"expected 'feat\[field\]\.wrong\(\)' in .*Dataset\._remap"):
            editing.edit(Dataset._remap, {"feat[field].wrong()": "0"})
        with pytest.raises(RuntimeError, match="an unchanged RecBole"):
            editing.edit(Dataset._remap, {"feat[field]": "0"}, count=1)

    def test_code_without_source_is_refused(self) -> None:
        names: dict[str, Any] = {"__name__": "nowhere"}
        exec("def function():\n    return 1", names)
        with pytest.raises(RuntimeError, match="readable source"):
            editing.edit(names["function"], {"1": "2"})

    def test_a_function_with_free_variables_is_refused(self) -> None:
        outer = 1

        def inner() -> int:
            return outer

        with pytest.raises(RuntimeError, match="a plain function"):
            editing.edit(inner, {"return outer": "return outer + 1"})

    def test_edited_functions_keep_their_lines(self) -> None:
        source, first = inspect.getsourcelines(Dataset._fill_nan)
        assert Dataset._fill_nan.__code__.co_firstlineno == first
        lines = (
            {line for *_, line in Dataset._fill_nan.__code__.co_lines() if line}
            if sys.version_info >= (3, 10)
            else {first}
        )
        assert max(lines) < first + len(source)
