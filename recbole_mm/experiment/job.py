"""One run: RecBole's quick start step by step, with everything worth keeping written down."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.transform import construct_transform
from recbole.utils import ModelType, calculate_valid_score, get_flops, get_model, get_trainer, init_logger, init_seed

from recbole_mm.config.metrics import check_topk
from recbole_mm.experiment.ablation import permuted_results
from recbole_mm.experiment.commit import commit
from recbole_mm.experiment.fingerprint import check_unchanged
from recbole_mm.experiment.observe import Curve, peak_memory, per_user_metrics
from recbole_mm.experiment.prepared import Prepared
from recbole_mm.experiment.resume import go_on_in_place
from recbole_mm.experiment.split import describe_split, mask_seen_items
from recbole_mm.experiment.store import neutral_settings
from recbole_mm.host.checkpoint import no_pickles
from recbole_mm.host.defaults import defaults_of
from recbole_mm.host.health.monitor import health_report
from recbole_mm.host.loaders import dataset_of
from recbole_mm.host.session import session_of, spent
from recbole_mm.slicing.result import split_result

__all__ = ["Job", "prepare", "train", "train_and_test", "versions", "without_arguments"]


@dataclass(frozen=True)
class Job:
    """What to run; everything that influences the result.

    Attributes:
        model: Name of a model of ours, of RecBole's or a registered one.
        dataset: Name of the data set.
        settings: Options that differ from the defaults.
        seed: Seed of the parameters, the batches and the negative samples.
        data_seed: Seed of a random split. With the same value as ``seed`` the run is RecBole's ``run_recbole``.
        mask_seen: Whether a sequential model is evaluated like a general one, without the items of the user's past.
        permute: Whether to test the trained model again with the rows of each modality permuted.
        split: Hash of the split that the run must have; ``None`` for any.
        candidates: Hash of the items that it must rank.
        data: Hash of the files that it must read (:func:`~recbole_mm.experiment.fingerprint.run_fingerprint`).
    """

    model: str
    dataset: str
    settings: dict[str, Any]
    seed: int
    data_seed: int
    mask_seen: bool = False
    permute: bool = False
    split: str | None = None
    candidates: str | None = None
    data: str | None = None

    def identity(self, data: str) -> dict[str, Any]:
        """What decides the result, and so by what a stored result is found again.

        The defaults belong to it: results of another version's defaults are not those of this one. Whether the split
        is known yet does not.

        Args:
            data: Hash of the files of the data set.
        """
        what = {**asdict(self), "settings": neutral_settings(self.settings), "data": data}
        del what["split"], what["candidates"]
        return {**what, "defaults": defaults_of(self.model)}


@no_pickles()
def prepare(job: Job, checkpoints: str | None = None, with_test: bool = True) -> Prepared:
    """Build data, model and trainer in the order, and from the random state, of RecBole's ``run_recbole``.

    Args:
        job: The job.
        checkpoints: Folder of the checkpoint.
        with_test: Whether the test part is wanted. A search gets none: it is dropped before the model is made.

    Returns:
        What to train.

    Raises:
        ChangedDataError: The files are not those that the job asks for.
        ValueError: The split or the candidates are not the ones that the job asks for.
    """
    settings = {**job.settings, "seed": job.data_seed}
    if checkpoints is not None:
        settings["checkpoint_dir"] = checkpoints
    with without_arguments():
        config = Config(model=job.model, dataset=job.dataset, config_dict=settings)
    init_seed(config["seed"], config["reproducibility"])
    init_logger(config)
    getLogger().info(config)
    dataset = create_dataset(config)
    getLogger().info(dataset)
    check_topk(config.final_config_dict, dataset.item_num)
    check_unchanged(job.dataset, job.settings, job.data)
    train_data, valid_data, test_data = data_preparation(config, dataset)
    split = describe_split(train_data, valid_data, test_data) if with_test else {}
    if with_test:
        _check_split(job, split)
    else:
        test_data = None
    if job.mask_seen and config["MODEL_TYPE"] == ModelType.SEQUENTIAL:
        mask_seen_items(dataset_of(train_data), valid_data, test_data, config["mask_validation"] is not False)
    if job.seed != job.data_seed:
        config["seed"] = job.seed
        train_data.generator.manual_seed(job.seed)
    init_seed(config["seed"] + config["local_rank"], config["reproducibility"])
    model = get_model(config["model"])(config, dataset_of(train_data)).to(config["device"])
    getLogger().info(model)
    # Counting operations runs the model once, which may draw random numbers, so it stays where RecBole has it.
    flops = get_flops(model, dataset, config["device"], getLogger(), construct_transform(config))
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    check_unchanged(job.dataset, job.settings, job.data)  # the features have been read by now
    return Prepared(config, dataset, train_data, valid_data, test_data, model, trainer, flops, split)


def train(
    prepared: Prepared, saved: bool, on_validation: Callable[[int, dict[str, float]], None] | None = None
) -> dict[str, Any]:
    """Train, and describe the training.

    Args:
        prepared: Data and model.
        saved: Whether to write the best epoch to a checkpoint.
        on_validation: See :class:`~recbole_mm.experiment.observe.Curve`.

    Returns:
        ``valid``, ``best_valid_score``, ``best_epoch``, ``curve`` and ``time``.
    """
    trainer, config = prepared.trainer, prepared.config
    with Curve(trainer, on_validation) as curve:
        score, result = trainer.fit(
            prepared.train_data, prepared.valid_data, saved=saved, show_progress=config["show_progress"]
        )
        seconds, cpu_seconds = spent(trainer)
    epochs = len(getattr(trainer, "train_loss_dict", {})) or None
    return {
        "valid_metric": trainer.valid_metric,
        "valid_bigger": bool(config["valid_metric_bigger"]),
        "best_valid_score": float(score),
        "valid": result,
        "best_epoch": _best_epoch(curve.points, trainer.valid_metric, config["valid_metric_bigger"]),
        "epochs": epochs,
        "curve": curve.points,
        "time": {
            "train": seconds,
            "train_cpu": cpu_seconds,
            "evaluation": curve.evaluation_seconds,
            "epoch": (seconds - curve.evaluation_seconds) / epochs if epochs else None,
        },
    }


def train_and_test(
    job: Job, checkpoints: str, own_process: bool = True
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Run a job from start to end, or from the epoch where an earlier process that did it was broken off.

    The state between two epochs stays in ``checkpoints`` until the caller, who has the record then, removes it
    (:func:`~recbole_mm.host.session.remove_states`).

    Args:
        job: The job.
        checkpoints: Folder of the checkpoint, which has nothing else.
        own_process: Whether the process does nothing else, so that its memory is that of the run.

    Returns:
        The record of the run and the metrics of its test users.
    """
    begin = time.perf_counter()
    prepared = prepare(job, checkpoints)
    trainer, config = prepared.trainer, prepared.config
    go_on_in_place(trainer, versions())
    prepared_seconds = time.perf_counter() - begin
    training = train(prepared, saved=True)
    earlier = session_of(trainer).earlier[0]  # type: ignore[union-attr] # it has trained
    test_begin = time.perf_counter()
    with per_user_metrics(trainer, prepared.dataset) as users:
        test = trainer.evaluate(prepared.test_data, load_best_model=True, show_progress=config["show_progress"])
    test_seconds = time.perf_counter() - test_begin
    test, slices = split_result(test)
    # Measured before the ablation, which is no part of the model's cost.
    memory = peak_memory(config["device"]) if own_process else {"process": None, "device": None}
    permuted: dict[str, Any] = {}
    if job.permute:
        permuted, permuted_users = permuted_results(prepared, job.seed)
        users.update(permuted_users)
    training["time"].update(prepare=prepared_seconds, test=test_seconds, total=time.perf_counter() - begin + earlier)
    features = getattr(dataset_of(prepared.train_data), "features", None)
    record = {
        "job": asdict(job),
        "test": test,
        "slices": slices,
        "permuted": permuted,
        "modalities": sorted(features.item) if features is not None else [],
        **training,
        "memory_mib": memory,
        "health": health_report(trainer),
        "steps": None if getattr(trainer.model, "makes_own_batches", False) else len(prepared.train_data),
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "flops": prepared.flops,
        "split": prepared.split,
        "checkpoint": str(trainer.saved_model_file),
        "versions": versions(),
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": machine(config["device"]),
        "config": dict(config.final_config_dict),
    }
    return record, users


def versions() -> dict[str, str | None]:
    """Versions of everything that takes part in a result."""
    import recbole_mm

    found: dict[str, str | None] = {"recbole_mm": recbole_mm.__version__, "python": platform.python_version()}
    for name in ("recbole", "torch", "torch-geometric", "numpy", "scipy", "pandas"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def machine(device: torch.device) -> dict[str, Any]:
    """What the times were measured on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {"host": platform.node(), "device": name, "threads": torch.get_num_threads()}


def _processor() -> str:
    """What Linux calls the processor, which ``platform`` does not tell there."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names and names[0] else platform.processor() or platform.machine()


@contextmanager
def without_arguments() -> Iterator[None]:
    """Hide the command line from RecBole's ``Config``, which would let it win over the settings of a single run."""
    arguments = sys.argv
    sys.argv = arguments[:1]
    try:
        yield
    finally:
        sys.argv = arguments


def score_of(result: Mapping[str, float], metric: str) -> float:
    """The value of the validation metric in an evaluation result."""
    return float(calculate_valid_score(result, metric))


def _best_epoch(points: list[dict[str, Any]], metric: str, bigger: bool) -> int | None:
    if not points:
        return None
    sign = 1 if bigger else -1
    return int(max(points, key=lambda point: (sign * point["valid"][metric], -point["epoch"]))["epoch"])


def _check_split(job: Job, split: Mapping[str, Any]) -> None:
    if not split["test"]:
        raise ValueError(
            f"There is nothing to test on: of {split['train']:,} training, {split['valid']:,} validation and no test "
            "pairs; change the split in eval_args."
        )
    if job.split is not None and split["hash"] != job.split:
        raise ValueError(
            f"{job.model} would be trained and tested on another split (hash {split['hash']}) than the models before "
            f"it ({job.split}): {split['train']:,} training, {split['valid']:,} validation and {split['test']:,} test "
            "pairs. Data options of its own (filters, missing_feature: drop, benchmark files) are the usual reason; a "
            'sequential model needs user_inter_num_interval="[4,inf)" to share a leave-one-out split with a general '
            "one, and a knowledge-graph model drops the items that the .link file does not name (the .item file and "
            "filter_inter_by_user_or_item can do so for the others)."
        )
    if job.candidates is not None and split["candidates"] != job.candidates:
        raise ValueError(
            f"{job.model} would rank other candidates ({split['items']:,} items) than the models before it, usually "
            "because it loads an .item file that has items nobody interacted with; remove them or leave the model out."
        )
