"""Kinds of columns as shops write them: amounts of money, web addresses."""

from __future__ import annotations

import pandas as pd
import pytest

from recbole_mm.data.convert.columns import Column, classify, in_kind


@pytest.mark.parametrize(
    ("cells", "numbers"),
    [
        (["12,5", "7", "1.299,00", ""], ["12.5", "7", "1299.00", ""]),
        (["12,50 €", "7,00 €"], ["12.50", "7.00"]),
        (["$1,299.00", "$3.50", "$20"], ["1299.00", "3.50", "20"]),
        (["EUR 1.234.567,8", "EUR -2"], ["1234567.8", "-2"]),
        (["1,234.5678", "1,000"], ["1234.5678", "1000"]),
    ],
)
def test_amounts_as_people_write_them_are_numbers(cells, numbers):
    column = classify("price", pd.Series(cells))
    assert column.kind == "float" and "numbers" in column.reason
    assert in_kind(column, pd.Series(cells, index=[f"i{k}" for k in range(len(cells))]), "t").tolist() == numbers


@pytest.mark.parametrize(
    "cells",
    [
        ["1,299", "2,300"],  # thousands or thousandths?
        ["12,50 €", "7.00 $"],
        ["12,50", "3.5"],
        ["1,2,3", "4,5"],
        ["12,5 kg", "3 kg"],
    ],
)
def test_what_can_be_read_in_two_ways_is_no_number(cells):
    assert classify("price", pd.Series(cells)).kind != "float"
    with pytest.raises(ValueError, match="are no numbers"):
        in_kind(Column("price", "float", "as you said"), pd.Series(cells), "t")


def test_web_addresses_are_told_from_texts():
    column = classify("picture", pd.Series([f"https://cdn.example/{k}.jpg" for k in range(20)] + [""]))
    assert (column.kind, column.reason) == ("text", "web addresses")
