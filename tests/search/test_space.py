"""Search spaces: what they may say, which ship, and the name of the study that a space makes."""

from __future__ import annotations

import pytest
from recbole.utils import ModelType

import recbole_mm
from recbole_mm.experiment.job import Job
from recbole_mm.host.names import recbole_models
from recbole_mm.paths import properties_dir
from recbole_mm.search.search import make_plan
from recbole_mm.search.space import Choices, Range, read_space
from tests.search.spaces import SPACE


def test_the_study_is_named_after_everything_that_matters():
    def name(**changes):
        job = Job("BPR", "mm-toy", {"epochs": 2, **changes.pop("settings", {})}, changes.pop("seed", 1), 1)
        arguments = {"fingerprint": "f", "space": read_space("BPR", SPACE), "trials": 5, "storage": None, **changes}
        return make_plan(job, **arguments).study

    same = [name(), name(trials=9), name(storage="sqlite:///x"), name(settings={"gpu_id": "3", "data_path": "/y"})]
    assert len(set(same)) == 1
    others = [name(seed=2), name(settings={"epochs": 3}), name(fingerprint="g"), name(space={})]
    assert len({*same, *others}) == 5


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"topk": [[5]]}, "must be the same for all"),
        ({"seed": [1, 2]}, "must be the same for all"),
        ({"learning_rat": [0.1]}, "no option 'learning_rat'.*learning_rate"),
        ({"learning_rate": {"low": "1e-4", "high": 0.1}}, r"expected numbers, got '1e-4'.*1\.0e-4"),
        ({"learning_rate": {"low": 0.1, "high": 0.01}}, "low must not exceed high"),
        ({"learning_rate": {"low": 0, "high": 0.01, "log": True}}, "low > 0"),
        ({"learning_rate": {"low": 0.1, "high": 0.2, "steps": 3}}, "got steps"),
        ({"learning_rate": 0.1}, "a list of values"),
        ({"learning_rate": []}, "a list of values"),
        ({"learning_rate": {"low": True, "high": 2}}, "expected numbers"),
    ],
)
def test_mistakes_in_a_space_are_named(space, message):
    with pytest.raises(ValueError, match=message):
        make_plan(Job("BPR", "mm-toy", {}, 1, 1), "f", read_space("BPR", space), 3, None)


def test_a_space_that_is_no_mapping(tmp_path):
    (tmp_path / "space.yaml").write_text("- 1\n")
    with pytest.raises(ValueError, match="expected a mapping"):
        read_space("BPR", tmp_path / "space.yaml")


def test_numbers_of_a_file_are_read_as_in_option_files(tmp_path):
    (tmp_path / "space.yaml").write_text(
        "learning_rate: [1e-4, 1e-3]\nreg_weight: {low: 1e-5, high: 1e-2, log: true}\n"
    )
    space = read_space("BPR", tmp_path / "space.yaml")
    assert space["learning_rate"].holds(0.001), "so that trial 0 has the default"
    assert space["reg_weight"] == Range(1e-5, 1e-2, log=True)


@pytest.mark.parametrize("content", [b"learning_rate: [0.1, 0.2", b"learning_rate: [\xfc]"])
def test_a_space_that_is_no_yaml(content, tmp_path):
    (tmp_path / "space.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=r"space\.yaml is not yaml"):
        read_space("BPR", tmp_path / "space.yaml")


def test_an_unknown_model_has_no_space():
    with pytest.raises(FileNotFoundError, match="no search space for LightGCM.*Did you mean 'LightGCN'.*search_spaces"):
        read_space("LightGCM")


def test_dimensions_know_their_values():
    assert Range(1, 4).whole and not Range(1.0, 4).whole
    assert [Range(1, 5, step=2).holds(v) for v in (1, 3, 4, 7, True, "3")] == [True, True, False, False, False, False]
    assert Range(0.0, 0.5, step=0.1).holds(0.3) and not Range(0.0, 0.5, step=0.1).holds(0.35)
    assert Choices(([1, 2], [3])).holds([3]) and Choices(([1, 2],)).stored([1, 2]) == "[1, 2]"


@pytest.mark.parametrize("file", sorted((properties_dir() / "search").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_space_that_ships_fits_its_model(file):
    """The model exists, has every option, and its default lies in the space, so trial 0 is the default."""
    from recbole.config import Config
    from recbole.utils import get_model

    name = file.stem
    assert name in recbole_mm.registered_models() or name in recbole_models()
    space = read_space(name)
    make_plan(Job(name, "mm-toy", {}, 1, 1), "f", space, 3, None)
    options = {"train_neg_sample_args": None} if get_model(name).type.name == "SEQUENTIAL" else {}
    config = Config(model=name, dataset="mm-toy", config_dict={"state": "ERROR", **options})
    for key, dimension in space.items():
        assert key in config, f"{name} has no option {key}"
        theirs = key == "weight_decay" and name in recbole_models()  # 0, which no logarithm has
        assert theirs or dimension.holds(config[key]), f"{name}: default {key}={config[key]}"


def test_every_registered_model_has_a_space():
    for name, model in recbole_mm.registered_models().items():
        trains = model.type != ModelType.TRADITIONAL
        assert not model.__module__.startswith("recbole_mm.") or not trains or "learning_rate" in read_space(name), name
        assert not model.__module__.startswith("recbole_mm.") or read_space(name), name
