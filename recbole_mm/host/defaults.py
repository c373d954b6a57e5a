"""Default options: those of RecBole's yaml files and of ours in one order, and what a registered model was given."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Union

import yaml

from recbole_mm.config.reading import OptionLoader, PackageLoader
from recbole_mm.host.names import known_bases, recbole_folder, registered
from recbole_mm.paths import properties_dir

__all__ = ["Properties", "defaults_of", "given", "is_named", "merged", "own_settings", "properties_of"]

Properties = Union[str, "os.PathLike[str]", Mapping[str, Any]]

#: What registered models were given, by name: a mapping of options or a yaml file.
given: dict[str, Properties] = {}

_ORDER = ("overall.yaml", "model", "dataset", "quick_start_config")


def properties_of(name: str) -> Mapping[str, Any]:
    """Default options of a registered model, with those of the models that it derives from."""
    options: dict[str, Any] = {}
    for source in _of_model(name):
        options.update(_read(source))
    return options


def defaults_of(name: str) -> dict[str, Any]:
    """What decides the options that a run does not name: the defaults of a registered model, or RecBole's version."""
    if name not in registered:
        return {"recbole": version("recbole")}
    return {**_read(properties_dir() / "overall.yaml"), **properties_of(name)}


def own_settings(config: Any, dataset: str) -> Path:
    """``<dataset>.yaml`` in the data set's folder, which an import or a conversion wrote beside the data."""
    sources = (config.cmd_config_dict, config.variable_config_dict, config.file_config_dict)
    folder = next((options["data_path"] for options in sources if options.get("data_path")), "dataset")
    return Path(folder) / dataset / f"{dataset}.yaml"


def is_named(config: Any, key: str) -> bool:
    """Whether somebody chose an option: the caller, a script later on, or the settings of the data set.

    Else it is a default, of RecBole, this package or the model. A default that a script sets again stays one.
    """
    files = (properties_dir() / "dataset" / f"{config.dataset}.yaml", own_settings(config, config.dataset))
    changed = config[key] != config.internal_config_dict.get(key)
    return changed or key in config.external_config_dict or any(key in _read(file) for file in files)


def merged(layers: list[tuple[Path, dict[str, Any]]], model: str, dataset: str, own: Path) -> dict[str, Any]:
    """Merge RecBole's defaults with ours, each of our files right after RecBole's file of the same kind.

    RecBole's order is overall, model, ``dataset/sample``, ``dataset/<name>``, then what the kind of model requires (a
    sequential model's leave-one-out split). Data set files count for every model, so that baselines are comparable.
    """
    folder = properties_dir()
    options: dict[str, Any] = {}
    pending = [("model", source) for source in _of_model(model)]
    pending += [("dataset", folder / "dataset" / f"{dataset}.yaml"), ("dataset", own)]
    for file, content in layers:
        kind = file.name if file.parent.name == "properties" else file.parent.name
        while pending and _ORDER.index(kind) > _ORDER.index(pending[0][0]):
            options.update(_read(pending.pop(0)[1]))
        options.update(content)
        if kind == "overall.yaml" and model in registered:
            options.update(_read(folder / "overall.yaml"))
    for _, source in pending:
        options.update(_read(source))
    return options


def _of_model(model: str) -> list[Properties]:
    """Where the defaults of a registered model stand: those of the models that it derives from, then its own."""
    if model not in registered:
        return []
    names = [base.__name__ for base in reversed(known_bases(registered[model]))]
    return [given.get(name, _folder_of(name) / "model" / f"{name}.yaml") for name in (*names, model)]


def _folder_of(model: str) -> Path:
    return properties_dir() if model in registered else recbole_folder() / "properties"


def _read(source: Properties) -> Mapping[str, Any]:
    if isinstance(source, Mapping):
        return copy.deepcopy(source)  # RecBole completes nested options, such as train_neg_sample_args, in place
    file = Path(source)
    if not file.is_file():
        return {}
    loader = PackageLoader if properties_dir() in file.parents else OptionLoader
    content = yaml.load(file.read_text(encoding="utf-8"), Loader=loader)
    if content is not None and not isinstance(content, dict):
        raise ValueError(f"{file}: expected a mapping of options, got {type(content).__name__}.")
    return content or {}
