"""Whose lists are asked for, and of which items: raw ids looked up, and those that are not there counted and named."""

from __future__ import annotations

import os
from collections.abc import Iterable
from logging import getLogger
from numbers import Integral, Number
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np

from recbole_mm.config.refusals import refuse

__all__ = [
    "asked_items",
    "asked_users",
    "check_flag",
    "check_id",
    "check_ids",
    "check_length",
    "is_one_id",
    "listed_ids",
    "popularity",
    "read_ids",
]

_NAMED = 10
_ONE_ID = (str, bytes, bytearray, bool, np.bool_, Number, UUID)


def read_ids(file: str | os.PathLike[str], what: str) -> list[str]:
    """Raw ids of a text file with one a line, each once.

    Byte-order marks (also of UTF-16, which spreadsheets write), line ends of any system, blanks around an id and empty
    lines are nobody's id.

    Args:
        file: The file.
        what: Who asks for it, for the messages.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no text, or has no id.
    """
    path = Path(file)
    if path.is_dir():
        raise ValueError(f"{what}: {path} is a folder; expected a file with one id a line.")
    if not path.is_file():
        raise FileNotFoundError(f"{what}: there is no file {str(path)!r}.")
    content = path.read_bytes()
    utf16 = content[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        text = content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{what}: {path} is not text in UTF-8 ({error}); save it as UTF-8, one id a line.") from error
    if "\0" in text:
        raise ValueError(f"{what}: {path} is not text (it has zero bytes); save it as UTF-8, one id a line.")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    found = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not found:
        raise ValueError(f"{what}: {path} has no id; expected one a line.")
    return found


def check_length(what: str, value: Any) -> int:
    """The length of a list, also where numpy counted it.

    Raises:
        ValueError: No positive whole number.
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Integral) or value < 1:
        refuse(what, "a positive integer", value)
    return int(value)


def check_flag(what: str, value: Any) -> bool:
    """Yes or no.

    Raises:
        ValueError: Anything else: a text such as 'False' would be taken for yes.
    """
    if not isinstance(value, (bool, np.bool_)):
        refuse(what, "True or False", value)
    return bool(value)


def is_one_id(value: Any) -> bool:
    """Whether a value is meant as one raw id, maybe of a kind that none has, and not as a list of them."""
    return isinstance(value, _ONE_ID)


def check_id(what: str, token: Any) -> str:
    """A raw id as the text that it is in the atomic files.

    Raises:
        ValueError: No text and no number, such as NaN of a table, or bytes, whose text would begin with b.
    """
    if not isinstance(token, (str, Number, UUID)) or isinstance(token, bool) or token != token:
        refuse(what, "a raw id, which is a text or a number", token)
    return str(token)


def listed_ids(what: str, ids: Iterable[Any]) -> list[str]:
    """The raw ids as texts, in their order.

    Raises:
        ValueError: A single id, which would be read letter by letter, no list at all, or an entry that is no id.
    """
    if isinstance(ids, str):
        raise ValueError(f"{what}: expected a list of raw ids, got the text {ids!r}; write [{ids!r}].")
    if is_one_id(ids) or not isinstance(ids, Iterable):
        refuse(what, "a list of raw ids", ids)
    return [check_id(what, token) for token in ids]


def check_ids(what: str, ids: Iterable[Any] | None) -> list[str] | None:
    """The raw ids as texts, each once; ``None`` for all.

    Raises:
        ValueError: What :func:`listed_ids` refuses, or no id at all.
    """
    if ids is None:
        return None
    tokens = list(dict.fromkeys(listed_ids(what, ids)))
    if not tokens:
        raise ValueError(f"{what}: expected one raw id at least, got none.")
    return tokens


def asked_users(tokens: list[str] | None, dataset: Any) -> tuple[np.ndarray, list[str]]:
    """The users to write.

    Args:
        tokens: Raw ids; ``None`` for all of the data set.
        dataset: The data set.

    Returns:
        Internal ids of those that the data set has, and raw ids of the others.
    """
    if tokens is None:
        return np.arange(1, dataset.user_num), []
    known, strangers = _look_up(tokens, dataset, dataset.uid_field)
    if strangers:
        getLogger().warning(
            f"{_some(strangers, len(tokens), 'users')} are not in the (filtered) data set; they get the most popular "
            "items, marked by ranked_by: popularity."
        )
    return known, strangers


def asked_items(tokens: list[str] | None, dataset: Any) -> np.ndarray | None:
    """The items that may stand in a list.

    Args:
        tokens: Raw ids; ``None`` for all of the data set.
        dataset: The data set.

    Returns:
        Bool array over internal ids, or ``None`` for all.

    Raises:
        ValueError: The data set has none of them.
    """
    if tokens is None:
        return None
    known, strangers = _look_up(tokens, dataset, dataset.iid_field)
    if not len(known):
        example = str(dataset.field2id_token[dataset.iid_field][1])
        raise ValueError(
            f"items: none of the {len(tokens):,} is in the (filtered) data set, such as {tokens[0]!r}. Give raw ids as "
            f"in the atomic files, such as {example!r}; new_items: True brings in those that only the .item file or a "
            "feature file knows."
        )
    if strangers:
        getLogger().warning(f"{_some(strangers, len(tokens), 'items')} are not in the (filtered) data set; left out.")
    candidates = np.zeros(dataset.item_num, dtype=bool)
    candidates[known] = True
    return candidates


def popularity(train: Any) -> np.ndarray:
    """Number of training interactions of each item, shape ``(n_items,)``, the padding 0.

    Args:
        train: The training part, a data set of RecBole's after the split.
    """
    counts = np.bincount(train.inter_feat[train.iid_field].numpy(), minlength=train.item_num)
    counts[0] = 0
    return counts


def _look_up(tokens: list[str], dataset: Any, field: str) -> tuple[np.ndarray, list[str]]:
    ids = dataset.field2token_id[field]
    known = [ids[token] for token in tokens if ids.get(token, 0) > 0]
    return np.array(known, dtype=np.int64), [token for token in tokens if ids.get(token, 0) == 0]


def _some(strangers: list[str], n: int, what: str) -> str:
    named = ", ".join(map(repr, strangers[:_NAMED])) + (", ..." if len(strangers) > _NAMED else "")
    return f"{len(strangers):,} of the {n:,} {what} ({named})"
