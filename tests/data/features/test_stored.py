"""Features that stay in their file: equal to those in memory, without a copy of the whole."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from recbole_mm.data.features import stored
from recbole_mm.data.features.files import FeatureFile
from recbole_mm.data.features.moments import mean_cosine, moments, scale_warning
from recbole_mm.data.features.permute import permute_modality
from recbole_mm.data.features.storage import new_table
from recbole_mm.data.features.store import align, prepare
from recbole_mm.data.features.stored import StoredTable
from recbole_mm.data.features.table import FeatureStore, FeatureTable
from recbole_mm.paths import dataset_atomic_dir
from tests.model.largest import LargestTensor

N = 40
VOCABULARY = {"[PAD]": 0, **{f"i{k}": k for k in range(1, N)}}


def both(
    folder: Path, inner: tuple[int, ...] = (6,), dtype: torch.dtype = torch.float32, **load: str
) -> tuple[StoredTable, FeatureTable]:
    """The same vectors out of a ``.npy`` and a ``.npz``; 9 items have none, rows are shuffled, two match nothing."""
    generator = np.random.default_rng(0)
    ids = [f"i{k}" for k in generator.permutation(np.arange(1, N + 2))[:-9]]
    values = (5 + generator.standard_normal((len(ids), *inner))).astype(np.float16)
    np.save(folder / "d.item.text.npy", np.asarray(values, **load))
    (folder / "d.item.text.ids").write_text("\n".join(["item_id:token", *ids, ""]))
    np.savez(folder / "d.item.text.npz", id=np.array(ids), feature=values)
    on_disk, in_memory = (
        align(FeatureFile("item", "text", folder / f"d.item.text.{suffix}"), VOCABULARY, dtype)
        for suffix in ("npy", "npz")
    )
    assert isinstance(on_disk, StoredTable) and isinstance(in_memory, FeatureTable)
    return on_disk, in_memory


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "_BLOCK_NUMBERS", 7 * 6)


@pytest.mark.parametrize(
    ("norm", "missing"),
    [("none", "zero"), ("none", "mean"), ("l2", "knn"), ("zscore", "knn"), ("zscore_l2", "zero"), ("auto", "mean")],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_a_model_reads_is_the_same_to_the_last_bit(tmp_path: Path, norm: str, missing: str, dtype) -> None:
    pairs = sp.random(12, N, 0.2, "csr", random_state=0)
    disk = tmp_path / "scratch"
    disk.mkdir()
    for inner in ((6,), (2, 3)):
        on_disk, in_memory = both(tmp_path, inner, dtype)
        assert torch.equal(on_disk.observed, in_memory.observed) and on_disk.shape == in_memory.shape
        assert torch.equal(on_disk.feature, in_memory.feature)
        expected = prepare(in_memory, norm, missing, pairs)
        for folder in (None, disk):
            ready = prepare(on_disk, norm, missing, pairs, folder=folder)
            assert torch.equal(ready.feature, expected.feature) and ready.feature.dtype == dtype
            assert torch.equal(ready.observed, expected.observed)
        if len(inner) == 2:
            averaged = [prepare(table.means(), norm, missing, pairs).feature for table in (on_disk, in_memory)]
            assert torch.equal(*averaged) and averaged[0].shape == (N, 3)
    assert not any(disk.iterdir())


def test_statistics_and_warnings_are_the_same(tmp_path: Path) -> None:
    on_disk, in_memory = both(tmp_path)
    assert mean_cosine(on_disk) == mean_cosine(in_memory) > 0.9
    assert scale_warning(on_disk) == scale_warning(in_memory)
    permuted = [
        permute_modality(FeatureStore(item={"text": table}), "text", seed=3).item["text"]
        for table in (on_disk, in_memory)
    ]
    assert isinstance(permuted[0], StoredTable) and torch.equal(permuted[0].feature, permuted[1].feature)
    assert not torch.equal(permuted[0].feature, in_memory.feature)


@pytest.mark.parametrize("offset", [0.0, 1e8])
def test_moments_in_one_pass_are_the_direct_ones(offset: float) -> None:
    """A sum of squares minus the square of the mean would be off by all digits at the large offset."""
    values = torch.randn(101, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + offset
    observed = torch.arange(101) % 7 > 0
    mean, deviation = moments(FeatureTable("image", "item", values, observed), observed)
    direct = values[observed].numpy()
    np.testing.assert_allclose(mean.numpy(), direct.mean(axis=0), rtol=1e-15, atol=1e-15)
    np.testing.assert_allclose(deviation.numpy(), direct.std(axis=0), rtol=1e-13 if not offset else 1e-8)


def test_no_second_table_is_made_on_the_way(tmp_path: Path) -> None:
    on_disk, _ = both(tmp_path, dtype=torch.float16)
    with LargestTensor() as passes:
        mean_cosine(on_disk)
        scale_warning(on_disk)
    with LargestTensor() as largest:
        ready = prepare(on_disk, "zscore_l2", "mean")
    assert passes.elements <= 7 * 6
    assert largest.elements == largest.stored == ready.feature.numel()


def test_matrices_in_the_order_of_columns(tmp_path: Path) -> None:
    on_disk, in_memory = both(tmp_path, order="F")
    assert torch.equal(on_disk.feature, in_memory.feature)


def test_a_file_that_was_cut_off_since_is_an_error(tmp_path: Path) -> None:
    on_disk, _ = both(tmp_path)
    os.truncate(tmp_path / "d.item.text.npy", 200)
    with pytest.raises(ValueError, match=r"text\.npy"):
        on_disk.rows(torch.arange(N))


def test_a_table_on_disk_is_none_of_the_process(tmp_path: Path) -> None:
    on_disk, _ = both(tmp_path, (64,))
    ready = prepare(on_disk, "l2", "zero", folder=tmp_path)
    start = ready.feature.data_ptr()
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs /proc")
    spans = (line.split() for line in maps.read_text().splitlines())
    inside = [span for span in spans if int(span[0].split("-")[0], 16) <= start < int(span[0].split("-")[1], 16)]
    assert inside and inside[0][1].endswith("s") and "(deleted)" in inside[0]


def test_folders_that_cannot_take_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_disk, _ = both(tmp_path)
    with pytest.raises(ValueError, match=r"feature_disk: .*nowhere cannot take a scratch file .*existing folder"):
        prepare(on_disk, "l2", "zero", folder=tmp_path / "nowhere")

    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ValueError, match="No space left on device.*keep features in memory"):
        prepare(on_disk, "l2", "zero", folder=tmp_path)


def test_a_model_is_the_same_with_features_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recbole.config import Config
    from recbole.data import create_dataset
    from recbole.utils import get_model, init_seed

    source, folder = dataset_atomic_dir() / "mm-toy", tmp_path / "features"
    folder.mkdir()
    with np.load(source / "mm-toy.item.image.npz") as image:
        np.save(folder / "mm-toy.item.image.npy", image["feature"])
        (folder / "mm-toy.item.image.ids").write_text("\n".join(["item_id:token", *image["id"].tolist(), ""]))
    made: list[object] = []
    monkeypatch.setattr(stored, "new_table", lambda *a: made.append(a[2]) or new_table(*a))
    monkeypatch.setattr("recbole_mm.data.features.prepare.new_table", lambda *a: made.append(a[2]) or new_table(*a))
    scores = []
    for options in ({"modalities": ["image"]}, {"feature_path": str(folder), "feature_disk": str(tmp_path)}):
        quiet = {"state": "ERROR", "use_gpu": False, "show_progress": False, **options}
        config = Config(model="VBPR", dataset="mm-toy", config_dict=quiet)
        data = create_dataset(config)
        data._change_feat_format()
        init_seed(1, True)
        model = get_model("VBPR")(config, data).eval()
        scores.append(torch.cat([table for table in model.representations()]))
    assert torch.equal(*scores) and scores[0].isfinite().all()
    assert made == [None, str(tmp_path)]
