"""``compare``: several models under one protocol."""

from __future__ import annotations

import re

from recbole_mm.cli.arguments import EXPERIMENT, GENERAL, SEARCH
from recbole_mm.cli.catalogue import check_model
from recbole_mm.cli.request import CommandLineError, Flag, Request, words

__all__ = ["EXAMPLE", "FLAGS", "HELP", "IMPLIED", "run"]

HELP = (
    "Compare models on the same split, candidates and evaluator over several seeds, with paired tests; tables, "
    "pictures and a page (report.html) are written; the same command again goes on where it stopped."
)
EXAMPLE = "compare --models=MMGCN,LightGCN --dataset=mm-toy --seeds=2 --epochs=5"
FLAGS = {
    "What to compare": {
        "models": Flag("compare these models, separated by commas", "A,B,..."),
        **EXPERIMENT,
        "seeds": Flag("number of seeds of a comparison, or the seeds (default: 3)", "N", "3"),
        "baseline": Flag("the model that the others are tested against (default: the last)", "NAME"),
        "ablate": Flag("each multimodal model also without each modality and with its rows permuted; ItemKNNCBF joins"),
        "split_seed": Flag("one random split for all seeds of a comparison", "N"),
    },
    "Hyper-parameters": {
        "trials": Flag("hyper-parameter trials of every model of --models, or of --model", "N", "0"),
        **SEARCH,
    },
    "Running": {
        "jobs": Flag("runs of a comparison at a time (default: 1)", "N", "1"),
        # RecBole's option of this name is the number of processes of a loader.
        "worker": Flag(
            "share the runs with other processes on the same --output, on this or other machines", option=True
        ),
        "keep_checkpoints": Flag("keep the trained models of a comparison"),
        "output": Flag("folder of a comparison or search (default: comparison/DATASET)", "FOLDER"),
    },
    "General": GENERAL,
}
#: Flags that the command stands for.
IMPLIED = ("models",)


def run(request: Request) -> int:
    """Compare the models of ``--models``.

    Args:
        request: The command line.

    Returns:
        Exit status 0, or 1 when a model failed; the others are done, and the table says why.

    Raises:
        CommandLineError: An argument cannot be meant as it is written.
        ValueError: Options that contradict each other, or an unknown one.
    """
    if "model" in request.flags:
        raise CommandLineError("--model trains one model and --models compares several; give one of them.")
    if "models" not in request.flags:
        raise CommandLineError("Which models? Pass --models=A,B, such as --models=MMGCN,LightGCN.")
    names = words(request.flags["models"])
    for name in names:
        check_model(name, request)
    from recbole_mm.cli.options import arguments_of, read_experiment, search_spaces
    from recbole_mm.comparison import compare as comparison

    experiment = read_experiment(request, names or ["BPR"])
    with arguments_of(experiment) as options:
        table = comparison.compare(
            names,
            experiment.dataset,
            config_file_list=experiment.files,
            config_dict=options,
            seeds=_seeds(request),
            baseline=request.flag("baseline"),
            trials=_trials(request),
            storage=request.flag("storage"),
            output=request.flag("output"),
            ablate="ablate" in request.flags,
            search_spaces=search_spaces(request),
            split_seed=request.number("split_seed") if "split_seed" in request.flags else None,
            jobs=request.number("jobs"),
            keep_checkpoints="keep_checkpoints" in request.flags,
            worker="worker" in request.flags,
        )
    return 1 if table["failure"].fillna("").astype(bool).any() else 0


def _trials(request: Request) -> int:
    trials = request.number("trials")
    if "trials" in request.flags and trials < 1:
        raise CommandLineError(
            f"--trials: expected 1 at least, got {trials}; leave it out to compare without a search."
        )
    return trials


def _seeds(request: Request) -> int | list[int]:
    given = request.flag("seeds")
    numbers = words(given or "")
    if not numbers or not all(re.fullmatch(r"-?\d+", word) for word in numbers):
        raise CommandLineError(
            f"--seeds: expected a number of seeds, or seeds like 1,2,3 ([7] for the seed 7 alone); got {given!r}."
        )
    seeds = [int(word) for word in numbers]
    return seeds[0] if numbers == [given] else seeds
