"""What there is to name on a command line: models, their options and files of options, read without importing them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from recbole_mm.cli.request import CommandLineError, Request, sibling

__all__ = ["Option", "check_model", "experiments", "model_names", "option_file", "read_options_file"]


@dataclass(frozen=True)
class Option:
    """An option as its file describes it.

    Attributes:
        name: The key.
        default: The value in the file, as text.
        kind: What stands in brackets before the meaning, such as ``int``; may be empty.
        meaning: The comment; may be empty.
        section: The comment line above its block of options; may be empty.
    """

    name: str
    default: str
    kind: str
    meaning: str
    section: str = ""


def model_names() -> tuple[list[str], dict[str, list[str]]]:
    """Names of our models, and of RecBole's by family, from file names and file texts."""
    names = sibling("host/names.py")
    ours = sorted(file.stem for file in (_properties() / "model").glob("*.yaml"))
    families: dict[str, list[str]] = {}
    for folder in sorted(names.recbole_folder().glob("model/*_recommender")):
        stems = {file.stem for file in folder.glob("*.py")}
        families[folder.name.replace("_recommender", "").replace("_", " ")] = sorted(
            (name for name in names.recbole_models() if name.lower() in stems), key=str.lower
        )
    return ours, families


def check_model(name: str, request: Request | None = None) -> None:
    """Refuse a model that neither we, nor RecBole, nor ``--import`` have; without the latter nothing is imported.

    Args:
        name: The name.
        request: The command line, whose ``--import`` is done here.

    Raises:
        CommandLineError: There is no such model.
    """
    if request is not None:
        import_models(request)
    names = sibling("host/names.py")
    loaded = sys.modules.get("recbole_mm.host.names")  # the package's own, with what callers have registered
    names.registered.clear()
    names.registered.update(dict.fromkeys(model_names()[0], object), **getattr(loaded, "registered", {}))
    try:
        names.check_model_name(name)
    except ValueError as error:
        raise CommandLineError(
            f"{error} --list-models prints all names; --import=FILE.py makes yours known."
        ) from error


def import_models(request: Request) -> None:
    """Import the files and modules of ``--import``, which register their models.

    Args:
        request: The command line.

    Raises:
        FileNotFoundError: There is no such file or module.
        ValueError: A file whose name belongs to another module.
    """
    for name in [part.strip() for part in request.flags.get("import", "").split(",") if part.strip()]:
        from recbole_mm.experiment.own_models import import_module

        import_module(name)


def experiments() -> dict[str, str]:
    """Files of options for special purposes: the name for ``--config_files``, and the first sentence in the file."""
    found = {}
    for file in sorted((_properties() / "experiment").glob("*.yaml")):
        lines = file.read_text(encoding="utf-8").splitlines()
        comment = " ".join(line.lstrip("# ") for line in lines[: next(i for i, s in enumerate(lines) if s[:1] != "#")])
        found[f"experiment/{file.stem}"] = re.split(r"(?<=[a-z)])[.:;] ", comment)[0].rstrip(".:")
    return found


def option_file(model: str) -> Path | None:
    """The file with the options of a model of ours or of RecBole's; ``None`` where there is none."""
    recbole = sibling("host/names.py").recbole_folder()
    files = (_properties() / "model" / f"{model}.yaml", recbole / "properties" / "model" / f"{model}.yaml")
    return next((file for file in files if file.is_file()), None)


def shared_options() -> list[Option]:
    """The options of every multimodal model."""
    return read_options_file(_properties() / "overall.yaml")


def read_options_file(file: Path) -> list[Option]:
    """The options in a yaml file with their comments: ``key: value  # (type) Meaning.``, then lines of comment only.

    Args:
        file: The file.

    Returns:
        The options at the top level, in their order.
    """
    return list(_options(file.read_text(encoding="utf-8")))


def _options(text: str) -> Iterator[Option]:
    section, current = "", None
    for line in [*text.splitlines(), "end: end"]:
        found = re.match(r"(\w+)\s*:\s*(.*?)\s*(?:(?:^|\s)#\s*(.*))?$", line)
        if found:
            if current is not None:
                yield current
            # The pattern matches any text, which mypy cannot know.
            kind, meaning = re.fullmatch(r"(?:\(([^)]*)\)\s*)?(.*)", found[3] or "").groups()  # type: ignore[union-attr]
            current = Option(found[1], found[2], kind or "", meaning, section)
        elif current is not None and (more := re.match(r"\s+(.*)", line)):
            comment = re.fullmatch(r"(.*?)\s*#\s*(.*)", more[1])
            value, said = (comment[1], comment[2]) if comment else (more[1], "")
            current = Option(
                current.name,
                f"{current.default} {value}".strip(),
                current.kind,
                f"{current.meaning} {said}".strip(),
                current.section,
            )
        elif line.startswith("#"):
            section = line.lstrip("# ")
        elif not line.strip() and current is None:
            section = ""


def _properties() -> Path:
    folder: Path = sibling("paths.py").properties_dir()
    return folder
