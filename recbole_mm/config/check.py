"""Checks of a whole configuration: no unknown key, no value that could not be meant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from logging import getLogger
from typing import Any

from recbole_mm.config.columns import check_transform
from recbole_mm.config.graph_batch import check_sampled_steps, refuse_sampling
from recbole_mm.config.metrics import check_value_metrics
from recbole_mm.config.names import key_sources, known_keys, read_keys, readable_keys, suggest
from recbole_mm.config.ranges import check_ranges
from recbole_mm.config.shared import SHARED_OPTIONS, check_shared
from recbole_mm.paths import properties_dir

__all__ = ["check_command_line", "check_config", "check_read"]


def check_config(
    internal: Mapping[str, Any],
    file: Mapping[str, Any],
    variables: Mapping[str, Any],
    command_line: Mapping[str, Any],
    model_class: Any = None,
) -> None:
    """Check what the caller set, against the defaults of the model and of the shared options.

    An unknown key is a warning here, because pipelines share one file among many models and a caller's script may
    have arguments of its own; our command line refuses it (`check_command_line`).

    Args:
        internal: Defaults of RecBole, of our yamls and of the model.
        file: What the caller's yaml files set.
        variables: What the caller's dict set.
        command_line: What ``--key=value`` arguments set.
        model_class: The model's class; options that its source asks for are known.

    Raises:
        ValueError: A shared option, a model option or any option of the command line has a value of the wrong kind.
    """
    external = {**file, **variables, **command_line}
    for name in external:
        if not isinstance(name, str):
            raise ValueError(f"{name!r} ({type(name).__name__}) is no name of an option; expected a text.")
    logger = getLogger()
    for message in _unknown(external, known_keys(internal), model_class).values():
        logger.warning(message)
    check_shared({**internal, **external})
    check_ranges(external)
    check_sampled_steps({**internal, **external})
    if {"metrics", "eval_args"} & set(external):
        check_value_metrics({**internal, **external})
    if "transform" in external:
        check_transform({**internal, **external})
    _check_fields({**internal, **external}, external)
    if model_class is not None:
        sampling = {**internal, **external}.get("graph_batch")
        refuse_sampling(sampling, model_class.__name__, getattr(model_class, "samples_graph", False))
    ours = set(SHARED_OPTIONS) | _model_keys(model_class)
    for key, value in external.items():
        problem = _mismatch(key, value, internal.get(key))
        if problem is None or key in SHARED_OPTIONS:
            continue
        if key in ours or key in command_line:
            raise ValueError(problem)
        logger.warning(problem)


def _check_fields(options: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Two roles of one column would be read as one, or written over each other."""
    roles = ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD", "LABEL_FIELD")
    names: dict[str, str] = {}
    for role in roles if any(role in given for role in roles) else ():
        name = options.get(role)
        if name is not None and str(name) in names:
            raise ValueError(
                f"{role}={name}: {names[str(name)]} names that column, too; give each a column of its own."
            )
        names[str(name)] = role


def check_command_line(keys: Mapping[str, Any] | set[str], model_class: Any = None, also: Iterable[str] = ()) -> None:
    """Refuse unknown option names of our own command line.

    Args:
        keys: The names given.
        model_class: The model's class, if it is known already.
        also: Further names that a caller may have meant, such as arguments that are no options.

    Raises:
        ValueError: At least one name is unknown to RecBole and to every model, with the nearest known names.
    """
    unknown = _unknown(keys, known_keys(), model_class, also)
    if unknown:
        raise ValueError("\n".join(unknown.values()))


def check_read(keys: Iterable[str], models: Mapping[str, Any]) -> None:
    """Refuse options that are some model's, but of none of those that are run.

    Args:
        keys: The names given on our command line.
        models: The models that are run, by name; ``None`` for a class that is not at hand.

    Raises:
        ValueError: No model of them reads a name.
    """
    read = {key for name, model_class in models.items() for key in readable_keys(name, model_class)}
    for key in keys:
        if key not in read:
            raise ValueError(
                f"--{key} is an option of other models; {', '.join(models)} would not read it. Leave it out."
            )


def _unknown(
    keys: Mapping[str, Any] | set[str], known: set[str], model_class: Any, also: Iterable[str] = ()
) -> dict[str, str]:
    strangers = [key for key in keys if key not in known]
    if strangers:  # only now is it worth reading sources
        asked = key_sources(model_class)
        strangers = [key for key in strangers if key not in asked]
    near = known.union(also)
    return {
        key: f"Unknown option {key!r}: neither RecBole nor a registered model reads it.{suggest(str(key), near)}"
        for key in strangers
    }


def _mismatch(key: str, value: Any, default: Any) -> str | None:
    """Message about a text where the default is a number or a truth value; such a text never means what it says."""
    if not isinstance(value, str):
        return None
    if isinstance(default, bool):
        return f"{key}: expected True or False (without quotes), got the text {value!r}."
    if isinstance(default, (int, float)):
        kind = "an integer" if isinstance(default, int) else "a number"
        return f"{key}: expected {kind} (default {default!r}), got the text {value!r}."
    return None


def _model_keys(model_class: Any) -> set[str]:
    file = properties_dir() / "model" / f"{getattr(model_class, '__name__', '')}.yaml"
    return read_keys(file) if file.is_file() else set()
