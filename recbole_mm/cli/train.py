"""``train``: one model, from the data to its test metrics."""

from __future__ import annotations

from recbole_mm.cli.arguments import EXPERIMENT, GENERAL, KEEP, MODEL, TRUST
from recbole_mm.cli.request import Flag, Request

__all__ = ["EXAMPLE", "FLAGS", "HELP", "run"]

HELP = "Train and test a recommender: RecBole's split, trainer and evaluation; our models and RecBole's."
EXAMPLE = "train --model=MMGCN --dataset=mm-toy --epochs=5 --embedding_size=32"
FLAGS = {
    "What to train": {
        **MODEL,
        **EXPERIMENT,
        "resume": Flag("continue the training that wrote this checkpoint; auto: the newest unfinished one", "FILE"),
        **TRUST,
    },
    "What to keep": KEEP,
    "Several processes": {
        "nproc": Flag("processes on this machine, one GPU each where there are any (default: 1)", "N", "1"),
        "world_size": Flag("processes on all machines (default: nproc)", "N", "-1"),
        "ip": Flag("address of the first machine (default: localhost)", "ADDRESS", "localhost"),
        "port": Flag("port of the first machine (default: a free one; of several machines 5678)", "PORT"),
        "group_offset": Flag("processes on the machines before this one (default: 0)", "N", "0"),
    },
    "General": {
        "list-models": Flag("print the names of all models"),
        "version": Flag("print the version of this program"),
        **GENERAL,
    },
}


def run(request: Request) -> int:
    """Train and test one model, print its metrics, and say how to compare them.

    Args:
        request: The command line.

    Returns:
        Exit status 0.

    Raises:
        CommandLineError: An argument cannot be meant as it is written.
        ValueError: An unknown option, or a value that its option does not allow.
    """
    from recbole_mm.cli.catalogue import check_model, import_models

    name = request.flag("model")
    if name is not None:
        check_model(name, request)  # a misspelt name need not wait for the next import
    import_models(request)
    from recbole_mm.cli.training import train_here

    train_here(request)
    return 0
