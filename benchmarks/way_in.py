"""From a shop's files to lists: seconds, CPU seconds and memory of the commands, each a process of its own (Linux).

    python benchmarks/way_in.py [--parts=shop,import,extract] [--output=benchmarks/results/way-in.csv]

- ``shop``: the four commands on the synthetic shop of ``dataset_atomic/mm-shop``, as its README has them.
- ``import``: a **synthetic** table of 3,000,000 clicks and one of 60,000 products.
- ``extract``: 1,000 **synthetic** pictures of 800 x 600 pixels and 1,000 texts of 10 to 120 words by the encoders that
  ``default`` stands for.

Seconds are of a machine that may have other work, which the load (processes that want a core, before the command) and
the CPU seconds show; memory is the most that a process held. The rows of a part take the place of what the output had.
"""

from __future__ import annotations

import argparse
import os
import runpy
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd

from recbole_mm.experiment.commit import commit
from recbole_mm.experiment.job import machine
from recbole_mm.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
THREADS = 2
N_CLICKS, N_PRODUCTS, N_CUSTOMERS = 3_000_000, 60_000, 200_000
N_CONTENTS = 1_000
DEFAULT = {"text": "all-MiniLM-L6-v2", "image": "EfficientNet-Lite0"}


def measured(what: str, *words: str) -> dict[str, Any]:
    """Run a command of the package in the present folder and tell what it took."""
    load, begin = os.getloadavg()[0], time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    with open("log.txt", "w+", encoding="utf-8") as log:
        command = [sys.executable, "-m", "recbole_mm", *words]
        descriptors = [(os.POSIX_SPAWN_DUP2, log.fileno(), 1), (os.POSIX_SPAWN_DUP2, log.fileno(), 2)]
        process = os.posix_spawn(sys.executable, command, environment, file_actions=descriptors)
        _, status, used = os.wait4(process, 0)
        if status:
            log.seek(0)
            raise RuntimeError(f"{' '.join(command)} ended with {status}: {log.read()[-2000:]}")
    return {
        "command": what,
        "seconds": time.perf_counter() - begin,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "memory_mib": used.ru_maxrss / 1024,
        "load": load,
    }


def shop() -> Iterator[dict[str, Any]]:
    """The four commands, and their sum."""
    runpy.run_path(str(ROOT / "dataset_atomic" / "mm-shop" / "make_mm_shop.py"))["main"](["--output=."])
    tables = ["--interactions=clicks.csv", "--user=customer", "--item=sku", "--time=ts", "--items=products.csv"]
    training = ["--learning_rate=0.01", "--epochs=40", "--eval_step=5"]
    rows = [
        measured("`import`", "import", "shop", *tables),
        measured("`extract`", "extract", "shop", "--text=title,description", "--image=pictures/{item_id}.jpg"),
        measured("`inspect`", "inspect", "shop"),
        measured("training and `--export`", "--model=VBPR", "--dataset=shop", *training, "--export=lists.csv"),
    ]
    yield from rows
    together = {key: sum(row[key] for row in rows) for key in ("seconds", "cpu_seconds")}
    yield {
        "command": "all four",
        **together,
        "memory_mib": max(row["memory_mib"] for row in rows),
        "load": rows[0]["load"],
    }


def imported() -> Iterator[dict[str, Any]]:
    """A large table of clicks: products by a law of popularity, times within a year."""
    dice = np.random.default_rng(0)
    products = (N_PRODUCTS * dice.random(N_CLICKS) ** 2).astype(np.int64)
    clicks = {"customer": dice.integers(N_CUSTOMERS, size=N_CLICKS), "sku": products}
    times = 1_735_689_600 + np.sort(dice.integers(365 * 86_400, size=N_CLICKS))
    pd.DataFrame({**clicks, "ts": times}).to_csv("clicks.csv", index=False)
    titles = [" ".join(words) for words in dice.choice(_words(dice), size=(N_PRODUCTS, 12))]
    price = dice.uniform(1, 500, N_PRODUCTS).round(2)
    pd.DataFrame({"sku": np.arange(N_PRODUCTS), "title": titles, "price": price}).to_csv("products.csv", index=False)
    size = Path("clicks.csv").stat().st_size / 2**20
    what = f"`import` of {N_CLICKS:,} clicks ({size:,.0f} MB of csv) and {N_PRODUCTS:,} products"
    yield measured(what, "import", "large", "--interactions=clicks.csv", "--items=products.csv", "--user=customer")


def extracted() -> Iterator[dict[str, Any]]:
    """Pictures of soft stains, and texts of random words."""
    from PIL import Image

    dice = np.random.default_rng(0)
    Path("pictures").mkdir()
    for number in range(N_CONTENTS):
        stains = Image.fromarray(dice.integers(256, size=(12, 16, 3), dtype=np.uint8))
        stains.resize((800, 600), Image.Resampling.BICUBIC).save(f"pictures/{number}.jpg", quality=90)
    words = _words(dice)
    texts = [" ".join(dice.choice(words, size=dice.integers(10, 121))) for _ in range(N_CONTENTS)]
    pd.DataFrame({"item": np.arange(N_CONTENTS), "text": texts}).to_csv("items.csv", index=False)
    pd.DataFrame({"user": 0, "item": np.arange(N_CONTENTS)}).to_csv("clicks.csv", index=False)
    measured("", "import", "contents", "--interactions=clicks.csv", "--items=items.csv", "--types", "text=text")
    texts_by = f"`extract` of {N_CONTENTS:,} texts by {DEFAULT['text']}"
    yield measured(texts_by, "extract", "contents", "--text=text")
    pictures_by = f"`extract` of {N_CONTENTS:,} pictures by {DEFAULT['image']}"
    yield measured(pictures_by, "extract", "contents", "--image=pictures/{item_id}.jpg")


def _words(dice: np.random.Generator) -> np.ndarray:
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    return np.array(["".join(dice.choice(letters, size=dice.integers(3, 10))) for _ in range(5_000)])


PARTS: dict[str, tuple[str, Callable[[], Iterator[dict[str, Any]]]]] = {
    "shop": ("mm-shop (synthetic)", shop),
    "import": ("synthetic clicks", imported),
    "extract": ("synthetic contents", extracted),
}


def main() -> None:
    """Measure the parts, each in an empty folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "way-in.csv")
    arguments = parser.parse_args()
    names, output = arguments.parts.split(","), arguments.output.resolve()
    unknown = [name for name in names if name not in PARTS]
    if unknown:
        parser.error(f"parts: unknown {', '.join(unknown)}; there is {', '.join(PARTS)}")
    for name in names:
        dataset, part = PARTS[name]
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            table = pd.DataFrame(list(part()))
            os.chdir(output.parent)
        import torch

        about = {"dataset": dataset, "split": "-", "seeds": "-", "options": "{}", "commit": commit()}
        device = f"{machine(torch.device('cpu'))['device']} ({THREADS} threads)"
        table = table.assign(**about, machine=device, date=time.strftime("%Y-%m-%d", time.gmtime()))
        print(table.to_string(), flush=True)
        if output.is_file():
            there = pd.read_csv(output)
            table = pd.concat([there[there["dataset"] != dataset], table], ignore_index=True)
        write_atomically(output, table.round(2).to_csv(index=False, lineterminator="\n"))


if __name__ == "__main__":
    main()
