from __future__ import annotations

from pathlib import Path

import pytest
from recbole.utils import get_model

from recbole_mm import model as package
from recbole_mm.host.discovery import register_package_models
from recbole_mm.host.registry import registered_models

MODEL = '''
from recbole_mm.model.base import MultimodalRecommender

__all__ = ["{name}", "helper"]


class {name}(MultimodalRecommender):
    """A model that nobody trains."""


class {name}Part(MultimodalRecommender):
    """Not in ``__all__``, so no model."""


def helper():
    pass
'''


def test_a_file_and_a_folder_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean_registry: None) -> None:
    before = registered_models()
    (tmp_path / "plantedfile.py").write_text(MODEL.format(name="PlantedFile"))
    folder = tmp_path / "plantedfolder"
    folder.mkdir()
    (folder / "plantedfolder.py").write_text(MODEL.format(name="PlantedFolder"))
    (folder / "__init__.py").write_text(
        "from recbole_mm.model.plantedfolder.plantedfolder import PlantedFolder\n\n__all__ = ['PlantedFolder']\n"
    )
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    register_package_models()
    assert set(registered_models()) - set(before) == {"PlantedFile", "PlantedFolder"}
    assert get_model("PlantedFile").__module__ == "recbole_mm.model.plantedfile"
    assert get_model("PlantedFolder").__module__ == "recbole_mm.model.plantedfolder.plantedfolder"
