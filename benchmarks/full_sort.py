"""Full ranking against the pair-by-pair path, for models that score pairs: ``python benchmarks/full_sort.py``.

Per model and catalogue: RecBole's evaluation of all users through ``full_sort_predict``, and what RecBole does where a
model has none, ``predict`` on every pair (of CMBF without the tables that its own keeps). The latter is too slow to be
run in full: it scores all items for the first users (``--pair-users``) and its time for all users is extrapolated by
the number of pairs. The scores of these users must agree. Every measurement is a child process with one thread; seconds
are CPU seconds (on CUDA wall seconds), memory is what is needed at the peak above what the loaded data and model hold.
Linux only (``/proc``).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rows import append
from benchmarks.workload import recbole_options, synthetic_pairs

MODELS = "UVCAN,CMBF"
SHAPES = ("ml-100k", "catalogue")
TOLERANCE = 1e-5


def main() -> int:
    """Measure what the command line asks for; the exit status is 1 if the two paths disagree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=MODELS, help="comma-separated models")
    parser.add_argument("--shapes", default=",".join(SHAPES), help=f"comma-separated: {', '.join(SHAPES)}")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--users", type=int, default=1_000, help="users of the synthetic catalogue")
    parser.add_argument("--items", type=int, default=20_000, help="items of the synthetic catalogue")
    parser.add_argument("--pair-users", type=int, default=20, help="users of the pair-by-pair path")
    parser.add_argument("--options", type=json.loads, default={}, help="options of the model, a JSON object")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rows", type=Path, help="append the figures to this file, with commit and machine")
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        print(json.dumps(measure(**options.job)))
        return 0
    agree = True
    print(
        f"{'model':8} {'catalogue':10} {'users':>6} {'items':>6} {'full sort s':>11} {'us/pair':>8} {'MB':>6} "
        f"{'pairs s':>9} {'us/pair':>8} {'MB':>6} {'ratio':>6} {'max diff':>9}"
    )
    with tempfile.TemporaryDirectory() as folder:
        if "catalogue" in options.shapes.split(","):
            write_catalogue(Path(folder), options.users, options.items)
        for model in options.models.split(","):
            for shape in options.shapes.split(","):
                common = {"model": model, "shape": shape, "folder": folder, "device": options.device}
                common |= {"threads": options.threads, "overrides": options.options}
                full = child(users=0, **common)
                pairs = child(users=options.pair_users, **common)
                total = full["users"] * full["items"]
                seconds = pairs["seconds"] * total / (pairs["users"] * pairs["items"])
                same = pairs["difference"] <= TOLERANCE * max(1.0, pairs["largest"])
                agree &= same
                if options.rows:
                    metrics = {"ranking_seconds": full["seconds"], "peak_mib": full["peak_mb"]}
                    metrics |= {"microseconds_a_pair": 1e6 * full["seconds"] / total, "pair_by_pair_seconds": seconds}
                    metrics |= {"times_faster": seconds / full["seconds"], "difference": pairs["difference"]}
                    row = {"model": model, "dataset": f"{shape}, {full['users']:,} x {full['items']:,}"}
                    append(options.rows, {**row, "metrics": metrics}, options.options, options.device)
                print(
                    f"{model:8} {shape:10} {full['users']:6} {full['items']:6} {full['seconds']:11.2f} "
                    f"{1e6 * full['seconds'] / total:8.2f} {full['peak_mb']:6.0f} {seconds:9.1f} "
                    f"{1e6 * seconds / total:8.2f} {pairs['peak_mb']:6.0f} {seconds / full['seconds']:5.1f}x "
                    f"{pairs['difference']:9.1e}" + ("" if same else "   SCORES DIFFER"),
                    flush=True,
                )
    return int(not agree)


def child(**job: Any) -> dict[str, Any]:
    """Run :func:`measure` in a process of its own."""
    environment = {**os.environ, **{f"{library}_NUM_THREADS": str(job["threads"]) for library in ("OMP", "MKL")}}
    command = [sys.executable, str(Path(__file__).resolve()), "--job", json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{command} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(
    model: str, shape: str, folder: str, device: str, users: int, threads: int, overrides: dict[str, Any]
) -> dict[str, Any]:
    """The evaluation of all users (``users`` 0), or the pair-by-pair path for some of them and the difference."""
    sys.argv = sys.argv[:1]  # RecBole's Config reads --key=value from the command line.
    import recbole_mm  # noqa: F401, I001  (first: it repairs what RecBole needs repaired)
    import torch
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.data.interaction import Interaction
    from recbole.utils import get_model, get_trainer, init_seed

    from benchmarks.measure import Clock, PeakMemory

    torch.set_num_threads(threads)
    settings = recbole_options(shape, Path(folder), device)
    if shape == "catalogue":
        settings |= {"data_path": folder, "benchmark_filename": ["train", "valid", "test"]}
    settings["load_col"] = {"inter": ["user_id", "item_id"], "user": "*", "item": "*"}
    config = Config(model=model, dataset=shape, config_dict={**settings, **overrides})
    init_seed(config["seed"], reproducibility=True)
    train, valid, _ = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], reproducibility=True)
    network = get_model(model)(config, train._dataset).to(config["device"])
    network.eval()
    place = torch.device(device)
    n_items = network.n_items
    with torch.no_grad():
        # One user warms up; it fills caches that every evaluation fills, so they are dropped again.
        network.full_sort_predict(Interaction({"user_id": torch.ones(1, dtype=torch.long)}).to(place))
        network.train().eval()
        clock, memory = Clock(place), PeakMemory(place)
        start = clock()
        if not users:
            trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, network)
            result = trainer.evaluate(valid, load_best_model=False, show_progress=False)
            found = {"users": len(valid.uid_list), "check": [float(value) for value in result.values()]}
            return {**found, "items": n_items, "seconds": clock() - start, "peak_mb": memory.growth()}
        scores = []
        chunk = 65_536 if config["eval_batch_size"] > 65_536 else config["eval_batch_size"]
        predict = cmbf_from_features if model == "CMBF" else type(network).predict
        for user in range(1, users + 1):
            row = Interaction({"user_id": torch.full((n_items,), user), "item_id": torch.arange(n_items)}).to(place)
            scores.append(torch.cat([predict(network, row[at : at + chunk]) for at in range(0, n_items, chunk)]))
        found = {"users": users, "items": n_items, "seconds": clock() - start, "peak_mb": memory.growth()}
        by_pairs = torch.cat(scores)
        full = network.full_sort_predict(Interaction({"user_id": torch.arange(1, users + 1)}).to(place))
        if not torch.allclose(by_pairs, full, rtol=1e-2, atol=1e-2):
            full = full.sigmoid()  # predict may return probabilities, full sort their logits.
        return {
            **found,
            "difference": (by_pairs - full).abs().max().item(),
            "largest": by_pairs.abs().max().item(),
        }


def cmbf_from_features(network: Any, pairs: Any) -> Any:
    """Probabilities of pairs by CMBF without the tables of items and users that its ``predict`` keeps.

    The image tower and all first projections are computed for every pair, in the same chunks; a user's tokens, once per
    call.
    """
    import torch

    from recbole_mm.nn.attention.coattention import Tokens

    size, rows = network._chunk(network.network), []
    for user, item in zip(pairs["user_id"].split(size), pairs["item_id"].split(size)):
        distinct, place = torch.unique(user, return_inverse=True)
        users, items = network.user_tokens(distinct)[0].rows(place), network.item_tokens(item)
        text = [torch.cat(parts, dim=1) for parts in zip(users, items)]
        image = network.network.image_tower(network.image_tokens(item))
        rows.append(network._score(network.network, Tokens(*text), image, item))
    return torch.cat(rows).sigmoid()


def write_catalogue(folder: Path, users: int, items: int) -> None:
    """Write ``folder/catalogue``: synthetic pairs of a large catalogue, random features and side fields."""
    target = folder / "catalogue"
    target.mkdir(parents=True)
    user, item = synthetic_pairs(users, items, 3 * items)
    generator = np.random.default_rng(1)
    known, held_out = user * items + item, []
    for _ in range(2):
        choice = generator.integers(0, items, users)
        while np.isin(clash := np.arange(users) * items + choice, known).any():
            again = np.isin(clash, known)
            choice[again] = generator.integers(0, items, int(again.sum()))
        known = np.concatenate([known, np.arange(users) * items + choice])
        held_out.append((np.arange(users), choice))
    for name, (u, i) in zip(("train", "valid", "test"), ((user, item), *held_out)):
        rows = "".join(f"u{a}\ti{b}\n" for a, b in zip(u.tolist(), i.tolist()))
        (target / f"catalogue.{name}.inter").write_text("user_id:token\titem_id:token\n" + rows, encoding="utf-8")
    for entity, n, prefix in (("user", users, "u"), ("item", items, "i")):
        rows = "".join(f"{prefix}{k}\tg{generator.integers(12)}\tc{generator.integers(40)}\n" for k in range(n))
        header = f"{entity}_id:token\tgroup_{entity}:token\tclass_{entity}:token\n"
        (target / f"catalogue.{entity}").write_text(header + rows, encoding="utf-8")
    tokens = np.array([f"i{k}" for k in range(items)])
    for modality, width in (("image", 512), ("text", 384)):
        feature = generator.standard_normal((items, width), dtype=np.float32).astype(np.float16)
        np.savez(target / f"catalogue.item.{modality}.npz", id=tokens, feature=feature)


if __name__ == "__main__":
    sys.exit(main())
