"""RecBole's ``Config`` as plain values, as checkpoints and saved models have it, and built from them anew."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from recbole.config import Config
from recbole.utils import EvaluatorType, InputType, ModelType, get_model

from recbole_mm.config import ColdStartOptions, resolve_eval_batch_size
from recbole_mm.config.shared import FOLDERS
from recbole_mm.paths import dataset_atomic_dir
from recbole_mm.plain import readable

__all__ = ["PLACES", "build_config", "move", "plain_config"]

#: Options that say where things are, not what a model is.
PLACES = (*FOLDERS, "gpu_id", "eval_memory_mb")

_ENUMS = {"MODEL_TYPE": ModelType, "MODEL_INPUT_TYPE": InputType, "eval_type": EvaluatorType}
# How several processes found each other, and which device it was, is no property of what they made.
_OF_THE_START = {"gpu_id", "local_rank", "nproc", "world_size", "ip", "port", "offset", "MODEL_TYPE"}


def plain_config(config: Any, modalities: list[str] | None = None) -> dict[str, Any]:
    """The parts of a checkpoint that say how it was made.

    Args:
        config: RecBole's Config.
        modalities: Names of the modalities in use, which take the place of ``modalities: ~``.

    Returns:
        ``config`` (every option with its final value), ``options`` (what the Config was made from, with all defaults)
        and ``model_class``.
    """
    if not isinstance(config, Config):  # a mapping that a caller made up
        return {"config": readable(dict(config)), "options": None, "model_class": None}
    options = {**config.internal_config_dict, **config.external_config_dict}
    options = {key: value for key, value in options.items() if key not in _OF_THE_START}
    content = {"config": readable(config.final_config_dict), "options": readable(options)}
    for part in content.values():
        if modalities is not None and part.get("modalities") is None:
            part["modalities"] = list(modalities)
    cls = config.model_class
    return {**content, "model_class": f"{cls.__module__}.{cls.__qualname__}"}


def build_config(content: Mapping[str, Any], source: str = "checkpoint") -> Any:
    """RecBole's Config as it was when a checkpoint was written, for this machine.

    The device is one that is here, and data that came with the package are looked for where the package is now.

    Args:
        content: Content of the checkpoint.
        source: Its name, for messages.

    Returns:
        The Config.

    Raises:
        ValueError: The model is not known.
    """
    final = dict(content["config"])
    name, dataset = final["model"], final["dataset"]
    try:
        model_class = get_model(name)
    except ValueError as error:
        home = str(content.get("model_class") or "").rpartition(".")[0]
        hint = f" Import {home} first, which registered it then." if home else ""
        raise ValueError(f"{source} is of the model {name}, which is not known here: {error}{hint}") from error
    for key, enum in _ENUMS.items():
        if isinstance(final.get(key), str):
            final[key] = enum[final[key]]
    wanted = torch.device(str(final.get("device", "cpu")))
    cuda = wanted.type == "cuda" and torch.cuda.is_available()
    final.update(device=torch.device("cuda" if cuda else "cpu"), single_spec=True, local_rank=0)
    if final.get("cold_start") is not None:
        final["cold_start"] = ColdStartOptions(final["cold_start"])
    final["data_path"] = _data_path(str(final["data_path"]), dataset)
    config: Any = Config.__new__(Config)
    config._init_parameters_category()
    config.yaml_loader = config._build_yaml_loader()
    config.file_config_dict, config.cmd_config_dict = {}, {}
    config.variable_config_dict = config.external_config_dict = dict(content.get("options") or final)
    config.internal_config_dict = {"MODEL_TYPE": final["MODEL_TYPE"]}
    config.model, config.model_class, config.dataset = name, model_class, dataset
    config.final_config_dict = final
    return config


def _data_path(path: str, dataset: str) -> str:
    if os.path.exists(path):
        return path
    packaged = dataset_atomic_dir() / dataset
    if any(packaged.glob(f"{dataset}*.inter")):
        return str(packaged)
    import recbole

    example = Path(recbole.__file__).parent / "dataset_example" / dataset
    return str(example) if example.is_dir() else path


def move(config: Any, places: Mapping[str, Any], source: str) -> None:
    """Tell the Config of a checkpoint where things are on this machine.

    Args:
        config: The Config.
        places: Options among those of ``PLACES``; others may be repeated
            with the value that they have.
        source: Name of the checkpoint.

    Raises:
        ValueError: Another option, whose value is the checkpoint's.
    """
    final = config.final_config_dict
    for key, value in places.items():
        if key == "data_path":
            final[key] = os.path.join(str(value), config.dataset)
        elif key == "gpu_id":
            os.environ["CUDA_VISIBLE_DEVICES"] = final[key] = str(value)
            final["device"] = torch.device("cuda" if str(value) and torch.cuda.is_available() else "cpu")
        elif key in ("feature_path", "feature_disk", "eval_memory_mb"):
            final[key] = value
        elif final.get(key) != value:
            raise ValueError(
                f"{source} has its own options already, {key}={final.get(key)!r} among them; of those given here only "
                f"{', '.join(PLACES)} can apply, which say where things are. Leave out {key}."
            )
    if "eval_memory_mb" in places:
        asked = config.external_config_dict.get("eval_batch_size", "auto")
        options = {**final, "eval_batch_size": asked}
        final["eval_batch_size"] = resolve_eval_batch_size(options, config.model_class)
