"""CPU time and memory of user co-occurrence against a Python loop over pairs: ``python benchmarks/cooccurrence.py``.

The interactions are synthetic: popular items and active users by a power law. The loop is quadratic in users, so it
runs on the first users only (``--loop-users``) and its time for all is extrapolated by the number of pairs of users;
its counts must equal those of the sparse product.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.sparse as sp

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.feature_loading import memory
from recbole_mm.data.cooccurrence import cooccurrence


def main() -> int:
    """Run the benchmark; the exit status is 1 if the counts differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=19_445)
    parser.add_argument("--items", type=int, default=7_050)
    parser.add_argument("--pairs", type=int, default=118_551)
    parser.add_argument("--top-k", type=int, default=40)
    parser.add_argument("--loop-users", type=int, default=4_000)
    options = parser.parse_args()
    matrix = synthetic(options.users, options.items, options.pairs)
    before = memory("VmRSS")
    seconds = min(cpu_seconds(lambda: cooccurrence(matrix, options.top_k)) for _ in range(3))
    peak = memory("VmHWM") - before
    part, expected = matrix[: options.loop_users], {}
    loop_seconds = cpu_seconds(lambda: expected.update(loop(part, options.top_k)))
    found = cooccurrence(part, options.top_k).tocoo()
    equal = expected == dict(zip(zip(found.row.tolist(), found.col.tolist()), found.data.tolist()))
    result = {
        "users": options.users, "items": options.items, "pairs": int(matrix.nnz), "top_k": options.top_k,
        "seconds": seconds, "peak_growth_mb": peak, "loop_users": part.shape[0], "loop_seconds": loop_seconds,
        "loop_seconds_extrapolated": loop_seconds * (options.users / part.shape[0]) ** 2, "equal": equal,
    }  # fmt: skip
    print(json.dumps(result))
    print(
        f"{options.users:,} users, {matrix.nnz:,} pairs: {seconds:.3f} s, +{peak:.0f} MB at the peak; a Python loop "
        f"over pairs takes {loop_seconds:.2f} s for {part.shape[0]:,} users (about "
        f"{result['loop_seconds_extrapolated']:,.0f} s for all); "
        f"counts {'equal' if equal else 'DIFFER'}"
    )
    return int(not equal)


def synthetic(users: int, items: int, pairs: int) -> sp.csr_matrix:
    """Distinct pairs with a long tail on both sides."""
    generator = np.random.default_rng(0)
    user_share, item_share = (1.0 / (np.arange(n) + 50.0) ** 0.6 for n in (users, items))
    found = np.empty(0, dtype=np.int64)
    while len(found) < pairs:
        user = generator.choice(users, pairs, p=user_share / user_share.sum())
        item = generator.choice(items, pairs, p=item_share / item_share.sum())
        found = np.unique(np.concatenate([found, user * items + item]))
    found = np.sort(generator.permutation(found)[:pairs])
    order = generator.permutation(users)  # so that the first users are not the most active ones
    return sp.csr_matrix((np.ones(pairs, dtype=np.int32), (order[found // items], found % items)), shape=(users, items))


def loop(matrix: sp.csr_matrix, top_k: int) -> dict[tuple[int, int], int]:
    """The plain way: intersect the item sets of every two users, then keep the largest of each."""
    sets = [set(matrix.indices[matrix.indptr[r] : matrix.indptr[r + 1]].tolist()) for r in range(matrix.shape[0])]
    counts: list[dict[int, int]] = [{} for _ in sets]
    for left in range(len(sets)):
        for right in range(left + 1, len(sets)):
            common = len(sets[left] & sets[right])
            if common:
                counts[left][right] = counts[right][left] = common
    best = (sorted(row.items(), key=lambda entry: (-entry[1], entry[0]))[:top_k] for row in counts)
    return {(left, right): count for left, row in enumerate(best) for right, count in row}


def cpu_seconds(function: Callable[[], object]) -> float:
    """What a call takes."""
    start = time.process_time()
    function()
    return time.process_time() - start


if __name__ == "__main__":
    sys.exit(main())
