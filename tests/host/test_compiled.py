"""The option compile gives torch the loss, and changes no figure."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.model.general_recommender.bpr import BPR

import recbole_mm
from tests.options import QUICK

OPTIONS = {**QUICK, "metric_decimal_place": 8, "train_batch_size": 512}


def test_the_loss_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def compiles(function: Any, **how: Any) -> Any:
        asked.append((function.__name__, how))
        return function

    plain = recbole_mm.run("BPR", "mm-toy", config_dict=OPTIONS, saved=False)
    monkeypatch.setattr(torch, "compile", compiles)
    made = recbole_mm.run("BPR", "mm-toy", config_dict={**OPTIONS, "compile": True}, saved=False)
    assert made["test_result"] == plain["test_result"]
    assert asked == [("calculate_loss", {"options": {"fallback_random": True}})]


def test_what_cannot_be_compiled_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    class InductorError(RuntimeError):
        pass

    def fails(interaction: Any) -> Any:
        raise InductorError("no working C++ compiler found\nand more")

    monkeypatch.setattr(torch, "compile", lambda function, **how: fails)
    with pytest.raises(ValueError, match=r"compile: .*no working C\+\+ compiler found\).*set compile to False"):
        recbole_mm.run("BPR", "mm-toy", config_dict={**OPTIONS, "compile": True}, saved=False)


COMPARED = """
import json, sys
import recbole_mm
options = json.loads(sys.argv[1])
found = [recbole_mm.run("VBPR", "mm-toy", config_dict={**options, "compile": c}, saved=False) for c in (False, True)]
print("found", json.dumps([{key: float(value) for key, value in one["test_result"].items()} for one in found]))
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_compiled_model_has_the_same_figures(fresh_python: Callable[..., str], tmp_path: Path) -> None:
    """In an interpreter and with a cache of its own: what torch compiled before, elsewhere, must not decide."""
    options = json.dumps({**OPTIONS, "epochs": 1})
    printed = fresh_python(COMPARED, options, TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "compiled"))
    plain, made = json.loads(printed.rsplit("found ", 1)[1])
    assert made == pytest.approx(plain, abs=1e-6)


@pytest.mark.parametrize(("given", "expected"), [(None, torch.bfloat16), ("float16", torch.float16)])
def test_half_precision_is_the_one_asked_for(
    given: str | None, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[torch.dtype | None] = set()
    loss = BPR.calculate_loss

    def looked_at(self: Any, interaction: Any) -> Any:
        product = self.user_embedding.weight @ self.item_embedding.weight.T
        seen.add(product.dtype)
        return loss(self, interaction)

    monkeypatch.setattr(BPR, "calculate_loss", looked_at)
    options = {**OPTIONS, "epochs": 1, "enable_amp": True, "amp_dtype": given}
    assert recbole_mm.run("BPR", "mm-toy", config_dict=options, saved=False)["test_result"]["recall@10"] > 0
    assert seen == {expected}


def test_another_precision_is_refused() -> None:
    with pytest.raises(ValueError, match="amp_dtype: expected one of float16, bfloat16"):
        recbole_mm.run("BPR", "mm-toy", config_dict={**OPTIONS, "amp_dtype": "bf16"}, saved=False)
