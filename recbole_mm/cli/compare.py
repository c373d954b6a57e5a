"""Comparing, tuning and exporting from the command line."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

import yaml

from recbole_mm.cli.main import CommandLineError, Request, check_model, program
from recbole_mm.cli.train import config_arguments, experiment, train_here
from recbole_mm.config import read_options

__all__ = ["compare", "export", "tune"]


def compare(request: Request) -> int:
    """Compare the models of ``--models``.

    Args:
        request: The command line.

    Returns:
        Exit status 0, or 1 when not one model could be run.

    Raises:
        CommandLineError: An argument cannot be meant as it is written.
        ValueError: Options that contradict each other, or an unknown one.
    """
    if "model" in request.flags:
        raise CommandLineError("--model trains one model and --models compares several; give one of them.")
    names = _words(request.flags["models"])
    for name in names:
        check_model(name)
    in_files = {key: value for file in request.files() for key, value in read_options(file).items()}
    dataset = request.flag("dataset") or in_files.get("dataset") or "ml-100k"
    spaces = read_options(request.flags["search_spaces"]) if "search_spaces" in request.flags else None
    from recbole_mm.comparison.compare import compare as compare_models

    with config_arguments(names[0] if names else "BPR", request.options, in_files) as options:
        table = compare_models(
            names,
            dataset,
            config_file_list=request.files(),
            config_dict=options,
            seeds=_seeds(request),
            baseline=request.flag("baseline"),
            trials=request.number("trials"),
            storage=request.flag("storage"),
            output=request.flag("output"),
            ablate="ablate" in request.flags,
            search_spaces=spaces,
            split_seed=request.number("split_seed") if "split_seed" in request.flags else None,
            jobs=request.number("jobs"),
            keep_checkpoints="keep_checkpoints" in request.flags,
        )
    return 0 if (table["runs"] > 0).any() else 1


def tune(request: Request) -> int:
    """Search the hyper-parameters of ``--model`` and write them to a file of options.

    Args:
        request: The command line.

    Returns:
        Exit status 0.

    Raises:
        CommandLineError: An argument cannot be meant as it is written.
        ValueError: An unknown option, or no trial ended with a value.
    """
    name, dataset, in_files = experiment(request)
    spaces = read_options(request.flags["search_spaces"]) if "search_spaces" in request.flags else {}
    if "search_spaces" in request.flags and name not in spaces:
        raise CommandLineError(
            f"--search_spaces={request.flags['search_spaces']} has no space for {name}; it has {', '.join(spaces)}. "
            f"Write {name}: and below it, indented, the options."
        )
    output = Path(request.flag("output") or Path("comparison") / dataset)
    from recbole_mm.search.search import tune as tune_model

    with config_arguments(name, request.options, in_files) as options:
        found = tune_model(
            name,
            dataset,
            config_file_list=request.files(),
            config_dict=options,
            trials=request.number("trials"),
            storage=request.flag("storage"),
            space=spaces.get(name),
            output=output,
        )
    if not found.trials:
        print(f"{name} has nothing to search: its search space is empty, or every option of it is set.")
        return 0
    for trial in found.trials:
        value = "" if trial["value"] is None else f"{trial['value']:.4f}"
        print(f"{trial['index']:4} {trial['state']:9} {value:8} {trial['params']} {trial['error'] or ''}".rstrip())
    file = output / f"{name}.yaml"
    how = f"valid {found.metric} {found.value}"
    head = f"# Best of {len(found.trials)} trials on {dataset}: {how}; study {found.study}.\n"
    file.write_text(head + yaml.safe_dump(found.params), encoding="utf-8")
    print(f"best: {how} with {found.params}")
    files = " ".join([*request.files(), str(file)])
    repeated = "".join(f" {shlex.quote(f'--{key}={text}')}" for key, text in request.options.items())
    print(f"train with it: {program()} --model={name} --dataset={dataset} --config_files='{files}'{repeated}")
    return 0


def export(request: Request) -> int:
    """Write recommendations and embeddings of a checkpoint, or of a model that is trained first.

    Args:
        request: The command line.

    Returns:
        Exit status 0.

    Raises:
        CommandLineError: An argument cannot be meant as it is written.
        ValueError: A format that cannot be written, or an unknown user.
    """
    from recbole_mm.serving.export import check_targets
    from recbole_mm.serving.export import export as export_model

    file, embeddings = request.flag("export"), request.flag("export_embeddings")
    users, topk, seen = _users(request), _topk(request), request.flag("export_seen") or "all"
    check_targets(file, embeddings, topk, seen)  # before a training of hours, not after it
    # A plain number is the length of the lists; RecBole's option of that name, for its metrics, is written as a list.
    options = {key: text for key, text in request.options.items() if key != "topk" or not text.strip().isdigit()}
    checkpoint = request.flag("checkpoint")
    given = sorted({*options, *({"model", "dataset", "config_files"} & set(request.flags))})
    if checkpoint is None:
        checkpoint = train_here(replace(request, options=options))["checkpoint"]
    elif given:
        raise CommandLineError(
            f"--checkpoint={checkpoint} has its model and options already; leave out --{', --'.join(given)}."
        )
    report = export_model(checkpoint, file, topk, users, embeddings, seen)
    if file is not None:
        print(f"{file}: {report['recommendations']:,} recommendations for {report['users']:,} users")
    if embeddings is not None:
        sizes = ", ".join(f"{rows:,} {entity}s x {width}" for entity, (rows, width) in report["embeddings"].items())
        print(f"{embeddings}: {sizes}")
    return 0


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[,\s]+", text.strip("[]() ")) if word]


def _seeds(request: Request) -> int | list[int]:
    words = _words(request.flag("seeds") or "")
    if not words or not all(re.fullmatch(r"-?\d+", word) for word in words):
        given = request.flag("seeds")
        raise CommandLineError(f"--seeds: expected a number of seeds or seeds like 1,2,3; got {given!r}.")
    numbers = [int(word) for word in words]
    return numbers if len(numbers) > 1 else numbers[0]


def _topk(request: Request) -> int:
    words = _words(request.options.get("topk", "20"))
    if not words or not all(word.isdigit() for word in words):
        raise CommandLineError(f"--topk: expected the length of the lists, got {request.options.get('topk')!r}.")
    return max(int(word) for word in words)


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
