from __future__ import annotations

import json
import multiprocessing
import os
import sqlite3

import pytest

from recbole_mm.comparison.compare import compare
from recbole_mm.comparison.tune import tune
from recbole_mm.search import search as module
from recbole_mm.search.storage import check_storage, open_storage, resolve_storage, unusable, without_password
from recbole_mm.search.trials import Trials
from tests.options import QUICK

SPACE = {"learning_rate": [0.01, 0.02, 0.03, 0.04]}


def study(file, trials=40):
    """A study with some trials."""
    found = Trials(open_storage(f"sqlite:///{file}"), "study", True, 1)
    found.run(lambda trial: trial.suggest_float("x", 0, 1), trials)
    return file


def cut_off(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def other_number(file):
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE trial_user_attributes SET value_json = '\"x\"' WHERE key = 'index'")


@pytest.mark.parametrize(
    "damage",
    [cut_off, other_number, lambda file: file.write_text("no database at all, but a text")],
    ids=["cut off", "edited", "a text"],
)
def test_a_damaged_database_is_named(damage, tmp_path):
    file = study(tmp_path / "mine.db", 5)
    damage(file)
    before = file.read_bytes()
    with pytest.raises(ValueError, match=r"mine\.db cannot be used .*Put a copy of it back; or move it away"):
        check_storage(f"sqlite:///{file}", "study")
    assert file.read_bytes() == before


def test_a_search_with_a_damaged_database_says_so_and_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "prepare", None)
    (tmp_path / "mine.db").write_text("no database")
    how = {"config_dict": QUICK, "trials": 1, "space": SPACE, "output": tmp_path / "out", "in_process": True}
    with pytest.raises(ValueError, match=r"mine\.db cannot be used"):
        tune("BPR", "mm-toy", storage="sqlite:///mine.db", **how)


def test_a_database_that_does_not_answer_hides_its_password(monkeypatch):
    class Broken:
        def RDBStorage(self, url, engine_kwargs):  # noqa: N802 - Optuna's name
            raise RuntimeError(f"no answer from {url}")

        storages = property(lambda self: self)

    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr("recbole_mm.search.storage.import_optuna", lambda: Broken())
    with pytest.raises(ValueError, match=r"postgresql://me:\*\*\*@host/x cannot be used .*no answer") as caught:
        open_storage("postgresql://me:secret@host/x")
    assert "secret" not in str(caught.value)


def test_addresses(tmp_path):
    here = os.getcwd()
    assert resolve_storage("sqlite:///a/b.db") == f"sqlite:///{here}/a/b.db"
    assert resolve_storage("sqlite:////abs/b.db") == "sqlite:////abs/b.db"
    assert resolve_storage("sqlite+pysqlite:///b.db?timeout=9") == f"sqlite+pysqlite:///{here}/b.db?timeout=9"
    assert resolve_storage("mysql://u:p@host/x") == "mysql://u:p@host/x"
    for url in ("sqlite://", "sqlite:///:memory:"):
        with pytest.raises(ValueError, match="in memory"):
            resolve_storage(url)
    with pytest.raises(ValueError, match="there is no folder"):
        check_storage(f"sqlite:///{tmp_path}/none/x.db", "study")


def _fork(function, task, folder, models, look=None, children=None, **_):
    """A process in a folder of its own, as the true one is, without the seconds of importing torch."""
    fork = multiprocessing.get_context("fork")

    def work():
        os.chdir(folder)
        (folder / "answer").write_text(json.dumps(function(task)))

    child = fork.Process(target=work)
    child.start()
    child.join()
    return json.loads((folder / "answer").read_text())


def test_a_relative_database_is_the_callers(tmp_path, monkeypatch):
    """Search and comparison, in folders of their own, share one file beside the caller, and go on with it."""
    monkeypatch.setattr(module, "run_in_child", _fork)
    options, url = {**QUICK, "epochs": 1}, "sqlite:///mine.db"
    tune("BPR", "mm-toy", config_dict=options, trials=2, space=SPACE, output="a", storage=url, verbose=False)
    assert [file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*.db")] == ["mine.db"]
    tune("BPR", "mm-toy", config_dict=options, trials=3, space=SPACE, output="b", storage=url, verbose=False)
    (result,) = tmp_path.glob("b/search/*.json")
    assert len({trial["worker"] for trial in json.loads(result.read_text())["trials"]}) == 2
    how = {"seeds": 1, "search_spaces": {"BPR": SPACE}, "verbose": False, "in_process": True}
    compare(["BPR"], "mm-toy", config_dict=options, trials=2, output="c", storage=url, **how)
    assert [file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*.db")] == ["mine.db"]


def test_the_password_of_a_database_is_not_in_the_results():
    shown = without_password("postgresql://me:secret@host:5432/studies")
    assert "secret" not in shown and "me:" in shown and "@host:5432/studies" in shown
    assert without_password("sqlite:////tmp/study.db") == "sqlite:////tmp/study.db"
    assert without_password("postgresql://me:p@ss:w/ord@host/x?a=1&password=se").count("***") == 2


def test_a_database_that_another_program_holds_is_said_to_be_locked(tmp_path, monkeypatch):
    import sqlite3
    import time

    url = f"sqlite:///{tmp_path / 'study.db'}"
    open_storage(url)
    monkeypatch.setattr("recbole_mm.search.storage._PATIENCE", 0.2)
    other = sqlite3.connect(tmp_path / "study.db", isolation_level=None)
    other.execute("begin exclusive")
    begin = time.monotonic()
    with pytest.raises(ValueError, match=r"study\.db is locked: another program.*Close it"):
        check_storage(url, "a study")
    assert time.monotonic() - begin < 5
    other.close()
    check_storage(url, "a study")


@pytest.mark.parametrize(
    ("says", "told"),
    [
        ("(sqlite3.OperationalError) database or disk is full", "the disk is full: make room"),
        ("(sqlite3.OperationalError) attempt to write a readonly database", "permission to write"),
        ("(sqlite3.OperationalError) unable to open database file", "permission to read and write"),
    ],
)
def test_a_database_is_not_called_damaged_where_the_disk_is_at_fault(says, told, tmp_path):
    text = str(unusable(f"sqlite:///{tmp_path / 'study.db'}", RuntimeError(says)))
    assert told in text and "the trials in it are kept" in text and "damaged" not in text
