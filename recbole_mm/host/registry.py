"""Makes RecBole's own look-ups find our models, trainers, data sets, options and files.

Registering only adds entries to the places where RecBole looks; nothing of RecBole is replaced except that `Config`
additionally reads our yaml files, that ranking results are collected faster (:mod:`recbole_mm.host.evaluation`), that
the option ``cold_start`` splits a data set in another way (:mod:`recbole_mm.host.cold_start`), and that
``mask_validation`` changes what the test masks (:mod:`recbole_mm.host.history_mask`).
So every entry point of RecBole, and every pipeline written for it, works with the registered models.
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.machinery import ModuleSpec
from logging import getLogger
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, overload

from recbole.config import Config
from recbole.utils import ModelType
from recbole.utils.argument_list import dataset_arguments

from recbole_mm.config import ColdStartOptions, check_config, resolve_eval_batch_size
from recbole_mm.config.reading import PackageLoader
from recbole_mm.host import (
    atomic,
    checkpoint,
    cold_start,
    defaults,
    evaluation,
    finite,
    history_mask,
    literals,
    new_items,
    parts,
    seams,
    seen_loss,
    slices,
    splitting,
    watching,
)
from recbole_mm.host.defaults import Properties
from recbole_mm.host.names import recbole_model_files, recbole_models, recbole_name, registered
from recbole_mm.paths import dataset_atomic_dir

__all__ = ["DATASET_OPTIONS", "install", "register", "registered_models"]

Model = TypeVar("Model", bound=type)

#: Options that change what a data set holds. RecBole reuses a saved data set by itself when its own options are equal.
DATASET_OPTIONS = (
    "modalities",
    "modality_weight",
    "feature_norm",
    "missing_feature",
    "feature_dtype",
    "feature_path",
    "cold_start",
    "new_items",
    "negative_items",
    "mask_validation",
)

_PACKAGES = {
    ModelType.GENERAL: "general_recommender",
    ModelType.SEQUENTIAL: "sequential_recommender",
    ModelType.CONTEXT: "context_aware_recommender",
    ModelType.KNOWLEDGE: "knowledge_aware_recommender",
    ModelType.TRADITIONAL: "general_recommender",
}


@overload
def register(
    model: Model, *, dataset: type | None = ..., trainer: type | None = ..., properties: Properties | None = ...
) -> Model: ...


@overload
def register(
    model: None = ..., *, dataset: type | None = ..., trainer: type | None = ..., properties: Properties | None = ...
) -> Callable[[Model], Model]: ...


def register(
    model: Any = None,
    *,
    dataset: type | None = None,
    trainer: type | None = None,
    properties: Properties | None = None,
) -> Any:
    """Make a model class known to RecBole under its name; also usable as a decorator.

    Afterwards ``run_recbole(model="Name")``, ``get_model``, ``Config``, ``load_data_and_model`` and the command line
    find it. A class may be registered again, which replaces what was given with it (a notebook cell that runs twice).

    Args:
        model: Subclass of one of RecBole's recommenders.
        dataset: Class of its data set. Without it that of the model from which it derives, ours or RecBole's; else a
            multimodal model gets ``MultimodalDataset`` or ``MultimodalSequentialDataset``, any other one what RecBole
            chooses by model type.
        trainer: Class of its trainer; without it that of the model from which it derives, or RecBole's ``Trainer``.
        properties: Default options: a yaml file, or a mapping, on top of those of the model from which it derives.
            Without it ``properties/model/<Name>.yaml`` of this package, if there is one.

    Returns:
        The model class, unchanged.

    Raises:
        TypeError: Not a recommender class.
        ValueError: The name, or the name of its trainer or data set, belongs to RecBole or to another registered model.
        FileNotFoundError: ``properties`` is a path where there is no file.

    Example:
        >>> import recbole_mm
        >>> from recbole.model.general_recommender import BPR
        >>> @recbole_mm.register(properties={"embedding_size": 8})
        ... class SmallBPR(BPR):
        ...     '''BPR with fewer dimensions.'''
        >>> result = recbole_mm.run("SmallBPR", "mm-toy", config_dict={"epochs": 1})
        >>> result["config"]["embedding_size"]
        8
    """
    if model is None:
        return functools.partial(register, dataset=dataset, trainer=trainer, properties=properties)
    _check_model(model)
    name = model.__name__
    if properties is not None and not isinstance(properties, Mapping):
        properties = Path(properties)
        if not properties.is_file():
            raise FileNotFoundError(f"register({name}): properties: there is no file {properties}.")
    places = import_module("recbole.trainer"), import_module("recbole.data.dataset")
    entries = {
        (places[0], f"{name}Trainer"): trainer or parts.trainer_for(model),
        (places[1], f"{name}Dataset"): dataset or parts.dataset_for(model),
    }
    for place, entry in entries if name not in registered else ():
        if hasattr(place, entry):
            raise ValueError(
                f"register({name}): RecBole has a class {place.__name__}.{entry}, which it would use for this model; "
                "give the model another name."
            )
    for (place, entry), new in entries.items():
        if new is not None:
            setattr(place, entry, new)
        elif hasattr(place, entry):
            delattr(place, entry)
    _alias(model)
    registered[name] = model
    defaults.given.pop(name, None)
    if properties is not None:
        defaults.given[name] = properties
    return model


def registered_models() -> dict[str, type]:
    """The registered models by name, sorted.

    Example:
        >>> import recbole_mm
        >>> recbole_mm.registered_models()["MMGCN"] is recbole_mm.MMGCN
        True
    """
    return dict(sorted(registered.items()))


def _check_model(model: Any) -> None:
    if not inspect.isclass(model) or getattr(model, "type", None) not in _PACKAGES:
        raise TypeError(
            f"register expects a subclass of a RecBole recommender, whose class attribute `type` is one of "
            f"{', '.join(sorted(kind.name for kind in _PACKAGES))}; got {model!r}."
        )
    name = model.__name__
    same = {known.lower(): known for known in registered}.get(name.lower())
    if same is None:
        if name.lower() in recbole_model_files() or name in recbole_models():
            raise ValueError(
                f"register({name}): RecBole has a model of this name (case does not count); choose another."
            )
        return
    known = registered[same]
    if (known.__module__, known.__qualname__) != (model.__module__, model.__qualname__):
        raise ValueError(
            f"register({name}): the name belongs to {known.__module__}.{known.__qualname__} already "
            "(case does not count); choose another."
        )


def _alias(model: type) -> None:
    """Put a module that holds nothing but the class where ``get_model`` looks for a file named after the model.

    Not the class's own module: that may be ``__main__``, which has no import spec, or not hold the class by name.
    """
    for package in set(_PACKAGES.values()):  # a cell that runs again may have made it a model of another kind
        sys.modules.pop(f"recbole.model.{package}.{model.__name__.lower()}", None)
    name = f"recbole.model.{_PACKAGES[model.type]}.{model.__name__.lower()}"  # type: ignore[attr-defined]
    alias = ModuleType(name, f"Entry of {model.__module__}.{model.__qualname__} for recbole.utils.get_model.")
    alias.__spec__ = ModuleSpec(name, loader=None, origin=model.__module__)
    setattr(alias, model.__name__, model)
    sys.modules[name] = alias


def install() -> None:
    """Hook our options and files into RecBole; calling it again does nothing."""
    if hasattr(Config._load_internal_config_dict, "_recbole_mm"):
        return
    dataset_arguments.extend(option for option in DATASET_OPTIONS if option not in dataset_arguments)
    _after(Config, "_set_default_parameters", _finish)
    evaluation.install()
    slices.install()
    finite.install()
    literals.install()
    atomic.install()
    cold_start.install()
    new_items.install()
    splitting.install()
    history_mask.install()
    seen_loss.install()
    watching.install()
    seams.install()
    parts.install()
    load = Config._load_internal_config_dict

    @functools.wraps(load)
    def load_internal_config_dict(config: Any, model: str, model_class: Any, dataset: str) -> None:
        layers: list[tuple[Path, dict[str, Any]]] = []
        read = config._update_internal_config_dict

        def record(file: str) -> Any:
            content = read(file)
            layers.append((Path(os.path.normpath(file)), content or {}))
            return content

        config._update_internal_config_dict = record
        loader, config.yaml_loader = config.yaml_loader, PackageLoader
        try:
            load(config, recbole_name(model), model_class, dataset)
        finally:
            config.yaml_loader = loader
            del config._update_internal_config_dict
        own = defaults.own_settings(config, dataset)
        merged = defaults.merged(layers, model, dataset, own)
        merged.update(checkpoint.defaults())
        merged["MODEL_TYPE"] = model_class.type
        config.internal_config_dict = merged
        check_config(merged, config.file_config_dict, config.variable_config_dict, config.cmd_config_dict, model_class)

    load_internal_config_dict._recbole_mm = True  # type: ignore[attr-defined]
    Config._load_internal_config_dict = load_internal_config_dict


def _after(cls: type, method: str, then: Callable[[Any], None]) -> None:
    original = getattr(cls, method)

    @functools.wraps(original)
    def both(self: Any) -> None:
        original(self)
        then(self)

    setattr(cls, method, both)


def _finish(config: Any) -> None:
    """Settle what depends on the merged options: the evaluation batch and where the data set lies."""
    options = config.final_config_dict
    if options.get("eval_batch_size") == "auto":
        options["eval_batch_size"] = resolve_eval_batch_size(options, config.model_class)
    if options.get("cold_start") is not None:
        options["cold_start"] = ColdStartOptions(options["cold_start"])
    given = config.external_config_dict.get("data_path")
    if given and os.path.normpath(given) != "dataset":  # RecBole's default says nothing, also where it is written out
        options["data_path"] = _given_path(str(given), config.dataset, options["data_path"])
    if os.path.exists(options["data_path"]):
        return
    folder = dataset_atomic_dir() / config.dataset
    if any(folder.glob(f"{config.dataset}*.inter")):
        getLogger().info(f"There is no data set in {options['data_path']}; using the one of recbole_mm in {folder}.")
        options["data_path"] = str(folder)


def _given_path(given: str, dataset: str, chosen: str) -> str:
    """Folder of a data set in the ``data_path`` that was asked for, never another one in its place.

    RecBole takes its own example for ``ml-100k`` whatever the option says, and we have packaged data sets.
    """
    asked = os.path.join(given, dataset)
    if os.path.exists(asked):
        return chosen if os.path.realpath(asked) == os.path.realpath(chosen) else asked
    packaged = dataset_atomic_dir() / dataset
    if dataset != "ml-100k" and not any(packaged.glob(f"{dataset}*.inter")):
        return asked  # RecBole downloads it, or says that it is missing
    raise FileNotFoundError(
        f"data_path: there is no folder {asked!r} in {os.getcwd()}. Expected {dataset}.inter in it; leave data_path "
        f"out for the {dataset} that comes with {'RecBole' if dataset == 'ml-100k' else 'recbole_mm'}."
    )
