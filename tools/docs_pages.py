"""The pages of the documentation that are made of the code, the yaml files and the result files when the site is built.

Nothing of this is kept in a file, so nothing of it can be stale.
"""

from __future__ import annotations

import contextlib
import csv
import inspect
import io
import json
import re
import sys
from collections.abc import Container
from pathlib import Path

from docs_broken import broken_page
from docs_departures import departures, published_options
from docs_markup import cell, docstring, sections, shown, table
from docs_refused import refused_page

import recbole_mm
from recbole_mm.cli.catalogue import Option, experiments, read_options_file, shared_options
from recbole_mm.cli.main import COMMANDS, main
from recbole_mm.config.health import ALARMS
from recbole_mm.host.tags import Tags, tags_of

__all__ = ["ROOT", "inserts", "models", "pages"]

ROOT = Path(__file__).resolve().parents[1]
PROPERTIES = ROOT / "properties"
RESULTS = ROOT / "benchmarks" / "results"


def models() -> dict[str, type]:
    """The models of this package: general ones by name, then sequential ones."""
    ours = {n: cls for n, cls in recbole_mm.registered_models().items() if cls.__module__.startswith("recbole_mm.")}
    return {name: ours[name] for name in sorted(ours, key=lambda name: (tags_of(name).sequential, name.lower()))}


def pages() -> dict[str, str]:
    """Path within the documentation to the Markdown of a page that no file holds."""
    made = {f"models/{name}.md": model_page(name, cls) for name, cls in models().items()}
    made["models/index.md"] = f"# Models\n\n{_INTRODUCTION}\n\n{model_table()}"
    made["reference/options.md"] = options_page()
    made["reference/commands.md"] = commands_page()
    made["reference/files.md"] = files_page()
    made["reference/python.md"] = python_page()
    made |= results_pages()
    made["changelog.md"] = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    made["contributing.md"] = _elsewhere((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    made["data-sets.md"] = data_sets_page()
    made["reference/broken-files.md"] = broken_page()
    made["reference/bad-input.md"] = refused_page()
    for file in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        made[f"notebooks/{file.stem}.md"] = notebook_page(file)
    return made


def inserts() -> dict[str, str]:
    """What ``<!-- insert: NAME -->`` in a page of ``docs/`` stands for."""
    alarms = table(["alarm", "is raised where"], ([f"`{name}`", cell(text)] for name, text in ALARMS.items()))
    return {
        "models": model_table("models/"), "models above": model_table("../models/"), "alarms": alarms,
        "departures": departures(models(), PROPERTIES), "published options": published_options(models(), PROPERTIES),
    }  # fmt: skip


_INTRODUCTION = """
What each model is and what it can do. *reads*: feature files of items, of users, of interactions (reviews). *new
items*: whether an item that nobody has clicked gets a score that depends on its content. *new users*: whether a
user without a training row is known by the history that an evaluation hands in. The page of a model has its
equations, its options with the reason for each default, its search space, and every departure from the paper. Where
a paper's equations were not available to us (HCGCN, parts of UVCAN), it says which are our own. `recbole-mm models`
prints the same for RecBole's own models.
""".strip()


def model_table(folder: str = "") -> str:
    """The models with what they can do, as a table.

    Args:
        folder: What leads from the page to those of the models.
    """
    rows = []
    for name, cls in models().items():
        tags = tags_of(name)
        able = ["yes" if able else "no" for able in (tags.ranks_new_items, tags.new_users, tags.sequential)]
        rows.append([f"[{name}]({folder}{name}.md)", cell(_idea(cls)), ", ".join(tags.uses), *able])
    return table(["model", "idea", "reads", "new items", "new users", "sequential"], rows)


def model_page(name: str, cls: type) -> str:
    """What there is to know of a model: equations, reference, options, search space, files of options, results.

    Args:
        name: The model.
        cls: Its class.
    """
    parts = sections(cls)
    text = [f"# {name}\n", f"{_idea(cls)[:1].upper()}{_idea(cls)[1:]}.\n", _tag_table(tags_of(name))]
    text += ["```bash", f"recbole-mm --model={name} --dataset=mm-toy", "```\n"]
    text += ["## What it computes\n", docstring(parts[""]) + "\n", "## Reference\n", docstring(parts["Reference"])]
    text += ["\n## Options\n", option_table(read_options_file(PROPERTIES / "model" / f"{name}.yaml"))]
    text += ["\nBeside these, [the options of every multimodal model](../reference/options.md) and those of RecBole.\n"]
    if "Note" in parts:
        text += ["## Departures from the paper\n", docstring(parts["Note"]) + "\n"]
    text += ["## Example\n", f"```pycon\n{parts['Example']}\n```\n"]
    space = PROPERTIES / "search" / f"{name}.yaml"
    if space.is_file():
        text += [f"## Search space\n\nWhat `recbole-mm search --model={name}` tries:\n", _code(space)]
    for file in sorted((PROPERTIES / "experiment").glob(f"{name}-*.yaml")):
        text += [f"## `--config_files=experiment/{file.stem}`\n", _code(file)]
    return "\n".join([*text, *_results_of(name)])


def _idea(cls: type) -> str:
    summary = (inspect.getmodule(cls).__doc__ or "").strip().splitlines()[0]  # type: ignore[union-attr]
    return summary.partition(": ")[2].rstrip(".")


def _tag_table(tags: Tags) -> str:
    rows = [
        ["reads", ", ".join(f"features of {what}s" for what in tags.uses) or "interactions only"],
        ["modalities of items", f"{tags.min_modalities} or more"],
        ["several vectors per item", "read one by one" if tags.patches else "averaged"],
        ["ranks new items", "yes" if tags.ranks_new_items else "no"],
        ["knows new users by their history", "yes" if tags.new_users else "no"],
        ["order of time", "read (sequential)" if tags.sequential else "not read"],
        ["a row of training", tags.loss or "decided by `loss_type`, or nothing is trained"],
        ["stages of training", ", ".join(tags.stages) or "one"],
        [
            "`contrastive_weight`",
            "weighs a term of its own" if tags.contrastive else "weighs the contrast all models may have",
        ],
    ]
    return table(["what it can do", ""], rows)


def option_table(options: list[Option]) -> str:
    """Options with their defaults, types and meanings, as a table."""
    rows = [[f"`{o.name}`", f"`{cell(o.default)}`", cell(o.kind), cell(o.meaning)] for o in options]
    return table(["option", "default", "type", "meaning, and the reason for the default"], rows)


def _code(file: Path) -> str:
    return f"```yaml\n{file.read_text(encoding='utf-8').rstrip()}\n```\n"


def options_page() -> str:
    """The options of every multimodal model, then those of single models by name."""
    text = [f"# Options\n\n{_OPTIONS}\n\n## Of every multimodal model\n"]
    shared = shared_options()
    for section in dict.fromkeys(option.section for option in shared):
        text += [f"### {section}\n", option_table([option for option in shared if option.section == section])]
    owners: dict[str, list[str]] = {}
    for name in models():
        for option in read_options_file(PROPERTIES / "model" / f"{name}.yaml"):
            owners.setdefault(option.name, []).append(f"[{name}](../models/{name}.md#options)")
    rows = [[f"`{option}`", ", ".join(names)] for option, names in sorted(owners.items())]
    text += [
        "## Of single models\n\nMeaning and default are on the page of each model.\n",
        table(["option", "of"], rows),
    ]
    return "\n".join(text)


_OPTIONS = """
Set them like any option of RecBole: in a file (`config_file_list`, `--config_files`), in `config_dict`, or as
`--key=value`. Those of RecBole itself (`epochs`, `learning_rate`, `eval_args`, ...) are in its own documentation. A
value of the wrong type or out of its range and an unknown modality are errors with the nearest known name; an
option that nothing knows is an error on our command line, and a warning in files and dicts, which existing
pipelines share among models. `recbole-mm --model=GRCN --help` prints the options of a model, RecBole's too. This
page is made of the yaml files in `properties/`.
""".strip()


_COMMANDS = """
`recbole-mm`, `python -m recbole_mm` and, in a checkout, `python run_recbole_mm.py` are one program. This is what
`--help` of each command prints. Exit status: 0, 2 after a mistake of the caller, 130 after Ctrl-C, 143 after SIGTERM.
""".strip()


def commands_page() -> str:
    """The ``--help`` of every command."""
    text = [f"# Commands\n\n{_COMMANDS}\n"]
    before = sys.argv
    sys.argv = ["recbole-mm"]
    try:
        for word in COMMANDS:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                main([word, "--help"])
            text.append(f"## {word}\n\n```text\n{printed.getvalue().rstrip()}\n```\n")
    finally:
        sys.argv = before
    return "\n".join(text)


_PYTHON = """
`recbole_mm.__all__` lists what may be relied on: the names below, and the [models](../models/index.md). Each has an
example that the tests run.
""".strip()


def python_page() -> str:
    """The names that the package promises, for mkdocstrings: functions, then classes."""
    found = {name: getattr(recbole_mm, name) for name in recbole_mm.__all__ if name not in models()}
    text = [f"# Python\n\n{_PYTHON}\n"]
    for title, kind in (("Functions", inspect.isfunction), ("Classes", inspect.isclass)):
        things = [f"::: {thing.__module__}.{thing.__qualname__}" for thing in found.values() if kind(thing)]
        text += [f"## {title}\n", *things, ""]
    text += ["## What extract and inspect call\n\nNot promised by `__all__`.\n"]
    text += ["::: recbole_mm.extract.extract.extract", "::: recbole_mm.report.inspection.inspect.inspect"]
    return "\n".join(text) + "\n"


def files_page() -> str:
    """The files of options that come with the package, and the search spaces."""
    text = ["# Files of options\n\nSettings for special purposes that come with the package, for `--config_files`.\n"]
    for name in experiments():
        text += [f"## {name}\n", _code(PROPERTIES / f"{name}.yaml")]
    spaces = [f"`{file.stem}`" for file in sorted((PROPERTIES / "search").glob("*.yaml"), key=lambda f: f.stem.lower())]
    text.append(f"## Search spaces\n\n`properties/search/` has a space for {', '.join(spaces)}.\n")
    return "\n".join(text)


def results_pages() -> dict[str, str]:
    """The benchmarks' own pages; their index says where the tables of ``benchmarks/results`` are shown, too."""
    files = {file.name: file for file in sorted((ROOT / "benchmarks").glob("*.md"))}
    made = {f"results/{name}": _elsewhere(file.read_text(encoding="utf-8"), files) for name, file in files.items()}
    text = made.pop("results/README.md").replace("# Benchmarks", "# Results", 1)
    rows = [[f"`{file.name}`", *_contents(_read_results(file))] for file in sorted(RESULTS.glob("*.csv"))]
    if rows:
        text += "\n## Result files\n\nIn `benchmarks/results/`; the rows of a model are on its page, too.\n\n"
        text += table(["file", "models", "data"], rows)
    return {
        "results/index.md": text,
        **{page: text.replace("(README.md)", "(index.md)") for page, text in made.items()},
    }


def _contents(rows: list[dict[str, str]]) -> list[str]:
    """Models and data sets of a result file, as two cells."""
    found = [dict.fromkeys(row.get(column, "") for row in rows) for column in ("model", "dataset")]
    return [cell(", ".join(filter(None, names))) for names in found]


def _results_of(name: str) -> list[str]:
    """A section of the rows about a model in the result files; nothing where there is none."""
    text: list[str] = []
    for file in sorted(RESULTS.glob("*.csv")):
        rows = [row for row in _read_results(file) if row.get("model", "").split(" ")[0] == name]
        head = [column for column in rows[0] if not _LEFT_OUT.search(column)] if rows else []
        head = [column for column in head if any(row[column] for row in rows)]
        if head:
            text += [f"### {file.stem}\n", table(head, ([cell(row[column]) for column in head] for row in rows))]
    head_line = "\n## Results\n\nOf `benchmarks/results/`; [how they were measured](../results/index.md).\n"
    return [head_line, *text] if text else []


# Columns of a result file that the page of a model does not show; they are in the file.
_LEFT_OUT = re.compile(
    r"^model$|^(interval|reference|options|machine|failure|commit|date|split)$"
    r"|_(std|low|high|difference|effect|p_t|p_wilcoxon|holm|seconds|mib)$"
)


def _read_results(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        lines = [line for line in stream if not line.startswith("#")]
    return [{str(key): value or "" for key, value in row.items()} for row in csv.DictReader(lines)]


def data_sets_page() -> str:
    """What the packaged data sets say of themselves."""
    text = ["# Data sets that come with the package\n"]
    for file in sorted(ROOT.glob("dataset_atomic/*/README.md")):
        text.append(re.sub(r"^#", "##", _elsewhere(file.read_text(encoding="utf-8")), flags=re.MULTILINE))
    return "\n".join(text)


def notebook_page(file: Path) -> str:
    """A notebook as a page: its texts, its code and what that showed, and a link to the file."""
    lines = []
    for entry in json.loads(file.read_text(encoding="utf-8"))["cells"]:
        source = "".join(entry["source"])
        lines.append(source if entry["cell_type"] == "markdown" else f"```python\n{source}\n```")
        lines += [shown(output) for output in entry.get("outputs", ())]
    return "\n\n".join([*lines, f"[This page as a notebook]({file.name}); the tests run it."]) + "\n"


def _elsewhere(text: str, pages: Container[str] = ()) -> str:
    """A text of the checkout whose links to files beside it are names only, but those to ``pages`` of the site."""

    def link(found: re.Match[str]) -> str:
        return found[0] if found[2] in pages else found[1]

    return re.sub(r"\[([^\]]+)\]\((?!https?:|#)([^)]+)\)", link, text)
