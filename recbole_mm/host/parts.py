"""The trainer, data set and loaders of a registered model that nobody gave it: those of the model it derives from.

RecBole finds all three by the name of a model, so that a subclass would silently be trained in another way: without the
stages of ours, the epochs of ``NCL`` or the rows of ``MultiVAE``.
"""

from __future__ import annotations

from importlib import import_module

import recbole.data.utils as recbole_data
from recbole.utils import ModelType

from recbole_mm.host.editing import edit
from recbole_mm.host.names import known_bases, recbole_name

__all__ = ["dataset_for", "install", "trainer_for"]


def install() -> None:
    """Let RecBole choose loaders by the model from which a registered one derives; calling it again does nothing."""
    vars(recbole_data)["_recbole_mm_name"] = recbole_name
    name, table = 'config["model"]', "register_table"
    changes = {f"{name} in {table}": f"_recbole_mm_name({name}) in {table}"}
    edit(recbole_data.get_dataloader, {**changes, f"{table}[{name}]": f"{table}[_recbole_mm_name({name})]"})


def trainer_for(model: type) -> type | None:
    """The trainer of the nearest model that a class derives from; ``None`` where RecBole chooses by model type."""
    return _inherited(model, "recbole.trainer", "Trainer")


def dataset_for(model: type) -> type | None:
    """The data set of the nearest model that a class derives from, or a multimodal one; ``None`` as above."""
    from recbole_mm.data import dataset
    from recbole_mm.model.base import MultimodalModelMixin

    found = _inherited(model, "recbole.data.dataset", "Dataset")
    if found is not None or not issubclass(model, MultimodalModelMixin):
        return found
    sequential = model.type == ModelType.SEQUENTIAL  # type: ignore[attr-defined] # every model has one
    return dataset.MultimodalSequentialDataset if sequential else dataset.MultimodalDataset


def _inherited(model: type, place: str, kind: str) -> type | None:
    nearest = next(iter(known_bases(model)), None)
    return None if nearest is None else getattr(import_module(place), f"{nearest.__name__}{kind}", None)
