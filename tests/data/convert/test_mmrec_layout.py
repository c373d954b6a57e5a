from __future__ import annotations

import pytest

from recbole_mm.data.convert.mmrec_layout import COLUMNS, column_role, feature_file, feature_files, mapping_file


@pytest.mark.parametrize("role", sorted(COLUMNS))
def test_what_is_written_is_read_with_the_same_meaning(role: str) -> None:
    column = COLUMNS[role]
    assert column_role(column.written) == column_role(column.field) == role


def test_columns_of_other_names() -> None:
    assert [column_role(name) for name in ("user_id", "UID", "x_label", "time:float", "price")] == [
        "user", "user", "split", "time", None,
    ]  # fmt: skip


@pytest.mark.parametrize("entity", ["item", "user"])
def test_feature_files_are_found_by_the_name_that_they_get(entity: str) -> None:
    file = feature_file(entity, "deep_text")
    expected: dict[str, dict[str, str]] = {"item": {}, "user": {}}
    expected[entity] = {"deep_text": file}
    assert feature_files([file, "baby.inter", "notes.npy"]) == expected


def test_files_of_the_toolbox() -> None:
    assert feature_files(["image_feat.npy", "user_taste_feat.npy"]) == {
        "item": {"image": "image_feat.npy"},
        "user": {"taste": "user_taste_feat.npy"},
    }
    assert (mapping_file("item"), mapping_file("user")) == ("i_id_mapping.csv", "u_id_mapping.csv")
