"""What ``recbole_mm.__all__`` promises has an example, and every example in a docstring runs as it is written."""

from __future__ import annotations

import doctest
import inspect
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import recbole_mm

PACKAGE = Path(recbole_mm.__file__).parent
MODELS = sorted(recbole_mm.registered_models())


def _modules_with_examples() -> list[str]:
    """Modules with doctests, without ``nn``, which pytest collects by itself."""
    files = [file for file in PACKAGE.rglob("*.py") if ">>> " in file.read_text(encoding="utf-8")]
    parts = [file.relative_to(PACKAGE.parent).with_suffix("").parts for file in files]
    return sorted(".".join(names) for names in parts if names[1] != "nn")


def _run(test: doctest.DocTest) -> str:
    """What the examples printed that they should not have; empty if they did as they say."""
    said: list[str] = []
    doctest.DocTestRunner().run(test, out=said.append)
    return "".join(said)


@pytest.fixture
def interpreter(monkeypatch: pytest.MonkeyPatch, clean_registry: None) -> dict[str, Any]:
    """The names of an interpreter that has just been started; its classes can be pickled, as everywhere."""
    module = ModuleType("an_interpreter")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return vars(module)


@pytest.mark.parametrize("name", recbole_mm.__all__)
def test_a_public_name_has_an_example_that_can_be_pasted_and_runs(name: str, interpreter: dict[str, Any]) -> None:
    test = doctest.DocTestParser().get_doctest(inspect.getdoc(getattr(recbole_mm, name)) or "", {}, name, None, 0)
    test.globs = interpreter
    assert test.examples, f"help(recbole_mm.{name}) shows no example"
    assert not any(doctest.SKIP in example.options for example in test.examples)
    assert _run(test) == ""


@pytest.mark.parametrize("module", _modules_with_examples())
def test_examples_of_other_names_run(module: str) -> None:
    public = {getattr(recbole_mm, name).__qualname__ for name in recbole_mm.__all__}
    for test in doctest.DocTestFinder(exclude_empty=True).find(import_module(module)):
        if test.name.removeprefix(f"{module}.") not in public:
            assert _run(test) == "", test.name


def test_the_promise_is_functions_results_base_classes_and_models() -> None:
    functions = {
        "compare",
        "export",
        "import_tables",
        "register",
        "load",
        "registered_models",
        "run",
        "save",
        "tags_of",
        "tune",
    }
    classes = {"ImportReport", "Interrupted", "Recommender", "SearchResult", "Tags"}
    bases = {"MultimodalRecommender", "MultimodalSequentialRecommender"}
    assert set(recbole_mm.__all__) == functions | classes | bases | set(MODELS)
    assert len(recbole_mm.__all__) == len(set(recbole_mm.__all__))


def test_a_wrong_example_is_told() -> None:
    def shows(text: str) -> str:
        return _run(doctest.DocTestParser().get_doctest(text, {}, "text", None, 0))

    assert shows(">>> 1 + 1\n2\n") == ""
    assert "Expected" in shows(">>> 1 + 1\n3\n")
    assert "NameError" in shows(">>> run\n")


def test_help_of_a_model_ends_with_its_own_example() -> None:
    assert 'recbole_mm.run("GRCN", "mm-toy"' in (inspect.getdoc(recbole_mm.GRCN) or "").partition("Example:")[2]
    assert '"fusion_epochs": 1' in (inspect.getdoc(recbole_mm.MML) or "").partition("Example:")[2]
