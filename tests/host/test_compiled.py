"""The option compile gives torch the loss, and changes no figure."""

from __future__ import annotations

import shutil
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


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_compiled_model_has_the_same_figures() -> None:
    options = {**OPTIONS, "epochs": 1}
    plain, made = (
        recbole_mm.run("VBPR", "mm-toy", config_dict={**options, "compile": given}, saved=False)
        for given in (False, True)
    )
    assert made["test_result"] == pytest.approx(plain["test_result"], abs=1e-6)


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
