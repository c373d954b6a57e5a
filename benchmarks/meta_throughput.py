"""Meta-training throughput of MML: all tasks at once against loops over the users.

    python benchmarks/meta_throughput.py [--users 256] [--looped 8] [--device cpu] [--key=value ...]

One meta-batch of ml-100k (or --dataset) with the default options of ``properties/model/MML.yaml``: inner loops of every
learner, query losses, gradients. Three ways to the same step are timed:

* vectorised: what MMLTrainer does, chunked within ``task_memory_mb``;
* loop over users: the same windows, one user after the other, plain autograd;
* loop over users, row by row: RecBole's rows as they are, one history per instance, as the authors' code trains.

The loops run on the first ``--looped`` users and are scaled up. On the CPU, seconds are CPU seconds of one thread.
"""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path
from typing import Any

import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import init_seed
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import Clock, PeakMemory
from benchmarks.rows import append, read_command_line
from recbole_mm import MML
from recbole_mm.trainer import MMLTrainer


def main() -> None:
    """Print tasks per second and peak memory of each way."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--users", type=int, default=256)
    parser.add_argument("--looped", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=Path, help="append the figures to this file, with commit and machine")
    arguments, _ = read_command_line(parser)
    torch.set_num_threads(1)
    device = torch.device(arguments.device)
    trainer = prepare(arguments.dataset, device)
    users = trainer.task_users[: arguments.users]
    clock = Clock(device)
    windows, instances = trainer.support.count[users.numpy()], n_instances(trainer, users)
    print(f"{len(users)} users, {windows.mean():.1f} windows and {instances / len(users):.1f} support instances each,")
    print(f"{len(trainer.model.learners)} learners, inner steps {trainer.model.settings.inner_steps}, device {device}")
    speed: dict[str, float] = {}
    for name, step, number in (  # the least memory first: what the process once had, it keeps
        ("loop over users", loop_windows, arguments.looped),
        ("loop row by row", loop_rows, arguments.looped),
        ("vectorised", vectorised, len(users)),
    ):
        few = users[torch.linspace(0, len(users) - 1, number).long()]
        memory = PeakMemory(device)
        step(trainer, few[:1])  # warm up
        start = clock()
        step(trainer, few)
        speed[name] = number / (clock() - start)
        print(f"{name:15s} {speed[name]:8.2f} tasks/s, peak memory +{memory.growth():.0f} MB")
        if arguments.rows:
            metrics = {"tasks_a_second": speed[name], "peak_mib": memory.growth()}
            row = {"model": "MML", "variant": name, "dataset": arguments.dataset, "metrics": metrics}
            append(arguments.rows, row, {"users": number}, arguments.device)
    for name in ("loop over users", "loop row by row"):
        print(f"vectorised is {speed['vectorised'] / speed[name]:.1f} times as fast as the {name}")


def prepare(dataset: str, device: torch.device) -> Any:
    """A trainer with its tasks."""
    options = {"state": "ERROR", "show_progress": False, "use_gpu": device.type == "cuda"}
    config = Config(model="MML", dataset=dataset, config_dict=options)
    init_seed(config["seed"], config["reproducibility"])
    train_data, _, _ = data_preparation(config, create_dataset(config))
    trainer = MMLTrainer(config, MML(config, train_data.dataset).to(device))
    trainer.stages(train_data, None)
    trainer.model.train()
    trainer.rows = trainer.model.rows(train_data.dataset.inter_feat)
    return trainer


def n_instances(trainer: Any, users: torch.Tensor) -> int:
    """Support instances of some users."""
    return int((trainer.support.batch(users, trainer.pool).target > 0).sum())


def vectorised(trainer: Any, users: torch.Tensor) -> None:
    """One meta-batch as the trainer computes it."""
    trainer.model.zero_grad()
    for chunk in trainer.model.task_chunks(trainer.support, users):
        losses = trainer.model.meta_losses(
            trainer.support.batch(chunk, trainer.pool), trainer.query.batch(chunk, trainer.pool)
        )
        (sum(losses) * len(chunk) / len(users)).backward()


def loop_windows(trainer: Any, users: torch.Tensor) -> None:
    """User by user on the user's windows."""
    model = trainer.model
    for user in users:
        support = model.move(trainer.support.batch(user[None], trainer.pool))
        query = model.move(trainer.query.batch(user[None], trainer.pool))
        for name, learner in model.learners.items():
            feature = model.learner_features[name]
            adapt_and_ask(
                learner,
                lambda some: one_task(some, support, feature),  # noqa: B023  called before the loop goes on
                lambda some: one_task(some, query, feature),  # noqa: B023  as above
                model.settings,
            )


def one_task(learner: Any, batch: Any, feature: torch.Tensor) -> torch.Tensor:
    """The loss of the only task of a batch."""
    own, shared = learner.prepare(batch, feature)
    return learner.local_loss(*(part[0] for part in own), *shared)


def loop_rows(trainer: Any, users: torch.Tensor) -> None:
    """User by user on RecBole's rows: every instance with its own history."""
    model, rows = trainer.model, trainer.rows
    device = model.finished_stages.device
    for user in users.tolist():
        of_user = [
            torch.from_numpy(part[rows.user == user]).to(device) for part in (rows.history, rows.size, rows.target)
        ]
        limit = model.settings.max_support or len(of_user[0])
        parts = [[part[-1 - limit : -1] for part in of_user], [part[-1:] for part in of_user]]
        for name, learner in model.learners.items():
            feature = model.learner_features[name]

            def loss(some: Any, part: list, feature: torch.Tensor = feature) -> torch.Tensor:
                history, size, target = part
                negative = torch.randint(1, model.n_items, target.shape, device=device)
                state = some.states(history, feature)[torch.arange(len(size)), size - 1]
                vectors = some.embed(torch.stack([negative, target]), feature)
                return F.softplus((state * (vectors[0] - vectors[1])).sum(1)).mean()

            adapt_and_ask(learner, lambda s: loss(s, parts[0]), lambda s: loss(s, parts[1]), model.settings)  # noqa: B023  as above


def adapt_and_ask(learner: Any, support: Any, query: Any, settings: Any) -> None:
    """Plain gradient descent on a copy of the learner, then the gradient of the query loss."""
    clone = copy.deepcopy(learner)
    local = [value for name, value in clone.named_parameters() if name.startswith("encoder.")]
    for _ in range(settings.inner_steps):
        slopes = torch.autograd.grad(support(clone), local)
        with torch.no_grad():
            for value, slope in zip(local, slopes):
                value -= settings.inner_learning_rate * slope
    query(clone).backward()


if __name__ == "__main__":
    main()
