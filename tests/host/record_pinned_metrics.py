"""Metrics of RecBole's own models in an environment where RecBole 1.2.1 needs no repair, as a reference for ours.

The environment of ``pinned_metrics.json``, with Python 3.11 (any of 3.9 to 3.11 has all the files)::

    python -m venv pinned
    pinned/bin/pip install "torch==2.13.0" --index-url <the CPU index of PyTorch>
    pinned/bin/pip install "recbole==1.2.1" "numpy==1.26.4" "pandas==2.3.3" "scipy==1.12.0" "setuptools==80.10.2"
    TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 pinned/bin/python tests/host/record_pinned_metrics.py --output OUT.json

The environment variable lets torch >= 2.6 read RecBole's checkpoints. Nothing of this package is imported unless
``--import recbole_mm`` asks for it; that is how the test obtains the metrics to compare. Each model trains one epoch on
ml-100k on one thread, with RecBole's options except for smaller networks and shorter histories, which save time.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

# Before torch and numpy are loaded: one thread, and the same instructions on every x86 machine. The argpartition that
# numpy 2 has for AVX2 and AVX-512 chooses differently among equals, and ItemKNN keeps 100 neighbours of each item.
os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", ATEN_CPU_CAPABILITY="avx2", MKL_CBWR="COMPATIBLE")
os.environ["NPY_DISABLE_CPU_FEATURES"] = (
    "AVX2 FMA3 AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR X86_V3 X86_V4"
)

DIGITS = 6
# RecBole 1.2.1 raises for ItemCoverage, GiniIndex, AveragePopularity and TailPercentage in every environment.
RANKING = {"metrics": ["Recall", "MRR", "NDCG", "Hit", "Precision", "MAP", "GAUC", "ShannonEntropy"], "topk": [5, 10]}
GENERAL = {**RANKING, "eval_batch_size": 400_000}
SEQUENTIAL = {
    **RANKING, "eval_batch_size": 1024, "train_neg_sample_args": None, "MAX_ITEM_LIST_LENGTH": 10, "hidden_size": 32,
}  # fmt: skip
TRANSFORMER = {**SEQUENTIAL, "n_layers": 1, "inner_size": 64}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "BPR": ("BPR", GENERAL),
    "LightGCN": ("LightGCN", GENERAL),
    "NeuMF": ("NeuMF", {**GENERAL, "mf_embedding_size": 16, "mlp_embedding_size": 16, "mlp_hidden_size": [32, 16]}),
    "ItemKNN": ("ItemKNN", GENERAL),
    "MultiVAE": ("MultiVAE", GENERAL),
    "FM": ("FM", {"metrics": ["AUC", "LogLoss", "MAE", "RMSE"]}),
    "SASRec": ("SASRec", TRANSFORMER),
    "GRU4Rec": ("GRU4Rec", SEQUENTIAL),
    "S3Rec": ("S3Rec", {**TRANSFORMER, "train_stage": "pretrain", "pretrain_epochs": 1, "save_step": 1}),
    "S3Rec-finetune": (
        "S3Rec",
        {**TRANSFORMER, "train_stage": "finetune", "pre_model_path": "saved/S3Rec-ml-100k-1.pth"},
    ),
}


def measure(names: list[str]) -> dict[str, dict[str, float]]:
    """Train and evaluate the named runs in a scratch folder; validation and test metrics of each, by name."""
    from recbole.quick_start import run_recbole

    results = {}
    origin = Path.cwd()
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        for name in names:
            model, options = RUNS[name]
            found = run_recbole(
                model=model,
                dataset="ml-100k",
                config_dict={
                    **options, "epochs": 1, "metric_decimal_place": DIGITS, "state": "ERROR", "show_progress": False,
                    "use_gpu": False, "gpu_id": "", "seed": 2020, "reproducibility": True,
                    "negative_items": "all",  # what RecBole, which does not know this option, draws
                },
            )  # fmt: skip
            parts = {"valid": found["best_valid_result"], "test": found["test_result"]}
            results[name] = {
                f"{part} {metric}": round(float(value), DIGITS)
                for part, values in parts.items()
                for metric, value in (values or {}).items()
            }
        os.chdir(origin)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the json file to write")
    parser.add_argument("--import", dest="package", help="a package to import first, such as recbole_mm")
    parser.add_argument("--runs", nargs="*", default=list(RUNS), choices=list(RUNS))
    arguments = parser.parse_args()
    sys.argv = sys.argv[:1]  # RecBole reads the command line too
    if arguments.package:
        importlib.import_module(arguments.package)
    report = {
        "python": platform.python_version(),
        **{name: version(name) for name in ("recbole", "torch", "numpy", "pandas", "scipy", "setuptools")},
        "metrics": measure(arguments.runs),
    }
    arguments.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
