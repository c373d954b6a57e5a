"""Where RecBole's trainers, names and logs are given what they lack: its source is edited, never copied."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable
from typing import Any

import recbole.data.dataset.dataset as recbole_dataset
import recbole.data.utils as recbole_data
import recbole.trainer.trainer as recbole_trainers
import recbole.utils.logger as recbole_logger
import recbole.utils.utils as recbole_utils
from recbole.config import Config
from recbole.trainer import Trainer

from recbole_mm import processes
from recbole_mm.files import whole_file
from recbole_mm.host import (
    checkpoint,
    drawing,
    general_models,
    loading,
    optimizer,
    recovery,
    saved_data,
    sharing,
    small_data,
)
from recbole_mm.host.editing import edit
from recbole_mm.host.wrapping import wrap

__all__ = ["install"]


def install() -> None:
    """Make the changes; calling it again does nothing."""
    if "recbole_mm" in vars(recbole_trainers):
        return
    _unique_names()
    _checkpoints()
    _epochs()
    _checks()
    _saved_data()
    _one_log_per_run()
    _download()
    _caches()
    _no_arguments()
    _load_of_the_processor()
    drawing.install()
    loading.install()
    small_data.install()
    optimizer.install()
    sharing.install()
    general_models.install()


def _unique_names() -> None:
    """RecBole names checkpoints, logs and curves by the second: runs that start together would share them."""
    vars(recbole_utils)["run_suffix"] = checkpoint.run_suffix
    edit(recbole_utils.get_local_time, {"return cur": 'return f"{cur}-{run_suffix()}"'})


def _checkpoints() -> None:
    """Every ``torch.save`` of a trainer writes plain data beside the file and puts it in its place."""
    vars(recbole_trainers)["recbole_mm"] = recovery
    save = "recbole_mm.save_checkpoint(self, state, "
    edit(
        Trainer._save_checkpoint, {"torch.save(state, saved_model_file, pickle_protocol=4)": f"{save}saved_model_file)"}
    )
    edit(
        recbole_trainers.PretrainTrainer.save_pretrained_model,
        {"torch.save(state, saved_model_file)": f"{save}saved_model_file)"},
    )
    edit(
        recbole_trainers.DecisionTreeTrainer._save_checkpoint,
        {"torch.save(state, self.saved_model_file)": f"{save}self.saved_model_file)"},
    )


def _epochs() -> None:
    """The loops over the epochs go on from, and keep, the whole state of a training."""
    nothing_left = "if saved and self.start_epoch >= self.epochs:"
    for cls in (Trainer, recbole_trainers.NCLTrainer):
        loop = "range(self.start_epoch, self.epochs)"
        # RecBole would write a checkpoint of epoch -1 over the one that it was given.
        never = f"{nothing_left[:-1]} and not self.start_epoch:"
        edit(cls.fit, {loop: "recbole_mm.epochs(self, self.epochs)", nothing_left: never})
    wrap(recbole_trainers.TraditionalTrainer, "__init__", _one_epoch)
    edit(
        recbole_trainers.PretrainTrainer.pretrain,
        {"range(self.start_epoch, self.pretrain_epochs)": "recbole_mm.epochs(self, self.pretrain_epochs)"},
    )
    for cls in recovery.trainer_classes():
        for name in ("fit", "evaluate", "_valid_epoch", "resume_checkpoint"):
            around = {"_valid_epoch": recovery.valid_epoch}.get(name) or getattr(recovery, name)
            if name in vars(cls) and not (name == "resume_checkpoint" and cls is not Trainer):
                wrap(cls, name, around)


def _one_epoch(original: Callable[..., Any], trainer: Any, *args: Any, **more: Any) -> None:
    """Pop and ItemKNN have one epoch, and would never be validated or saved with ``eval_step=2``."""
    original(trainer, *args, **more)
    trainer.eval_step = min(trainer.eval_step, trainer.epochs)


def _checks() -> None:
    """Data that are prepared for the Config of a checkpoint are compared with those of its training."""
    vars(recbole_data)["check_prepared"] = checkpoint.check_prepared
    done = "return train_data, valid_data, test_data"
    edit(
        recbole_data.data_preparation, {done: f"check_prepared(config, train_data, valid_data, test_data)\n    {done}"}
    )


def _saved_data() -> None:
    """Saved data sets and loaders are read without running what the file asks for."""
    vars(recbole_data)["load_saved"] = saved_data.load
    for function in (recbole_data.create_dataset, recbole_data.load_split_dataloaders):
        edit(function, {"pickle.load(f)": "load_saved(f)"})


def _one_log_per_run() -> None:
    """The second run of a process gets a log, and so a folder of curves, of its own.

    RecBole leaves that to ``logging.basicConfig``, which does nothing once there are handlers. Those of the last run
    are taken away first; handlers of others stay.
    """
    wrap(recbole_logger, "init_logger", _init_logger)
    from recbole import quick_start, utils

    for place in (utils, quick_start.quick_start):
        place.init_logger = recbole_logger.init_logger


_handlers: list[logging.Handler] = []


def _init_logger(original: Callable[..., Any], config: Any) -> Any:
    root = logging.getLogger()
    for handler in _handlers:
        root.removeHandler(handler)
        handler.close()
    _handlers.clear()
    before = set(root.handlers)
    if processes.is_writer():
        result = original(config)
    else:  # the first process writes the log; the others speak where something goes wrong
        handler = logging.StreamHandler()
        handler.setLevel(logging.ERROR)
        logging.basicConfig(level=logging.ERROR, handlers=[handler])
        result = None
    _handlers.extend(handler for handler in root.handlers if handler not in before)
    for handler in _handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handleError = functools.partial(_lose_log, handler)  # type: ignore[method-assign]
    return result


def _lose_log(handler: logging.FileHandler, record: logging.LogRecord) -> None:
    """A log that cannot be written, on a full disk, is said once; Python prints a traceback for every line of it."""
    handler.setLevel(logging.CRITICAL + 1)
    logging.getLogger().warning(f"{handler.baseFilename} gets no more lines: {sys.exc_info()[1]}.")


def _download() -> None:
    """After a download RecBole waits for other processes, also where there are none."""
    vars(recbole_dataset)["_recbole_mm_writes"] = processes.is_writer
    wait, first = "torch.distributed.barrier()", 'if self.config["local_rank"] == 0'
    after = f"    {wait}\nelse:\n    {wait}".replace("\n", "\n    ")
    changes = {
        first: f"{first} and _recbole_mm_writes()",
        after: after.replace(wait, f"torch.distributed.is_initialized() and {wait}"),
    }
    edit(recbole_dataset.Dataset._download, changes)


def _caches() -> None:
    """What ``save_dataset`` and ``save_dataloaders`` keep is read by the next run, so it is written whole."""
    for module, function, name in (
        (recbole_dataset, recbole_dataset.Dataset.save, "file"),
        (recbole_data, recbole_data.save_split_dataloaders, "file_path"),
    ):
        vars(module)["whole_file"] = whole_file
        edit(function, {f'with open({name}, "wb") as f:': f"with whole_file({name}) as f:"})


def _no_arguments() -> None:
    """``Config`` looks at the name of the program, which an interpreter within another program may have none of."""
    edit(Config._load_cmd_line, {"sys.argv[0]": '"".join(sys.argv[:1])'})


def _load_of_the_processor() -> None:
    """Every run waits while psutil measures the load for the log: a tenth of a second, not a whole one."""
    edit(recbole_utils.get_environment, {"psutil.cpu_percent(interval=1)": "psutil.cpu_percent(interval=0.1)"})
