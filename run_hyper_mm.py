"""Search hyper-parameters with RecBole's HyperTuning: ``python run_hyper_mm.py --model=MMGCN --params_file=FILE``."""

from __future__ import annotations

import functools
import sys
from typing import Any

from run_recbole_mm import load_cli

cli = load_cli()

FLAGS = {
    **{name: cli.FLAGS[name] for name in ("model", "dataset", "config_files")},
    "params_file": cli.Flag("the search space, a line per option: learning_rate choice [0.01,0.001]", "FILE"),
    "algo": cli.Flag("exhaustive, random or bayes (default: exhaustive)", "NAME", "exhaustive"),
    "max_evals": cli.Flag("number of trials of random and bayes (default: 100)", "N", "100"),
    "early_stop": cli.Flag("stop after this many trials without progress (default: 10)", "N", "10"),
    "output_file": cli.Flag("where to write the result of every trial (default: hyper.result)", "FILE", "hyper.result"),
    "display_file": cli.Flag("where to draw the trials, an html file (default: nowhere)", "FILE"),
    **{name: cli.FLAGS[name] for name in ("debug", "help")},
}


def search(request: Any) -> int:
    """Run the search that the command line asks for; the arguments are those of RecBole's ``run_hyper.py``."""
    if "help" in request.flags or "params_file" not in request.flags:
        print("usage: python run_hyper_mm.py --model=NAME --params_file=FILE [--option=value ...]\n")
        print("\n".join(cli.describe(FLAGS)))
        return 0 if "help" in request.flags else 2
    from recbole_mm.cli.options import arguments_of, read_experiment
    from recbole_mm.experiment.quick_start import device_option

    experiment = read_experiment(request)
    name, dataset = experiment.model, experiment.dataset
    try:
        import hyperopt  # noqa: F401
    except ImportError as error:
        raise cli.CommandLineError(
            f"RecBole's search needs hyperopt ({error}): pip install 'hyperopt==0.2.5' 'setuptools<82'."
        ) from error
    from recbole.quick_start import objective_function
    from recbole.trainer import HyperTuning
    from recbole.utils import get_model

    from recbole_mm.config import check_command_line, check_read

    with arguments_of(experiment) as options:
        fixed = {**options, **device_option({*options, *experiment.in_files}), "model": name, "dataset": dataset}
        tuning = HyperTuning(
            functools.partial(_trial, objective_function, fixed),
            params_file=request.flags["params_file"],
            fixed_config_file_list=experiment.files,
            display_file=request.flag("display_file"),
            algo=request.flag("algo"),
            max_evals=request.number("max_evals"),
            early_stop=request.number("early_stop"),
        )
        check_command_line(
            set(tuning.space), get_model(name)
        )  # what nobody reads would be searched and reported as best
        check_read(tuning.space, {name: get_model(name)})
        fixed_twice = sorted({*tuning.space} & {*request.options})
        if fixed_twice:  # an argument outranks the trial's own value, so that every trial would be the same
            raise cli.CommandLineError(
                f"--{fixed_twice[0]} is searched by {request.flags['params_file']}; set it once."
            )
        tuning.run()
    tuning.export_result(output_file=request.flag("output_file"))
    print("best params: ", tuning.best_params)
    print("best result: ", tuning.params2result[tuning.params2str(tuning.best_params)])
    return 0


def _trial(objective: Any, fixed: dict[str, Any], params: dict[str, Any], files: list[str] | None) -> Any:
    return objective({**fixed, **params}, files)


def main() -> int:
    """Answer the arguments of this process."""
    return int(cli.answer(sys.argv[1:], search, FLAGS))


if __name__ == "__main__":
    sys.exit(main())
