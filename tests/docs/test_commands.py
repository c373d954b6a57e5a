"""What the documents tell to type would be understood: commands, models, arguments, options, python and yaml."""

from __future__ import annotations

import ast
import inspect
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from recbole.utils import get_model

import recbole_mm
from recbole_mm.cli.main import COMMANDS, FLAGS
from recbole_mm.cli.request import CommandLineError, Request, parse, words
from recbole_mm.config import check_command_line, check_read
from recbole_mm.config.names import known_keys
from recbole_mm.data.convert.arguments import make_parser

ROOT = Path(__file__).resolve().parents[2]
FILES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FILES += sorted((ROOT / "dataset_atomic").rglob("README.md"))
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
PROGRAM = r"(?:(?:\.venv/bin/)?recbole-mm|python3? run_recbole_mm\.py|python -m recbole_mm)"
OWN = "MyModel"  # the model that the guides write themselves


def texts() -> Iterator[tuple[Path, str]]:
    for file in FILES:
        yield file, file.read_text(encoding="utf-8")
    for file in NOTEBOOKS:
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        fences = {"markdown": "{}", "code": "```python\n{}\n```"}
        yield file, "\n".join(fences[cell["cell_type"]].format("".join(cell["source"])) for cell in cells)


def blocks(*languages: str) -> list[tuple[str, str]]:
    """Name of the file and text of every fenced block in one of the languages."""
    found = []
    for file, text in texts():
        for language, block in re.findall(r"^```(\w+)[^\n]*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
            if language in languages:
                found.append((file.relative_to(ROOT).as_posix(), block))
    return found


def command_lines() -> list[tuple[str, str]]:
    """Every command of ours: in a block of shell, after a `!` of a notebook, or between backticks."""
    found = []
    for name, block in blocks("bash", "python"):
        for line in block.replace("\\\n", " ").splitlines():
            if match := re.search(rf"^!?(?:\w+=\S+ )*({PROGRAM} .*)", line):
                found.append((name, match[1]))
    for file, text in texts():
        prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
        for span in re.findall(r"`([^`]+)`", prose):
            if re.match(rf"{PROGRAM} ", span) and " ... " not in span and "COMMAND" not in span:
                found.append((file.relative_to(ROOT).as_posix(), " ".join(span.split())))
    return sorted(set(found))


def understand(line: str) -> Request | None:
    """Take a command line apart as the program does and check its names; raises what the program would print."""
    rest = re.sub(rf"^{PROGRAM}", "", line)
    arguments = shlex.split(rest, comments=True)
    word = arguments.pop(0) if arguments and not arguments[0].startswith("-") else None
    if word is None:
        request = parse(arguments, FLAGS)
    else:
        if word not in COMMANDS:
            raise CommandLineError(f"no command {word}")
        command = COMMANDS[word]
        if getattr(command, "WORDS", False):
            if arguments[:1] != ["checkpoint"]:
                make_parser("convert").parse_args(arguments)
            return None
        known = {name: flag for group in command.FLAGS.values() for name, flag in group.items()}
        request = parse(arguments, known, word, getattr(command, "POSITIONAL", None))
        if request.options and not getattr(command, "OPTIONS", True):
            raise CommandLineError(f"{word} has no {sorted(request.options)}")
    models = [name for key in ("model", "models") for name in words(request.flags.get(key, "")) if name != OWN]
    classes = {name: get_model(name) for name in models}
    check_command_line(set(request.options), None)
    if classes:
        check_read(request.options, classes)
    for file in request.files():
        if not Path(file).is_file() and not (ROOT / file).is_file():
            raise CommandLineError(f"no file {file}")
    return request


@pytest.mark.parametrize(("file", "line"), command_lines(), ids=[line for _, line in command_lines()])
def test_a_command_of_the_documents_would_be_understood(file: str, line: str) -> None:
    understand(line)


def test_the_documents_show_every_command() -> None:
    shown = {line.split("recbole-mm ")[-1].split(" ")[0] for _, line in command_lines()}
    assert set(COMMANDS) - {"train"} <= shown


@pytest.mark.parametrize(
    "line",
    [
        "recbole-mm --model=GRCM",
        "recbole-mm trian --model=GRCN",
        "recbole-mm --model=GRCN --n_layer=2",
        "recbole-mm extract shop --picture=x",
        "recbole-mm compare --models=GRCN,LightGCM",
        "recbole-mm --model=GRCN --config_files=experiment/none",
        "python run_recbole_mm.py --model=LightGCN --knn_k=3",
    ],
)
def test_a_wrong_command_is_told(line: str) -> None:
    with pytest.raises((ValueError, KeyError)):
        understand(line)


@pytest.mark.parametrize(("file", "block"), blocks("python"), ids=lambda value: value[:40])
def test_python_of_the_documents_compiles_and_names_what_exists(file: str, block: str) -> None:
    """Names that a block takes from the package exist; functions of the package have the arguments that it gives."""
    code = "\n".join("" if line.startswith(("!", "%")) else line for line in block.splitlines())
    tree = ast.parse(code)
    known: dict[str, object] = {"recbole_mm": recbole_mm}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("recbole_mm", "recbole"):
            module = __import__(node.module or "", fromlist=["x"])
            known.update({alias.asname or alias.name: getattr(module, alias.name) for alias in node.names})
    for node in ast.walk(tree):
        name = node.func if isinstance(node, ast.Call) else None
        function = None
        if isinstance(name, ast.Attribute) and isinstance(name.value, ast.Name) and name.value.id == "recbole_mm":
            function = getattr(recbole_mm, name.attr)
        elif isinstance(name, ast.Name):
            function = known.get(name.id)
        if inspect.isfunction(function) and function.__module__.startswith("recbole_mm"):
            inspect.signature(function).bind(*node.args, **{word.arg: None for word in node.keywords if word.arg})


def test_the_model_of_the_guide_trains(clean_registry: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    block = next(block for file, block in blocks("python") if file == "docs/guides/own-model.md")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "my_models"}
    exec(compile(block, "my_models.py", "exec"), namespace)
    result = recbole_mm.run(namespace[OWN], "mm-toy", config_dict={"epochs": 1, "show_progress": False})
    assert result["test_result"]["recall@10"] > 0


def test_the_serving_guide_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (block,) = (block for file, block in blocks("python") if file == "docs/guides/serving.md")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    exec(compile(block.replace('"epochs": 5', '"epochs": 1, "show_progress": False'), "serving.py", "exec"), namespace)
    assert (tmp_path / "grcn-toy" / "README.md").is_file()


@pytest.mark.parametrize("file", sorted({file for file, _ in blocks("bash", "python")}))
def test_no_folder_of_a_model_is_written_twice_on_a_page(file: str) -> None:
    """It would be refused: a folder that has files is never overwritten."""
    page = "\n".join(block for name, block in blocks("bash", "python") if name == file)
    folders = re.findall(r"--save_model=(\S+)|convert checkpoint \S+ ([\w-]+)|recbole_mm\.save\(\w+, \"(.+?)\"", page)
    written = ["".join(names) for names in folders]
    assert len(written) == len(set(written))


@pytest.mark.parametrize(("file", "block"), blocks("yaml"), ids=lambda value: value[:40])
def test_yaml_of_the_documents_has_known_options(file: str, block: str) -> None:
    keys = set(yaml.safe_load(block))
    layout = {*inspect.signature(recbole_mm.import_tables).parameters, "pictures"}  # of `import --layout=my.yaml`
    assert keys <= (layout if "interactions" in keys else known_keys())
