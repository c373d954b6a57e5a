"""Which column is what: roles guessed from usual names, kinds found from the values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from recbole_mm.config.names import suggest
from recbole_mm.data.convert.objects import is_object

__all__ = [
    "KINDS",
    "NO_CONTENT",
    "ROLES",
    "Column",
    "classify",
    "find_roles",
    "in_kind",
    "no_column",
    "simple_name",
    "written_numbers",
]

#: Usual names of columns by role, the most telling first; case, blanks, ``_`` and ``:type`` do not count.
ROLES: dict[str, tuple[str, ...]] = {
    "user": (
        "userid",
        "user",
        "uid",
        "customerid",
        "customer",
        "visitorid",
        "visitor",
        "memberid",
        "member",
        "reviewerid",
    ),
    "item": (
        "itemid",
        "item",
        "iid",
        "productid",
        "product",
        "sku",
        "articleid",
        "article",
        "asin",
        "movieid",
        "videoid",
    ),
    "time": ("timestamp", "time", "ts", "datetime", "date", "eventtime", "createdat", "unixreviewtime"),
    "rating": ("rating", "stars", "score", "overall"),
    "label": ("label", "click", "clicked", "like", "liked"),
}
KINDS = ("token", "token_seq", "float", "float_seq", "text", "drop")
"""What a column may become; ``text`` is kept for encoders beside the atomic files, ``drop`` nowhere."""

_ADDRESSES, _FILES, _DATES, _TIMES, _OBJECTS = "web addresses", "names of files", "dates", "times", "objects"
NO_CONTENT = (_ADDRESSES, _FILES, _DATES, _TIMES, _OBJECTS)
"""Reasons of columns that are text and yet nothing for an encoder of texts."""

_REQUIRED = ("user", "item")
_UNIT = r"[€$£¥]|EUR|USD|GBP|CHF"
_AMOUNT = re.compile(rf"^(?P<before>{_UNIT})?\s*(?P<number>[-+]?\d[\d.,]*)\s*(?P<after>{_UNIT})?$")
_ADDRESS = re.compile(r"(?:https?:)?//\S+$")
_FILE = re.compile(r"\S+\.(?:jpe?g|png|gif|webp|bmp|tiff?|svg|wav|mp3|flac|ogg|m4a|mp4|pdf)$", flags=re.IGNORECASE)
_DATE = re.compile(r"\d{1,4}([-./])\d{1,2}\1\d{1,4}(?:[T ,].*)?$")
_LEADING_ZERO = re.compile(r"[-+]?0\d+")
_LIST = re.compile(r"\s*[|,]\s*")
# From here on, values say something about one item rather than about a group of items.
_DISTINCT_SHARE = 0.5
_MANY_ROWS = 10
_LONG = 40
_SHOWN = 40  # names in a message


def simple_name(column: str) -> str:
    """A name without what does not count in it: case, blanks, ``_``, dots and ``:type``.

    Example:
        >>> simple_name("User_ID:token")
        'userid'
    """
    return re.sub(r"[\W_]", "", column.partition(":")[0]).lower()


def no_column(where: str, column: str, asked: str, names: Sequence[str]) -> KeyError:
    """What is said of a column that was asked for and is not there.

    Args:
        where: The table.
        column: The column.
        asked: The argument that named it.
        names: What can be read of the table.
    """
    shown = ", ".join(names[:_SHOWN])
    return KeyError(f"{where}: there is no column {column!r} ({asked}).{suggest(column, names)} It has {shown}.")


def find_roles(names: Sequence[str], given: Mapping[str, str | None], where: str, called: str = "") -> dict[str, str]:
    """The column of each role.

    Args:
        names: Names of the columns, and of what stands in objects of theirs, such as ``user.id``.
        given: Role to the column that the caller named; ``None`` to guess.
        where: The table, for messages.
        called: Of a table of items or users, which may call its ids ``id``: how the clicks call them.

    Returns:
        Role to column; roles without one are left out (``user`` and ``item`` are always there).

    Raises:
        KeyError: A column that was named is not there.
        ValueError: No user or item column was found, or one column was named for two roles.
    """
    found: dict[str, str] = {}
    for role, column in given.items():
        if column is None:
            continue
        if column not in names:
            raise no_column(where, column, role, names)
        if column in found.values():
            raise ValueError(f"{where}: the column {column!r} was named for two roles; each needs its own.")
        found[role] = column
    simple = {simple_name(column): column for column in reversed(names)}
    usual = {role: (*ROLES[role], "id") if called else ROLES[role] for role in given}
    for role in given:
        if role in found:
            continue
        matches = [simple[name] for name in usual[role] if name in simple and simple[name] not in found.values()]
        if matches:
            found[role] = matches[0]
        elif role in _REQUIRED:
            remedy = f"call it {called}, as the clicks do" if called else f"name it: {role}='COLUMN' (--{role}=COLUMN)"
            there = ", ".join(names[:_SHOWN])
            raise ValueError(
                f"{where}: which column is the {role}? None of {there} has a usual name ({', '.join(usual[role][:4])}, "
                f"...); {remedy}."
            )
    return found


@dataclass(frozen=True)
class Column:
    """A column of a table of items or users.

    Attributes:
        name: Its name.
        kind: One of :data:`KINDS`.
        reason: Why, for the report.
    """

    name: str
    kind: str
    reason: str


def classify(name: str, cells: pd.Series, kind: str | None = None) -> Column:
    """What a column holds.

    Numbers are ``float`` (but texts like ``007`` are no numbers), few short texts are ``token``, lists and texts such
    as ``a|b`` are ``token_seq``; texts that differ from row to row, such as titles, descriptions and names of pictures,
    are ``text``: they say nothing as categories, so they stay out of the atomic file and are kept for encoders.

    Args:
        name: Name of the column.
        cells: Its values, text or lists of text.
        kind: The kind that the caller wants.

    Returns:
        The column.
    """
    if kind is not None:
        return Column(name, kind, "as you said")
    lists = np.array([isinstance(cell, list) for cell in cells], dtype=bool)
    if lists.any():
        numbers = pd.to_numeric(cells[lists].explode(), errors="coerce").notna().all()
        return Column(name, "float_seq" if numbers else "token_seq", "lists")
    if pd.api.types.is_datetime64_any_dtype(cells.dtype):
        return Column(name, "text", _TIMES)
    filled = cells.map(str).str.strip()
    filled = filled[filled != ""]
    if filled.empty:
        return Column(name, "drop", "empty")
    numeric = pd.to_numeric(filled, errors="coerce")
    if np.isfinite(numeric).all() and not filled.str.fullmatch(_LEADING_ZERO).any():
        return Column(name, "float", "numbers")
    if written_numbers(filled) is not None:
        return Column(name, "float", f"numbers such as {filled.iloc[0]}")
    if filled.str.match(_ADDRESS).mean() > 0.9:
        return Column(name, "text", _ADDRESSES)
    if filled.map(is_object).all():
        return Column(name, "text", _OBJECTS)
    distinct = filled.nunique() / len(filled)
    if filled.str.contains("|", regex=False).mean() > 0.2:
        return Column(name, "token_seq", "lists separated by |")
    entries = filled.str.split(",").explode().str.strip()
    short = entries.str.len().mean() <= 20 and entries.str.count(" ").mean() < 1
    if filled.str.contains(",", regex=False).mean() > 0.2 and short and entries.nunique() < 0.5 * len(entries):
        return Column(name, "token_seq", "lists separated by commas")
    if filled.str.len().mean() > _LONG:
        return Column(name, "text", "long texts")
    if distinct > _DISTINCT_SHARE and len(filled) >= _MANY_ROWS:
        named = [reason for form, reason in ((_FILE, _FILES), (_DATE, _DATES)) if filled.str.match(form).mean() > 0.9]
        return Column(name, "text", *(named or ["differs from row to row"]))
    return Column(name, "token", f"{filled.nunique():,} values")


def written_numbers(filled: pd.Series) -> pd.Series | None:
    """Amounts as people write them (``1.299,00``, ``12,5 €``, ``$1,299.00``) in the form of Python's numbers.

    All of them must be written in one way, with one unit, and at least one must tell the decimal mark from that of
    thousands: ``1,299`` alone could be either.

    Args:
        filled: Texts without blanks around them, none of them empty.

    Returns:
        The numbers as text, or ``None`` where this is not what they are.
    """
    parts = filled.str.extract(_AMOUNT)
    unit = parts["before"].fillna("") + parts["after"].fillna("")
    if parts["number"].isna().any() or unit.nunique() != 1:
        return None
    numbers = parts["number"]
    for mark, thousands in ((",", "."), (".", ",")):
        style = rf"[-+]?(?:\d+|\d{{1,3}}(?:\{thousands}\d{{3}})+)(?:\{mark}\d+)?"
        telling = rf".*\{mark}(?:\d{{1,2}}|\d{{4,}})|.*\{thousands}.*\{mark}\d+"
        if numbers.str.fullmatch(style).all() and numbers.str.fullmatch(telling).any():
            return numbers.str.replace(thousands, "", regex=False).str.replace(mark, ".", regex=False)
    return None


def in_kind(column: Column, cells: pd.Series, where: str) -> pd.Series:
    """The cells as they stand in an atomic file.

    Entries of a sequence are separated by blanks there, so a blank within an entry becomes ``_``.

    Raises:
        ValueError: A number that is none; names the ids, which are the index of ``cells``.
    """
    if column.kind in ("token_seq", "float_seq"):
        entries = cells.map(lambda cell: cell if isinstance(cell, list) else [e for e in _LIST.split(str(cell)) if e])
        return entries.map(lambda row: " ".join("_".join(str(entry).split()) for entry in row))
    text = cells.map(lambda cell: " ".join(str(cell).split()))
    if column.kind == "float":
        there = text.ne("").to_numpy()
        written = written_numbers(text[there])
        if written is not None:
            text = text.copy()
            text.iloc[np.flatnonzero(there)] = written.to_numpy()
        wrong = np.flatnonzero((text != "") & ~np.isfinite(pd.to_numeric(text, errors="coerce")))
        if len(wrong):
            shown = ", ".join(f"{text.iloc[row]!r} of {cells.index[row]!r}" for row in wrong[:5])
            raise ValueError(f"{where}, column {column.name}: {len(wrong):,} value(s) are no numbers: {shown}.")
    return text
