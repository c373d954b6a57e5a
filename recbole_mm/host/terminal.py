"""What RecBole's log shows on the terminal, for our command line: a few lines of it instead of several hundred.

RecBole logs everything twice, to a file and to the terminal. While :func:`quiet_terminal` lasts, the file gets all of
it, as ever, and the terminal what tells a run: data, split, model, and a line per validation. Warnings pass.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from recbole.config import Config
from recbole.data.dataset import Dataset
from recbole.trainer import trainer as recbole_trainer
from recbole.utils import logger as recbole_logger
from tqdm import tqdm

from recbole_mm import processes
from recbole_mm.host.editing import edit

__all__ = ["is_quiet", "quiet_terminal"]

_COLOR = re.compile(r"\x1b\[[0-9;]*m")
_TRAINING = re.compile(r"epoch (\d+) training \[time: ([\d.]+)s, (.*)\]")
_EVALUATING = re.compile(r"epoch (\d+) evaluating \[time: ([\d.]+)s, valid_score: ([^\s,\]]+)\]")
_AVERAGED = re.compile(r"weight_average: average (\S+), latest (\S+): the (average|latest) counts")
# What is not shown: what the lines above say already, and what is printed at the end.
_DROPPED = re.compile(
    r"\[|valid result|Saving current|FLOPs|Loading model structure|Finished training|best valid|test result"
    r"|The running environment|There is no data set in"
)


class _Story(logging.Filter):
    """Shows what matters and keeps the rest of RecBole's log from the handler that it is a filter of."""

    def __init__(self) -> None:
        super().__init__()
        self._rank = 0
        self._metric = ""
        self._bigger = True
        self._forget()

    def _forget(self) -> None:
        """Begin a training, or a stage of one."""
        self._trained = ""
        self._whose = ""
        self._best: float | None = None
        self._from_start = False

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno != logging.INFO:
            return True
        message = record.msg
        if isinstance(message, Config):
            self._options(message)
        elif isinstance(message, Dataset):
            self._data(message)
        elif isinstance(message, torch.nn.Module):
            count = sum(parameter.numel() for parameter in message.parameters())
            self._say(f"model: {type(message).__name__}, {count:,} parameters")
        else:
            return self._text(_COLOR.sub("", record.getMessage()).strip())
        return False

    def _text(self, text: str) -> bool:
        trained, evaluated, averaged = _TRAINING.match(text), _EVALUATING.match(text), _AVERAGED.match(text)
        if trained:
            self._flush()
            if trained[1] == "0":
                self._forget()
                self._from_start = True
            self._trained = f"epoch {trained[1]} training {float(trained[2]):.1f} s, {trained[3]}"
        elif averaged:  # comes between the two, and belongs to the score
            average, latest, counts = averaged.groups()
            other = f"{latest} of the latest" if counts == "average" else f"{average} of the average"
            self._whose = f" of the {counts}, {other}"
        elif evaluated:
            # RecBole says that it saves the epoch only afterwards, and not at all where nothing is saved.
            score = float(evaluated[3])
            better = self._best is None or (score >= self._best if self._bigger else score <= self._best)
            self._best = score if better else self._best
            # A training that goes on from a checkpoint has a best epoch that this log does not tell of.
            best = " (best so far)" if better and self._from_start else ""
            self._trained += ("; " if self._trained else "") + f"valid {self._metric} {evaluated[3]}{self._whose}{best}"
            self._whose = ""
            self._flush()
        elif text.startswith("Loading model structure"):
            self._flush()
        elif not _DROPPED.match(text):
            self._flush()
            self._say(text)
        return False

    def _options(self, config: Any) -> None:
        self._rank = processes.rank() or int(config["local_rank"] or 0)
        self._metric = str(config["valid_metric"]).lower()
        self._bigger = bool(config["valid_metric_bigger"])
        self._forget()
        for handler in logging.getLogger().handlers:
            if isinstance(handler, logging.FileHandler):
                self._say(f"log: {os.path.relpath(handler.baseFilename)}")
        arguments = config["eval_args"]
        split = "benchmark files" if config["benchmark_filename"] else arguments["split"]
        mode = arguments["mode"]
        mode = mode if isinstance(mode, str) else ", ".join(f"{part} {value}" for part, value in mode.items())
        self._split = (
            f"split: {split}, order {arguments['order']}, group by {arguments['group_by']}, mode {mode}; "
            f"seed {config['seed']}"
        )

    def _data(self, dataset: Any) -> None:
        self._say(
            f"data set: {dataset.dataset_name}, {dataset.user_num - 1:,} users, {dataset.item_num - 1:,} items, "
            f"{dataset.inter_num:,} interactions"
        )
        self._say(self._split)

    def _flush(self) -> None:
        if self._trained:
            self._say(self._trained)
        self._trained = ""

    def _say(self, text: str) -> None:
        if self._rank == 0:  # the other processes would say the same
            print(text, file=sys.stderr, flush=True)


_stories: list[_Story] = []


def is_quiet() -> bool:
    """Whether a :func:`quiet_terminal` lasts, for processes that are started meanwhile."""
    return bool(_stories)


def _prepare(handler: logging.Handler) -> None:
    """Called by RecBole's ``init_logger`` for the handler that writes to the terminal."""
    for story in _stories:
        handler.addFilter(story)


@contextmanager
def quiet_terminal(quiet: bool = True) -> Iterator[None]:
    """While it lasts, runs that are started show the few lines that matter; RecBole's file has the whole log.

    Args:
        quiet: Whether to change anything at all.
    """
    if not quiet:
        yield
        return
    if "prepare_terminal" not in vars(recbole_logger):
        recbole_logger.prepare_terminal = _prepare
        edit(recbole_logger.init_logger, {"sh.setLevel(level)": "sh.setLevel(level); prepare_terminal(sh)"})
    story = _Story()
    _stories.append(story)
    drawn = recbole_trainer.tqdm
    # `disable=None` leaves out bars where the output is no terminal.
    recbole_trainer.tqdm = functools.partial(tqdm, leave=False, disable=None)
    try:
        with warnings.catch_warnings():
            # Of numpy and torch about how RecBole calls them: nothing that a user could mend.
            warnings.filterwarnings("ignore", module=r"recbole\.")
            yield
    finally:
        recbole_trainer.tqdm = drawn
        story._flush()
        _stories.remove(story)
        for handler in logging.getLogger().handlers:
            if story in handler.filters:
                # The log of such a run stays quiet: an export that loads its model again would tell all of it anew.
                handler.setLevel(logging.WARNING)
                handler.removeFilter(story)
