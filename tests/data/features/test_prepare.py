from __future__ import annotations

import logging
import math

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st

from recbole_mm.data.features import neighbours, stored
from recbole_mm.data.features.moments import mean_cosine, without_outliers
from recbole_mm.data.features.store import FeatureTable, prepare, scale_warning

NORMS = ["none", "l2", "zscore", "zscore_l2"]


def make_table(seed: int = 0, shape: tuple[int, ...] = (9, 4), missing=(2, 7), dtype=torch.float32) -> FeatureTable:
    generator = np.random.default_rng(seed)
    feature = torch.from_numpy(generator.normal(3.0, 2.0, shape)).to(dtype)
    observed = torch.ones(shape[0], dtype=torch.bool)
    observed[[0, *missing]] = False
    feature[~observed] = 0
    return FeatureTable("image", "item", feature, observed)


def interactions(n_items: int, seed: int = 1, n_users: int = 6) -> sp.csr_matrix:
    matrix = (np.random.default_rng(seed).random((n_users, n_items)) < 0.4).astype(np.float32)
    matrix[:, 0] = 0
    return sp.csr_matrix(matrix)


def reference(table: FeatureTable, norm: str, missing: str, pairs: np.ndarray) -> np.ndarray:
    """Row by row in float64: fill first, then normalise; zero-filled rows stay zero."""
    x, seen = table.feature.double().numpy().copy(), table.observed.numpy()
    mean = np.mean([x[i] for i in range(len(x)) if seen[i]], axis=0)
    for i in range(1, len(x)):
        if seen[i]:
            continue
        if missing == "mean":
            x[i] = mean
        elif missing == "knn":
            similar = []
            for j in range(1, len(x)):
                common = float(np.sum(pairs[:, i] * pairs[:, j]))
                if seen[j] and common:
                    similar.append((common / math.sqrt(pairs[:, i].sum() * pairs[:, j].sum()), -j))
            best = sorted(similar, reverse=True)[:10]
            x[i] = sum(w * x[-j] for w, j in best) / sum(w for w, _ in best) if best else mean
    out = np.zeros_like(x)
    for i in range(1, len(x)):
        if not seen[i] and missing == "zero":
            continue
        out[i] = x[i]
        if norm.startswith("zscore"):
            deviation = np.std([x[j] for j in range(len(x)) if seen[j]], axis=0)
            out[i] = 0 if missing == "mean" and not seen[i] else (x[i] - mean) / deviation
        if norm.endswith("l2"):
            length = np.sqrt((out[i] ** 2).sum())
            out[i] = out[i] / length if length > 0 else 0
    return out


@pytest.mark.parametrize("missing", ["zero", "mean", "knn"])
@pytest.mark.parametrize("norm", NORMS)
def test_equals_the_plain_reference(norm: str, missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_BLOCK_ROWS", 2)
    monkeypatch.setattr(stored, "_BLOCK_NUMBERS", 4 * 7)
    for seed in range(3):
        table = make_table(seed, (25, 4), missing=(1, 3, 7, 24))
        pairs = interactions(25, seed)
        before = table.feature.clone(), table.observed.clone()
        ready = prepare(table, norm, missing, pairs)
        np.testing.assert_allclose(ready.feature.numpy(), reference(table, norm, missing, pairs.toarray()), atol=2e-6)
        assert (ready.modality, ready.entity, ready.feature.dtype) == ("image", "item", torch.float32)
        assert torch.equal(ready.observed, before[1])  # filling does not claim to have seen anything
        assert torch.equal(table.feature, before[0])
        assert not ready.feature[0].any()


@given(seed=st.integers(0, 10_000), norm=st.sampled_from(NORMS), missing=st.sampled_from(["zero", "mean", "knn"]))
def test_properties_hold_for_any_table(seed: int, norm: str, missing: str) -> None:
    generator = np.random.default_rng(seed)
    n = int(generator.integers(3, 12))
    gone = [i for i in range(1, n - 1) if generator.random() < 0.3]
    table = make_table(seed, (n, 3), missing=gone)
    ready = prepare(table, norm, missing, interactions(n, seed))
    assert ready.feature.isfinite().all()
    lengths = ready.feature.norm(dim=1)
    if norm.endswith("l2"):
        assert all(length == 0 or abs(length - 1) < 1e-5 for length in lengths.tolist())
    if norm == "zscore":
        seen = ready.feature[ready.observed].double()
        assert torch.allclose(seen.mean(dim=0), torch.zeros(3, dtype=torch.float64), atol=1e-5)
    if missing == "zero" or (missing == "mean" and norm.startswith("zscore")):
        assert not ready.feature[~ready.observed].any()


def test_nothing_to_do_is_no_copy() -> None:
    table = make_table()
    assert prepare(table, "none", "zero") is table
    complete = make_table(missing=())
    for missing in ("zero", "mean", "knn", "error", "drop"):
        assert prepare(complete, "none", missing) is complete


def test_mean_after_zscore_is_exactly_zero_so_that_l2_has_no_noise_to_blow_up() -> None:
    table = make_table(shape=(101, 6), missing=(5,))
    assert not prepare(table, "zscore_l2", "mean").feature[5].any()


def test_a_column_without_variation_becomes_zero() -> None:
    table = make_table()
    table.feature[table.observed, 1] = 0.1  # not exact in binary: its mean and deviation carry rounding
    ready = prepare(table, "zscore", "zero")
    assert not ready.feature[:, 1].any()
    assert ready.feature[:, 0].any()


def test_lengths_whose_squares_float32_cannot_hold() -> None:
    scale = torch.tensor([0, 1e-25, 1e-17, 1.0, 1e17, 1e30])
    feature = scale[:, None] * torch.tensor([[3.0, -4.0]])
    ready = prepare(FeatureTable("image", "item", feature, scale > 0), "l2", "zero")
    expected = (scale > 0)[:, None] * torch.tensor([[0.6, -0.8]])
    torch.testing.assert_close(ready.feature, expected)


def test_several_vectors_per_item() -> None:
    table = make_table(shape=(9, 3, 4))
    ready = prepare(table, "zscore_l2", "knn", interactions(9))
    seen = table.feature[table.observed].double().reshape(-1, 4)
    scaled = (table.feature[1].double() - seen.mean(dim=0)) / seen.std(dim=0, correction=0)
    torch.testing.assert_close(ready.feature[1], (scaled / scaled.norm(dim=1, keepdim=True)).float())
    lengths = ready.feature[1:].norm(dim=2)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("missing", ["mean", "knn"])
def test_the_type_stays_and_the_work_is_done_in_a_wide_one(dtype: torch.dtype, missing: str) -> None:
    table = make_table(dtype=dtype)
    ready = prepare(table, "zscore_l2", missing, interactions(9))
    assert ready.feature.dtype == dtype
    wide = FeatureTable("image", "item", table.feature.double(), table.observed)
    expected = prepare(wide, "zscore_l2", missing, interactions(9)).feature
    torch.testing.assert_close(ready.feature.double(), expected, atol=1e-2 if dtype != torch.float64 else 1e-12, rtol=0)


def test_knn_of_an_item_without_neighbours_is_the_mean_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    table = make_table(shape=(5, 2), missing=(2, 4))
    pairs = sp.csr_matrix(np.array([[0, 1, 1, 0, 0], [0, 0, 0, 1, 0]]))
    with caplog.at_level(logging.WARNING):
        ready = prepare(table, "none", "knn", pairs)
    torch.testing.assert_close(ready.feature[2], table.feature[1])
    torch.testing.assert_close(ready.feature[4], table.feature[[1, 3]].mean(dim=0))
    assert "1 of 2 items without image share no training partner" in caplog.text


def test_knn_of_users_reads_the_transpose() -> None:
    table = FeatureTable("profile", "user", torch.tensor([[0.0], [4.0], [0.0]]), torch.tensor([False, True, False]))
    pairs = sp.csr_matrix(np.array([[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 0, 0]]))  # users x items
    assert prepare(table, "none", "knn", pairs.T).feature.tolist() == [[0.0], [4.0], [4.0]]
    with pytest.raises(ValueError, match=r"3 users as columns, got one of shape \(3, 4\)"):
        prepare(table, "none", "knn", pairs)
    with pytest.raises(ValueError, match="3 users as columns, got none"):
        prepare(table, "none", "knn")


def test_knn_does_not_count_repeated_interactions_twice() -> None:
    table = FeatureTable(
        "image", "item", torch.tensor([[0.0], [1.0], [3.0], [0.0]]), torch.tensor([False, True, True, False])
    )
    once = sp.csr_matrix(np.array([[0, 1, 1, 1]]))
    often = sp.csr_matrix((np.full(5, 2.0), [1, 1, 1, 2, 3], [0, 5]), shape=(1, 4))  # keeps its repeated entries
    assert prepare(table, "none", "knn", once).feature.tolist() == prepare(table, "none", "knn", often).feature.tolist()


@pytest.mark.parametrize("missing", ["error", "drop"])
def test_missing_rows_can_be_an_error(missing: str) -> None:
    with pytest.raises(
        ValueError, match=f"missing_feature: {missing} - 2 of 8 items have no image feature.*zero, mean"
    ):
        prepare(make_table(), "none", missing)


@pytest.mark.parametrize("shape", [(300, 6), (300, 2, 6)])
def test_auto_centres_vectors_that_share_a_direction_and_only_those(shape):
    table = make_table(shape=shape, missing=(2, 7))
    table.feature.copy_(torch.randn(shape, generator=torch.Generator().manual_seed(3)))
    shifted = FeatureTable("image", "item", table.feature + 5.0, table.observed)
    shifted.feature[2] = 1e6  # an unobserved row counts for nothing
    rows = shifted.feature[table.observed].double().reshape(-1, 6)
    mean = rows.mean(dim=0)
    assert mean_cosine(shifted) == pytest.approx(torch.cosine_similarity(rows, mean[None]).mean().item())
    assert abs(mean_cosine(table)) < 0.2 < 0.9 < mean_cosine(shifted)
    assert torch.equal(prepare(table, "auto", "zero").feature, prepare(table, "l2", "zero").feature)
    assert torch.equal(prepare(shifted, "auto", "zero").feature, prepare(shifted, "zscore_l2", "zero").feature)


def test_auto_takes_no_statistics_of_vectors_that_are_far_too_long(caplog) -> None:
    generator = torch.Generator().manual_seed(3)
    table = make_table(shape=(300, 6), missing=())
    table.feature[1:] = 5 + torch.randn(299, 6, generator=generator)
    long = torch.tensor([4, 50, 299])
    spoilt = FeatureTable("image", "item", table.feature.clone(), table.observed)
    spoilt.feature[long] = 1e4 * torch.randn(3, 6, generator=generator)
    typical = table.observed.clone()
    typical[long] = False
    assert without_outliers(table) is None and without_outliers(table, typical) is typical
    assert torch.equal(without_outliers(spoilt), typical)
    finished = prepare(spoilt, "auto", "zero").feature
    assert torch.equal(finished[typical], prepare(table, "zscore_l2", "zero", known=typical).feature[typical])
    assert finished[1:].norm(dim=1).allclose(torch.ones(299))
    assert "3 image vectors of items are more than 10 times as long" in caplog.text
    plain = prepare(spoilt, "zscore_l2", "zero").feature[typical]
    assert plain.mean(dim=0).norm() > 0.9 > 0.2 > finished[typical].mean(dim=0).norm(), "these all look alike"


@pytest.mark.parametrize("missing", ["zero", "mean"])
def test_auto_finds_no_vector_too_long_among_zeros(missing, caplog) -> None:
    table = make_table(missing=(2,))
    table.feature.zero_()
    assert without_outliers(table) is None
    assert not prepare(table, "auto", missing).feature.any()
    assert "times as long" not in caplog.text


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match="feature_norm: expected one of auto, none, l2, zscore, zscore_l2, got 'L2'"):
        prepare(make_table(), "L2", "zero")
    with pytest.raises(ValueError, match="missing_feature: expected one of zero, .* got 'median'"):
        prepare(make_table(), "none", "median")


def scaled(factor: float, offset: float = 0.0) -> FeatureTable:
    table = make_table(shape=(40, 10), missing=(3,))
    table.feature[table.observed] = (table.feature[table.observed] - 3) * factor + offset
    return table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (scaled(1.0), None),
        (scaled(1 / 60), None),  # unit-length rows of some thousand columns
        (scaled(1e3), "badly scaled: root mean square"),
        (scaled(1e-5), "badly scaled: root mean square"),
        (scaled(1.0, offset=500.0), "badly scaled: root mean square"),
        (scaled(0.0, offset=2.5), "are constant: all rows are the same"),
    ],
)
def test_scale_warning(table: FeatureTable, message: str | None) -> None:
    found = scale_warning(table)
    assert (found is None) if message is None else (message in found and "feature_norm" in found)


def test_scale_warning_looks_at_columns() -> None:
    table = scaled(1.0)
    table.feature[table.observed, 4] *= 1000
    assert "one column varies" in scale_warning(FeatureTable("a", "item", table.feature / 100, table.observed))
    table = scaled(1.0)
    table.feature[table.observed, :6] = 0.7
    assert "6 of 10 columns are constant" in scale_warning(table)
    lonely = FeatureTable("a", "item", torch.tensor([[0.0], [9e9]]), torch.tensor([False, True]))
    assert scale_warning(lonely) is None
