"""The option cold_start: defaults, and what is refused."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from recbole.config import Config

from recbole_mm.config import ColdStart, read_cold_start


def test_defaults() -> None:
    assert read_cold_start(None) is None
    assert read_cold_start({"entity": "user"}) == ColdStart("user", "ratio", 0.2, "cold", None, "all", None)
    assert read_cold_start({"entity": "item", "candidates": "warm"}).evaluate == "warm"
    assert read_cold_start({"entity": "item", "candidates": "cold"}).evaluate == "cold"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("item", "expected a mapping such as .*in a shell.*got 'item'"),
        ({"ratio": 0.5}, "without entity: user or item"),
        ({"entity": "items"}, r"cold_start\[entity\]: expected one of user, item, got 'items'. Did you mean 'item'"),
        ({"entity": "user", "ration": 0.3}, "unknown key 'ration'. Did you mean 'ratio'"),
        ({"entity": "user", "ratio": 1}, r"cold_start\[ratio\]: expected a number above 0 and below 1, got 1"),
        ({"entity": "user", "ratio": "0.1"}, "got '0.1'"),
        ({"entity": "user", "ratio": True}, "got True"),
        ({"entity": "user", "support": 0}, r"cold_start\[support\]: expected an integer of at least 1, or ~, got 0"),
        ({"entity": "user", "seed": 1.5}, r"cold_start\[seed\]: expected an integer of at least 0"),
        ({"entity": "user", "candidates": "cold"}, r"cold_start\[candidates\]: only entity: item has it"),
        ({"entity": "item", "support": 3}, r"cold_start\[support\]: only entity: user has it"),
        ({"entity": "item", "candidates": "warm", "evaluate": "cold"}, "choose candidates: cold or all"),
        ({"entity": "item", "by": "tmie"}, "Did you mean 'time'"),
    ],
)
def test_refused(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_cold_start(value)


@pytest.mark.parametrize("model", ["MMGCN", "BPR"])
def test_a_config_checks_it_for_every_model(model: str) -> None:
    with pytest.raises(ValueError, match=r"cold_start\[entity\]"):
        Config(model, "mm-toy", config_dict={"cold_start": {"entity": "usr"}})


def test_reading_a_checkpoint_of_any_model_imports_us(fresh_python, tmp_path) -> None:
    """Without us the split of a loaded baseline would silently be another one."""
    config = Config("BPR", "mm-toy", config_dict={"cold_start": {"entity": "user"}, "state": "ERROR"})
    assert config["cold_start"] == {"entity": "user"}
    (tmp_path / "option.pkl").write_bytes(pickle.dumps(config["cold_start"]))
    printed = fresh_python(
        "import pickle, sys; value = pickle.load(open('option.pkl', 'rb'));"
        "print(value, 'recbole_mm.host.cold_start' in sys.modules)"
    )
    assert printed == "{'entity': 'user'} True"
