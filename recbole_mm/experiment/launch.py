"""Starts the processes of one training, and ends all of them when one fails."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from recbole_mm import processes
from recbole_mm.experiment.children import ChildError, die_with_parent, ended_by
from recbole_mm.experiment.own_models import import_module
from recbole_mm.host.terminal import is_quiet, quiet_terminal
from recbole_mm.processes import Place

__all__ = ["free_port", "launch", "together"]

#: How a process is made: anew, because CUDA does not survive a fork.
START = "spawn"
# Seconds in which others may still say what was wrong before the first message is taken for the reason: a process whose
# partner is gone fails of that a moment later, or earlier than the partner's message is read.
_GRACE = 1.0
# Seconds until a process that was asked to end is killed.
_PATIENCE = 10.0


def free_port() -> int:
    """A port of this machine that nobody uses."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return int(found.getsockname()[1])


def together(job: Callable[[], Any], where: Place) -> Any:
    """Do this process's part of a job of several.

    Args:
        job: What each of them does.
        where: Which of them this is.

    Returns:
        What the job returned.
    """
    processes.prepare(where)
    try:
        return job()
    finally:
        processes.leave()


def launch(job: Callable[[], Any], places: Sequence[Place], modules: Sequence[str]) -> Any:
    """Do a job in new processes of this machine.

    Where one raises an error or dies, the others are ended within seconds, whatever they wait for, and so they are when
    this process ends.

    Args:
        job: What each of them does; it can be pickled.
        places: Which of all each of them is.
        modules: Modules of models that they must import.

    Returns:
        What the job returned in the first of them.

    Raises:
        Exception: What one of them raised, with its traceback as a note.
        ChildError: One of them died.
        KeyboardInterrupt: This process was asked to end, or what the first process made of it.
    """
    context: Any = multiprocessing.get_context(START)
    children: dict[Connection, Any] = {}
    try:
        for where in places:
            mine, theirs = context.Pipe(duplex=False)
            arguments = (job, where, theirs, tuple(modules), is_quiet(), os.getpid())
            child = context.Process(target=_child, args=arguments, daemon=True)
            child.start()
            theirs.close()
            children[mine] = child
        return _results(children)
    except KeyboardInterrupt as interrupt:
        raise _interrupted(children) or interrupt from interrupt
    finally:
        _end(list(children.values()))


def _results(children: dict[Connection, Any]) -> Any:
    """Wait for all; the first failure ends that."""
    order = list(children)
    answers: dict[Any, tuple[str, Any, str]] = {}
    while len(answers) < len(order):
        ready: Any
        for ready in wait([pipe for pipe in order if pipe not in answers]):
            answers[ready] = _read(ready, children[ready])
        if any(kind != "result" for kind, _, _ in answers.values()):
            break
    else:
        return answers[order[0]][1]
    end = time.monotonic() + _GRACE
    while (left := end - time.monotonic()) > 0:
        for ready in wait([pipe for pipe in order if pipe not in answers], left):
            answers[ready] = _read(ready, children[ready])
        if len(answers) == len(order):
            break
    failed = [answers[pipe] for pipe in order if pipe in answers and answers[pipe][0] != "result"]
    kind, error, text = min(failed, key=_weight)
    if text and hasattr(error, "add_note"):
        error.add_note(f"In one of {len(order)} processes:\n{text}")
    raise error


def _weight(answer: tuple[str, Any, str]) -> int:
    """A death explains what others say of a broken connection, and so does an error of any other kind."""
    kind, error, text = answer
    broken = isinstance(error, RuntimeError) and ("gloo" in text or "NCCL" in text or "Connection" in text)
    return 2 if broken else 1 if kind == "died" else 0


def _read(pipe: Connection, child: Any) -> tuple[str, Any, str]:
    try:
        kind, content, text = pipe.recv()
    except (EOFError, OSError):
        child.join(_PATIENCE)
        return "died", ChildError(f"One of the processes of the training died: {ended_by(child.exitcode)}.", True), ""
    return kind, content, text


def _interrupted(children: dict[Connection, Any]) -> BaseException | None:
    """Let the children end as after Ctrl-C, which a terminal has sent to them already; what the first one says."""
    for child in children.values():
        with suppress(ProcessLookupError, TypeError):
            os.kill(child.pid, signal.SIGINT)
    first = next(iter(children), None)
    if first is None or not first.poll(_PATIENCE):
        return None
    with suppress(EOFError, OSError):
        kind, error, _ = first.recv()
        return error if kind == "error" and isinstance(error, KeyboardInterrupt) else None
    return None


def _end(children: list[Any]) -> None:
    for child in children:
        if child.is_alive():
            child.terminate()
    end = time.monotonic() + _PATIENCE
    for child in children:
        child.join(max(end - time.monotonic(), 0))
        if child.is_alive():
            child.kill()
            child.join()


def _child(
    job: Callable[[], Any], where: Place, pipe: Connection, modules: Sequence[str], quiet: bool, parent: int
) -> None:
    """One process. It lives in this package so that unpickling it registers the models in the process."""
    die_with_parent(parent)
    signal.signal(signal.SIGINT, _once)
    if "OMP_NUM_THREADS" not in os.environ:  # together they have the machine, not each for itself
        torch.set_num_threads(max((os.cpu_count() or 1) // where.local_world, 1))
    answer: tuple[str, Any, str]
    try:
        for module in modules:
            import_module(module)
        with quiet_terminal(quiet):
            answer = "result", together(job, where), ""
    except BaseException as error:
        answer = "error", _sendable(error), traceback.format_exc()
    if answer[0] == "result" and where.rank:
        answer = "result", None, ""
    pipe.send(answer)
    pipe.close()
    if answer[0] != "result":
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # threads of a broken connection may never end; what was to be said is said


def _once(number: int, frame: Any) -> None:
    """Ctrl-C comes from the terminal and from the parent; the second one must not meet the answer to the first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _sendable(error: BaseException) -> BaseException:
    try:
        again = pickle.loads(pickle.dumps(error))  # noqa: S301 - what was written in this line
    except Exception:
        again = None
    # An error whose constructor takes other arguments comes back as another one, or not at all.
    return again if type(again) is type(error) else ChildError(f"{type(error).__name__}: {error}", False)
