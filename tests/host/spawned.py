"""A job for spawned processes that has to train a model by name. It must not import recbole_mm: that is the point."""

from __future__ import annotations

from typing import Any

import recbole.trainer.trainer as trainer
import torch
from recbole.config import Config
from torch.nn.parallel import DistributedDataParallel


def train(config_dict: dict[str, Any]) -> dict[str, Any]:
    """Train as one of several processes, on the CPU: RecBole's own set-up has NCCL and CUDA devices written into it."""
    from recbole.quick_start import run_recbole

    def init_device(config: Any) -> None:
        options = config.final_config_dict
        torch.distributed.init_process_group(
            backend="gloo",
            rank=options["local_rank"],
            world_size=options["world_size"],
            init_method=f"tcp://{options['ip']}:{options['port']}",
        )
        options.update(device=torch.device("cpu"), single_spec=False)

    Config._init_device = init_device
    trainer.DistributedDataParallel = lambda model, device_ids: DistributedDataParallel(model)
    return run_recbole(config_dict.pop("model"), config_dict.pop("dataset"), config_dict=config_dict, saved=False)
