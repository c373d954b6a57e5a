"""Runs a task in a process of its own, so that its memory is its own and a crash takes nothing else along."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import recbole_mm
from recbole_mm.experiment.last_word import LastWord
from recbole_mm.experiment.own_models import imported_modules
from recbole_mm.experiment.store import to_json
from recbole_mm.host.registry import registered_models

__all__ = [
    "ChildError",
    "Children",
    "StoppedError",
    "die_with_parent",
    "ended_by",
    "error_text",
    "is_of_machine",
    "model_modules",
    "run_in_child",
]


class ChildError(RuntimeError):
    """A task in a process of its own failed; the message says how.

    Attributes:
        died: Whether the process ended without an answer, as opposed to an error of the task.
        of_machine: Whether the machine failed and not the task: the same task may go on where it was.
    """

    def __init__(self, message: str, died: bool, of_machine: bool = False) -> None:
        super().__init__(message)
        self.died, self.of_machine = died, died or of_machine

    def __reduce__(self) -> tuple[Any, ...]:
        # A process of a training sends it to its parent; Python would send the message alone.
        return type(self), (str(self), self.died, self.of_machine)


class StoppedError(BaseException):
    """The task was ended because whoever asked for it ends; nothing is to be noted about it."""


class Children:
    """Processes that end together when their parent is asked to end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def add(self, child: subprocess.Popen[bytes]) -> None:
        """Know a process; one that comes too late is ended at once."""
        with self._lock:
            self._running.add(child)
            if self._stopped:
                child.kill()

    def end(self, child: subprocess.Popen[bytes]) -> None:
        """Forget a process that has ended.

        Raises:
            StoppedError: All of them were stopped.
        """
        with self._lock:
            self._running.discard(child)
            if self._stopped:
                raise StoppedError

    def stop(self) -> None:
        """End all processes, and those that are added from now on."""
        with self._lock:
            self._stopped = True
            for child in self._running:
                child.kill()


def is_of_machine(error: BaseException) -> bool:
    """Whether an error says something of the machine (a full disk, no memory, a killed process), not of the task."""
    if isinstance(error, ChildError):
        return error.of_machine
    return isinstance(error, (OSError, MemoryError))


def error_text(error: BaseException) -> str:
    """Kind and message of an error; of a :class:`ChildError` the message, which names the kind where there is one."""
    if isinstance(error, ChildError):
        return str(error)
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    return f"{type(error).__name__}: {message}"


def run_in_child(
    function: Callable[[Mapping[str, Any]], Any],
    task: Mapping[str, Any],
    folder: Path,
    models: Iterable[str],
    look: Callable[[], object] | None = None,
    seconds: float = 2.0,
    children: Children | None = None,
) -> Any:
    """Call a function in a new process, which :mod:`recbole_mm.experiment.worker` runs.

    The process works in ``folder``, where RecBole writes its logs, and adds what it prints to ``output``. It ends
    with this process, whatever ends that. It gets the task through a pipe, so that no file has the password of a
    database.

    Args:
        function: A function of a module that the process imports; it gets the task and answers in types of JSON.
        task: The task, in types that JSON has.
        folder: Existing folder for its files.
        models: Names of the models that it needs.
        look: Called every now and then while it runs, and at the end.
        seconds: How often.
        children: Gets the process, to end it from another thread.

    Returns:
        The answer of the function.

    Raises:
        StoppedError: ``children`` were stopped.
        ChildError: The process died, or the task failed.
        ValueError: A model is defined where a new process cannot import it.
    """
    order = {
        "module": function.__module__,
        "function": function.__name__,
        "task": task,
        "parent": os.getpid(),
        "modules": model_modules(models),
    }
    answer = folder / "answer.json"
    answer.unlink(missing_ok=True)
    path = [str(Path(recbole_mm.__file__).resolve().parents[1]), *(os.path.abspath(entry) for entry in sys.path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(path)), "PYTHONUNBUFFERED": "1"}
    output = folder / "output"
    with output.open("ab") as stream, LastWord() as word:
        child = subprocess.Popen(
            [sys.executable, "-m", "recbole_mm.experiment.worker"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=subprocess.STDOUT,
            pass_fds=word.passed,
        )
        try:
            if children is not None:
                children.add(child)
            _tell(child, json.dumps(to_json({**order, "last_word": word.passed})))
            status = _wait(child, look, seconds)
            said = word.read()
        except BaseException:  # Ctrl-C: do not leave it behind
            child.kill()
            child.wait()
            raise
    if children is not None:
        children.end(child)
    if said is None and (status != 0 or not answer.is_file()):
        raise ChildError(_how_it_ended(status, output), died=True)
    content = said or json.loads(answer.read_text(encoding="utf-8"))
    answer.unlink(missing_ok=True)
    if "error" in content:
        raise ChildError(content["error"], died=False, of_machine=bool(content.get("of_machine")))
    return content["result"]


def _tell(child: subprocess.Popen[bytes], text: str) -> None:
    assert child.stdin is not None  # noqa: S101 - it was asked for
    with suppress(BrokenPipeError), child.stdin:  # it died before it read; its exit status says so
        child.stdin.write(text.encode("ascii"))


def _wait(child: subprocess.Popen[bytes], look: Callable[[], object] | None, seconds: float) -> int:
    while look is not None:
        try:
            status = child.wait(seconds)
        except subprocess.TimeoutExpired:
            look()
        else:
            look()
            return status
    return child.wait()


def model_modules(models: Iterable[str]) -> list[str]:
    """Modules that a new process must import to know the models that are not part of this package.

    Those that the caller has imported for their models come first: a class may be registered by another module than the
    one that it is written in.

    Args:
        models: Names of models.

    Returns:
        Names of modules.

    Raises:
        ValueError: A model was defined in a script or an interactive session, which another process cannot import.
    """
    known = registered_models()
    modules = {known[name].__module__ for name in models if name in known}
    foreign = sorted(module for module in modules if not module.startswith("recbole_mm."))
    if "__main__" in foreign:
        names = [name for name in models if name in known and known[name].__module__ == "__main__"]
        raise ValueError(
            f"{', '.join(names)} is defined in the running script, which a process of its own cannot import. Put the "
            "class, with its @recbole_mm.register, into a module, or run everything in this process (in_process=True)."
        )
    return list(dict.fromkeys([*imported_modules(), *foreign]))


def die_with_parent(parent: int, seconds: float = 0.5) -> None:
    """End this process soon after its parent is gone, also when that was killed without a chance to say so.

    Otherwise a run would go on by itself, and a comparison started again would do the same run beside it.

    Args:
        parent: Process id of the parent.
        seconds: How often to look.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(seconds)
        os._exit(1)

    threading.Thread(target=watch, name="die_with_parent", daemon=True).start()


def ended_by(status: int | None) -> str:
    """How a process ended, by its exit status."""
    if status is None or status >= 0:
        return f"its process ended with status {status}"
    name = signal.Signals(-status).name if -status in {entry.value for entry in signal.Signals} else str(-status)
    often = " (often: out of memory)" if -status == signal.SIGKILL else ""
    return f"its process was ended by {name}{often}"


def _how_it_ended(status: int, output: Path) -> str:
    how = ended_by(status)
    lines = output.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"{how}; last output: {lines[-1].strip()}" if lines else how
