"""The documentation builds without a warning, asks the network for nothing, and says what the code says."""

from __future__ import annotations

import html
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import recbole_mm
from recbole_mm.config.shared import SHARED_OPTIONS

pytest.importorskip("mkdocs", reason="needs recbole-mm[docs]")
pytest.importorskip("latex2mathml", reason="needs recbole-mm[docs]")

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools"
OURS = sorted(n for n, cls in recbole_mm.registered_models().items() if cls.__module__.startswith("recbole_mm."))


@pytest.fixture(scope="module")
def pages() -> Iterator[ModuleType]:
    """``tools/docs_pages.py``, as mkdocs finds it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TOOLS))
        import docs_pages

        yield docs_pages


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as ``mkdocs build --strict`` does; a warning is an error."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setenv("NO_MKDOCS_2_WARNING", "1")
        patch.setattr(sys, "path", [*sys.path])
        config = load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(folder))
        config.plugins.on_startup(command="build", dirty=False)
        try:
            build(config)
        finally:
            config.plugins.on_shutdown()
    return folder


def read(site: Path, page: str) -> str:
    return (site / page).read_text(encoding="utf-8")


@pytest.mark.slow
def test_every_model_has_a_page_with_its_equations_options_and_paper(site, pages):
    assert sorted(pages.models()) == OURS
    for name in OURS:
        text = read(site, f"models/{name}.html")
        options = yaml.safe_load((ROOT / "properties" / "model" / f"{name}.yaml").read_text(encoding="utf-8"))
        assert all(f"<code>{option}</code>" in text for option in options), name
        assert "<math" in text and ":math:" not in text and ".. math" not in text and "math:<code>" not in text, name
        plain = html.unescape(re.sub(r"<[^>]*>", "", text))
        assert "Departures from the paper" in plain and f'recbole_mm.run("{name}"' in plain, name
        assert f'href="models/{name}.html"' in read(site, "index.html")


def test_departures_of_every_model_and_all_that_its_published_options_change(pages):
    made = pages.inserts()
    titles = re.findall(r"^### (\w+)$", made["departures"], flags=re.MULTILINE)
    assert sorted(titles) == OURS
    assert "FAC compares inner products, as released" in made["departures"].split("### SLMRec")[1].split("###")[0]
    row = "| `LGMRec-reference` | `feature_norm` | `none` | `auto` |"
    assert row in made["published options"].splitlines()
    for file in (ROOT / "properties" / "experiment").glob("*-reference.yaml"):
        model = file.stem.partition("-")[0]
        default = yaml.safe_load((ROOT / "properties" / "model" / f"{model}.yaml").read_text(encoding="utf-8"))
        for option, value in yaml.safe_load(file.read_text(encoding="utf-8")).items():
            changed = default.get(option, value) != value
            assert (f"| `{file.stem}` | `{option}` |" in made["published options"]) or not changed, (file.stem, option)


@pytest.mark.slow
def test_nothing_comes_from_the_network(site):
    for file in site.rglob("*.html"):
        text = file.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|img|iframe|source)[^>]*src="(?:https?:)?//', text), file
        assert not re.findall(r'<link[^>]*rel="(?:stylesheet|preconnect|icon)"[^>]*href="(?:https?:)?//', text), file


@pytest.mark.slow
def test_pages_made_of_the_code(site):
    commands = read(site, "reference/commands.html")
    assert "usage: recbole-mm import NAME" in commands and "--drop_unseen" in commands and str(ROOT) not in commands
    python = read(site, "reference/python.html")
    promised = set(recbole_mm.__all__) - set(recbole_mm.registered_models())
    assert {name for name in promised if f'.{name}"' not in python} == set()
    assert ":class:" not in python and ":func:" not in python and "Example:" not in python
    for page in ("results/index.html", "changelog.html", "contributing.html", "data-sets.html", "reference/files.html"):
        assert "<h1" in read(site, page)


def test_the_page_of_options_lists_every_shared_one_with_its_default(pages):
    shared = pages.options_page().split("## Of every multimodal model")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| `([^`]*)` \|", shared, flags=re.MULTILINE))
    defaults = yaml.safe_load((ROOT / "properties" / "overall.yaml").read_text(encoding="utf-8"))
    assert {key: yaml.safe_load(text) for key, text in rows.items()} == defaults
    assert set(defaults) == set(SHARED_OPTIONS)


def test_the_page_of_broken_files_has_every_case_of_the_test(pages):
    from tests.robustness.test_broken_files import BESIDE, PICTURES, RIGHT, WRONG

    text = pages.broken_page()
    assert text.count("\n| ") - 6 == len(RIGHT) + len(WRONG) + len(BESIDE) + len(PICTURES) > 70
    assert "| leading zeros | 007, 7 |" in text and "| zero bytes | zero bytes |" in text and "| cmyk | read |" in text


def test_the_page_of_bad_input_counts_what_is_tried(pages):
    """As pytest counts the same tests."""
    import subprocess
    import sys

    from docs_refused import FAMILIES, count

    text = pages.refused_page()
    files = ["robustness/test_bad_options.py", "robustness/test_payloads.py", "robustness/test_at_once.py"]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-W", "ignore", *(f"tests/{f}" for f in files)]
    collected = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True).stdout
    for kind, file, names in FAMILIES:
        number = sum(count(file, name) for name in names)
        assert f"| {kind} | {number:,} | `tests/{file}` |" in text and number > 0
        if file in files:
            wanted = f"{file}.*?::test_" if names == ("*",) else "|".join(f"::{name}(?![a-z_])" for name in names)
            assert len(re.findall(wanted, collected)) == number, kind
    from tests.robustness.test_bad_commands import COMMANDS
    from tests.robustness.test_bad_options import VALUES

    assert text.count("\n| `") == len(COMMANDS) + len(VALUES)
    with pytest.raises(ValueError, match="neither a test nor a table"):
        count(files[0], "NO_TABLE")


def test_result_files_reach_the_pages_of_their_models(pages, monkeypatch, tmp_path):
    (tmp_path / "toy.csv").write_text(
        "# how\nmodel,dataset,recall@20,recall@20_low\nGRCN,toy,.42,.41\nBPR,toy,.40,.39\n"
    )
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    text = pages.model_page("GRCN", recbole_mm.GRCN)
    assert "| dataset | recall@20 |" in text and "| toy | .42 |" in text and ".40" not in text
    assert "| `toy.csv` | GRCN, BPR | toy |" in pages.results_pages()["results/index.md"]
    monkeypatch.setattr(pages, "RESULTS", tmp_path / "none")
    assert "## Results" not in pages.model_page("GRCN", recbole_mm.GRCN)


def test_a_formula_that_cannot_be_drawn_is_told(pages):
    import docs_markup

    assert "<msub>" in docs_markup.mathml("p_u") and "<mtable" in docs_markup.mathml(r"a &= b \\ c &= d", True)
    with pytest.raises(ValueError, match="another way"):
        docs_markup.mathml(r"\unheardof{x}")
    drawn = docs_markup.render("<p>:math:<code>a &lt; b</code> of :class:<code>~recbole_mm.x.Y</code></p>")
    assert "<math" in drawn and "<code>Y</code>" in drawn and ":class:" not in drawn


def test_docstrings_become_markdown(pages):
    import docs_markup

    text = (
        "Before\n\n.. math:: a = b,\n          c = d\n\nwith ``x``.\n\n.. math::\n    e &= f \\\\\n    g &= h\n\nAfter"
    )
    made = [part for part in docs_markup.docstring(text).split("\n") if part]
    assert made == ["Before", ":displaymath:`a = b, c = d`", "with `x`.", r":displaymath:`e &= f \\ g &= h`", "After"]
    assert docs_markup.cell("a | <b> *c*") == r"a \| &lt;b> \*c\*"
