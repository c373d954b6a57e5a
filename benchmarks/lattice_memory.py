"""Memory and time of LATTICE's item graphs at 63,000 items: ``python benchmarks/lattice_memory.py``.

One epoch's first step (nearest neighbours, learned graph with gradients, merged graph) and one more, on random
features, in one process with one thread. The figure is the growth of the peak of resident memory over what the feature
tables, parameters and libraries hold. Linux only.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.rows import append
from recbole_mm.model.lattice import LATTICE
from recbole_mm.nn.graph.item_graph import ItemGraph, content_graph


def peak() -> float:
    """Peak of resident memory so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=63_000)
    parser.add_argument("--dims", type=int, nargs="+", default=[128, 384])
    parser.add_argument("--rows", type=Path, help="append the figures to this file, with commit and machine")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    n, k = options.items, 10
    model = LATTICE.__new__(LATTICE)  # its graphs alone, without a data set
    nn.Module.__init__(model)
    features = [torch.randn(n, dim) for dim in options.dims]
    model.knn_k, model.skip_weight, model.n_item_layers, model.every_step = k, 0.9, 1, False
    model.known_items = model.neighbours = model.kept_graph = None
    model.observed = torch.ones(n, len(features), dtype=torch.bool)
    model.weight = torch.ones(len(features), dtype=torch.float64)
    model.item_embedding = nn.Parameter(torch.randn(n, 64))
    model.modality_logits = nn.Parameter(torch.full((len(features),), 0.5))
    project = nn.ModuleList(nn.Linear(dim, 64) for dim in options.dims)
    model._projected = lambda: [layer(feature) for layer, feature in zip(project, features)]
    before, start = peak(), time.perf_counter()
    names = [f"m{index}" for index in range(len(features))]
    graphs = [ItemGraph(*content_graph(f, model.observed[:, 0], k)) for f in features]
    model.item_graphs = nn.ModuleDict(dict(zip(names, graphs)))
    print(f"{n} items, {len(features)} modalities, at the start {before:.0f} MiB", flush=True)
    found = {"constant_graphs_mib": peak() - before, "constant_graphs_seconds": time.perf_counter() - start}
    print(f"constant graphs: +{peak() - before:.0f} MiB, {time.perf_counter() - start:.0f} s", flush=True)
    for step in ("first step", "another step"):
        start = time.perf_counter()
        model._training_content(step == "first step").square().sum().backward()
        found[f"{step.replace(' ', '_')}_seconds"] = time.perf_counter() - start
        print(f"{step}: +{peak() - before:.0f} MiB in all, {time.perf_counter() - start:.1f} s", flush=True)
    found["graphs_mib"] = peak() - before
    if options.rows:
        dataset = f"random, {n:,} items"
        append(options.rows, {"model": "LATTICE", "dataset": dataset, "metrics": found}, {"widths": options.dims})


if __name__ == "__main__":
    main()
