"""``export``: what a trained model recommends, and its embeddings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from recbole_mm.cli.arguments import EXPERIMENT, GENERAL, MODEL
from recbole_mm.cli.catalogue import check_model, import_models
from recbole_mm.cli.request import CommandLineError, Flag, Request, words

__all__ = ["EXAMPLE", "FLAGS", "HELP", "run"]

HELP = "Write what a model recommends, or its embeddings: of a checkpoint, or of a model that is trained first."
EXAMPLE = "export --model=BPR --dataset=mm-toy --epochs=5 --export=lists.csv --topk=10"
FLAGS = {
    "What to write": {
        "export": Flag("write the --topk=20 best items of each user: .parquet, .csv or .npz", "FILE"),
        "export_embeddings": Flag("write the user and item embeddings: .npz or .parquet", "FILE"),
        "export_users": Flag("users to export, separated by commas, or @FILE with one a line", "USERS"),
        "export_seen": Flag("leave out all|history|none of a user's items (default: as the test)", "WHICH"),
    },
    "Of which model": {
        "checkpoint": Flag("export this trained model instead of training one", "FILE"),
        **MODEL,
        **EXPERIMENT,
    },
    "General": GENERAL,
}


def run(request: Request) -> int:
    """Write recommendations and embeddings of a checkpoint, or of a model that is trained first.

    Args:
        request: The command line.

    Returns:
        Exit status 0.

    Raises:
        CommandLineError: An argument cannot be meant as it is written.
        ValueError: A format that cannot be written, or an unknown user.
    """
    file, embeddings = request.flag("export"), request.flag("export_embeddings")
    if file is None and embeddings is None:
        raise CommandLineError("What is to be written? Pass --export=FILE, --export_embeddings=FILE or both.")
    if "model" in request.flags:
        check_model(request.flags["model"], request)
    import_models(request)
    from recbole_mm.cli.training import train_here
    from recbole_mm.serving.export import check_targets
    from recbole_mm.serving.export import export as export_model

    users, topk, seen = _users(request), _topk(request), request.flag("export_seen")
    check_targets(file, embeddings, topk, seen)  # before a training of hours, not after it
    # A plain number is the length of the lists; RecBole's option of that name, for its metrics, is written as a list.
    options = {key: text for key, text in request.options.items() if key != "topk" or not text.strip().isdigit()}
    checkpoint = request.flag("checkpoint")
    places: dict[str, Any] = {}
    if checkpoint is None:
        checkpoint = train_here(replace(request, options=options))["checkpoint"]
    else:
        places = _places(request, options)
    report = export_model(checkpoint, file, topk, users, embeddings, seen, places=places)
    if file is not None:
        print(f"{file}: {report['recommendations']:,} recommendations for {report['users']:,} users")
    if embeddings is not None:
        sizes = ", ".join(f"{rows:,} {entity}s x {width}" for entity, (rows, width) in report["embeddings"].items())
        print(f"{embeddings}: {sizes}")
    return 0


def _places(request: Request, options: dict[str, str]) -> dict[str, Any]:
    """What a command line with a checkpoint may say: where things are, in its arguments or in option files."""
    from recbole_mm.config.names import read_options
    from recbole_mm.host.checkpoint import PLACES

    given = sorted({*(set(options) - set(PLACES)), *({"model", "dataset"} & set(request.flags))})
    if given:
        raise CommandLineError(
            f"--checkpoint={request.flag('checkpoint')} has its model and options already; leave out "
            f"--{', --'.join(given)}. Only --{', --'.join(PLACES)} can be given, which say where things are."
        )
    places = {key: value for file in request.files() for key, value in read_options(file).items()}
    for key, text in options.items():
        if key != "eval_memory_mb":
            places[key] = text
            continue
        try:
            places[key] = float(text)
        except ValueError:
            raise CommandLineError(f"--{key}: expected a number of megabytes, got {text!r}.") from None
    return places


def _topk(request: Request) -> int:
    numbers = words(request.options.get("topk", "20"))
    if not numbers or not all(word.isdigit() for word in numbers):
        raise CommandLineError(f"--topk: expected the length of the lists, got {request.options.get('topk')!r}.")
    return max(int(word) for word in numbers)


def _users(request: Request) -> list[str] | None:
    text = request.flag("export_users")
    if text is None:
        return None
    if not text.startswith("@"):
        return [word for word in text.split(",") if word]
    file = Path(text[1:])
    if not file.is_file():
        raise FileNotFoundError(f"--export_users: there is no file {str(file)!r}.")
    return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
