"""A comparison, or a search, whose data change meanwhile does not mix results of the old ones and of the new ones."""

from __future__ import annotations

import numpy as np
import pytest

from recbole_mm.comparison import runs
from recbole_mm.comparison.compare import compare
from recbole_mm.comparison.protocol import make_protocol
from recbole_mm.comparison.tune import tune
from recbole_mm.experiment.fingerprint import run_fingerprint
from recbole_mm.paths import dataset_atomic_dir
from recbole_mm.search import search
from tests.options import QUICK


@pytest.fixture
def copy(tmp_path):
    """mm-toy under another name, in the folder of data sets."""
    folder = tmp_path / "dataset" / "copy"
    folder.mkdir(parents=True)
    for file in (dataset_atomic_dir() / "mm-toy").glob("mm-toy.*"):
        (folder / file.name.replace("mm-toy", "copy", 1)).write_bytes(file.read_bytes())
    return folder


def _exchange(folder):
    """Give the items other vectors."""
    file = next(folder.glob("copy.item.*.npz"))
    archive = dict(np.load(file))
    np.savez(file, **{**archive, "feature": archive["feature"][::-1]})


def test_runs_on_changed_data_fail_and_a_new_start_does_all_of_them(copy, monkeypatch):
    task, done = runs.run_task, []

    def run(order):
        task(order)
        if not done:
            _exchange(copy)
        done.append(order["name"])

    monkeypatch.setattr(runs, "run_task", run)
    arguments = {"config_dict": QUICK, "seeds": 3, "output": "out", "in_process": True, "verbose": False}
    table = compare(["VBPR"], "copy", **arguments)
    assert len(done) == 1 and table["runs"].tolist() == [1]
    assert "the files of the data set copy have changed since this began" in table["failure"][0]
    before = set(done)
    assert compare(["VBPR"], "copy", **arguments)["runs"].tolist() == [3]
    assert len(done) == 4 and before.isdisjoint(done[1:]), "nothing of the old data is taken over"


def test_a_search_ends_where_the_data_change_and_no_trial_is_lost(copy, monkeypatch, tmp_path):
    train, trained = search.train, []
    old = {file: file.read_bytes() for file in copy.iterdir()}

    def then_exchange(*args, **more):
        trained.append(args)
        found = train(*args, **more)
        if len(trained) == 1:
            _exchange(copy)
        return found

    monkeypatch.setattr(search, "train", then_exchange)
    arguments = {"config_dict": QUICK, "trials": 3, "space": {"learning_rate": [0.1, 0.01, 0.001]}}
    arguments.update(output=tmp_path / "out", in_process=True, verbose=False)
    with pytest.raises(ValueError, match="the files of the data set copy have changed"):
        tune("VBPR", "copy", **arguments)
    assert len(trained) == 1
    for file, content in old.items():
        file.write_bytes(content)
    assert [trial["state"] for trial in tune("VBPR", "copy", **arguments).trials] == ["complete"] * 3
    assert len(trained) == 3, "the first trial was not done again"


def test_the_data_of_a_run_are_all_that_it_reads(copy, tmp_path):
    """Features of a model's own, and the data sets that it is pre-trained on."""
    other = tmp_path / "features"
    other.mkdir()
    for file in copy.glob("copy.item.*"):
        (other / file.name).write_bytes(file.read_bytes())
    own = {"VBPR": {"feature_path": str(other)}}

    def data():
        return make_protocol(["BPR", "VBPR"], "copy", None, QUICK, own).data

    before = data()
    _exchange(other)
    after = data()
    assert before["BPR"] == after["BPR"] and before["VBPR"] != after["VBPR"]
    settings = {"data_path": str(copy.parent), "pretrain_datasets": ["copy"]}
    first = run_fingerprint("mm-toy", settings)
    _exchange(copy)
    assert run_fingerprint("mm-toy", settings) != first


def test_names_with_brackets_are_names_and_no_patterns(tmp_path):
    folder = tmp_path / "shop[1]"
    folder.mkdir()
    settings = {"data_path": str(tmp_path)}
    found = set()
    for rows in ("user_id:token\n", "user_id:token\nu1\n"):
        (folder / "shop[1].inter").write_text(rows)
        found.add(run_fingerprint("shop[1]", settings))
    assert len(found) == 2
