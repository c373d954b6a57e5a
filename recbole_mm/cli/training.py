"""Training one model from a command line, and what is printed about it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from recbole.utils import ModelType, get_model
from recbole.utils import argument_list as lists

from recbole_mm import processes
from recbole_mm.cli.options import arguments_of, read_experiment
from recbole_mm.cli.request import Request, program
from recbole_mm.config import SHARED_OPTIONS
from recbole_mm.experiment.capabilities import capability_notes
from recbole_mm.experiment.quick_start import run
from recbole_mm.host.defaults import defaults_of
from recbole_mm.host.names import registered
from recbole_mm.host.terminal import quiet_terminal
from recbole_mm.serving.saved import check_folder, save
from recbole_mm.slicing.result import slice_table, split_result
from recbole_mm.trainer.checkpoint import trusting

__all__ = ["train_here"]

# The families differ in split, metrics and loss; a sequential baseline trains with cross entropy, without negatives.
_BASELINES = {
    ModelType.GENERAL: (["--model=LightGCN"], ["--model=BPR"]),
    ModelType.SEQUENTIAL: tuple([f"--model={name}", "--train_neg_sample_args=None"] for name in ("SASRec", "GRU4Rec")),
    ModelType.CONTEXT: (["--model=DeepFM"], ["--model=FM"]),
}
# Options of every multimodal model that only say how it weighs and scales features: nothing to a model without any.
_OF_FEATURES = {
    "modalities", "modality_weight", "feature_norm", "feature_dtype", "feature_disk", "contrastive_weight",
    "contrastive_temperature",
}  # fmt: skip
# What our graph models propagate over, which others refuse.
_OF_GRAPHS = {"graph_batch", "fanout", "table_updates", "outer_projections"}

_RECBOLES_BATCH = 2048


def train_here(request: Request) -> dict[str, Any]:
    """Train and test the model of a command line, print its metrics and how to compare them, and keep it if asked.

    Args:
        request: The command line.

    Returns:
        The result of :func:`recbole_mm.run`.
    """
    folder = request.flag("save_model")
    if folder is not None:
        check_folder(folder)  # before a training of hours, not after it
    with trusting("trust" in request.flags):
        experiment = read_experiment(request)
        with arguments_of(experiment) as options, quiet_terminal("verbose" not in request.flags):
            result = run(
                experiment.model,
                experiment.dataset,
                config_file_list=experiment.files,
                config_dict=options,
                nproc=request.number("nproc") if request.flag("nproc") else 1,
                world_size=request.number("world_size") if request.flag("world_size") else -1,
                ip=request.flag("ip") or "localhost",
                port=request.flag("port"),
                group_offset=request.number("group_offset") if request.flag("group_offset") else 0,
                resume=request.flag("resume"),
            )
    if not processes.is_writer():  # one of those that torchrun has started; the first one reports
        return result
    print(_report(experiment.model, experiment.dataset, result))
    print(f"compare with: {_comparison(experiment.model, experiment.dataset, request, result['config'])}")
    if folder is not None:
        kept = save(result, folder, "with_features" in request.flags)
        print(f"{kept}: the model, for recbole_mm.load({str(kept)!r})")
    return result


def _report(model: str, dataset: str, result: Mapping[str, Any]) -> str:
    columns = [split_result(result[key] or {})[0] for key in ("best_valid_result", "test_result")]
    places = max((_places(value) for column in columns for value in column.values()), default=0)
    lines = [f"\n{model} on {dataset}", f"{'':16}{'validation':>12}{'test':>12}"]
    for metric in columns[1] or columns[0]:
        cells = (f"{column[metric]:.{places}f}" if metric in column else "-" for column in columns)
        lines.append(f"{metric:16}" + "".join(f"{cell:>12}" for cell in cells))
    test = result["test_result"] or {}
    # The floor counts, too: beside a model whose values are all 0.0 it would be printed as 0.0 otherwise.
    sliced = slice_table(test, max(places, *map(_places, split_result(test)[1].values()), 0))
    if sliced:
        lines += ["\ntest by slice, and what a random ranking of the same candidates is expected to score", sliced, ""]
    asked = result.get("config") or {}
    lines += [f"note: {note}" for note in result.get("unmeasured", ())]
    lines += [f"note: {note}" for note in capability_notes([model], asked.get("cold_start"), asked.get("slices"))]
    return "\n".join([*lines, f"checkpoint: {result['checkpoint'] or '(none written)'}"])


def _comparison(model: str, dataset: str, request: Request, config: Mapping[str, Any]) -> str:
    """The command that trains a baseline of the same family, so on the same split and with the same evaluation."""
    same = {*lists.general_arguments, *lists.evaluation_arguments, *lists.dataset_arguments, "epochs", "stopping_step"}
    same = (same | set(SHARED_OPTIONS)) - _OF_FEATURES - _OF_GRAPHS
    baselines = _BASELINES.get(get_model(model).type, _BASELINES[ModelType.GENERAL])
    arguments = [*next(baseline for baseline in baselines if baseline[0] != f"--model={model}"), f"--dataset={dataset}"]
    if "config_files" in request.flags:
        arguments.append(f"--config_files={request.flags['config_files']}")
    arguments += [f"--{key}={text}" for key, text in request.options.items() if key in same]
    usual = defaults_of(model).get("train_batch_size", _RECBOLES_BATCH)
    named = {"train_batch_size", "shrink_batches"} & request.options.keys()
    if model in registered and config["train_batch_size"] < usual and not named:
        arguments.append("--shrink_batches=True")  # of RecBole's models only when it is set
    command = f"{program()} {shlex.join(arguments)}"
    if request.options.get("missing_feature", "").strip("'\"") == "drop" and model in registered:
        command += f"\n(missing_feature=drop has removed interactions of {model} that a model without features keeps)"
    return command


def _places(value: float) -> int:
    """Decimal places of a number; RecBole has rounded its values already (metric_decimal_place)."""
    exponent = Decimal(repr(float(value))).as_tuple().exponent
    return max(-exponent, 0) if isinstance(exponent, int) else 0  # a NaN has none
