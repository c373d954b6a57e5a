"""Dense products by torch and by oneDNN: ``python benchmarks/products.py [--seconds=150]``, on one thread.

Random shapes of 4 to 128 million multiply-adds, both operands contiguous or transposed, each with the best of four
calls of either library. Prints how many times as fast oneDNN is, by percentiles of the shapes: of all, and of those
that ``dense_backend: auto`` gives to it (:mod:`recbole_mm.nn.linear`), by the layout of the left operand.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recbole_mm.nn.linear import linear, worth_onednn

LENGTHS = (8, 16, 20, 32, 50, 64, 100, 128, 200, 256, 384, 500, 943, 1024, 1683, 2048, 4096, 9746, 40000)
LEAST, MOST, CALLS = 2**22, 2**27, 4
PERCENTILES = (0, 1, 5, 25, 50, 75, 95)


def table(rows: int, columns: int, transposed: bool) -> Tensor:
    """Random numbers, ``(rows, columns)``."""
    return torch.randn(columns, rows).t() if transposed else torch.randn(rows, columns)


def best(call: Callable[[], Tensor]) -> float:
    """CPU seconds of the quickest of some calls."""
    found = []
    for _ in range(CALLS):
        start = time.process_time()
        call()
        found.append(time.process_time() - start)
    return min(found)


def main() -> None:
    """Measure for the given time, then print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=150)
    seconds = parser.parse_args().seconds
    torch.set_num_threads(1)
    shapes = [shape for shape in product(LENGTHS, repeat=3) if LEAST <= np.prod(shape) <= MOST]
    random.Random(0).shuffle(shapes)
    start, found = time.perf_counter(), []
    for rows, width, columns in shapes:
        if time.perf_counter() - start > seconds:
            break
        for left, right in product((False, True), repeat=2):
            x, weight = table(rows, width, left), table(columns, width, right)
            times = best(partial(F.linear, x, weight)) / best(partial(linear, x, weight, backend="onednn"))
            found.append((left, worth_onednn(x, weight), times))
    print(f"{len(found)} products; times as fast at percentiles {', '.join(map(str, PERCENTILES))}:")
    for name, chosen in (("all", (False, True)), ("chosen by auto", (True,))):
        for left in (False, True):
            times = [value for transposed, worth, value in found if transposed == left and worth in chosen]
            layout = "transposed" if left else "contiguous"
            shown = " ".join(f"{value:.2f}" for value in np.percentile(times, PERCENTILES))
            print(f"{name}, left operand {layout}: {len(times)} products, {shown}")


if __name__ == "__main__":
    main()
