"""Does a model use its features? What it costs to permute a modality's rows under a trained model.

    python benchmarks/permuted.py [--models=MMGCN,GRCN,...] [--dataset=planted-content] [--rows=FILE.jsonl]

The data set is one of the portfolio's (``portfolio_data.py``), by default the planted one, where only content predicts.
A model is trained with its defaults, and tested; then the rows of one modality are exchanged among the items, what the
model derives from features (item graphs, clusters) is made anew, and it is tested again with the same parameters.
ItemKNNCBF, a content kNN, says what the modality is worth. BM3 and a fine-tuned MCPTR rank without features.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import recbole_mm  # it repairs what RecBole needs repaired

# isort: split
from recbole.quick_start import load_data_and_model
from recbole.utils import get_model, get_trainer

from benchmarks import portfolio_data
from benchmarks.rows import append, models_parser, read_command_line
from recbole_mm.data.features.permute import permute_modality

MODELS = "ItemKNNCBF,MMGCN,GRCN,DualGNN,MGAT,MMGCL,HCGCN,VBPR,FREEDOM,DRAGON,LATTICE,LGMRec,MGCN,SMORE,SLMRec,UVCAN"
OPTIONS = {
    "benchmark_filename": ["train", "valid", "test"], "epochs": 60, "eval_step": 2, "stopping_step": 8,
    "metrics": ["Recall"], "topk": [10, 20], "valid_metric": "Recall@20", "state": "ERROR", "show_progress": False,
    "health": False,
}  # fmt: skip


def measure(model: str, dataset: str, options: dict[str, Any]) -> tuple[str, dict[str, float]]:
    """Train a model; the hash of the split, and Recall@10 as it is and with each modality permuted."""
    with tempfile.TemporaryDirectory() as folder:
        result = recbole_mm.run(model, dataset, config_dict={**OPTIONS, **options, "checkpoint_dir": folder})
        config, trained, _, train, _, test = load_data_and_model(result["checkpoint"])
    found = {"recall@10": float(result["test_result"]["recall@10"])}
    known = train._dataset
    for modality in known.features.item:
        other = get_model(model)(config, known.with_features(permute_modality(known.features, modality, 2020)))
        other.load_state_dict(trained.state_dict())
        other.load_other_parameter(trained.other_parameter())
        trainer = get_trainer(config["MODEL_TYPE"], model)(config, other.to(config["device"]))
        tested = trainer.evaluate(test, load_best_model=False, show_progress=False)
        found[f"permuted_{modality}"] = float(tested["recall@10"])
    return result["split"], found


def main() -> None:
    """Print a line as each model is done."""
    arguments, given = read_command_line(models_parser(__doc__.split("\n")[0], MODELS, "planted-content"))
    with tempfile.TemporaryDirectory() as data:
        portfolio_data.make(arguments.dataset, Path(data))
        for model in arguments.models.split(","):
            split, found = measure(model, arguments.dataset, {"data_path": data})
            print(model, *(f"{name} {value:.4f}" for name, value in found.items()), sep=" | ", flush=True)
            if arguments.rows:
                row = {"model": model, "dataset": arguments.dataset, "split": split, "seed": 2020, "metrics": found}
                append(arguments.rows, row, {**OPTIONS, **given})


if __name__ == "__main__":
    main()
