import io
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from recbole.trainer import Trainer

from recbole_mm import registered_models
from recbole_mm.cli import training as cli_train
from recbole_mm.cli.main import FLAGS, CommandLineError, main, parse
from recbole_mm.cli.request import Flag
from recbole_mm.experiment.quick_start import Interrupted

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "run_recbole_mm.py"
RESULT = {
    "best_valid_score": 0.25,
    "valid_score_bigger": True,
    "best_valid_result": {"recall@10": 0.25, "mrr@10": 0.5},
    "test_result": {"recall@10": 0.125, "mrr@10": 0.0625},
    "checkpoint": "saved/x.pth",
    "config": {"train_batch_size": 2048},
}


@pytest.fixture
def calls(monkeypatch):
    """What the command line hands over, without any training."""
    seen = []

    def run(model, dataset, **arguments):
        seen.append({"model": model, "dataset": dataset, "argv": sys.argv[1:], **arguments})
        return RESULT

    monkeypatch.setattr(cli_train, "run", run)
    return seen


class TestParse:
    def test_both_spellings(self):
        request = parse(["--model=MMGCN", "--epochs", "3", "--learning_rate", "-1", "--debug", "--x=a=b"])
        assert request.flags == {"model": "MMGCN", "debug": ""}
        assert request.options == {"epochs": "3", "learning_rate": "-1", "x": "a=b"}

    def test_defaults_and_numbers(self):
        request = parse(["--nproc=2"])
        assert (request.number("nproc"), request.number("world_size"), request.flag("model")) == (2, -1, None)
        with pytest.raises(CommandLineError, match="--nproc: expected a whole number, got 'two'"):
            parse(["--nproc=two"]).number("nproc")

    def test_files(self):
        assert parse(["--config_files=a.yaml b.yaml,c.yaml "]).files() == ["a.yaml", "b.yaml", "c.yaml"]
        assert parse([]).files() == []

    def test_the_same_twice(self):
        assert parse(["--epochs=3", "--epochs", "3"]).options == {"epochs": "3"}
        with pytest.raises(CommandLineError, match="--epochs is given twice, as '3' and as '4'"):
            parse(["--epochs=3", "--epochs=4"])

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["MMGCN"], "'MMGCN' belongs to no argument: write --key=value"),
            (["--model=MMGCN", "ml-100k"], "'ml-100k' belongs to no argument"),
            (["-m", "MMGCN"], "'-m' belongs to no argument"),
            (["--"], "belongs to no argument"),
            (["--=3"], "belongs to no argument"),
            (["--config_files", "a.yaml", "b.yaml"], r"'b.yaml' .* --config_files='a.yaml b.yaml'"),
            (["--epochs"], "--epochs needs a value: write --epochs=VALUE"),
            (["--epochs", "--debug"], "--epochs needs a value"),
            (["--debug=1"], "--debug takes no value"),
        ],
    )
    def test_nothing_is_dropped(self, arguments, message):
        with pytest.raises(CommandLineError, match=message):
            parse(arguments)

    def test_a_switch_with_the_name_of_an_option_is_the_option_where_it_has_a_value(self):
        known = {"worker": Flag("", option=True)}
        request = parse(["--worker", "--epochs=3"], known)
        assert (request.flags, request.options) == ({"worker": ""}, {"epochs": "3"})
        assert parse(["--worker=2"], known).options == {"worker": "2"}
        assert parse(["--worker", "--worker=2"], known).flags == {"worker": ""}


class TestAnswersWithoutTraining:
    def test_help_names_every_flag_and_shared_option(self, capsys):
        for argument in ("--help", "-h"):
            assert main([argument]) == 0
            text = capsys.readouterr().out
            for name in (*FLAGS, "modality_weight", "eval_batch_size", "contrastive_temperature"):
                assert f"--{name}" in text

    def test_list_models(self, capsys):
        assert main(["--list-models"]) == 0
        text = capsys.readouterr().out
        names = set(text.split())
        assert set(registered_models()) <= names and {"BPR", "LightGCN", "SASRec", "FM", "KGAT"} <= names
        ours = text.split("RecBole,")[0]
        assert "MMGCN" in ours and "LightGCN" not in ours

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--model=MMGNC"], "no model named 'MMGNC'. Did you mean MMGCN"),
            (["--model=lightgcn"], "Did you mean LightGCN"),
            (["--epochs=1"], "Which model? Pass --model=NAME"),
            (["--model=BPR", "--epoch=1"], "Unknown option 'epoch'"),
            (["--model=BPR", "--show_progress", "--epochs=1"], "--show_progress needs a value"),
            (["--model=BPR", "--learning_rate=1/0"], "learning_rate: expected a finite number above 0"),
            (["--model=BPR", "--knn_k=-77"], "--knn_k is an option of other models; BPR would not read it"),
            (["--model=MMGCN", "--knn_k=5"], "--knn_k is an option of other models; MMGCN would not read it"),
            (["--model=BPR", "--dataset="], "--dataset= has no value"),
            (["--model=BPR", "--learning_rate="], "--learning_rate= has no value"),
            (["--model=BPR", "--eval_args={'splitt': {'RS': [8, 1, 1]}}"], "Did you mean 'split'"),
            (["--model=BPR", "--config_files=nix.yaml"], "no option file 'nix.yaml'"),
            (["--model=BPR", "--resume=nix.pth"], "no checkpoint 'nix.pth'"),
            (["--model=BPR", "--dataset=no-such-data"], "no-such-data"),
            (["--model=BPR", "--epochs=ten"], "epochs: expected an integer of at least 0, got 'ten'"),
            (["--model=BPR", "--metrics=['Recal']"], "metrics: unknown metric 'Recal'. Did you mean 'recall'"),
            (["--model=BPR", "--topk=0.5"], "topk: expected a positive integer or a list"),
            (["--model=MMGCN", "--concat=maybe"], "concat: expected True or False"),
            (["--model=MMGCN", "--dataset=mm-toy", "--modality_weight={'imge': 1}"], "Did you mean 'image'"),
        ],
    )
    def test_mistakes_are_one_message(self, arguments, message, capsys):
        assert main([*arguments, "--state=ERROR"]) == 2
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error

    def test_debug_raises(self):
        with pytest.raises(ValueError, match="Unknown option"):
            main(["--model=BPR", "--epoch=1", "--debug"])

    def test_unexpected_errors_are_raised(self, monkeypatch):
        def run(*arguments, **options):
            raise ZeroDivisionError("a bug")

        monkeypatch.setattr(cli_train, "run", run)
        with pytest.raises(ZeroDivisionError):
            main(["--model=BPR"])

    @pytest.mark.parametrize("error", [KeyError("bug"), TypeError("a bug"), ValueError("elsewhere")])
    def test_errors_of_other_code_are_raised(self, monkeypatch, error):
        def run(*arguments, **options):
            exec("raise error", {"error": error})

        monkeypatch.setattr(cli_train, "run", run)
        with pytest.raises(type(error)):
            main(["--model=BPR"])

    def test_reader_that_has_seen_enough(self, monkeypatch):
        class Closed(io.StringIO):
            def write(self, text):
                raise BrokenPipeError

        monkeypatch.setattr("sys.stdout", Closed())
        assert main(["--list-models"]) == 0


class TestHandOver:
    def test_model_alone(self, calls):
        assert main(["--model=MMGCN"]) == 0
        assert (calls[0]["model"], calls[0]["dataset"]) == ("MMGCN", "ml-100k")
        assert calls[0]["config_dict"] == {} and calls[0]["argv"] == [] and calls[0]["nproc"] == 1

    def test_arguments_reach_config_in_recboles_notation(self, calls, monkeypatch):
        monkeypatch.setattr("sys.argv", ["run.py", "kept"])
        assert main(["--model", "MMGCN", "--epochs", "3", "--modalities=['text']", "--checkpoint_dir=a=b"]) == 0
        assert calls[0]["argv"] == ["--epochs=3", "--modalities=['text']"]
        assert calls[0]["config_dict"] == {"checkpoint_dir": "a=b"}  # Config would drop it
        assert sys.argv == ["run.py", "kept"]

    @pytest.mark.parametrize(
        ("typed", "read"),
        [
            ("--modalities=[image,text]", "--modalities=['image', 'text']"),
            ("--modality_weight={image: 1e-1, text: 0}", "--modality_weight={'image': 0.1, 'text': 0}"),
            ("--eval_args={mode: {test: uni100}}", "--eval_args={'mode': {'test': 'uni100'}}"),
            ("--feature_path=~", "--feature_path=None"),
            ("--modalities=['a-b']", "--modalities=['a-b']"),
            ("--topk=[10,20]", "--topk=[10,20]"),
            ("--modalities=[a-b]", "--modalities=['a-b']"),
        ],
    )
    def test_values_as_files_have_them(self, calls, typed, read):
        assert main(["--model=MMGCN", typed]) == 0
        assert calls[0]["argv"] == [read]

    def test_baselines_do_not_rank_one_user_at_a_time(self, calls, tmp_path):
        main(["--model=BPR"])
        main(["--model=BPR", "--eval_batch_size=7"])
        (tmp_path / "a.yaml").write_text("eval_batch_size: 9\n", encoding="utf-8")
        main(["--model=BPR", "--config_files=a.yaml"])
        assert [call["config_dict"] for call in calls] == [{"eval_batch_size": "auto"}, {}, {}]

    def test_files_may_name_model_and_dataset(self, calls, tmp_path):
        (tmp_path / "a.yaml").write_text("model: BPR\ndataset: mm-toy\n", encoding="utf-8")
        main(["--config_files=a.yaml"])
        main(["--config_files=a.yaml", "--model=LightGCN", "--dataset=ml-100k"])
        assert [(call["model"], call["dataset"]) for call in calls] == [("BPR", "mm-toy"), ("LightGCN", "ml-100k")]
        assert calls[0]["config_file_list"] == ["a.yaml"]

    def test_report(self, calls, capsys):
        main(["--model=MMGCN", "--dataset=mm-toy", "--epochs=3", "--topk", "[5, 10]", "--learning_rate=0.1"])
        text = capsys.readouterr().out
        assert re.search(r"recall@10 +0\.2500 +0\.1250\nmrr@10 +0\.5000 +0\.0625\ncheckpoint: saved/x.pth\n", text)
        command = shlex.split(text.split("compare with: ")[1])
        baseline = parse(command[command.index("--model=LightGCN") :])
        assert baseline.flags == {"model": "LightGCN", "dataset": "mm-toy"}
        assert baseline.options == {"epochs": "3", "topk": "[5, 10]"}  # not the other model's learning rate

    def test_the_baseline_is_not_asked_to_sample_neighbours(self, calls, capsys):
        main(["--model=GRCN", "--dataset=mm-toy", "--graph_batch=sampled", "--fanout=2", "--table_updates=touched"])
        command = shlex.split(capsys.readouterr().out.partition("compare with: ")[2])
        assert command[-2:] == ["--model=LightGCN", "--dataset=mm-toy"]

    def test_the_baseline_gets_small_batches_as_the_model_had(self, calls, capsys, monkeypatch):
        monkeypatch.setitem(RESULT, "config", {"train_batch_size": 64})
        for model, options, handed_on in (
            ("MMGCN", [], True),
            ("LightGCN", [], False),
            ("MMGCN", ["--train_batch_size=64"], False),
            ("MMGCN", ["--shrink_batches=True"], True),
        ):
            main([f"--model={model}", "--dataset=mm-toy", *options])
            command = capsys.readouterr().out.partition("compare with:")[2]
            assert command.count("--shrink_batches=True") == handed_on

    @pytest.mark.parametrize(
        ("model", "baseline"),
        [("LightGCN", "--model=BPR"), ("GRU4Rec", "--model=SASRec --train_neg_sample_args=None"), ("FM", "DeepFM")],
    )
    def test_baseline_of_the_same_family(self, model, baseline, calls, capsys):
        main([f"--model={model}"])
        assert baseline in capsys.readouterr().out

    def test_report_without_validation(self, calls, capsys, monkeypatch):
        monkeypatch.setitem(RESULT, "best_valid_result", None)
        monkeypatch.setitem(RESULT, "checkpoint", None)
        main(["--model=BPR"])
        text = capsys.readouterr().out
        assert re.search(r"recall@10 +- +0\.1250", text) and "(none written)" in text

    @pytest.mark.parametrize("checkpoint", [None, "saved/x.pth"])
    def test_ctrl_c(self, monkeypatch, capsys, checkpoint):
        def run(*arguments, **options):
            raise Interrupted(checkpoint)

        monkeypatch.setattr(cli_train, "run", run)
        assert main(["--model", "BPR", "--gpu_id=", "--dataset=mm-toy", "--debug"]) == 130
        error = capsys.readouterr().err
        if checkpoint is None:
            assert "No checkpoint was written yet" in error
        else:
            again = shlex.split(error.split("Go on with: ")[1])
            request = parse(again[again.index("--model=BPR") :])
            assert request.flags == {"model": "BPR", "dataset": "mm-toy", "debug": "", "resume": checkpoint}
            assert request.options == {"gpu_id": ""}


class TestTraining:
    QUICK = ["--dataset=mm-toy", "--epochs", "2", "--embedding_size=8", "--state=ERROR", "--show_progress=False"]

    @pytest.mark.parametrize("model", ["MMGCN", "BPR"])
    def test_end_to_end(self, model, capsys):
        assert main([f"--model={model}", "--use_gpu=False", *self.QUICK]) == 0
        text = capsys.readouterr().out
        assert f"{model} on mm-toy" in text and re.search(r"recall@10 +0\.\d+ +0\.\d+", text)
        assert Path(re.search("checkpoint: (.*)", text)[1]).is_file()

    def test_slices_are_printed_side_by_side(self, capsys):
        assert main(["--model=BPR", "--use_gpu=False", "--slices=all,cold_items", *self.QUICK]) == 0
        text = capsys.readouterr().out
        assert "test by slice" in text and "recall@10[" not in text
        assert re.search(r"^all +\d+ +\d+ +0\.\d+ +0\.\d+", text, re.MULTILINE)
        assert "--slices=all,cold_items" in text.partition("compare with:")[2]

    def test_interrupted_training_goes_on(self, capsys, monkeypatch):
        train = Trainer._train_epoch
        epochs = []

        def stopped(self, data, epoch_idx, *args, **kwargs):
            epochs.append(epoch_idx)
            if epochs == [0, 1]:
                raise KeyboardInterrupt
            return train(self, data, epoch_idx, *args, **kwargs)

        monkeypatch.setattr(Trainer, "_train_epoch", stopped)
        assert main(["--model=BPR", *self.QUICK]) == 130
        again = shlex.split(capsys.readouterr().err.split("Go on with: ")[1])
        assert main(again[again.index("--model=BPR") :]) == 0
        assert epochs == [0, 1, 1]
        checkpoint = parse(again[again.index("--model=BPR") :]).flags["resume"]
        assert main([f"--resume={checkpoint}", "--epochs=3", "--embedding_size=8", "--state=ERROR"]) == 0
        assert "BPR on mm-toy" in capsys.readouterr().out.split("checkpoint")[-2]  # the checkpoint knows both


def shell(*arguments, script=SCRIPT, **options):
    return subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, **options)


class TestShell:
    @pytest.mark.parametrize("argument", ["--help", "--list-models", "--model=MMGNC"])
    def test_quick_answers_import_neither_torch_nor_recbole(self, argument):
        code = (
            f"import sys, runpy; sys.argv = ['run_recbole_mm.py', {argument!r}]\n"
            f"try: runpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
            "except SystemExit as end: print(end.code)\n"
            "print(sorted({'torch', 'recbole', 'recbole_mm', 'pandas', 'numpy'} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60)
        assert done.stdout.splitlines()[-2:] == ["2" if "=" in argument else "0", "[]"], done.stderr

    def test_from_anywhere_in_two_seconds(self, tmp_path):
        start = time.perf_counter()
        done = shell("--list-models", cwd=tmp_path, timeout=60)
        assert done.returncode == 0 and "MMGCN" in done.stdout
        assert time.perf_counter() - start < 2

    def test_the_loaded_module_is_the_imported_one(self, fresh_python):
        code = (
            "from run_recbole_mm import load_cli\ncli = load_cli()\n"
            "from recbole_mm.cli import training as cli_train\nprint(cli_train.Request is cli.Request)"
        )
        assert fresh_python(code).splitlines()[-1] == "True"

    @pytest.mark.slow
    def test_ctrl_c_in_a_real_process(self, tmp_path):
        arguments = [
            "--model=BPR",
            "--dataset=mm-toy",
            "--epochs=100000",
            "--stopping_step=100000",
            "--embedding_size=4",
        ]
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), *arguments, "--show_progress=False"],
            cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            # A suite that a shell started in the background has inherited a SIGINT that is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        try:
            for line in process.stdout:
                if "epoch 1 training" in line:  # said with its validation, so the epoch is saved by now or at once
                    process.send_signal(signal.SIGINT)
                    break
            text = process.communicate(timeout=60)[0]
        finally:
            process.kill()
        assert process.returncode == 130 and "Traceback" not in text
        assert (tmp_path / re.search("Best epoch so far: (.*)", text)[1]).is_file()


class TestHyper:
    SCRIPT = ROOT / "run_hyper_mm.py"

    def test_help(self):
        done = shell("--help", script=self.SCRIPT, timeout=60)
        assert done.returncode == 0 and "--params_file=FILE" in done.stdout
        done = shell("--model=BPR", script=self.SCRIPT, timeout=60)
        assert done.returncode == 2 and "usage" in done.stdout

    def test_what_nobody_reads_is_not_searched(self, tmp_path, monkeypatch, capsys):
        pytest.importorskip("hyperopt")
        monkeypatch.syspath_prepend(str(ROOT))
        import run_hyper_mm

        for line, words in (
            ("learning_rat choice [0.01,0.001]", "Did you mean 'learning_rate'"),
            ("knn_k choice [5,10]", "knn_k is an option of other models"),
        ):
            (tmp_path / "space.txt").write_text(line + "\n", encoding="utf-8")
            monkeypatch.setattr(
                sys, "argv", ["run_hyper_mm.py", "--model=BPR", "--dataset=mm-toy", "--params_file=space.txt"]
            )
            assert run_hyper_mm.main() == 2 and words in capsys.readouterr().err
        assert not (tmp_path / "hyper.result").exists() and not (tmp_path / "saved").exists()

    @pytest.mark.slow
    def test_search(self, tmp_path):
        pytest.importorskip("hyperopt")
        (tmp_path / "space.txt").write_text("learning_rate choice [0.01,0.001]\n", encoding="utf-8")
        arguments = ["--model=BPR", "--dataset=mm-toy", "--params_file=space.txt", "--state=ERROR"]
        done = shell(*arguments, "--epochs=1", script=self.SCRIPT, cwd=tmp_path, timeout=120)
        assert done.returncode == 0 and "best params" in done.stdout, done.stderr
        assert (tmp_path / "hyper.result").read_text(encoding="utf-8").count("Test result") == 2
        done = shell(*arguments, "--learning_rate=1", script=self.SCRIPT, cwd=tmp_path, timeout=120)
        assert done.returncode == 2 and "set it once" in done.stderr
