"""The page on papers and released code: the notes of the models, and what their files of published options change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from docs_markup import cell, docstring, sections, table

from recbole_mm.cli.catalogue import read_options_file

__all__ = ["departures", "published_options"]

_KINDS = ("reference", "paper")
"""Endings of the files of options that restore what was published."""


def departures(models: Mapping[str, type], properties: Path) -> str:
    """A section per model: the note of its class, and which file of options restores what was published.

    Args:
        models: Classes by name.
        properties: Folder of the yaml files.
    """
    text = []
    for name, cls in models.items():
        note = sections(cls).get("Note")
        if note is None:
            raise ValueError(
                f"{name} has no Note: a model says where it departs from its paper and from released code."
            )
        text += [f"### {name}\n", docstring(note), ""]
        files = [f"`--config_files=experiment/{file.stem}`" for file in _files(name, properties)]
        if files:
            text += [f"As published: {', '.join(files)}. [Equations and options](../models/{name}.md)\n"]
        else:
            text += [f"[Equations and options](../models/{name}.md)\n"]
    return "\n".join(text)


def published_options(models: Iterable[str], properties: Path) -> str:
    """What the files of published options change, beside the defaults, as a table.

    Args:
        models: Names of models.
        properties: Folder of the yaml files.
    """
    shared = {option.name: option.default for option in read_options_file(properties / "overall.yaml")}
    rows = []
    for name in models:
        own = {option.name: option.default for option in read_options_file(properties / "model" / f"{name}.yaml")}
        for file in _files(name, properties):
            for option in read_options_file(file):
                default = own.get(option.name, shared.get(option.name, ""))
                if default != option.default:
                    rows.append([f"`{file.stem}`", f"`{option.name}`", *_values(option.default, default)])
    return table(["file", "option", "as published", "default"], rows)


def _values(*values: str) -> list[str]:
    return [f"`{cell(value)}`" if value else "RecBole's" for value in values]


def _files(name: str, properties: Path) -> list[Path]:
    files = (properties / "experiment" / f"{name}-{kind}.yaml" for kind in _KINDS)
    return [file for file in files if file.is_file()]
