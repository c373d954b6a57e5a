"""A table of command lines that cannot be meant, each with the words of its message; nothing is trained for any."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recbole.trainer import Trainer

from recbole_mm.cli.main import main

TOY = "--dataset=mm-toy --epochs=1 --state=ERROR --show_progress=False"
BPR, MMGCN = f"--model=BPR {TOY}", f"--model=MMGCN {TOY}"

# Command line, words of the message.
COMMANDS: list[tuple[str, str]] = [
    # words and arguments
    ("trian --model=BPR", "Did you mean train"),
    ("train BPR", "belongs to no argument"),
    ("train --model", "--model needs a value"),
    ("train --model=", "has no value"),
    ("train --dataset=mm-toy", "Which model?"),
    ("train --model=MMGNC --dataset=mm-toy", "Did you mean MMGCN"),
    ("train --model=mmgcn --dataset=mm-toy", "Did you mean MMGCN"),
    ("train --model=BPR,MMGCN --dataset=mm-toy", "no model named"),
    (f"train {BPR} --model=MMGCN", "given twice"),
    (f"train {BPR} --verbose=3", "takes no value"),
    (f"train {BPR} --export=a.csv", "--export is no argument of train"),
    (f"train {BPR} --trials=3", "--trials is no argument of train"),
    (f"train {BPR} --trust", "--trust does nothing without --resume or --checkpoint"),
    (f"train {BPR} --nproc=two", "--nproc: expected a whole number"),
    (f"train {BPR} --nproc=0", "nproc: expected a positive number"),
    ("train --model=BPR --dataset=mm_toy", "mm_toy"),
    ("train --model=BPR --dataset=../mm-toy", "../mm-toy"),
    # options that no model reads
    (f"train {BPR} --learning_rat=1", "Did you mean 'learning_rate'"),
    (f"train {BPR} --save-model=m", "Did you mean 'save_model'"),
    (f"train {BPR} --config-files=a.yaml", "Did you mean 'config_files'"),
    (f"train {BPR} --knn_k=5", "--knn_k is an option of other models"),
    (f"train {MMGCN} --knn_k=-77", "--knn_k is an option of other models"),
    (f"train --model=LATTICE {TOY} --n_clusters=3", "--n_clusters is an option of other models"),
    (f"train --model=LightGCN {TOY} --feature_norm=l2 --hidden_size=3", "is an option of other models"),
    (f"train --model=SASRec {TOY} --n_clusters=3", "--n_clusters is an option of other models"),
    (f"train --model=GRU4Rec {TOY} --train_neg_sample_args=~ --knn_k=1", "--knn_k is an option of other models"),
    (f"train --model=DeepFM {TOY} --n_layers=1", "--n_layers is an option of other models"),
    ("compare --models=BPR,MMGCN --dataset=mm-toy --knn_k=3", "--knn_k is an option of other models"),
    # values
    (f"train {BPR} --seed=-1", "seed: expected an integer from 0"),
    ("train --model=BPR --dataset=mm-toy --epochs=1e3", "epochs: expected an integer"),
    (f"train {BPR} --topk=20 --valid_metric=MRR@10", "valid_metric=MRR@10 is not among"),
    (f"train {BPR} --topk=500 --valid_metric=MRR@500", "lists of 500 need so many items"),
    (f"train {BPR} --metrics=[Recall,AUC]", "cannot be computed in one evaluation"),
    (f"train {BPR} --data_path=nowhere", "data_path: there is no folder"),
    (f"train {MMGCN} --feature_path=nowhere", "feature_path: expected an existing folder"),
    (f"train {MMGCN} --modalities=[imgae]", "Did you mean 'image'"),
    (f"train --model=LATTICE {TOY} --knn_k=0", "'knn_k': expected an integer of at least 1"),
    (f"train --model=LATTICE {TOY} --knn_k=many", "knn_k"),
    (f"train --model=SASRec {TOY}", "should be None when the loss_type is CE"),
    (
        f"train --model=NeuMF {TOY} --dropout_prob=7",
        "dropout_prob: expected a number from 0 to 1, got 7",
    ),
    (f"train --model=NeuMF {TOY} --mlp_hidden_size=x", "neumf cannot be built with these options"),
    # option files
    (f"train {BPR} --config_files=nix.yaml", "no option file 'nix.yaml'"),
    (f"train {BPR} --config_files=folder", "folder"),
    (f"train {BPR} --config_files=binary", "binary is not yaml"),
    (f"train {BPR} --config_files=empty", "empty holds no options"),
    (f"train {BPR} --config_files=list.yaml", "list.yaml holds no options"),
    (f"train {BPR} --config_files=tab.yaml", "tab.yaml is not yaml"),
    (f"train {BPR} --config_files=tag.yaml", "tag.yaml is not yaml"),
    (f"train {BPR} --import=nix.py", "nix.py"),
    (f"train {BPR} --config_files=twice.yaml", "epochs is there twice, in line 1 and in line 3"),
    (f"train {BPR} --config_files=inner.yaml", "split is there twice, in line 1 and in line 1"),
    (f"train {BPR} --config_files=deep.yaml", "nested too deeply"),
    (f"train {BPR} --config_files=parts.yaml", "parts.yaml is not yaml"),
    (f"train {BPR} --config_files=utf16.yaml", "utf16.yaml is not yaml"),
    (f"train {BPR} --config_files=line.yaml", "line.yaml is not yaml"),
    (f"train {BPR} --config_files=nan.yaml", "learning_rate: expected a finite number"),
    (f"train {BPR} --config_files=repeated.yaml", "repeat each other, or themselves, without end"),
    (f"train {BPR} --config_files=itself.yaml", "repeat each other, or themselves, without end"),
    (f"train {BPR} --config_files=truth.yaml", "True is no name of an option"),
    (f"train {BPR} --config_files=counted.yaml", "1 is no name of an option"),
    (f"train {BPR} --config_files=nothing.yaml", "None is no name of an option"),
    (f"train {BPR} --config_files=octal.yaml", "010 is 8 in yaml; write 8, or put quotes around it"),
    (f"train {BPR} --config_files=sixty.yaml", "line 2: 1:30 is 90 in yaml"),
    (f"train {BPR} --config_files=link", "no option file 'link'"),
    (f"train {BPR} --import=folder", "folder without code of its own"),
    (f"train {BPR} --save_model=link", "link is a link that leads nowhere"),
    (f"train {BPR} --save_model=itself", "itself is a link that leads nowhere"),
    (f"train {BPR} --checkpoint_dir=itself", "itself: "),
    (f"train {BPR} --config_files=/dev/null", "no option file '/dev/null'"),
    # values that a shell or a habit makes
    (f"train {BPR} --gpu_id=abc", "gpu_id: expected numbers of devices"),
    (f"train {BPR} --gpu_id=cuda:0", "gpu_id: expected numbers of devices"),
    (f"train {BPR} --LABEL_FIELD=user_id", "USER_ID_FIELD names that column, too"),
    (f"train {BPR} --TIME_FIELD=item_id", "ITEM_ID_FIELD names that column, too"),
    (f"train {BPR} --alias_of_item_id=[nope]", "alias_of_item_id names nope, and no loaded column"),
    (f"train {BPR} --eval_args={{order:RO}}", "'order:RO' lacks a blank behind the colon: order: RO"),
    (f"train {BPR} --eval_args={{split:{{LS:foo}}}}", "'LS:foo' lacks a blank"),
    (f"train {BPR} --threshold={{rating:3}}", "'rating:3' lacks a blank"),
    (f"train {MMGCN} --modality_weight={{image:2}}", "'image:2' lacks a blank"),
    (f"train {BPR} --topk=[]", "topk: expected a positive integer"),
    (f"train {BPR} --topk=10.5", "topk: expected a positive integer"),
    (f"train {BPR} --metrics=[]", "metrics: expected a list"),
    (f"train {BPR} --metrics=[recal]", "Did you mean 'recall'"),
    (f"train {BPR} --valid_metric=Recall", "choose one of them, such as valid_metric=Recall@10"),
    (f"train {BPR} --use_gpu=maybe", "use_gpu: expected True or False"),
    (f"train {BPR} --checkpoint_dir=text", "There is a file of this name already"),
    (f"train {BPR} --checkpoint_dir=text/x", "A file stands where a folder is expected"),
    (f"train {BPR} --field_separator=", "has no value"),
    (f"train {BPR} --encoding=utf-99", "is no encoding that Python knows"),
    (f"train {BPR} --USER_ID_FIELD=nobody", "there is no column nobody"),
    (f"train {BPR} --user_inter_num_interval=abc", "expected an interval in quotes"),
    (f"train {BPR} --worker=-1", "worker: expected an integer of at least 0"),
    (f"train {BPR} --eval_batch_size=auto2", "eval_batch_size: expected 'auto'"),
    (f"train {BPR} --embedding_size=1e9", "embedding_size: expected an integer of at least 1"),
    (f"train {BPR} --seed=99999999999999999999", "seed: expected an integer from 0"),
    (f"train {BPR} --learning_rate=1e400", "got inf"),
    (f"train {BPR} --learning_rate=0.1,0.2", "(tuple)"),
    (f"train {BPR} --=3", "belongs to no argument"),
    (f"train {BPR} ---epochs=3", "Unknown option '-epochs'"),
    (f"train {BPR} -epochs=3", "belongs to no argument"),
    (f"train {BPR} --EPOCHS=3", "Did you mean 'epochs'"),
    (f"train {BPR} --epochs=3", "given twice"),
    (f"train {BPR} --additional_feat_suffix=[ent]", "Additional feature file"),
    (f"train {BPR} --numerical_features=[age]", "Field [age] not defined"),
    (f"train {MMGCN} --modalities=[]", "modalities: expected a list of names"),
    (f"train {MMGCN} --modalities=[image,image]", "every modality once"),
    (f"train {MMGCN} --modality_weight=0", "leaves no feature"),
    (f"train {MMGCN} --missing_feature=zeros", "Did you mean 'zero'"),
    (f"train {MMGCN} --feature_dtype=int8", "feature_dtype: expected one of"),
    (f"train {MMGCN} --feature_path=text", "feature_path: expected an existing folder"),
    (f"train {MMGCN} --slices=foo", "unknown slice 'foo'"),
    ('train "--model=BPR " --dataset=mm-toy', "Did you mean BPR"),
    ("train --resume=auto", "Which model?"),
    (f"train {BPR} --import=json.nix", "there is no module"),
    # checkpoints
    ("train --resume=nix.pth", "no checkpoint 'nix.pth'"),
    ("train --resume=folder", "folder is a folder"),
    ("train --resume=empty", "it is empty"),
    ("train --resume=binary", "no archive as torch.save writes it"),
    ("train --resume=foreign.pth", "is not a checkpoint"),
    (f"train {BPR} --resume=text", "no archive"),
    ("export --export=a.csv --checkpoint=nix.pth", "no checkpoint 'nix.pth'"),
    ("export --export=a.csv --checkpoint=folder", "folder is a folder"),
    ("export --export=a.csv --checkpoint=empty", "it is empty"),
    ("export --export=a.csv --checkpoint=cut.pth", "its end is missing"),
    ("export --export=a.csv --checkpoint=foreign.pth", "is not a checkpoint"),
    ("export --export=a.csv --checkpoint=foreign.pth --model=BPR", "leave out --model"),
    ("export --export=a.csv --checkpoint=foreign.pth --epochs=3", "leave out --epochs"),
    # exports, before any training
    (f"export {BPR}", "What is to be written?"),
    (f"export {BPR} --export=a.xlsx", "the ending says the format"),
    (f"export {BPR} --export=a", "the ending says the format"),
    (f"export {BPR} --export=folder", "folder"),
    (f"export {BPR} --export=nix/a.csv", "there is no folder"),
    (f"export {BPR} --export=folder.csv", "folder.csv is a folder"),
    (f"export {BPR} --export=text/a.csv", "there is no folder"),
    (f"export {BPR} --export_embeddings=a.csv", "the ending says the format"),
    (f"export {BPR} --export=a.npz --export_embeddings=a.npz", "give two files"),
    (f"export {BPR} --export=a.npz --export_embeddings=./a.npz", "give two files"),
    (f"export {BPR} --export=a.csv --topk=0", "topk: expected a positive integer"),
    (f"export {BPR} --export=a.csv --topk=ten", "--topk: expected the length of the lists"),
    (f"export {BPR} --export=a.csv --export_seen=some", "seen: expected one of"),
    (f"export {BPR} --export=a.csv --export_users=@nix.txt", "there is no file 'nix.txt'"),
    (f"export {BPR} --export=a.csv --export_users=@folder", "folder is a folder"),
    (f"export {BPR} --export=a.csv --export_users=@empty", "empty has no id"),
    (f"export {BPR} --export=a.csv --export_users=@binary", "is not text"),
    (f"export {BPR} --export=a.csv --export_users=@zeros", "is not text"),
    (f"export {BPR} --export=a.csv --export_users=,", "expected ids separated by commas"),
    # searches and comparisons
    ("search --model=BPR --dataset=mm-toy --trials=0", "trials: expected 1 at least, got 0"),
    ("search --model=BPR --dataset=mm-toy --trials=-1", "trials: expected 1 at least, got -1"),
    ("search --model=BPR --dataset=mm-toy --trials=few", "--trials: expected a whole number"),
    ("search --model=BPR --dataset=mm-toy --search_spaces=nix.yaml", "no option file 'nix.yaml'"),
    ("search --model=BPR --dataset=mm-toy --search_spaces=list.yaml", "list.yaml holds no options"),
    ("search --model=BPR --dataset=mm-toy --output=text", "no folder"),
    ("search --model=BPR --dataset=mm-toy --trials=1.5", "--trials: expected a whole number"),
    ("search --model=BPR --dataset=mm-toy --search_spaces=number.yaml", "1 is no name of an option"),
    ("search --model=BPR --dataset=mm-toy --trials=2 --storage=foo", "the database foo cannot be used"),
    ("search --model=BPR --dataset=mm-toy --trials=2 --storage=sqlite:///nix/x.db", "there is no folder"),
    ("search --model=BPR --dataset=mm-toy --trials=2 --storage=sqlite://", "is a database in memory"),
    ("search --model=BPR --dataset=mm-toy --trials=2 --storage=oracle://u:se@nix/x", "needs a package for its kind"),
    ("compare --models=BPR,MMGCN --dataset=mm-toy --seeds=99999999999", "expected a number of runs up to 1,000"),
    ("compare --models=BPR,MMGCN --dataset=mm-toy --seeds=2020", "--seeds=2020,2021"),
    ("compare --models=BPR,MMGCN --dataset=mm-toy --ablate=3", "--ablate takes no value"),
    ("compare --dataset=mm-toy", "Which models?"),
    ("compare --models=BPR --model=BPR --dataset=mm-toy", "--model is no argument of compare"),
    ("compare --models=BPR,BRP --dataset=mm-toy", "BRP"),
    ("compare --models=BPR,BPR --dataset=mm-toy", "BPR"),
    ("compare --models=BPR,MMGCN --dataset=mm-toy --trials=0", "--trials: expected 1 at least"),
    ("compare --models=BPR,MMGCN --dataset=mm-toy --trials=-1", "--trials: expected 1 at least"),
    ("compare --models=BPR,MMGCN --dataset=mm-toy --seeds=-1", "seeds: expected a positive number"),
    ("compare --models=BPR,MMGCN --dataset=mm-toy --seeds=0", "seeds: expected a positive number"),
    ("compare --models=BPR,MMGCN --dataset=mm-toy --seeds=1,1", "different integers"),
    ("compare --models=BPR,MMGCN --dataset=mm-toy --seeds=a", "--seeds: expected a number of seeds"),
    ("compare --models=BPR,MMGCN --dataset=mm-toy --seeds=-3,-4", "seed"),
    ("compare --models=BPR,MMGCN --dataset=mm-toy --split_seed=-3", "split_seed"),
    ("compare --models=BPR,MMGCN --dataset=mm-toy --jobs=0", "jobs: expected 1 at least"),
    ("compare --models=BPR,MMGCN --dataset=mm-toy --output=text", "no folder"),
    ("compare --models=BPR,MMGCN --dataset=mm-toy --baseline=LightGCN", "baseline"),
    ("compare --models=BPR,MMGCN --dataset=mm-toy --resume=a.pth", "--resume"),
    # data sets
    ("convert mmrec folder out --name ../x", "is no name for a data set"),
    ("convert mmrec folder out --name a/b", "is no name for a data set"),
    ("convert to-mmrec folder out --name ../x", "is no name for a data set"),
    ("convert mmrec folder out --name ..", "is no name for a data set"),
    ("convert mmrec folder out --name ''", "is no name for a data set"),
    ("convert mmrec nix out --name x", "nix"),
    ("convert checkpoint nix.pth --trust", "no checkpoint 'nix.pth'"),
    ("convert checkpoint binary --trust", "no archive"),
    ("import ../x --interactions=text", "is no name for a data set"),
    ("import shop --interactions=folder", "folder is a folder"),
    ("import shop --interactions=nix.csv", "There is no file nix.csv"),
    ("import shop --interactions=empty.csv", "empty.csv"),
    ("inspect nix", "There is no data set 'nix'"),
    ("inspect ../x", "There is no data set"),
    ("extract nix --text=title", "nix"),
]


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    for name in ("folder", "folder.csv"):
        (tmp_path / name).mkdir()
    content = {
        "empty": b"", "empty.csv": b"", "binary": b"\x89PNG\r\n\x1a\n\x00\xff\xfe", "zeros": b"u1\n\x00\x00\n",
        "list.yaml": b"- a\n- b\n", "tab.yaml": b"a:\n\t- b\n", "tag.yaml": b"epochs: !!python/name:os.system ''\n",
        "twice.yaml": b"epochs: 1\nseed: 1\nepochs: 2\n", "deep.yaml": b"a: " + b"[" * 2000 + b"]" * 2000,
        "inner.yaml": b"eval_args: {split: {RS: [8, 1, 1]}, split: {LS: valid_and_test}}\n",
        "parts.yaml": b"epochs: 1\n---\nepochs: 2\n", "utf16.yaml": "epochs: 1\n".encode("utf-16"),
        "line.yaml": b"epochs: 1 seed: 2\n", "nan.yaml": b"learning_rate: .nan\n", "number.yaml": b"1: {a: [2]}\n",
        "repeated.yaml": b"a: &a [x,x,x,x,x,x,x,x,x,x]\n"
        + b"".join(b"%c: &%c [%s]\n" % (n + 1, n + 1, b",".join([b"*%c" % n] * 10)) for n in range(97, 105)),
        "itself.yaml": b"metrics: &m [Recall, *m]\n", "truth.yaml": b"on: 1\n", "counted.yaml": b"1: 2\n",
        "nothing.yaml": b"~: 2\n", "octal.yaml": b"seed: 010\n", "sixty.yaml": b"seed: 1\nepochs: 1:30\n",
        "text": b"text\n", "cut.pth": b"PK\x03\x04" + b"\x00" * 40,
    }  # fmt: skip
    for name, text in content.items():
        (tmp_path / name).write_bytes(text)
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "itself").symlink_to("itself")
    torch.save({"weights": torch.zeros(2)}, tmp_path / "foreign.pth")

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("training began")

    monkeypatch.setattr(Trainer, "_train_epoch", never)
    monkeypatch.setattr("sys.argv", ["recbole-mm"])


def test_the_table_is_long_enough() -> None:
    assert len(COMMANDS) >= 160


@pytest.mark.parametrize(("line", "words"), COMMANDS, ids=lambda entry: entry[:60])
def test_a_mistake_is_one_message_before_training(line: str, words: str, capsys: Any, tmp_path: Path) -> None:
    assert main(shlex.split(line)) in (1, 2)
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error, error
    assert not list(tmp_path.rglob("*.pth.tmp")) and not (tmp_path.parent / "x").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    assert main(shlex.split(f"train {BPR} --checkpoint_dir=closed/saved")) == 2
    assert "There is no permission" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "words"), [(28, "The disk is full"), (13, "There is no permission"), (30, "can only be read")]
)
def test_faults_of_the_machine_are_messages(number: int, words: str, monkeypatch: Any, capsys: Any) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number), "saved/x.pth")

    monkeypatch.setattr(Trainer, "_train_epoch", fail)
    assert main(shlex.split(f"train {BPR}")) == 2
    error = capsys.readouterr().err
    assert words in error and "saved/x.pth" in error


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        np._core._exceptions._ArrayMemoryError((10**6, 10**6), np.dtype(float)),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried 1"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        TypeError('empty(): argument "size" failed with error "Overflow when unpacking long long"'),
    ],
)
def test_no_room_is_a_message(error: Exception, monkeypatch: Any, capsys: Any) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(Trainer, "_train_epoch", fail)
    assert main(shlex.split(f"train {BPR}")) == 2
    message = capsys.readouterr().err
    assert "There is not enough memory" in message and "Take a smaller train_batch_size" in message


def test_a_defect_is_no_message(monkeypatch: Any) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("something of nobody")

    monkeypatch.setattr(Trainer, "_train_epoch", fail)
    with pytest.raises(OSError, match="something of nobody"):
        main(shlex.split(f"train {BPR}"))


@pytest.mark.parametrize("ids", [b"\xef\xbb\xbfu41\r\n u102 \r\n\r\n", "u41\nu102\n".encode("utf-16")])
def test_marks_line_ends_and_blanks_of_a_file_of_users_are_not_theirs(ids: bytes, tmp_path: Path) -> None:
    from recbole_mm.serving.asked import read_ids

    (tmp_path / "users.txt").write_bytes(ids)
    assert read_ids(tmp_path / "users.txt", "--export_users") == ["u41", "u102"]


def test_object_arrays_say_how_they_are_converted(tmp_path: Path) -> None:
    from recbole_mm.data.features.files import FeatureFile

    path = tmp_path / "mm-toy.item.image.npz"
    np.savez(path, id=np.array(["a", "b"], dtype=object), feature=np.eye(2))
    with pytest.raises(ValueError, match="array of Python objects.*to_numpy"):
        FeatureFile("item", "image", path).tokens()
