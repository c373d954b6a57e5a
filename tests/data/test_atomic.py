"""Atomic files that are not what they should be: the message names file, line and remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from recbole_mm.data.atomic import check_atomic, check_numbers, read_header

HEADER = "user_id:token\titem_id:token\trating:float\n"
GOOD = HEADER + "u1\ti1\t3\nu2\ti2\t4.5\n"

# Content, words of the message.
FILES: list[tuple[str | bytes, tuple[str, ...]]] = [
    ("", ("is empty", "user_id:token")),
    ("\n" + GOOD, ("line 1", "the line is empty")),
    ("user_id\titem_id\trating\nu1\ti1\t3\n", ("line 1", "'user_id' has no type", "name:type")),
    ("user_id,item_id,rating\nu1,i1,3\n", ("line 1", "expected tabs", "commas", "field_separator")),
    ("user_id:token,item_id:token\nu1,i1\n", ("line 1", "expected tabs", "commas", "field_separator")),
    ("user_id:token;item_id:token\nu1;i1\n", ("expected tabs", "semicolons")),
    ("user_id:token item_id:token\nu1 i1\n", ("expected tabs", "blanks")),
    ("user_id:tokn\titem_id:token\nu1\ti1\n", ("type 'tokn'", "Did you mean 'token'")),
    ("user_id:int\titem_id:token\nu1\ti1\n", ("type 'int'", "token, token_seq, float, float_seq")),
    ("user_id:token\tuser_id:token\nu1\ti1\n", ("the column user_id is there twice",)),
    (":token\titem_id:token\nu1\ti1\n", ("has no type",)),
    ("\ufeff" + GOOD, ("line 1", "byte order mark", "utf-8-sig")),
    (GOOD.encode("utf-16"), ("UTF-16", "save it as UTF-8")),
    (GOOD.replace("i2", "caf\u00e9").encode("latin-1"), ("line 3", "not utf-8", "encoding: latin-1")),
    (GOOD.replace("item_id", "itemid"), ("no column item_id", "ITEM_ID_FIELD", "Did you mean 'itemid'")),
    (GOOD.replace("\t4.5", ""), ("line 3", "expected 3 values", "got 2")),
    (GOOD.replace("\t4.5", "\t4.5\tx"), ("line 3", "got 4")),
    (GOOD.replace("u2\ti2", "u2 i2"), ("line 3", "got 2")),
    (HEADER, ("no line below",)),
    (HEADER.rstrip("\n"), ("no line below",)),
    (GOOD + GOOD, ("line 4", "the names of the columns is there again")),
    (GOOD.replace("u2", "u\0002"), ("line 3", "zero byte")),
    (GOOD.replace("i2", "[PAD]"), ("line 3", "[PAD]", "another name")),
    (GOOD.replace("user_id:token", "user_id:float"), ("user_id holds ids", "write user_id:token")),
    (GOOD.replace("item_id:token", "item_id:token_seq"), ("item_id holds ids", "got token_seq")),
    (GOOD.replace("u1", '"u1') + 'u3\t"i3\t1\n', ("line 2", "quotation mark")),
]


@pytest.mark.parametrize(("content", "words"), FILES, ids=lambda entry: str(entry)[:30])
def test_what_is_wrong_is_named_with_its_line(content: str | bytes, words: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "shop.inter"
    file.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    with pytest.raises(ValueError) as caught:
        check_atomic(file, needed=[("user_id", "USER_ID_FIELD"), ("item_id", "ITEM_ID_FIELD")])
    for word in ("shop.inter", *words):
        assert word in str(caught.value)


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder"):
        read_header(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        GOOD,
        GOOD.replace("\n", "\r\n"),
        GOOD.rstrip("\n"),
        GOOD + "\n\n",
        GOOD.replace("\t4.5", "\t"),
        GOOD.replace("u1", '"a ""quoted"" name"'),
        GOOD.replace("u1", '"a name of\ntwo lines"'),
        GOOD.replace("u1", 'a 5" name'),
        GOOD.replace("u1", '"Great" book'),
    ],
    ids=repr,
)
def test_what_pandas_reads_as_it_is_meant_is_let_through(content: str, tmp_path: Path) -> None:
    file = tmp_path / "shop.inter"
    file.write_bytes(content.encode("utf-8"))
    check_atomic(file)
    check_numbers(file, "\t", "utf-8", " ")


def test_the_value_that_is_no_number_is_found(tmp_path: Path) -> None:
    file = tmp_path / "shop.item"
    file.write_text("item_id:token\tprice:float\tsizes:float_seq\na\t1\t1 2\nb\t\t3 x\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"shop.item, line 3: sizes is of type float_seq, and 'x' is no number"):
        check_numbers(file, "\t", "utf-8", " ")


def test_another_separator_and_encoding(tmp_path: Path) -> None:
    file = tmp_path / "shop.inter"
    file.write_bytes("user_id:token;item_id:token\nu1;caf\u00e9\n".encode("latin-1"))
    check_atomic(file, ";", "latin-1")
    with pytest.raises(ValueError, match="encoding: 'latin-99' is no encoding"):
        check_atomic(file, ";", "latin-99")
