"""What one child process of ``speed.py`` measures; prints one JSON object as its last line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.floor import ranking_floor, step_floor
from benchmarks.measure import Clock, PeakMemory, best_seconds, graph_region
from benchmarks.workload import ITEMS, USERS, recbole_options, synthetic_pairs


def operator_job(name: str, implementation: str, width: int, repeats: int, device: str) -> dict[str, float]:
    """Forward and backward of one operator on the synthetic graph, both directions."""
    from benchmarks.pyg_reference.operators import operator

    place, generator = torch.device(device), torch.Generator().manual_seed(0)
    users, items = (torch.from_numpy(index).to(place) for index in synthetic_pairs())
    function = operator(name, implementation, users, items, USERS, ITEMS)
    shapes = [(USERS, width), (ITEMS, width)]
    inputs = [(torch.randn(shape, generator=generator) / width**0.25).to(place) for shape in shapes]
    inputs = [*inputs, torch.rand(len(users), generator=generator).to(place)]
    inputs = [tensor.requires_grad_(index < 2 or name == "learned") for index, tensor in enumerate(inputs)]
    gradients = [torch.randn(shape, generator=generator).to(place) for shape in shapes]
    outputs: tuple[torch.Tensor, ...] = ()

    def step() -> None:
        nonlocal outputs
        outputs = ()
        for tensor in inputs:
            tensor.grad = None
        outputs = function(*inputs)
        torch.autograd.backward(outputs, gradients)

    step()
    check = [*(output.detach() for output in outputs), *(tensor.grad for tensor in inputs if tensor.grad is not None)]
    norms = [tensor.double().norm().item() for tensor in check]
    del check
    outputs = ()
    memory = PeakMemory(place)
    seconds = best_seconds(step, Clock(place), repeats)
    return {"seconds": seconds, "peak_mb": memory.growth(), "check": norms}


def _load(model: str, shape: str, folder: str, device: str, overrides: dict[str, Any]) -> tuple[Any, ...]:
    import recbole_mm  # noqa: F401, I001  (first: it repairs what RecBole needs repaired)
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, init_seed

    options = {**recbole_options(shape, Path(folder), device), **overrides}
    config = Config(model=model, dataset=shape, config_dict=options)
    init_seed(config["seed"], reproducibility=True)
    loaders = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], reproducibility=True)
    network = get_model(model)(config, loaders[0]._dataset).to(config["device"])
    return config, loaders, network


def training_job(
    model: str, implementation: str, shape: str, steps: int, folder: str, device: str, overrides: dict[str, Any]
) -> dict[str, Any]:
    """Some training steps with Adam, split into loader, graph, optimiser and the rest; and one full forward pass."""
    from benchmarks.pyg_reference import reference
    from recbole_mm.trainer.precision import amp_dtype

    config, (train, _, _), network = _load(model, shape, folder, device, overrides)
    if implementation == "pyg":
        network = reference(model)(network).to(config["device"])
    network.train()
    clock, memory = Clock(torch.device(device)), PeakMemory(torch.device(device))
    parameters = [p for p in network.parameters() if p.requires_grad]
    # As a training of ours does on a CPU (`optimizer_fused`), and the reference alike.
    optimizer = torch.optim.Adam(parameters, lr=config["learning_rate"], fused=True if device == "cpu" else None)
    parts: list[dict[str, float]] = []
    losses: list[float] = []
    batches = iter(train)
    for _ in range(steps + 1):  # the first one warms up
        times = {"start": clock()}
        batch = next(batches).to(config["device"])
        times["loader"] = clock()
        with graph_region(clock, network) as region:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, amp_dtype(config), config["enable_amp"]):
                loss = network.calculate_loss(batch)
            total = sum(loss) if isinstance(loss, tuple) else loss
            total.backward()
        times["gradients"] = clock()
        optimizer.step()
        times["optimizer"] = clock()
        losses.append(total.item())
        parts.append(
            {
                "loader": times["loader"] - times["start"],
                "graph": region.seconds,
                "dense": times["gradients"] - times["loader"] - region.seconds,
                "optimizer": times["optimizer"] - times["gradients"],
            }
        )
    best = min(parts[1:], key=lambda part: sum(part.values()))  # what else the machine does can only add to a step
    peak = memory.growth()
    floor = step_floor(network, batch, clock)
    network.eval()
    with torch.no_grad():
        forward = best_seconds(network.forward, clock, 3)
    step = sum(best.values())
    return {
        **{f"{name}_seconds": seconds for name, seconds in best.items()},
        "step_seconds": step,
        "outside_share": (best["loader"] + best["optimizer"]) / step,
        **floor,
        "times_floor": step / floor["floor_seconds"],
        "steps_per_epoch": len(train),
        "epoch_seconds": step * len(train),
        "forward_seconds": forward,
        "peak_mb": peak,
        "model_mb": sum(t.numel() * t.element_size() for t in (*parameters, *network.buffers())) / 2**20,
        "parameters": sum(p.numel() for p in parameters),
        "check": losses[:3],
    }


def evaluation_job(
    model: str, eval_batch_size: Any, shape: str, folder: str, device: str, overrides: dict[str, Any]
) -> dict[str, Any]:
    """RecBole's own full-ranking evaluation of the validation split."""
    from recbole.utils import get_trainer

    overrides = {**overrides, "eval_batch_size": eval_batch_size}
    config, (_, valid, _), network = _load(model, shape, folder, device, overrides)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, network)
    place = torch.device(device)
    clock, memory = Clock(place), PeakMemory(place)
    start = clock()
    result = trainer.evaluate(valid, load_best_model=False, show_progress=False)
    seconds, peak = clock() - start, memory.growth()
    factors = getattr(network, "score_factors", None)
    floor = None
    if factors is not None and device == "cpu" and network.scores_by_vectors():
        with torch.no_grad():
            users, items = network.representations()
        floor = ranking_floor(users[valid.uid_list], items, max(config["topk"]), clock)
    return {
        "seconds": seconds,
        "floor_seconds": floor,
        "eval_batch_size": config["eval_batch_size"],
        "batches": len(valid),
        "peak_mb": peak,
        "check": [float(value) for value in result.values()],
    }


JOBS = {"operator": operator_job, "training": training_job, "evaluation": evaluation_job}

if __name__ == "__main__":
    job = json.loads(sys.argv[1])
    # RecBole's Config reads --key=value from the command line.
    sys.argv = sys.argv[:1]
    torch.set_num_threads(job.pop("threads"))
    print(json.dumps(JOBS[job.pop("kind")](**job)))
