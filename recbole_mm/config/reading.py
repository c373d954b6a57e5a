"""Reads a file of options, and refuses what is none."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

try:
    from yaml import CSafeLoader as _FastLoader
except ImportError:  # a PyYAML without libyaml
    from yaml import SafeLoader as _FastLoader  # type: ignore[assignment]  # the same methods, no common base

from recbole_mm.config.refusals import mapping, refuse

__all__ = ["OptionLoader", "PackageLoader", "check_sources", "read_options"]

# No file of options has so many values.
_MOST_VALUES = 100_000


class OptionLoader(yaml.SafeLoader):
    """Reads options as RecBole does, with ``1e-3`` as a number; a tag that names Python objects is refused."""


class PackageLoader(_FastLoader):
    """The same for files of RecBole and of this package, of which every ``Config`` reads a dozen: a tenth of the time.

    A caller's file is not for it: some ten thousand brackets within each other end the process.
    """


for _loader in (OptionLoader, PackageLoader):
    _loader.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(
            r"[-+]?(\d[\d_]*\.[\d_]*([eE][-+]?\d+)?|\d[\d_]*[eE][-+]?\d+|\.\d[\d_]*([eE][-+]?\d+)?"
            r"|\.(inf|Inf|INF))$|\.(nan|NaN|NAN)$"
        ),
        list("-+0123456789."),
    )


class _StrictLoader(OptionLoader):
    """For a caller's files: what yaml reads in a way that nobody means is refused.

    Of a key that stands there twice yaml keeps the last without a word; ``010`` is 8 to it, and ``1:30`` is 90.
    """

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """As yaml does, once no key is there twice."""
        lines: dict[str, int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                line = key.start_mark.line + 1
                if key.value in lines:
                    raise yaml.constructor.ConstructorError(
                        problem=f"{key.value} is there twice, in line {lines[key.value]} and in line {line}; keep one"
                    )
                lines[key.value] = line
        return super().construct_mapping(node, deep)

    def construct_number(self, node: Any) -> Any:
        """As yaml does, unless the number is written in a base that shows only at a second look."""
        integer = node.tag == "tag:yaml.org,2002:int"
        value = self.construct_yaml_int(node) if integer else self.construct_yaml_float(node)
        if ":" in node.value or (integer and re.fullmatch(r"[-+]?0[0-7_]+", node.value)):
            raise yaml.constructor.ConstructorError(
                problem=f"line {node.start_mark.line + 1}: {node.value} is {value} in yaml; write {value}, or put "
                f"quotes around it: '{node.value}'"
            )
        return value


for _kind in ("int", "float"):
    _StrictLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", _StrictLoader.construct_number)


def check_sources(config_file_list: Any, config_dict: Any) -> None:
    """Refuse what is no list of option files, or no mapping of options.

    A single file's name would be taken for a list of names of one letter each.

    Args:
        config_file_list: As RecBole's functions take it; may be ``None``.
        config_dict: Likewise.

    Raises:
        ValueError: One of them is something else.
    """
    files, single = config_file_list, isinstance(config_file_list, (str, bytes, os.PathLike))
    if files is not None and (single or not isinstance(files, Iterable)):
        refuse("config_file_list", "a list of files of options", files, f" Write [{files!r}]." if single else "")
    mapping("{'epochs': 10}")("config_dict", config_dict)


def read_options(file: str | Path) -> dict[str, Any]:
    """Options in a caller's yaml file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not yaml, or holds something else than options; RecBole reports neither file nor reason.
    """
    if Path(file).is_dir():
        raise ValueError(f"{file} is a folder; expected a yaml file of options.")
    if not Path(file).is_file():
        raise FileNotFoundError(f"There is no option file {str(file)!r} in {Path.cwd()}.")
    try:
        content = yaml.load(Path(file).read_text(encoding="utf-8-sig"), Loader=_StrictLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not yaml: {error}") from error
    except RecursionError:
        raise ValueError(f"{file} holds no options: its brackets are nested too deeply.") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no options but {content!r}; expected lines of the form key: value.")
    for key in content:
        if not isinstance(key, str):
            raise ValueError(
                f"{file}: {key!r} is no name of an option. yaml reads on, off, yes and no as truth values and ~ as "
                "nothing; a name that is one of them needs quotes."
            )
    _check_size(content, file)
    return content


def _check_size(content: Any, file: str | Path) -> None:
    """A few lines of aliases (``*name``) can stand for billions of values, or for themselves."""
    pending, count = [content], 0
    while pending:
        value = pending.pop()
        count += 1
        if count > _MOST_VALUES:
            raise ValueError(
                f"{file}: its aliases (*name) repeat each other, or themselves, without end; write them out."
            )
        if isinstance(value, dict):
            pending.extend(value.values())
        elif isinstance(value, (list, tuple, set)):
            pending.extend(value)
