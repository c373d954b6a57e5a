"""``export``: what a trained model recommends, and its embeddings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from recbole_mm.cli.arguments import EXPERIMENT, GENERAL, KEEP, MODEL, TRUST
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
        "export_items": Flag("candidates (new, in stock, ...): separated by commas, or @FILE with one a line", "ITEMS"),
        "export_seen": Flag("leave out all|history|none of a user's items (default: as the test)", "WHICH"),
    },
    "Of which model": {
        "checkpoint": Flag("export this trained model instead of training one", "FILE"),
        **TRUST,
        **MODEL,
        **EXPERIMENT,
    },
    "What to keep": KEEP,
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
        ValueError: A format that cannot be written, a file without ids, or candidates of which none is known.
    """
    file, embeddings = request.flag("export"), request.flag("export_embeddings")
    if file is None and embeddings is None:
        raise CommandLineError("What is to be written? Pass --export=FILE, --export_embeddings=FILE or both.")
    if "model" in request.flags:
        check_model(request.flags["model"], request)
    import_models(request)
    from recbole_mm import processes
    from recbole_mm.serving.export import check_targets
    from recbole_mm.serving.export import export as export_model
    from recbole_mm.trainer.checkpoint import trusting

    users, items = _ids(request, "export_users"), _ids(request, "export_items")
    topk, seen = _topk(request), request.flag("export_seen")
    check_targets(file, embeddings, topk, seen)  # before a training of hours, not after it
    options = _training_options(request.options)
    checkpoint = request.flag("checkpoint")
    places: dict[str, Any] = {}
    if checkpoint is None:
        checkpoint = _train(replace(request, options=options), items)
        if not processes.is_writer():  # one of those that torchrun has started; the first one writes
            return 0
    else:
        places = _places(request, options)
    with trusting("trust" in request.flags):
        report = export_model(checkpoint, file, topk, users, embeddings, seen, places=places, items=items)
    if file is not None:
        new = f", {report['new']:,} of them of new products" if report["new"] else ""
        print(f"{file}: {report['recommendations']:,} recommendations for {report['users']:,} users{new}")
    if embeddings is not None:
        sizes = ", ".join(f"{rows:,} {entity}s x {width}" for entity, (rows, width) in report["embeddings"].items())
        print(f"{embeddings}: {sizes}")
    return 0


def _places(request: Request, options: dict[str, str]) -> dict[str, Any]:
    """What a command line with a checkpoint may say: where things are, in its arguments or in option files."""
    from recbole_mm.config.reading import read_options
    from recbole_mm.host.saved_config import PLACES

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


def _training_options(options: dict[str, str]) -> dict[str, str]:
    """Without ``topk`` where it is a plain number, the length of the lists alone.

    RecBole's option of that name, for its metrics, is written as a list, or is meant where ``valid_metric`` names the
    same number.
    """
    length = options.get("topk", "").strip()
    if not length.isdigit() or options.get("valid_metric", "").strip().endswith(f"@{length}"):
        return options
    return {key: text for key, text in options.items() if key != "topk"}


def _topk(request: Request) -> int:
    numbers = words(request.options.get("topk", "20"))
    if not numbers or not all(word.isdigit() for word in numbers):
        raise CommandLineError(f"--topk: expected the length of the lists, got {request.options.get('topk')!r}.")
    return max(int(word) for word in numbers)


def _ids(request: Request, flag: str) -> list[str] | None:
    """Raw ids of an argument: a list, or a file with one a line."""
    text = request.flag(flag)
    if text is None:
        return None
    if text.startswith("@"):
        from recbole_mm.serving.asked import read_ids

        return read_ids(text[1:], f"--{flag}")
    found = [word.strip() for word in text.split(",") if word.strip()]
    if not found:
        raise CommandLineError(f"--{flag}: expected ids separated by commas, or @FILE, got {text!r}.")
    return found


def _train(request: Request, items: list[str] | None) -> str:
    """Train the model of the command line; candidates that are not there are told of before."""
    from recbole_mm.cli.training import train_here
    from recbole_mm.host.loaders import dataset_of
    from recbole_mm.host.watching import watch_run
    from recbole_mm.serving.asked import asked_items

    with watch_run(data=lambda config, train, *_: asked_items(items, dataset_of(train))):
        return str(train_here(request)["checkpoint"])
