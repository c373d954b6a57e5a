"""What is changed in RecBole's trainers, logs and downloads, seen from outside."""

from __future__ import annotations

import errno
import logging
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import recbole.data.dataset.dataset as recbole_dataset
import recbole.data.utils as recbole_data
import recbole.utils.utils as recbole_utils

from recbole_mm.experiment.quick_start import run
from recbole_mm.files import WriteError
from recbole_mm.host import seams
from tests.options import QUICK


def test_a_run_has_a_log_and_curves_of_its_own(tmp_path, monkeypatch):
    """RecBole's second run of a process writes into the files of the first."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # a script has none of pytest's
    for model in ("BPR", "Pop", "BPR"):
        run(model, "mm-toy", config_dict={**QUICK, "epochs": 1, "state": "INFO", "seed": len(list(tmp_path.iterdir()))})
    logs = {file: file.read_text() for file in tmp_path.glob("log/*/*.log")}
    assert sorted(file.parent.name for file in logs) == ["BPR", "BPR", "Pop"]
    for file, text in logs.items():
        other = "Pop" if file.parent.name == "BPR" else "BPR"
        assert text.count("best valid ") == 1 and f"model = {other}" not in text
    curves = [folder for folder in (tmp_path / "log_tensorboard").iterdir()]
    assert len(curves) == 3 and all(len(list(folder.glob("events*"))) == 1 for folder in curves)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_log_on_a_full_disk_is_said_once(monkeypatch, caplog, capsys):
    monkeypatch.setattr(seams, "_handlers", [])
    monkeypatch.setattr(logging.getLogger(), "handlers", [caplog.handler])

    def init_logger(config):
        logging.getLogger().addHandler(logging.FileHandler("/dev/full"))

    seams._init_logger(init_logger, None)
    for _ in range(3):
        logging.getLogger().error("a line")
    said = [record.message for record in caplog.records if record.message != "a line"]
    assert len(said) == 1 and said[0].startswith("/dev/full gets no more lines: [Errno 28] No space left")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(seams._handlers[0], "stream", None)  # closing it would try to write once more


def test_a_program_without_arguments(monkeypatch):
    """An interpreter that is embedded in another program has no name in ``sys.argv``."""
    monkeypatch.setattr("sys.argv", [])
    assert run("BPR", "mm-toy", config_dict={**QUICK, "epochs": 1}, saved=False)["config"]["epochs"] == 1


def test_handlers_of_others_stay(caplog):
    mine = logging.NullHandler()
    logging.getLogger().addHandler(mine)
    try:
        for _ in range(2):
            run("Pop", "mm-toy", config_dict={**QUICK, "epochs": 1})
        assert mine in logging.getLogger().handlers
    finally:
        logging.getLogger().removeHandler(mine)


def test_the_caches_of_recbole_are_written_whole(monkeypatch, tmp_path):
    options = {**QUICK, "epochs": 1, "save_dataset": True, "save_dataloaders": True}
    run("Pop", "mm-toy", config_dict=options)
    caches = sorted(tmp_path.glob("saved/mm-toy-*.pth"))
    before = [file.read_bytes() for file in caches]
    assert len(caches) == 2

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(recbole_data.pickle, "dump", full)
    # With another seed the loaders are made anew, with another filter the data set, too.
    for change in ({"seed": 7}, {"user_inter_num_interval": "[2,inf)"}):
        message = "mm-toy-.* could not be written .*No space left.* what was there before is"
        with pytest.raises(WriteError, match=message):
            run("Pop", "mm-toy", config_dict={**options, **change})
    assert [file.read_bytes() for file in caches] == before
    assert sorted(tmp_path.glob("saved/*mm-toy-*.pth")) == caches


def test_a_download_waits_for_nobody(monkeypatch, tmp_path):
    """RecBole ends it at a barrier of a group of processes, which one process does not have."""

    def download(url, folder):
        file = tmp_path / "shop-v1.zip"
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("shop-v1.inter", "user_id:token\titem_id:token\nu\ti\n")
        return str(file)

    monkeypatch.setattr(recbole_dataset, "download_url", download)
    monkeypatch.setattr(recbole_dataset, "decide_download", lambda url: True)
    asking = SimpleNamespace(
        config={"local_rank": 0}, dataset_name="shop", dataset_path=str(tmp_path / "shop"), logger=logging.getLogger(),
        _get_download_url=lambda name: "an address",
    )  # fmt: skip
    recbole_dataset.Dataset._download(asking)
    assert (tmp_path / "shop" / "shop.inter").read_text().startswith("user_id:token")
    waited = []
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.barrier", lambda: waited.append(True))
    for rank in (0, 1):
        asking.config["local_rank"] = rank
        recbole_dataset.Dataset._download(asking)
    assert waited == [True, True], "where there is a group, its processes wait for each other"


def test_a_data_set_that_nobody_knows_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere-set"):
        run("BPR", "nowhere-set", config_dict=QUICK)


def test_a_run_waits_a_tenth_of_a_second_for_the_load_of_the_processor(monkeypatch):
    waits = []
    monkeypatch.setattr("psutil.cpu_percent", lambda interval=None: waits.append(interval) or 12.5)
    table = recbole_utils.get_environment({"device": "cpu", "use_gpu": False})
    assert waits == [0.1] and "12.50 %" in table.draw()
