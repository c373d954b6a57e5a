"""Models of RecBole that stop on small data, run code of an option or a file, or count or keep what they should not."""

from __future__ import annotations

import inspect
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.model.abstract_recommender import AbstractRecommender
from recbole.model.context_aware_recommender import kd_dagfm
from recbole.model.general_recommender import dgcf, ldiffrec, pop

from recbole_mm.config.names import suggest
from recbole_mm.host.editing import edit, unexpected
from recbole_mm.host.wrapping import wrap

__all__ = ["forget_evaluation", "install"]


def install() -> None:
    """Make the changes; calling it again does nothing."""
    if isinstance(vars(ldiffrec)["np"], _Numpy):
        return
    if vars(ldiffrec)["np"] is not np or "np.load(emb_path, allow_pickle=True)" not in inspect.getsource(ldiffrec):
        raise unexpected("recbole.model.general_recommender.ldiffrec", "np.load(emb_path, allow_pickle=True)")
    vars(ldiffrec)["np"] = _Numpy("numpy")
    vars(kd_dagfm)["eval"] = _teacher  # found before the builtin of that name
    # DGCF draws as many users as items, however few of either there are.
    sampled = {f"{n})), cor_batch_size)": f"{n})), min(cor_batch_size, {n}))" for n in ("n_users", "n_items")}
    edit(dgcf.sample_cor_samples, sampled)
    # Pop counts an item once a batch, however often it is there, and drawn negatives as well as what users chose.
    vars(pop)["recbole_mm"] = _count
    wrap(pop.Pop, "__init__", _knowing_labels)
    edit(
        pop.Pop.calculate_loss, {"self.item_cnt[item, :] = self.item_cnt[item, :] + 1": "recbole_mm(self, interaction)"}
    )
    # KGIN and MCCLK do not name what they keep among their other parameters, so that the best epoch was tested with
    # the representations of the last validation.
    wrap(AbstractRecommender, "load_other_parameter", _of_these_parameters)


def forget_evaluation(model: Any) -> None:
    """Let a model of RecBole compute its representations anew, because it has got other parameters.

    The graph models keep those of an evaluation (``restore_user_e``), and DMF its items, until the next training step.

    Args:
        model: Any model.
    """
    for name, value in list(vars(model).items()):
        if (name.startswith("restore_") or name == "i_embedding") and isinstance(value, torch.Tensor):
            setattr(model, name, None)


def _of_these_parameters(original: Any, self: Any, para: Any) -> None:
    """Around ``load_other_parameter``, which every reader of a checkpoint calls after ``load_state_dict``."""
    forget_evaluation(self)
    original(self, para)


def _knowing_labels(original: Any, self: Any, config: Any, dataset: Any) -> None:
    original(self, config, dataset)
    self.LABEL = config["LABEL_FIELD"]


def _count(model: Any, interaction: Any) -> None:
    """Add the interactions of a batch to the number of each item, a label of 0 not counting."""
    item = interaction[model.ITEM_ID]
    chosen = interaction[model.LABEL] > 0 if model.LABEL in interaction else torch.ones_like(item)
    model.item_cnt.index_add_(0, item, chosen.to(model.item_cnt.dtype).unsqueeze(1))


def _teacher(name: str) -> type[Any]:
    """The teacher of KD_DAGFM by its name, which RecBole evaluates as Python.

    Raises:
        ValueError: There is none of that name.
    """
    local = {
        key: value for key, value in vars(kd_dagfm).items() if getattr(value, "__module__", "") == kd_dagfm.__name__
    }
    known = sorted(set(local) - {"KD_DAGFM", "DAGFM"})
    if name not in known:
        raise ValueError(f"teacher: expected one of {', '.join(known)}, got {name!r}.{suggest(name, known)}")
    return local[name]


class _Numpy(types.ModuleType):
    """What the module of LDiffRec has as ``np``: its constructor cannot be edited, since it calls ``super``."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def load(file: str, allow_pickle: bool = False) -> np.ndarray:
        """The item embeddings by which LDiffRec sorts items into categories; RecBole would unpickle the file."""
        return _item_embeddings(file)


def _item_embeddings(file: str) -> np.ndarray:
    if not Path(file).is_file():
        raise FileNotFoundError(
            f"LDiffRec with n_cate above 1 sorts the items by their embeddings, and there is no file {file}. Write it "
            "with numpy.save, a row for each item in the order of the internal ids, or set n_cate: 1."
        )
    try:
        matrix = np.load(file, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(
            f"{file} cannot be read as a plain array ({error}). A pickle in it is not read, since it can run code: "
            "write numbers with numpy.save."
        ) from error
    if not isinstance(matrix, np.ndarray) or matrix.dtype.kind not in "iuf" or matrix.ndim != 2:
        found = f"{matrix.dtype} {matrix.shape}" if isinstance(matrix, np.ndarray) else "several arrays"
        raise ValueError(f"{file}: expected numbers of shape (items, width), got {found}.")
    return matrix
