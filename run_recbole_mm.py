"""Train, test and compare recommenders from a shell: ``python run_recbole_mm.py --model=MMGCN``; see ``--help``."""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType


def load_cli() -> ModuleType:
    """Load ``recbole_mm/cli`` by its path.

    Importing ``recbole_mm`` imports torch and RecBole, which takes seconds; ``--help`` and a misspelt model name need
    neither. The modules get their real names, so that a later import finds these.
    """
    if "recbole_mm.cli.main" in sys.modules:
        return sys.modules["recbole_mm.cli.main"]
    package = find_spec("recbole_mm")
    if package is None or package.origin is None:
        raise SystemExit("recbole_mm is not installed: run this script from its checkout, or pip install it.")
    folder = Path(package.origin).with_name("cli")
    spec = spec_from_file_location("recbole_mm.cli", folder / "__init__.py", submodule_search_locations=[str(folder)])
    if spec is None or spec.loader is None or not folder.is_dir():
        raise SystemExit(f"recbole_mm/cli is missing beside {package.origin}: install the package again.")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return sys.modules["recbole_mm.cli.main"]


def main() -> int:
    """Answer the arguments of this process."""
    return int(load_cli().main())


if __name__ == "__main__":
    sys.exit(main())
