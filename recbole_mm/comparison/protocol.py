"""One protocol for all compared models: the same filtering, split, candidates, mask, metrics and evaluator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole.config import Config
from recbole.utils import EvaluatorType, InputType, ModelType, get_model

from recbole_mm.comparison.leave_one_out import force_leave_one_out
from recbole_mm.comparison.missing_ids import missing_ids_notes
from recbole_mm.config import check_sources, read_cold_start, read_options
from recbole_mm.config.metrics import settle_valid_metric
from recbole_mm.config.protocol import PROTOCOL_OPTIONS, mask_note
from recbole_mm.config.refusals import mapping
from recbole_mm.experiment.capabilities import capability_notes, linked_items_note
from recbole_mm.experiment.children import error_text
from recbole_mm.experiment.fingerprint import fingerprint, run_fingerprint
from recbole_mm.experiment.job import without_arguments
from recbole_mm.experiment.quick_start import device_option

__all__ = ["Protocol", "make_protocol"]

# What the caller says about the experiment itself, not about a model.
_ABOUT = ("model", "dataset", "seed", "config_files", "config_file_list")
_COLD_FEATURES = {
    "inductive": "at evaluation only (cold_features: inductive)",
    "transductive": "in training too (cold_features: transductive)",
}
# What no model may have of its own.
_SAME_FOR_ALL = {
    *PROTOCOL_OPTIONS, "cold_start", "cold_features", "negative_items", "new_items", "slices", "slice_tail", "seed",
    "dataset", "data_path",
}  # fmt: skip
_NO_NEGATIVES = "should be None when the loss_type is CE"


@dataclass
class Protocol:
    """How every model of a comparison is run.

    Attributes:
        dataset: Name of the data set.
        settings: Model to all its options that differ from the defaults.
        shared: The options that decide what is compared.
        mask_seen: Whether sequential models are evaluated without the items of the user's past.
        seed: The seed that the caller's options set, or RecBole's default.
        fingerprint: Hash of the files of the data set.
        data: Model to the hash of all files that its runs read, which may be more or others (``feature_path``).
        notes: What was settled for the caller, to be printed and stored.
        failures: Model to the reason why it cannot be run at all.
    """

    dataset: str
    settings: dict[str, dict[str, Any]]
    shared: dict[str, Any]
    mask_seen: bool
    seed: int
    fingerprint: str
    notes: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    data: dict[str, str] = field(default_factory=dict)


def make_protocol(
    models: Sequence[str],
    dataset: str,
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    model_settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> Protocol:
    """Find one evaluation that all models can take part in, or refuse.

    General models keep the evaluation that RecBole gives them, and so do sequential or context-aware models among
    themselves. Mixed with general models, sequential ones force a leave-one-out split by time and are masked like
    general ones; context-aware ones are ranked and trained with sampled negatives, or, with a rating threshold, all
    predict its labels.

    Args:
        models: Names of the models.
        dataset: Name of the data set.
        config_file_list: Files of options, as for RecBole.
        config_dict: Options. ``--key=value`` arguments of the running script come on top, as in RecBole.
        model_settings: Options of single models, by model name.

    Returns:
        The protocol.

    Raises:
        ValueError: The caller's options contradict what the models need in common, or ``model_settings`` names a model
            that is not compared or an option that must be shared.
    """
    check_sources(config_file_list, config_dict)
    mapping("{BPR: {learning_rate: 0.01}}")("model_settings", model_settings)
    for name, settings in (model_settings or {}).items():
        mapping("{learning_rate: 0.01}")(f"model_settings[{name}]", settings)
    own = {name: dict(settings or {}) for name, settings in (model_settings or {}).items()}
    _check_own(own, models)
    in_files = {key for file in config_file_list or () for key in read_options(file)}
    device = device_option({*in_files, *(config_dict or {})})  # before any Config, which overwrites the variable
    types, failures = _types(models)
    external = _external(list(types), dataset, config_file_list, config_dict)
    seed = int(external.get("seed", 2020))
    given = {**device, **{key: value for key, value in external.items() if key not in _ABOUT}}
    kinds = set(types.values())
    mixed_time = ModelType.SEQUENTIAL in kinds and len(kinds) > 1
    mixed_context = ModelType.CONTEXT in kinds and len(kinds) > 1
    reference = _reference(types, dataset, given)
    labelled = mixed_context and reference["threshold"] is not None
    if labelled:
        _check_labels_are_read(types, reference["threshold"])
        reference = _reference({n: kind for n, kind in types.items() if kind == ModelType.CONTEXT}, dataset, given)
    shared = {key: reference[key] for key in PROTOCOL_OPTIONS}
    shared["mask_validation"] = shared["mask_validation"] is not False  # RecBole's own models have no default of it
    metric, note = settle_valid_metric({**shared, "slices": given.get("slices")}, "valid_metric" in given)
    shared["valid_metric"] = metric
    notes = [note] if note else []
    if mixed_time:
        notes += force_leave_one_out(shared, given, reference)
    notes += _notes(types, dataset, shared, given, reference, labelled)
    shared["eval_batch_size"] = given.get("eval_batch_size", "auto")
    protocol = Protocol(dataset, {}, shared, mixed_time, seed, "", notes, failures)
    negatives = None if labelled else {"distribution": "uniform", "sample_num": 1}
    for name, kind in types.items():
        special = mixed_context and (labelled or kind == ModelType.CONTEXT)
        extra = {"train_neg_sample_args": negatives} if special else {}
        settings = {**given, **shared, **{k: v for k, v in extra.items() if k not in given}, **own.get(name, {})}
        try:
            protocol.settings[name] = _with_places(name, dataset, settings, notes)
        except Exception as error:
            failures[name] = error_text(error)
    if protocol.settings:
        first = next(iter(protocol.settings.values()))
        protocol.fingerprint = fingerprint(dataset, Path(first["data_path"]) / dataset, first.get("feature_path"))
        protocol.data = _read_by(dataset, protocol.settings)
        notes += missing_ids_notes(dataset, reference)
    return protocol


def _types(models: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """RecBole's type of each model, and why the others cannot be run."""
    types: dict[str, Any] = {}
    failures: dict[str, str] = {}
    for name in models:
        try:
            types[name] = get_model(name).type
        except Exception as error:  # such as a missing optional package; the other models can still be compared
            failures[name] = error_text(error)
    return types, failures


def _notes(
    types: Mapping[str, Any],
    dataset: str,
    shared: Mapping[str, Any],
    given: Mapping[str, Any],
    reference: Any,
    labelled: bool,
) -> list[str]:
    """What is predicted, masked and ranked, and what some of the models do not take part in."""
    kinds, notes = set(types.values()), []
    if labelled:
        notes.append(f"All models predict the labels that threshold={shared['threshold']} makes of the ratings.")
    elif ModelType.CONTEXT in kinds and len(kinds) > 1:
        notes.append(
            "Context-aware models are compared with others by ranking all items: no rating threshold, one sampled "
            "negative per training pair."
        )
    only_sequential = kinds == {ModelType.SEQUENTIAL}
    if kinds and reference["eval_type"] != EvaluatorType.VALUE:
        notes.append(mask_note(shared["mask_validation"], not only_sequential and not reference["repeatable"]))
    cold = read_cold_start(given.get("cold_start"))
    if cold is not None:
        ranked = "" if cold.entity == "user" else f", ranked among {cold.candidates} items"
        notes.append(
            f"Cold start: {cold.ratio:.0%} of the {cold.entity}s, chosen by {cold.by}, have no training row; evaluated "
            f"are the interactions of {cold.evaluate} {cold.entity}s{ranked}. Multimodal models read the "
            f"features of the new {_COLD_FEATURES[given.get('cold_features', 'inductive')]}."
        )
    graphs = [name for name, kind in types.items() if kind == ModelType.KNOWLEDGE]
    if graphs and len(kinds) > 1:
        notes.append(linked_items_note(graphs, dataset))
    notes += capability_notes(types, given.get("cold_start"), given.get("slices"), bool(given.get("new_items")))
    if any(mode != "full" for mode in _modes(shared["eval_args"])) and ModelType.CONTEXT not in kinds:
        notes.append(
            f"Sampled candidates ({shared['eval_args']['mode']}): RecBole draws them anew in every run, so the models "
            "do not rank the same ones. Use mode: full for a fair comparison."
        )
    return notes


def _read_by(dataset: str, settings: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Model to the hash of the files that it reads; the same files are looked at once."""
    known: dict[tuple[str, ...], str] = {}
    found = {}
    for name, own in settings.items():
        places = tuple(str(own.get(key)) for key in ("data_path", "feature_path", "pretrain_datasets"))
        if places not in known:
            known[places] = run_fingerprint(dataset, own)
        found[name] = known[places]
    return found


def _external(
    names: Sequence[str], dataset: str, files: Sequence[str] | None, options: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What the caller set, by RecBole's own rules: files, then the dict, then ``--key=value`` arguments."""
    failure: Exception | None = None
    for name in ("BPR", *names):  # not every model can be asked: BPR refuses AUC, SASRec wants no sampled negatives
        try:
            config = Config(
                model=name, dataset=dataset, config_file_list=list(files or []), config_dict=dict(options or {})
            )
            return dict(config.external_config_dict)
        except Exception as error:
            failure = failure or error
    raise failure or ValueError("Name one model at least.")


def _reference(types: Mapping[str, Any], dataset: str, given: Mapping[str, Any]) -> Any:
    """Options of a model of the leading kind: general models set the evaluation where there are any."""
    order = (ModelType.SEQUENTIAL, ModelType.CONTEXT)
    kinds = set(types.values())
    plain = next((kind for kind in order if kinds == {kind}), None)
    names = [name for name, kind in types.items() if kind == plain] if plain is not None else ["BPR"]
    for name in names:
        for options in (dict(given), {**given, "train_neg_sample_args": None}):
            try:
                with without_arguments():
                    return Config(model=name, dataset=dataset, config_dict=options)
            except ValueError as error:
                if _NO_NEGATIVES not in str(error):
                    raise
    raise ValueError(f"No options could be read for {', '.join(names)}.")


def _check_labels_are_read(types: Mapping[str, Any], threshold: Any) -> None:
    deaf = [
        name
        for name, kind in types.items()
        if kind != ModelType.CONTEXT
        and (kind != ModelType.GENERAL or get_model(name).input_type != InputType.POINTWISE)
    ]
    if deaf:
        raise ValueError(
            f"threshold={threshold} makes labels of ratings, which {', '.join(deaf)} cannot be trained on (only models "
            "of single pairs can, such as CMBF or NeuMF). Leave threshold out to compare by ranking, or these models."
        )


def _with_places(name: str, dataset: str, settings: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """Settings that work from any folder, and without negatives where the loss wants none."""
    config = None
    with without_arguments():
        try:
            config = Config(model=name, dataset=dataset, config_dict=dict(settings))
        except ValueError as error:
            if _NO_NEGATIVES not in str(error) or "train_neg_sample_args" in settings:
                raise
        if config is None:
            settings = {**settings, "train_neg_sample_args": None}
            config = Config(model=name, dataset=dataset, config_dict=dict(settings))
            notes.append(f"{name} is trained with cross entropy over all items (train_neg_sample_args: None).")
    for key, value in settings.items():
        if isinstance(value, str) and key.endswith(("_path", "_dir", "_file")) and Path(value).exists():
            settings[key] = str(Path(value).resolve())
    return {**settings, "data_path": str(Path(config["data_path"]).resolve().parent)}


def _check_own(own: Mapping[str, Mapping[str, Any]], models: Sequence[str]) -> None:
    for name, settings in own.items():
        if name not in models:
            raise ValueError(f"model_settings: {name!r} is not among the compared models {', '.join(models)}.")
        common = sorted(set(settings) & _SAME_FOR_ALL)
        if common:
            raise ValueError(
                f"model_settings[{name!r}]: {', '.join(common)} must be the same for every model; set it in "
                "config_dict."
            )


def _modes(eval_args: Mapping[str, Any]) -> list[str]:
    mode = eval_args.get("mode", "full")
    return list(mode.values()) if isinstance(mode, Mapping) else [mode]
