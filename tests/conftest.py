"""Settings of every test: a folder of its own, a clean command line, one thread; and fresh interpreters on demand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import recbole.data.dataset
import recbole.trainer
import torch

import recbole_mm
import recbole_mm.host.registry as registry
from recbole_mm.host import defaults
from tests.options import QUICK

ROOT = Path(__file__).resolve().parents[1]

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Coverage takes a third of the time of a test; what slow ones run, others run, too."""
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker("no_cover")


@pytest.fixture(scope="session", autouse=True)
def _quiet_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    # RecBole takes pytest's own arguments for options, and writes log/, log_tensorboard/ and saved/ where it runs. Here
    # for fixtures that live longer than a test, whose folder is set below.
    argv, folder = sys.argv, Path.cwd()
    sys.argv = argv[:1]
    os.chdir(tmp_path_factory.mktemp("session"))
    yield
    os.chdir(folder)
    sys.argv = argv


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    # Every run measures the load of the processor for a moment, and there are a thousand of them.
    monkeypatch.setattr("psutil.cpu_percent", lambda interval=None: 0.0)
    # Every Config of RecBole writes this variable.
    devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    yield
    if devices is None:
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices


@pytest.fixture(autouse=True)
def _quick_where_coverage_is_not_measured(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("no_cover"):
        monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)  # by which interpreters that a test starts know


@pytest.fixture
def fresh_python(tmp_path: Path) -> Callable[..., str]:
    """Run code in a new interpreter in the test's folder; returns what it printed, raises with its traceback."""

    def run(code: str, *arguments: str, timeout: float = 300, **environment: str) -> str:
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if done.returncode != 0:
            raise AssertionError(f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout.strip()

    return run


@pytest.fixture
def ctrl_c_is_heard() -> Iterator[None]:
    """A shell starts what runs in the background with Ctrl-C ignored, tests too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def clean_registry() -> Iterator[None]:
    """Forget after the test whatever it registers, so that other tests do not find it among the models."""
    tables = [registry.registered, defaults.given, vars(recbole.trainer), vars(recbole.data.dataset)]
    before = [dict(table) for table in tables]
    modules = set(sys.modules)
    yield
    for table, content in zip(tables, before):
        table.clear()
        table.update(content)
    for name in set(sys.modules) - modules:
        if name.startswith("recbole.model.") and sys.modules[name].__spec__.loader is None:
            del sys.modules[name]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Train a model on mm-toy once and return its checkpoint."""
    made: dict[str, str] = {}

    def train(model: str, **options: Any) -> str:
        key = f"{model} {sorted(options.items())}"
        if key not in made:
            torch.set_num_threads(1)
            folder = str(tmp_path_factory.mktemp("checkpoint"))
            result = recbole_mm.run(model, "mm-toy", config_dict={**QUICK, "checkpoint_dir": folder, **options})
            made[key] = result["checkpoint"]
        return made[key]

    return train
