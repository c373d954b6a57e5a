"""Which option names exist, and which of them a misspelt one was meant to be."""

from __future__ import annotations

import difflib
import functools
import inspect
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from recbole_mm.paths import properties_dir

__all__ = ["key_sources", "known_keys", "read_keys", "readable_keys", "suggest"]

# What RecBole's own scripts read from the command line, or what it writes into a Config itself; in no yaml and no list.
_RUN_KEYS = {
    "model", "dataset", "config_files", "config_file", "nproc", "ip", "port", "world_size", "group_offset", "offset",
    "local_rank", "single_spec", "device", "MODEL_TYPE", "MODEL_INPUT_TYPE", "eval_type", "train_stage",
    "valid_neg_sample_args", "test_neg_sample_args", "neg_sampling", "training_neg_sample_num",
}  # fmt: skip


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the C parser reads RecBole's hundred files in 0.1 s, not 0.6
_CONFIG_ACCESS = re.compile(r"""config(?:\.final_config_dict)?(?:\.get\(|\[)\s*["'](\w+)["']""")
_MEMBERSHIP = re.compile(r"""["'](\w+)["'] (?:not )?in (?:self\.)?config\b""")


def suggest(word: str, known: Iterable[str]) -> str:
    """The ``did you mean`` part of a message, empty when nothing known is near.

    Example:
        >>> suggest("n_layer", ["n_layers", "embedding_size"])
        " Did you mean 'n_layers'?"
        >>> suggest("zzz", ["n_layers"])
        ''
    """
    spelt = {name.lower(): name for name in sorted(known)}
    near = [spelt[match] for match in difflib.get_close_matches(str(word).lower(), spelt, n=3, cutoff=0.6)]
    if not near:
        return ""
    return " Did you mean " + " or ".join(repr(name) for name in near) + "?"


def read_keys(file: Path) -> set[str]:
    """Top-level keys of a yaml file (an empty file has none)."""
    with file.open(encoding="utf-8") as stream:
        content = yaml.load(stream, Loader=_LOADER)
    return set(content) if isinstance(content, dict) else set()


def known_keys(extra: Iterable[str] = ()) -> set[str]:
    """Every option name of RecBole's lists and yamls and of ours, without reading any source."""
    return _our_keys() | _recbole_keys() | _RUN_KEYS | set(extra)


def readable_keys(model: str, model_class: Any = None) -> set[str]:
    """Option names that a run of a model may read: RecBole's general ones, ours, and those of the model itself.

    Args:
        model: Its name.
        model_class: Its class, whose source and those of its bases tell what is in no yaml.
    """
    from recbole.utils import argument_list as lists

    keys = {*lists.general_arguments, *lists.training_arguments, *lists.evaluation_arguments, *lists.dataset_arguments}
    keys |= _RUN_KEYS | read_keys(properties_dir() / "overall.yaml")
    folder = _recbole_folder() / "properties"
    for file in (*folder.glob("*.yaml"), *folder.glob("dataset/*.yaml"), *folder.glob("quick_start_config/*.yaml")):
        keys |= read_keys(file)
    for file in (properties_dir() / "dataset").glob("*.yaml"):
        keys |= read_keys(file)
    own: set[str] = set()
    for file in (folder / "model" / f"{model}.yaml", properties_dir() / "model" / f"{model}.yaml"):
        own |= read_keys(file) if file.is_file() else set()
    if "finetune_model" in own:  # a model within the model has options of its own
        own = own.union(*(read_keys(file) for file in (folder / "model").glob("*.yaml")))
    for source in _recbole_folder().rglob("*.py"):
        if source.relative_to(_recbole_folder()).parts[0] != "model" or source.stem in (
            "abstract_recommender",
            model.lower(),
        ):
            keys |= _accessed(source.read_text(encoding="utf-8"))
    for cls in getattr(model_class, "__mro__", ()):
        module = sys.modules.get(cls.__module__)
        if module is not None and cls.__module__.split(".")[0] not in ("builtins", "torch", "abc"):
            try:
                keys |= _accessed(inspect.getsource(module))
            except (OSError, TypeError):
                continue
    return keys | own


def key_sources(model_class: Any = None) -> set[str]:
    """Names that source code asks a Config for, though no list or yaml of RecBole's mentions them.

    Slow (a tenth of a second), so asked only once a key is in none of the lists. A caller's own model class counts: its
    options have no yaml that we could know.
    """
    found = set(_recbole_source_keys())
    for cls in getattr(model_class, "__mro__", ()):
        if cls.__module__.split(".")[0] not in ("builtins", "torch", "recbole", "abc"):
            module = sys.modules.get(cls.__module__)
            try:
                found |= _accessed(inspect.getsource(module if module is not None else cls))
            except (OSError, TypeError):  # a class typed into an interpreter has no source
                continue
    return found


@functools.cache
def _recbole_keys() -> frozenset[str]:
    from recbole.utils import argument_list as lists

    keys: set[str] = set()
    for names in (
        lists.general_arguments,
        lists.training_arguments,
        lists.evaluation_arguments,
        lists.dataset_arguments,
    ):
        keys.update(names)
    for file in (_recbole_folder() / "properties").rglob("*.yaml"):
        keys |= read_keys(file)
    return frozenset(keys)


@functools.cache
def _recbole_source_keys() -> frozenset[str]:
    keys: set[str] = set()
    for file in _recbole_folder().rglob("*.py"):
        keys |= _accessed(file.read_text(encoding="utf-8"))
    return frozenset(keys)


def _recbole_folder() -> Path:
    import recbole

    return Path(recbole.__file__).parent


def _our_keys() -> set[str]:
    folder = properties_dir()
    keys = read_keys(folder / "overall.yaml")
    for part in ("model", "dataset"):
        for file in (folder / part).glob("*.yaml"):
            keys |= read_keys(file)
    return keys


def _accessed(source: str) -> set[str]:
    return set(_CONFIG_ACCESS.findall(source)) | set(_MEMBERSHIP.findall(source))
