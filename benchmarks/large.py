"""Graph models on large **synthetic** data, whole graph against sampled neighbours: ``python benchmarks/large.py``.

Users, items (unless ``--items`` says how many) and pairs in the proportion of 192,000 x 63,000 x 1.3 million with
planted taste: items belong to groups, a group's features lie around its centre, and users choose from two groups of
theirs and sometimes from all; one pair of every user is held out for validation. Pairs are made in memory, so that no
time goes into files; vectors come from a ``.npy`` file, as large ones do. A process measures a model at a size, sampled
steps first; seconds are CPU seconds of a step (on one thread, if not told otherwise), memory is the peak of the process
so far, data and libraries included.
``--train`` trains for as many CPU seconds from the same start and gives Recall@20 of 4,000 users after each fifth, a
row each. Sampled steps may have batches of a size of their own (``--sampled_batch``): a step on the whole graph costs
the same at any.
Linux only (``/proc``).
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import recbole_mm  # noqa: F401  it repairs what RecBole needs repaired
from benchmarks.measure import _status
from benchmarks.rows import append
from recbole_mm.cli.malloc import keep_freed_memory
from recbole_mm.data.features.matrix import FeatureMatrix
from recbole_mm.data.features.stored import StoredTable
from recbole_mm.data.features.table import FeatureStore
from recbole_mm.nn.row_adam import RowAdam

ITEMS_PER_USER, PAIRS_PER_USER, GROUPS, OWN, HELD_OUT = 63 / 192, 1300 / 192, 60, 32, 4000
FANOUT = {"MMGCN": [4, 2], "GRCN": [4, 2], "DualGNN": [4, 2], "MMGCL": [4, 2, 1], "MGAT": [5]}


def taste(users: int, items: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """User and item of each distinct pair, in random order, and the group of each item; ids from 1."""
    generator = np.random.default_rng(seed)
    group = generator.integers(0, GROUPS, items)
    weight = (np.arange(items) + 10.0) ** -0.7
    cumulative = np.cumsum(weight / weight.sum())
    members = [np.flatnonzero(group == g) for g in range(GROUPS)]
    own = [np.cumsum(weight[m] / weight[m].sum()) for m in members]
    count = 1 + generator.geometric(1 / PAIRS_PER_USER, users)  # one more than is wanted: it is held out
    user = np.repeat(np.arange(users), count)
    liked = generator.integers(0, GROUPS, (users, 2))[user, generator.integers(0, 2, len(user))]
    item = np.searchsorted(cumulative, generator.random(len(user)))
    for g in range(GROUPS):
        chosen = np.flatnonzero((liked == g) & (generator.random(len(user)) < 0.8))
        item[chosen] = members[g][np.searchsorted(own[g], generator.random(len(chosen)))]
    keys = generator.permutation(np.unique(user * items + np.minimum(item, items - 1)))
    return keys // items + 1, keys % items + 1, group


def data_set(
    users: int, items: int, widths: dict[str, int], dtype: torch.dtype, folder: Path
) -> tuple[Any, np.ndarray]:
    """What a model asks of a data set, and the held-out pairs ``(n, 2)``, one a user with two pairs or more.

    Vectors are float16 in files in ``folder``, which are read while the model is made; ``dtype`` is that of its tables.
    """
    user, item, group = taste(users, items)
    first = np.zeros(len(user), dtype=bool)
    first[np.unique(user, return_index=True)[1]] = True
    first &= np.bincount(user)[user] > 1
    held_out = np.stack((user[first], item[first]), axis=1)
    pairs = {"user_id": torch.from_numpy(user[~first]), "item_id": torch.from_numpy(item[~first])}
    n_items, generator, tables = len(group) + 1, torch.Generator().manual_seed(1), {}
    for modality, width in widths.items():
        own = torch.randn(n_items, OWN, generator=generator).mul_(2 / OWN**0.5)
        shares = torch.cat((own, torch.zeros(n_items, GROUPS)), dim=1)
        shares[torch.arange(1, n_items), OWN + torch.from_numpy(group)] = 1.0
        shares[0] = 0
        directions, file = torch.randn(OWN + GROUPS, width, generator=generator), folder / f"{modality}.npy"
        matrix = np.lib.format.open_memmap(file, mode="w+", dtype=np.float16, shape=(n_items, width))
        for rows in torch.arange(n_items).split(2048):
            matrix[rows.numpy()] = (shares[rows] @ directions).half().numpy()
        del matrix
        stored = FeatureMatrix(file, (n_items, width), np.dtype(np.float16), None)
        place = torch.where(torch.arange(n_items) > 0, torch.arange(n_items), -1)
        tables[modality] = StoredTable(modality, "item", stored, place, dtype)
    sizes = {"user_id": users + 1, "item_id": n_items}
    return SimpleNamespace(
        dataset_name="planted", uid_field="user_id", iid_field="item_id", config={"LIST_SUFFIX": "_list"},
        features=FeatureStore(item=tables, user={}, inter={}, available=tuple(widths)), num=sizes.__getitem__,
        inter_feat=_Pairs(pairs), cold_start=None,
    ), held_out  # fmt: skip


class _Pairs:
    def __init__(self, columns: dict[str, torch.Tensor]) -> None:
        self.interaction = columns

    def __getitem__(self, key: str) -> torch.Tensor:
        return self.interaction[key]

    def __len__(self) -> int:
        return len(self.interaction["user_id"])


def build(options: argparse.Namespace) -> tuple[Any, Any, np.ndarray]:
    """Model, data set and held-out pairs."""
    from recbole.config import Config
    from recbole.utils import get_model, init_seed

    given = {"state": "ERROR", "use_gpu": False, "train_batch_size": options.sampled_batch or options.batch}
    given |= {"graph_batch": "sampled"}
    given |= {"fanout": config_fanout(options), "table_updates": "touched", **options.options}
    config = Config(model=options.model, dataset="mm-toy", config_dict=given)
    widths = {"image": options.image_width, "text": 384}
    with tempfile.TemporaryDirectory() as folder:
        items = options.items or round(options.users * ITEMS_PER_USER)
        data, held_out = data_set(options.users, items, widths, getattr(torch, options.feature_dtype), Path(folder))
        init_seed(options.seed, True)
        return get_model(options.model)(config, data), data, held_out


def config_fanout(options: argparse.Namespace) -> Any:
    """What the command line says, or the model's entry of ``FANOUT``."""
    return options.fanout or FANOUT[options.model]


def batches(data: Any, size: int, seed: int) -> Any:
    """Endless random batches of pairs with uniform negatives."""
    generator = torch.Generator().manual_seed(seed)
    user, item = data.inter_feat["user_id"], data.inter_feat["item_id"]
    while True:
        for chosen in torch.randperm(len(user), generator=generator).split(size):
            negative = torch.randint(1, data.num("item_id"), (len(chosen),), generator=generator)
            yield {"user_id": user[chosen], "item_id": item[chosen], "neg_item_id": negative}


def recall(model: Any, data: Any, held_out: np.ndarray) -> float:
    """Recall@20 of the held-out item of the first users, training items masked; the whole graph ranks."""
    model.eval()
    users, items = model.representations()
    asked = torch.from_numpy(held_out[:HELD_OUT])
    hits = 0
    for rows in asked.split(250):
        scores = users[rows[:, 0]] @ items.T
        scores[:, 0] = -math.inf
        known = model.interactions[rows[:, 0].numpy()].tocoo()
        scores[torch.from_numpy(known.row).long(), torch.from_numpy(known.col).long()] = -math.inf
        hits += int((scores.topk(20).indices == rows[:, 1:]).any(dim=1).sum())
    model.train()
    return hits / len(asked)


def measure(options: argparse.Namespace) -> None:
    """The rows of one model at one size, in a process of its own."""
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as our commands do
    model, data, held_out = build(options)
    built = round(_status("VmHWM"))
    fanout, start = model.fanout, {key: value.clone() for key, value in model.state_dict().items()}
    for mode in sorted(options.modes.split(","), reverse=True):
        model.load_state_dict(start)
        model.fanout = fanout if mode == "sampled" else None
        batch = (options.sampled_batch or options.batch) if mode == "sampled" else options.batch
        seconds, clock, curve = train(model, data, held_out, options, batch)
        epoch = math.ceil(len(data.inter_feat) / batch)
        step = float(np.median(seconds[1:]))
        metrics = {"users": options.users, "pairs": len(data.inter_feat), "step_seconds": round(step, 3)}
        metrics |= {
            "epoch_seconds": round(epoch * step, 1),
            "clock_seconds": round(epoch * clock, 1),
            "built_mib": built,
            "peak_mib": round(_status("VmHWM")),
        }
        kept = mode == "sampled" and options.options.get("outer_projections") == "kept"
        variant = f"{mode}, kept" if kept else mode
        row = {"model": options.model, "variant": variant, "metrics": metrics, "fanout": model.fanout, "batch": batch}
        row["dataset"] = f"{options.users:,} x {data.num('item_id') - 1:,}"
        row["protocol"] = "same items" if options.items else "items in proportion"
        reached = [{"protocol": f"{due:g}s", "metrics": {**metrics, "recall@20": value}} for due, value in curve]
        for point in reached or [{}]:
            print(json.dumps({**row, **point}), flush=True)


def train(
    model: Any, data: Any, held_out: np.ndarray, options: argparse.Namespace, size: int
) -> tuple[list[float], float, list[Any]]:
    """CPU seconds of every step, the median by the clock, and the curve where a time is given."""
    kind = RowAdam if model.touched else torch.optim.Adam
    optimizer = kind(model.parameters(), lr=options.learning_rate, fused=True)
    source, seconds, clocks, curve, spent = batches(data, size, options.seed), [], [], [], 0.0
    model.train()
    while len(seconds) < options.steps if not options.train else spent < options.train:
        batch, start, clock = next(source), time.process_time(), time.perf_counter()
        optimizer.zero_grad()
        loss = model.calculate_loss(batch)
        (sum(loss) if isinstance(loss, tuple) else loss).backward()
        optimizer.step()
        seconds.append(time.process_time() - start)
        clocks.append(time.perf_counter() - clock)
        spent += seconds[-1]
        due = (len(curve) + 1) * options.train / 5
        if options.train and spent >= due:
            curve.append((due, round(recall(model, data, held_out), 4)))
    return seconds, float(np.median(clocks[1:])), curve


def main() -> int:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="GRCN,DualGNN,MMGCL")
    parser.add_argument("--modes", default="full,sampled")
    parser.add_argument("--sizes", default="192000", help="numbers of users, separated by commas")
    parser.add_argument("--items", type=int, default=0, help="at every size; else in proportion to the users")
    parser.add_argument("--fanout", type=json.loads, help="an integer or a JSON list; else that of FANOUT")
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--sampled_batch", type=int, default=0, help="of sampled steps, else that of --batch")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--train", type=float, default=0, help="CPU seconds to train for, instead of steps")
    parser.add_argument("--image_width", type=int, default=4096)
    parser.add_argument("--feature_dtype", default="float32", choices=("float32", "float16"))
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=2020)
    parser.add_argument("--options", type=json.loads, default={}, help="options of the models, a JSON object")
    parser.add_argument("--rows", type=Path, help="append the figures to this file, with commit and machine")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.argv = sys.argv[:1]  # RecBole takes them for its own
    if options.child:
        options.model, options.users = options.models, int(options.sizes)
        measure(options)
        return 0
    names = (
        "items",
        "modes",
        "batch",
        "sampled_batch",
        "threads",
        "steps",
        "train",
        "image_width",
        "feature_dtype",
        "learning_rate",
        "seed",
    )
    shared = [f"--{key}={getattr(options, key)}" for key in names]
    shared += [f"--{key}={json.dumps(getattr(options, key))}" for key in ("fanout", "options")]
    for users in options.sizes.split(","):
        for model in options.models.split(","):
            command = [sys.executable, __file__, f"--models={model}", f"--sizes={users}", "--child", *shared]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            print(done.stdout, end="", flush=True)
            for line in done.stdout.splitlines() if options.rows else ():
                row = json.loads(line)
                given = {**options.options, **{key: row.pop(key) for key in ("fanout", "batch")}}
                given |= {key: getattr(options, key) for key in ("image_width", "learning_rate", "threads")}
                append(options.rows, row, given)
            if done.returncode:
                print(done.stderr[-2000:], file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
