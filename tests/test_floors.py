"""The house of the package: each room imports only what lies below, and only the host knows RecBole's inside."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import recbole_mm
from recbole_mm.host.names import recbole_folder

ROOT = Path(recbole_mm.__file__).parent
#: From the top floor down. Rooms of one floor do not know each other.
FLOORS = [
    {"cli"},
    {"comparison"},
    {"report", "search", "serving"},
    {"experiment"},
    {"host"},
    {"trainer"},
    {"model"},
    {"extract"},
    {"data", "slicing"},
    {"config"},
    {"nn"},
    {"folders"},
    {"locks"},
    {"paths", "files", "plain", "alive", "processes"},
]
LEVEL = {room: len(FLOORS) - floor for floor, rooms in enumerate(FLOORS) for room in rooms}
#: What the operations may stand on besides torch and the standard library.
NN_MAY_USE = {"torch", "torch_geometric", "numpy", "scipy", "sklearn", "recbole_mm"} | set(sys.stdlib_module_names)
#: Doors of the house: they belong to no room. ``__init__`` is the public face, whose table of names leads anywhere.
FACE = {"recbole_mm", "recbole_mm.__main__"}


def package_sources() -> dict[str, str]:
    """Source text of every file, by the name of its module."""
    sources = {}
    for file in ROOT.rglob("*.py"):
        parts = file.relative_to(ROOT.parent).with_suffix("").parts
        sources[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file.read_text(encoding="utf-8")
    return sources


def imports(source: str) -> Iterator[tuple[str, str | None]]:
    """Every module that a source imports anywhere, with the name taken from it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute in this package"
            yield from ((node.module, alias.name) for alias in node.names)


def named(source: str) -> Iterator[str]:
    """Modules of the package whose names stand as texts in a source: what is started or imported by name."""
    for node in ast.walk(ast.parse(source)):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and re.fullmatch(r"recbole_mm(\.\w+)+", text):
            yield text


def imported_files(sources: dict[str, str]) -> dict[str, set[str]]:
    """Module to the modules of the package that it imports; a package's ``__init__`` counts where it is named."""
    found = {}
    for module, source in sources.items():
        targets = {f"{name}.{taken}" if f"{name}.{taken}" in sources else name for name, taken in imports(source)}
        found[module] = {target for target in targets if target in sources} - FACE - {module}
    return found


def room(module: str) -> str:
    return module.split(".")[1]


def upward(sources: dict[str, str]) -> list[str]:
    """Imports, and modules named in texts, that do not lead down, or stay in the room."""
    wrong = []
    for module, targets in imported_files(sources).items():
        for target in targets if module not in FACE else ():
            here, there = room(module), room(target)
            if here != there and LEVEL[there] >= LEVEL[here]:
                wrong.append(f"{module} imports {target}")
    for module, source in sources.items():
        for name in named(source) if module not in FACE else ():
            here, there = room(module), room(name)
            if here != there and LEVEL.get(there, 0) >= LEVEL[here]:
                wrong.append(f"{module} names {name}")
    return sorted(wrong)


def circles(sources: dict[str, str]) -> list[set[str]]:
    """Files that reach each other through imports: the strongly connected components of more than one file."""
    graph = imported_files(sources)

    def reach(module: str) -> set[str]:
        seen: set[str] = set()
        waiting = list(graph[module])
        while waiting:
            target = waiting.pop()
            if target not in seen:
                seen.add(target)
                waiting.extend(graph[target])
        return seen

    reached = {module: reach(module) for module in graph}
    rings = {
        frozenset(other for other in targets if module in reached[other])
        for module, targets in reached.items()
        if module in targets
    }
    return [set(ring) for ring in rings]


def foreign_to_nn(sources: dict[str, str]) -> list[str]:
    return sorted(
        f"{module} imports {name}"
        for module, source in sources.items()
        if module not in FACE and room(module) == "nn"
        for name, _ in imports(source)
        if name.split(".")[0] not in NN_MAY_USE
    )


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_names(sources: list[str]) -> set[str]:
    """Private functions, methods and attributes that the sources define."""
    found = set()
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                found.add(node.name)
            elif isinstance(node, (ast.Attribute, ast.Name)) and isinstance(node.ctx, ast.Store):
                found.add(node.attr if isinstance(node, ast.Attribute) else node.id)
    return {name for name in found if private(name)}


def inside_recbole(module: str, source: str, known: set[str]) -> list[str]:
    """Where a source reaches into RecBole.

    That is: a private name imported from RecBole, or read from something imported from there; a public name of RecBole
    that is replaced; and, since the type of an object cannot be read from the text, a private name that RecBole defines
    (``known``), on anything but ``self``, ``cls`` and ``super()``. A subclass of one of
    RecBole's classes may override and call what it inherits, for which a single underscore is meant.
    """
    wrong = []
    tree = ast.parse(source)
    ours: set[str] = set()  # local names that mean something of RecBole
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "recbole":
            ours |= {alias.asname or alias.name for alias in node.names}
            wrong += [f"{module}:{node.lineno} imports {alias.name}" for alias in node.names if private(alias.name)]
        elif isinstance(node, ast.Import):
            ours |= {alias.asname or "recbole" for alias in node.names if alias.name.split(".")[0] == "recbole"}
    # ``Base.method(self, ...)`` is ``super()`` for a base that is not the next one.
    spelt_out = {
        id(node.func)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Name) and node.args[0].id == "self"
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "setattr"):
            name = node.args[1] if len(node.args) > 1 else None
            target, attribute = node.args[0], name.value if isinstance(name, ast.Constant) else ""
            stored = node.func.id == "setattr"
        elif isinstance(node, ast.Attribute):
            target, attribute, stored = node.value, node.attr, isinstance(node.ctx, (ast.Store, ast.Del))
        else:
            continue
        root = target
        while isinstance(root, ast.Attribute):
            root = root.value
        of_recbole = isinstance(root, ast.Name) and root.id in ours
        inherited = isinstance(target, ast.Name) and target.id in ("self", "cls")
        inherited |= isinstance(target, ast.Call) and isinstance(target.func, ast.Name) and target.func.id == "super"
        inherited |= id(node) in spelt_out
        if of_recbole and stored:
            wrong.append(f"{module}:{node.lineno} replaces {ast.unparse(target)}.{attribute}")
        elif private(str(attribute)) and not inherited and (of_recbole or attribute in known):
            wrong.append(f"{module}:{node.lineno} uses {ast.unparse(target)}.{attribute}")
    return wrong


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    return package_sources()


@pytest.fixture(scope="module")
def recbole_private() -> set[str]:
    return private_names([file.read_text(encoding="utf-8") for file in recbole_folder().rglob("*.py")])


def test_every_folder_has_a_floor(sources: dict[str, str]) -> None:
    assert {room(module) for module in sources if module not in FACE} <= set(LEVEL)


def test_imports_lead_down(sources: dict[str, str]) -> None:
    assert upward(sources) == []


def test_no_files_import_each_other(sources: dict[str, str]) -> None:
    assert circles(sources) == []


def test_nn_stands_on_torch_alone(sources: dict[str, str]) -> None:
    assert foreign_to_nn(sources) == []


def test_only_the_host_reaches_into_recbole(sources: dict[str, str], recbole_private: set[str]) -> None:
    found = []
    for module, source in sources.items():
        if room(f"{module}.") != "host":
            found += inside_recbole(module, source, recbole_private)
    assert found == []


def test_a_model_folder_only_hands_its_class_on(sources: dict[str, str]) -> None:
    for init in (ROOT / "model").glob("*/__init__.py"):
        body = ast.parse(init.read_text(encoding="utf-8")).body
        docstring, taken, names = body
        assert isinstance(docstring, ast.Expr) and isinstance(taken, ast.ImportFrom) and isinstance(names, ast.Assign)
        assert taken.module == f"recbole_mm.model.{init.parent.name}.{init.parent.name}"


class TestTheRules:
    """Each rule finds a fault that is planted for it."""

    @pytest.mark.parametrize(
        ("module", "source"),
        [
            ("recbole_mm.data.x", "from recbole_mm.model.base import MultimodalRecommender"),
            ("recbole_mm.search.x", "from recbole_mm.comparison import protocol"),
            ("recbole_mm.report.x", "def f():\n    import recbole_mm.search.search"),
            ("recbole_mm.nn.x", "if TYPE_CHECKING:\n    from recbole_mm.config import known_keys"),
            ("recbole_mm.paths", "from recbole_mm.nn.loss import bpr_loss"),
        ],
    )
    def test_an_import_that_leads_up(self, sources: dict[str, str], module: str, source: str) -> None:
        found = upward({**sources, module: source})
        assert len(found) == 1 and found[0].startswith(f"{module} imports recbole_mm.")

    @pytest.mark.parametrize("module", ["recbole_mm.experiment.x", "recbole_mm.search.x"])
    def test_a_module_that_is_started_by_its_name(self, sources: dict[str, str], module: str) -> None:
        source = "START = [sys.executable, '-m', 'recbole_mm.comparison.tasks']"
        assert upward({**sources, module: source}) == [f"{module} names recbole_mm.comparison.tasks"]

    def test_a_module_that_a_docstring_speaks_of(self, sources: dict[str, str]) -> None:
        source = "'''See :mod:`recbole_mm.cli.main`.'''\nLOG = 'recbole_mm.host.names'"
        assert upward({**sources, "recbole_mm.search.x": source}) == []

    def test_an_import_that_leads_down(self, sources: dict[str, str]) -> None:
        source = "from recbole_mm.nn.loss import bpr_loss\nimport recbole_mm\nfrom recbole_mm import paths"
        assert upward({**sources, "recbole_mm.model.x": source}) == []

    def test_a_circle(self) -> None:
        files = {"recbole_mm.nn.a": "import recbole_mm.nn.b", "recbole_mm.nn.b": "from recbole_mm.nn import c"}
        assert circles({**files, "recbole_mm.nn.c": "import torch"}) == []
        back = "def f():\n    from recbole_mm.nn.a import x"
        assert circles({**files, "recbole_mm.nn.c": back}) == [{f"recbole_mm.nn.{name}" for name in "abc"}]

    def test_nn_with_something_else(self) -> None:
        assert foreign_to_nn({"recbole_mm.nn.x": "import torch, math\nfrom recbole.utils import InputType"}) == [
            "recbole_mm.nn.x imports recbole.utils"
        ]

    @pytest.mark.parametrize(
        "source",
        [
            "from recbole.utils.utils import _x",
            "import recbole.trainer\nrecbole.trainer._x()",
            "from recbole.trainer import Trainer as T\nT._train_epoch(other)",
            "def f(loader):\n    return loader._dataset",
            "def f(loader):\n    return getattr(loader, '_dataset')",
            "from recbole.quick_start import quick_start\nquick_start.get_trainer = None",
            "from recbole.config import Config\nsetattr(Config, 'x', 1)",
        ],
    )
    def test_a_private_name(self, recbole_private: set[str], source: str) -> None:
        assert len(inside_recbole("x", source, recbole_private)) == 1

    def test_what_a_subclass_inherits(self, recbole_private: set[str]) -> None:
        source = (
            "from recbole.trainer import Trainer\nclass A(Trainer):\n    def f(self):\n        super()._train_epoch()"
        )
        assert inside_recbole("x", source + "\n        self._valid_epoch(Trainer.x)", recbole_private) == []
