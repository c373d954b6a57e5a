"""What identifies a run."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version

from recbole.model.general_recommender import BPR

from recbole_mm import register
from recbole_mm.experiment.job import Job
from recbole_mm.experiment.store import digest


def test_a_result_is_found_again_by_the_defaults_too(clean_registry):
    """After an upgrade that changes a model's defaults, what was measured with the old ones is another run."""
    found = []
    for factors, extra in ((8, {}), (16, {}), (16, {"split": "known", "candidates": "known"})):
        register(type("Changing", (BPR,), {"__doc__": "A model."}), properties={"embedding_size": factors})
        job = Job("Changing", "mm-toy", {"epochs": 1, "gpu_id": "1"}, 2020, 2020, **extra)
        found.append(digest(job.identity("data")))
    assert found[0] != found[1] and found[1] == found[2]
    assert digest(replace(job, settings={"epochs": 1}).identity("data")) == found[1]
    assert digest(job.identity("other data")) != found[1]
    theirs = Job("BPR", "mm-toy", {}, 2020, 2020).identity("data")
    assert theirs["defaults"] == {"recbole": version("recbole")}
