"""What each model can do: what its class states, and what is derived from its class.

Nothing but the standard library is imported at the top, and :func:`list_models` reads source files, so that a list of
all models with their tags needs neither torch nor an import of every model.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["ModelEntry", "Tags", "list_models", "tags_of"]

_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Tags:
    """What a model can do with its default options.

    A model of ours states ``ranks_new_items`` (and ``ranks_new_items_with``, the option that changes a no), ``uses``,
    ``new_users``, ``min_modalities``, ``accepts_patches`` and ``has_contrastive_term`` as attributes of its class
    (defaults in `recbole_mm.model.base`); the rest follows from the class and its trainer. So does everything about
    RecBole's models and those of a user that state nothing.

    Attributes:
        ranks_new_items: Whether the score of an item without any training interaction depends on what is known of it:
            its feature files, its columns in ``.item``, its links in a knowledge graph.
        new_users: Whether a user without a training row is known by the interactions that an evaluation hands in (the
            history, the support set), as opposed to a vector that nothing has trained.
        sequential: Whether it reads histories in the order of time.
        loss: What a row of training is: ``pairwise`` (a positive and a negative item), ``pointwise`` (an item and a
            label), ``listwise``; ``None`` where the option ``loss_type`` decides, or nothing is trained by gradients.
        uses: What it reads besides interactions, of ``item``, ``user``, ``review`` (feature files; for RecBole's
            models columns of ``.item`` and ``.user``) and ``knowledge`` (a graph of links).
        min_modalities: Fewest item modalities that it works with; 0 for models that read no feature files.
        patches: Whether it reads several vectors per item; otherwise they are averaged.
        stages: Names of the stages of its training; empty for a single one.
        contrastive: Whether ``contrastive_weight`` weighs a term of its own.
        new_items_option: The option with which it ranks new items where it does not by default.

    Example:
        >>> import recbole_mm
        >>> tags = recbole_mm.tags_of("MMGCN")
        >>> tags.ranks_new_items, tags.loss, tags.uses
        (True, 'pairwise', ('item',))
    """

    ranks_new_items: bool
    new_users: bool
    sequential: bool
    loss: str | None
    uses: tuple[str, ...]
    min_modalities: int
    patches: bool
    stages: tuple[str, ...]
    contrastive: bool
    new_items_option: str = ""

    def why_no_new_items(self, name: str) -> str | None:
        """Why the model ``name`` with these tags cannot rank new items; ``None`` if it can.

        Example:
            >>> tags_of("BPR").why_no_new_items("BPR")
            'BPR cannot rank new items: it has no features'
        """
        if self.ranks_new_items:
            return None
        reason = (
            "its features never reach the score of an item, only its ID does" if self.uses else "it has no features"
        )
        unless = f", unless {self.new_items_option} is set" if self.new_items_option else ""
        return f"{name} cannot rank new items: {reason}{unless}"

    def why_no_new_users(self, name: str) -> str | None:
        """Why the model ``name`` with these tags does not know new users; ``None`` if it does.

        Example:
            >>> tags_of("LightGCN").why_no_new_users("LightGCN")
            'LightGCN does not know new users: it learns a vector of each user in training'
        """
        if self.new_users:
            return None
        return f"{name} does not know new users: it learns a vector of each user in training"


class ModelEntry(NamedTuple):
    """A line of the list of models.

    Attributes:
        name: Name of the model.
        family: ``general``, ``sequential``, ``context aware``, ``knowledge aware`` or ``exlib`` (gradient boosting).
        ours: Whether it is a model of this package.
        tags: What it can do.
    """

    name: str
    family: str
    ours: bool
    tags: Tags


#: What is known of RecBole's models that their type does not say. Of the sequential ones with features only DIN, DIEN
#: and KSR look at those of the item that they score; the others look at those of the history.
_RECBOLE: dict[str, dict[str, Any]] = {
    "DIN": {"uses": ("item",), "ranks_new_items": True},
    "DIEN": {"uses": ("item", "user"), "ranks_new_items": True},
    "KSR": {"uses": ("knowledge",), "ranks_new_items": True},
    "GRU4RecKG": {"uses": ("knowledge",)},
    "GRU4RecF": {"uses": ("item",)},
    "SASRecF": {"uses": ("item",)},
    "FDSA": {"uses": ("item",)},
    "S3Rec": {"uses": ("item",), "stages": ("pretrain", "finetune")},
}
_BY_TYPE: dict[str, dict[str, Any]] = {
    "CONTEXT": {"uses": ("item", "user"), "ranks_new_items": True},
    "DECISIONTREE": {"uses": ("item", "user"), "ranks_new_items": True},
    "KNOWLEDGE": {"uses": ("knowledge",), "ranks_new_items": True},
    "SEQUENTIAL": {"new_users": True},
}
_FAMILIES = {
    "GENERAL": "general",
    "TRADITIONAL": "general",
    "SEQUENTIAL": "sequential",
    "CONTEXT": "context aware",
    "KNOWLEDGE": "knowledge aware",
    "DECISIONTREE": "exlib",
}


def tags_of(model: str | type) -> Tags:
    """Tags of a model of ours, of RecBole's or of a user's own.

    Args:
        model: Its name or its class.

    Raises:
        ValueError: No model has this name.

    Example:
        >>> import recbole_mm
        >>> recbole_mm.tags_of("MML").stages
        ('meta', 'generator', 'fusion')
    """
    from recbole_mm.host.names import check_model_name, recbole_folder, registered

    if isinstance(model, str):
        check_model_name(model)
        known = _recbole_entries(recbole_folder()).get(model)
        if known is not None:
            return known.tags
        if model not in registered:  # a file that a user has put into RecBole's own folders, as its manual says
            from recbole.utils import get_model

        model = registered[model] if model in registered else get_model(model)
    cls: type = model  # type: ignore[assignment]
    trainer = getattr(sys.modules.get("recbole.trainer"), f"{cls.__name__}Trainer", None)
    names = [base.__name__ for base in cls.__mro__]
    return _make(names, lambda key: getattr(cls, key, None), getattr(trainer, "stage_names", ()))


def list_models(ours: Iterable[str], recbole: Path) -> list[ModelEntry]:
    """All models of this package and of RecBole, from their source files.

    Args:
        ours: Names of the models of this package.
        recbole: Folder of the RecBole package.

    Returns:
        Our models by name, then RecBole's by family and name.
    """
    classes = _Classes([*_files(recbole, "model/abstract_recommender.py"), *_files(_PACKAGE, "model/**/*.py")])
    trainers = _Classes(_files(_PACKAGE, "trainer/*.py"))
    entries = []
    for name in sorted(ours):
        read, of_trainer = classes.reader(name), trainers.reader(f"{name}Trainer")
        entries.append(
            ModelEntry(name, _FAMILIES[read("type")], True, _make([name], read, of_trainer("stage_names") or ()))
        )
    theirs = _recbole_entries(recbole).values()
    return [*entries, *sorted(theirs, key=lambda entry: (entry.family, entry.name.lower()))]


@functools.cache
def _recbole_entries(recbole: Path) -> Mapping[str, ModelEntry]:
    """RecBole's models by name. A family is a folder; its ``__init__.py`` imports the models."""
    classes = _Classes(
        [*_files(recbole, "model/abstract_recommender.py"), *_files(recbole, "model/*_recommender/*.py")]
    )
    found = {}
    for file in _files(recbole, "model/*_recommender/__init__.py"):
        family = file.parent.name.replace("_recommender", "").replace("_", " ")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            for alias in node.names if isinstance(node, ast.ImportFrom) else ():
                name = alias.name
                found[name] = ModelEntry(name, family, False, _make([name], classes.reader(name), ()))
    return found


def _make(names: Iterable[str], read: Callable[[str], Any], stages: Iterable[str]) -> Tags:
    """Tags of a class, given its name and its bases'; what no attribute of it states follows from its type."""
    kind, loss = (getattr(value, "name", value) for value in (read("type"), read("input_type")))
    known = {**_BY_TYPE.get(kind, {}), **next((_RECBOLE[name] for name in names if name in _RECBOLE), {})}

    def stated(key: str, default: Any) -> Any:
        value = read(key)
        return known.get(key, default) if value is None else value

    return Tags(
        ranks_new_items=stated("ranks_new_items", False),
        new_users=stated("new_users", False),
        sequential=kind == "SEQUENTIAL",
        loss=loss.lower() if loss and kind != "TRADITIONAL" else None,
        uses=tuple(stated("uses", ())),
        min_modalities=stated("min_modalities", 0),
        patches=stated("accepts_patches", False),
        stages=tuple(stages) or known.get("stages", ()),
        contrastive=stated("has_contrastive_term", False),
        new_items_option=stated("ranks_new_items_with", ""),
    )


def _files(folder: Path, pattern: str) -> list[Path]:
    return sorted(folder.glob(pattern))


class _Classes:
    """The classes of some source files, and what their bodies assign: literals, and members such as ``InputType.X``."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._found: dict[str, tuple[list[str], dict[str, Any]]] = {}
        for file in files:
            for node in ast.parse(file.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef):
                    bases = [getattr(base, "id", getattr(base, "attr", "")) for base in node.bases]
                    self._found[node.name] = bases, dict(_assigned(node))

    def reader(self, name: str) -> Callable[[str], Any]:
        """Looks up attributes of a class in it and its bases; ``None`` where nobody assigns them."""

        def read(key: str, name: str = name) -> Any:
            bases, attributes = self._found.get(name, ([], {}))
            if key in attributes:
                return attributes[key]
            return next((value for base in bases if (value := read(key, base)) is not None), None)

        return read


def _assigned(node: ast.ClassDef) -> Iterable[tuple[str, Any]]:
    for statement in node.body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        value = getattr(statement, "value", None)
        for target in targets:
            if not isinstance(target, ast.Name) or not isinstance(value, ast.expr):
                continue
            if isinstance(value, ast.Attribute):
                yield target.id, value.attr
                continue
            try:
                yield target.id, ast.literal_eval(value)
            except ValueError:  # computed when the class is made: no tag is
                continue
