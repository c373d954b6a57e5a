"""``search``: the hyper-parameters of one model."""

from __future__ import annotations

import shlex
from pathlib import Path

from recbole_mm.cli.arguments import EXPERIMENT, GENERAL, MODEL, SEARCH
from recbole_mm.cli.catalogue import check_model
from recbole_mm.cli.request import CommandLineError, Flag, Request, program

__all__ = ["EXAMPLE", "FLAGS", "HELP", "IMPLIED", "run"]

HELP = (
    "Search the hyper-parameters of a model by its validation metric, and write the best ones to a file of options; "
    "the same command again goes on where it stopped. Needs recbole-mm[search]."
)
EXAMPLE = "search --model=MMGCN --dataset=mm-toy --trials=3 --epochs=5"
FLAGS = {
    "What to search": {
        **MODEL,
        **EXPERIMENT,
        "trials": Flag("number of trials (default: 20)", "N", "20"),
        "search_spaces": Flag("yaml file of search spaces by model (default: properties/search/)", "FILE"),
    },
    "Running": {
        "storage": SEARCH["storage"],
        "output": Flag("folder of the search (default: comparison/DATASET)", "FOLDER"),
    },
    "General": GENERAL,
}
#: Flags that the command stands for.
IMPLIED = ("trials",)


def run(request: Request) -> int:
    """Search the hyper-parameters of ``--model`` and write them to a file of options.

    Args:
        request: The command line.

    Returns:
        Exit status 0.

    Raises:
        CommandLineError: An argument cannot be meant as it is written.
        ValueError: An unknown option, or no trial ended with a value.
    """
    if "model" in request.flags:
        check_model(request.flags["model"], request)
    from recbole_mm.cli.options import arguments_of, read_experiment, search_spaces
    from recbole_mm.comparison import tune
    from recbole_mm.files import write_atomically

    experiment = read_experiment(request)
    name, dataset = experiment.model, experiment.dataset
    spaces = search_spaces(request) or {}
    if "search_spaces" in request.flags and name not in spaces:
        raise CommandLineError(
            f"--search_spaces={request.flags['search_spaces']} has no space for {name}; it has "
            f"{', '.join(map(str, spaces))}. Write {name}: and below it, indented, the options."
        )
    output = Path(request.flag("output") or Path("comparison") / dataset)
    with arguments_of(experiment) as options:
        found = tune.tune(
            name,
            dataset,
            config_file_list=experiment.files,
            config_dict=options,
            trials=request.number("trials"),
            storage=request.flag("storage"),
            space=spaces.get(name),
            output=output,
        )
    if not found.trials:
        print(f"{name} has nothing to search: its search space is empty, or every option of it is set.")
        return 0
    import yaml

    file = output / f"{name}.yaml"
    how = f"valid {found.metric} {found.value}"
    head = f"# Best of {len(found.trials)} trials on {dataset}: {how}; study {found.study}.\n"
    write_atomically(file, head + yaml.safe_dump(found.params))
    print(f"best: {how} with {found.params}")
    files = " ".join([*experiment.files, str(file)])
    own = f" {shlex.quote('--import=' + request.flags['import'])}" if "import" in request.flags else ""
    repeated = "".join(f" {shlex.quote(f'--{key}={text}')}" for key, text in request.options.items())
    print(f"train with it: {program()} --model={name} --dataset={dataset} --config_files='{files}'{own}{repeated}")
    return 0
