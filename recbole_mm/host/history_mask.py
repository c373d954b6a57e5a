"""What the test leaves out of the lists besides training items: validation items, or by ``mask_validation`` not."""

from __future__ import annotations

from typing import Any

import numpy as np
from recbole.sampler import Sampler

from recbole_mm.host.wrapping import wrap

__all__ = ["install"]


def install() -> None:
    """Let RecBole's samplers, which tell its loaders what users have had, follow the option; again it does nothing."""

    def set_phase(original: Any, self: Any, phase: str) -> Any:
        sampler = original(self, phase)
        if phase == "test" and self.datasets[0].config["mask_validation"] is False:
            sampler.used_ids = _without_validation(self)
        return sampler

    wrap(Sampler, "set_phase", set_phase)


def _without_validation(sampler: Any) -> np.ndarray:
    """Items of each user's training and test part; a full ranking masks those of them that are not to be found."""
    used = np.array([set() for _ in range(sampler.user_num)])
    for part in (sampler.datasets[0], sampler.datasets[-1]):
        rows = part.inter_feat
        for user, item in zip(rows[sampler.uid_field].tolist(), rows[sampler.iid_field].tolist()):
            used[user].add(item)
    return used
