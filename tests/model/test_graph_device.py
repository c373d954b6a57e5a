"""Graph models on torch's ``meta`` device, which has no numbers: nothing may wait for one, or come from the CPU."""

from __future__ import annotations

import contextlib

import pytest
import torch

from recbole_mm.nn.graph import sparse
from tests.model.conftest import build, total_loss

CASES = [
    ("MMGCN", {}),
    ("MMGCN", {"concat": False}),
    ("GRCN", {"edge_dropout": 0.2}),
    ("GRCN", {"pruning": "none", "edge_dropout": 0.2}),
    ("GRCN", {"pruning": "hard", "weight_mode": "mean", "fusion": "mean"}),
    ("DualGNN", {}),
    ("DualGNN", {"user_fusion": "max", "normalize_alpha": True}),
    ("DualGNN", {"user_fusion": "concat"}),
    ("MMGCL", {}),
    ("MMGCL", {"ssl_pair": "user_item", "mask_mode": "node_dropout"}),
    ("MMGCL", {"edge_drop_scope": "one_modality"}),
    ("MGAT", {}),
    ("MGAT", {"n_layers": 2, "dropout": 0.2}),
    ("BM3", {}),
    ("BM3", {"cold_items": "content"}),
    ("SLMRec", {}),
    ("SLMRec", {"ssl_task": "FD+FM", "score": "cosine"}),
    ("LGMRec", {}),
    ("LGMRec", {"contrast_negatives": "batch"}),
    ("LGMRec", {"n_hyperedges": 64}),
    ("DRAGON", {}),
    ("SMORE", {"dropout": 0.1}),
]


@pytest.fixture
def meta_operators(monkeypatch):
    """Stand-ins of equal shapes for what ``meta`` lacks: sparse products, sums over segments and autocast."""

    def dense_for_sparse(pattern, values):
        return values.new_empty(pattern.n_rows, pattern.n_cols) + values.sum()

    def scores(ctx, pattern, left, right):
        ctx.pattern = pattern
        ctx.save_for_backward(left, right)
        return (left.sum() + right.sum() + pattern.col.sum()).expand(pattern.n_edges).clone()

    def segment_reduce(data, reduce, offsets, unsafe):
        return (data.sum(dim=0, keepdim=True) + offsets.sum()).expand(len(offsets) - 1, *data.shape[1:]).clone()

    monkeypatch.setattr(sparse, "_csr", dense_for_sparse)
    monkeypatch.setattr(sparse._Sddmm, "forward", staticmethod(scores))
    monkeypatch.setattr(torch, "segment_reduce", segment_reduce)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())


@pytest.mark.parametrize("size", [8, 400])
@pytest.mark.parametrize("name, options", CASES, ids=str)
def test_a_step_and_an_evaluation_stay_on_the_device(name, options, size, meta_operators):
    """Batches with fewer ids than there are rows, and with more."""
    built = build(name, contrastive_weight=0.1, **options)
    model, batch = built.model.to("meta").train(), built.batch(size).to("meta")
    total_loss(model, batch).backward()
    assert all(parameter.grad is None or parameter.grad.is_meta for parameter in model.parameters())
    assert model.eval().full_sort_predict(batch).is_meta and model.predict(batch).is_meta
