"""Freed memory is kept where our commands run, and left alone where the caller has chosen."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module

import pytest

from recbole_mm.cli.malloc import VARIABLES, keep_freed_memory
from tests.conftest import ROOT

program = import_module("recbole_mm.cli.main")  # the package has a function of that name

FAULTS = """
import resource
import torch
from recbole_mm.cli.malloc import keep_freed_memory
kept = keep_freed_memory({{}}) if {keep} else False
for _ in range(5):
    torch.zeros(12 * 2**20).add_(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.zeros(12 * 2**20).add_(1)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    code = FAULTS.format(keep=keep)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=clean, cwd=ROOT, check=True)
    kept, count = done.stdout.split()
    return kept == "True", int(count)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_large_blocks_are_reused():
    kept, few = faults(True)
    if not kept:
        pytest.skip("another C library or allocator")
    if few > 1000:  # a machine short of time or memory may have taken pages away in between
        few = min(faults(True)[1] for _ in range(3))
    assert faults(False)[1] > 1000 > few


@pytest.mark.parametrize("chosen", [
    {"MALLOC_ARENA_MAX": "2"}, {"LD_PRELOAD": "/usr/lib/libjemalloc.so"}, {"GLIBC_TUNABLES": "glibc.malloc.check=1"},
])  # fmt: skip
def test_what_the_caller_has_chosen_stays(chosen):
    environment = dict(chosen)
    assert not keep_freed_memory(environment) and environment == chosen


@pytest.mark.parametrize(("arguments", "kept"), [
    (["train", "--model=Nobody"], True),
    (["--model=Nobody"], True),
    (["train", "--model=Nobody", "--malloc=default"], False),
    (["version"], False),
])  # fmt: skip
def test_only_commands_that_train_or_rank_in_a_process_of_theirs(monkeypatch, capsys, arguments, kept):
    calls = []
    monkeypatch.setattr(program, "keep_freed_memory", lambda: calls.append(1))
    program.main(arguments)
    assert not calls, "called as a function"
    monkeypatch.setattr(sys, "argv", ["recbole-mm", *arguments])
    program.main()
    assert bool(calls) == kept


def test_another_value_is_refused(capsys):
    assert program.main(["train", "--model=BPR", "--malloc=jemalloc"]) == 2
    assert "--malloc: expected keep or default, got 'jemalloc'" in capsys.readouterr().err


def test_the_variables_say_the_same():
    assert {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)} == VARIABLES
