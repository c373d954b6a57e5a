import copy

import numpy as np
import pytest
import torch
from recbole.quick_start import quick_start as recbole_run
from recbole.quick_start import run_recbole
from recbole.trainer import Trainer

from recbole_mm.experiment import quick_start
from recbole_mm.experiment.job import Job, prepare
from recbole_mm.experiment.quick_start import Interrupted, checkpoint_origin, device_option, run

QUICK = {
    "epochs": 2,
    "train_batch_size": 4096,
    "embedding_size": 8,
    "show_progress": False,
    "state": "ERROR",
    "use_gpu": False,
}


@pytest.fixture
def devices(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return monkeypatch


class TestRun:
    def test_is_recbole(self):
        ours = run("BPR", "mm-toy", config_dict=QUICK)
        theirs = run_recbole("BPR", "mm-toy", config_dict=dict(QUICK))
        assert ours.pop("checkpoint").startswith("saved/BPR-")
        options, split = ours.pop("config"), ours.pop("split")
        assert ours.pop("health")["alarms"] == [] and ours.pop("unmeasured") == []
        assert options["embedding_size"] == 8 and options["topk"] == [10] and type(options) is dict
        job = Job("BPR", "mm-toy", {**QUICK, "epochs": 1}, seed=2020, data_seed=2020)
        assert split == prepare(job).split["hash"]
        assert ours == theirs
        assert set(ours) == {"best_valid_score", "valid_score_bigger", "best_valid_result", "test_result"}

    def test_evaluation_batch_changes_no_metric(self):
        assert (
            run("BPR", "mm-toy", config_dict={**QUICK, "eval_batch_size": "auto"})["test_result"]
            == run("BPR", "mm-toy", config_dict={**QUICK, "eval_batch_size": 1})["test_result"]
        )

    def test_our_model_by_class(self):
        from recbole_mm import MMGCN

        result = run(MMGCN, "mm-toy", config_dict={**QUICK, "epochs": 1}, saved=False)
        assert result["checkpoint"] is None and result["test_result"]["recall@10"] >= 0

    def test_arguments_are_left_alone(self, tmp_path):
        options, get_trainer = dict(QUICK), recbole_run.get_trainer
        run("BPR", "mm-toy", config_dict=options, saved=False)
        assert options == QUICK
        assert recbole_run.get_trainer is get_trainer and get_trainer("GENERAL", "BPR") is Trainer

    def test_files_count_below_the_dict(self, tmp_path, monkeypatch):
        seen = []
        monkeypatch.setattr(Trainer, "fit", lambda self, *args, **kwargs: seen.append(self.config) or (0.0, {}))
        file = tmp_path / "a.yaml"
        file.write_text("epochs: 7\nlearning_rate: 0.5\n", encoding="utf-8")
        run("BPR", "mm-toy", [str(file)], QUICK, saved=False)
        assert (seen[0]["epochs"], seen[0]["learning_rate"]) == (2, 0.5)

    def test_missing_file(self):
        with pytest.raises(FileNotFoundError, match="nix.yaml"):
            run("BPR", "mm-toy", ["nix.yaml"])


class TestDevices:
    def test_visible_devices_are_kept(self, devices):
        assert device_option(set()) == {}
        devices.setenv("CUDA_VISIBLE_DEVICES", "3")
        assert device_option(set()) == {"gpu_id": "3"}
        assert device_option({"gpu_id"}) == {}
        devices.setattr("sys.argv", ["x", "--gpu_id=1"])
        assert device_option(set()) == {}

    def test_hidden_devices_stay_hidden(self, devices):
        devices.setenv("CUDA_VISIBLE_DEVICES", "")
        assert device_option(set()) == {"gpu_id": ""}

    def test_one_device_per_process(self, devices):
        assert device_option(set(), nproc=3) == {"gpu_id": "0,1,2"}

    def test_config_gets_them(self, devices):
        seen = []
        devices.setattr(Trainer, "fit", lambda self, *args, **kwargs: seen.append(self.config["gpu_id"]) or (0.0, {}))
        for value in ("5", "2,3", ""):
            devices.setenv("CUDA_VISIBLE_DEVICES", value)
            run("BPR", "mm-toy", config_dict=QUICK, saved=False)
        assert seen == ["5", "2,3", ""]

    def test_places_of_several_machines(self):
        here, other = (quick_start._places(2, 4, "10.0.0.1", None, offset) for offset in (0, 2))
        assert [place.rank for place in (*here, *other)] == [0, 1, 2, 3]
        assert [place.local_rank for place in (*here, *other)] == [0, 1, 0, 1]
        assert {place.address for place in (*here, *other)} == {"tcp://10.0.0.1:5678"}
        assert quick_start._places(1, -1, "localhost", "77", 0)[0].address == "tcp://localhost:77"

    def test_too_many(self):
        with pytest.raises(ValueError, match="positive number of processes, got 0"):
            run("BPR", "mm-toy", nproc=0)
        with pytest.raises(ValueError, match="2 processes here, after 3 on other machines, are more"):
            run("BPR", "mm-toy", nproc=2, world_size=4, group_offset=3)
        # The second of two machines, which would train alone, with the first waiting for it.
        with pytest.raises(ValueError, match="1 processes here, after 1 on other machines.*world_size counts"):
            run("BPR", "mm-toy", group_offset=1)


@pytest.mark.slow
def test_spawned_processes_know_our_models():
    """RecBole's own spawn target loses the registration. Here the model's name is all that they get."""
    options = {**QUICK, "metric_decimal_place": 8}
    found, alone = (run("MMGCN", "mm-toy", config_dict=options, nproc=nproc) for nproc in (2, 1))
    assert found["test_result"] == pytest.approx(alone["test_result"], abs=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_distributed_run_on_one_gpu():
    options = {**QUICK, "use_gpu": True}
    result = run("MMGCN", "mm-toy", config_dict=options, nproc=1, world_size=1, port="5679")
    assert result["test_result"]["recall@10"] > 0 and result["checkpoint"]


class TestInterrupt:
    @pytest.mark.parametrize("epoch", [0, 1])
    def test_names_the_checkpoint(self, monkeypatch, epoch):
        train = Trainer._train_epoch

        def stopped(self, data, epoch_idx, *args, **kwargs):
            if epoch_idx == epoch:
                raise KeyboardInterrupt
            return train(self, data, epoch_idx, *args, **kwargs)

        monkeypatch.setattr(Trainer, "_train_epoch", stopped)
        with pytest.raises(KeyboardInterrupt) as caught:
            run("BPR", "mm-toy", config_dict=QUICK)
        assert isinstance(caught.value, Interrupted)
        assert (caught.value.checkpoint is None) == (epoch == 0)
        if epoch:
            assert checkpoint_origin(caught.value.checkpoint) == ("BPR", "mm-toy")

    def test_before_there_is_a_trainer(self, monkeypatch):
        def stopped(config):
            raise KeyboardInterrupt

        monkeypatch.setattr(recbole_run, "create_dataset", stopped)
        with pytest.raises(Interrupted) as caught:
            run("BPR", "mm-toy", config_dict=QUICK)
        assert caught.value.checkpoint is None


class TestResume:
    @pytest.fixture
    def seen(self, monkeypatch):
        """The state of each trainer when its training starts."""
        states = []
        fit = Trainer.fit

        def observed(self, *args, **kwargs):
            weight = self.model.user_embedding.weight
            adam = copy.deepcopy(self.optimizer.state.get(weight, {}))  # training changes it in place
            states.append(
                {
                    "epoch": self.start_epoch,
                    "best": self.best_valid_score,
                    "patience": self.cur_step,
                    "weight": weight.detach().clone(),
                    "adam": adam.get("exp_avg_sq"),
                    "steps": adam.get("step"),
                    "result": self.best_valid_result,
                }
            )
            return fit(self, *args, **kwargs)

        monkeypatch.setattr(Trainer, "fit", observed)
        return states

    def test_everything_continues(self, seen):
        first = run("BPR", "mm-toy", config_dict=QUICK)
        checkpoint = torch.load(first["checkpoint"], weights_only=False)
        moments = checkpoint["optimizer"]["state"][0]
        second = run("BPR", "mm-toy", config_dict={**QUICK, "epochs": 4}, resume=first["checkpoint"])
        state = seen[1]
        assert state["epoch"] == checkpoint["epoch"] + 1 > 0
        assert state["best"] == first["best_valid_score"] and state["patience"] == checkpoint["cur_step"]
        assert torch.equal(state["weight"], checkpoint["state_dict"]["user_embedding.weight"])
        assert torch.equal(state["adam"], moments["exp_avg_sq"]) and state["steps"] == moments["step"] > 0
        assert second["checkpoint"] == first["checkpoint"]
        assert second["best_valid_score"] >= first["best_valid_score"]

    def test_without_progress_the_old_metrics_are_reported(self, monkeypatch):
        first = run("BPR", "mm-toy", config_dict=QUICK)
        monkeypatch.setattr(Trainer, "_valid_epoch", lambda self, *args, **kwargs: (-1.0, {"mrr@10": -1.0}))
        second = run("BPR", "mm-toy", config_dict={**QUICK, "epochs": 4}, resume=first["checkpoint"])
        assert second["best_valid_result"] == pytest.approx(first["best_valid_result"])
        assert second["best_valid_score"] == first["best_valid_score"]
        assert second["test_result"] == first["test_result"]

    def test_training_options_may_change(self, seen):
        first = run("BPR", "mm-toy", config_dict=QUICK)
        run("BPR", "mm-toy", config_dict={**QUICK, "epochs": 3, "train_batch_size": 512}, resume=first["checkpoint"])
        assert len(seen) == 2

    def test_nothing_left(self):
        first = run("BPR", "mm-toy", config_dict=QUICK)
        before = torch.load(first["checkpoint"], weights_only=False)["epoch"]
        with pytest.raises(ValueError, match="nothing left to train. Pass epochs above"):
            run("BPR", "mm-toy", config_dict={**QUICK, "epochs": before + 1}, resume=first["checkpoint"])
        # RecBole would have overwritten it with one of epoch -1.
        assert torch.load(first["checkpoint"], weights_only=False)["epoch"] == before

    @pytest.mark.parametrize(
        ("model", "options", "message"),
        [
            ("LightGCN", {}, "model 'BPR', but this run has 'LightGCN'"),
            ("BPR", {"embedding_size": 16}, "embedding_size: 8 there, 16 here"),
            ("BPR", {"user_inter_num_interval": "[3,inf)"}, "user_inter_num_interval"),
            ("BPR", {"seed": 1}, "seed: 2020 there, 1 here"),
            ("BPR", {"eval_args": {"split": {"LS": "valid_and_test"}}}, "eval_args"),
        ],
    )
    def test_another_experiment(self, model, options, message):
        first = run("BPR", "mm-toy", config_dict=QUICK)
        with pytest.raises(ValueError, match=message):
            run(model, "mm-toy", config_dict={**QUICK, "epochs": 4, **options}, resume=first["checkpoint"])

    def test_another_option_of_a_model_of_recboles(self):
        """Its tensors would fit: one layer more has no parameters."""
        first = run("LightGCN", "mm-toy", config_dict={**QUICK, "n_layers": 1})
        with pytest.raises(ValueError, match="n_layers: 1 there, 2 here"):
            run("LightGCN", "mm-toy", config_dict={**QUICK, "epochs": 4, "n_layers": 2}, resume=first["checkpoint"])

    def test_another_loss(self):
        """The contrastive term is an option of every model, also of those whose yaml does not name it."""
        first = run("MMGCN", "mm-toy", config_dict=QUICK)
        with pytest.raises(ValueError, match="contrastive_weight: 0.0 there, 0.5 here"):
            run(
                "MMGCN",
                "mm-toy",
                config_dict={**QUICK, "epochs": 4, "contrastive_weight": 0.5},
                resume=first["checkpoint"],
            )

    def test_no_checkpoint(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nix.pth"):
            checkpoint_origin("nix.pth")
        (tmp_path / "text.pth").write_text("no pickle")
        with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
            checkpoint_origin("text.pth")
        torch.save({"weight": np.zeros(2)}, tmp_path / "other.pth")
        with pytest.raises(ValueError, match="a pickle that runs code .* convert it once"):
            checkpoint_origin("other.pth")
        torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
        with pytest.raises(ValueError, match="not a checkpoint that RecBole's trainer wrote"):
            checkpoint_origin("other.pth")


@pytest.mark.parametrize("model", ["Pop", "ItemKNNCBF"])
def test_a_model_of_one_epoch_is_validated_however_rarely_others_are(model: str) -> None:
    result = run(model, "mm-toy", config_dict={**QUICK, "epochs": 10, "eval_step": 5})
    assert result["best_valid_score"] > 0 and result["checkpoint"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": 3}, r"model: expected a name or a class, got 3 \(int\)"),
        ({"dataset": 3}, r"dataset: expected a name, got 3 \(int\)"),
        ({"config_file_list": "mine.yaml"}, r"config_file_list: expected a list of files.* Write \['mine.yaml'\]"),
        ({"config_file_list": 3}, r"config_file_list: expected a list of files of options, got 3 \(int\)\.$"),
        ({"config_dict": []}, "config_dict: expected a mapping such as"),
        ({"nproc": "2"}, r"nproc: expected a whole number, got '2' \(str\)"),
        ({"world_size": 1.5}, "world_size: expected a whole number"),
    ],
)
def test_arguments_of_another_kind_are_named(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(**{"model": "BPR", "dataset": "mm-toy", **given})
