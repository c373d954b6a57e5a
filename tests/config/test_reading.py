"""How files of options are read: those of the packages fast, those of callers in safety."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from recbole.config import Config

from recbole_mm.config.reading import OptionLoader, PackageLoader
from recbole_mm.host.names import recbole_folder
from recbole_mm.paths import properties_dir

FILES = sorted([*properties_dir().rglob("*.yaml"), *(recbole_folder() / "properties").rglob("*.yaml")])


def test_both_ways_read_the_same() -> None:
    assert len(FILES) > 100
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        assert yaml.load(text, Loader=PackageLoader) == yaml.load(text, Loader=OptionLoader), file


def test_numbers_are_numbers_to_both() -> None:
    text = "[1e-3, 1E5, .5, 5., 1_0.5, .inf, -3, on, null, 'a', 2024-01-01, {b: [c]}]"
    fast, plain = (yaml.load(text, Loader=loader) for loader in (PackageLoader, OptionLoader))
    assert fast == plain
    assert fast[:3] == [0.001, 1e5, 0.5]


@pytest.mark.parametrize("loader", [PackageLoader, OptionLoader])
def test_a_tag_of_python_is_refused(loader: Any) -> None:
    with pytest.raises(yaml.constructor.ConstructorError):
        yaml.load("a: !!python/object/apply:os.getcwd []", Loader=loader)


@pytest.mark.parametrize("place", ["mine.yaml", "dataset/shop/shop.yaml"])
def test_a_callers_file_of_many_brackets_is_an_error(place: str, tmp_path: Path) -> None:
    """libyaml ends the process with it: it calls itself for every bracket, without a look at the stack."""
    file = tmp_path / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("a: " + "[" * 100_000 + "]" * 100_000, encoding="utf-8")
    with pytest.raises(RecursionError):
        Config(model="BPR", dataset="shop", config_file_list=["mine.yaml"] if place == "mine.yaml" else None)
