"""``models``: which models there are, and the files of options that come with them."""

from __future__ import annotations

from recbole_mm.cli.arguments import BRIEF, entry
from recbole_mm.cli.catalogue import experiments, model_names
from recbole_mm.cli.request import Request, sibling

__all__ = ["EXAMPLE", "FLAGS", "HELP", "OPTIONS", "list_names", "run"]

HELP = "List the models, ours and RecBole's, with what they can do, and the files of options for special purposes."
EXAMPLE = "models"
FLAGS = {"General": BRIEF}
OPTIONS = False


def run(request: Request) -> int:
    """Print the models with their tags, and the packaged files of options.

    Args:
        request: The command line.

    Returns:
        Exit status 0.
    """
    _list_tags()
    print("\nFiles of options, for --config_files:")
    for name, meaning in experiments().items():
        print("\n".join(entry(name, meaning)))
    return 0


def _list_tags() -> None:
    """Print a line for each model: what its tags say."""
    entries = sibling("host/tags.py").list_models(model_names()[0], sibling("host/names.py").recbole_folder())
    row = "{:26} {:9} {:9} {:10} {:9} {:24} {}".format
    print("new: ranks items, knows users that training has not seen; loss: what a row of training is;")
    print("reads: what it uses besides interactions, and the fewest modalities of items; - stands for no or none\n")
    title = None
    for model in entries:
        tags = model.tags
        group = "recbole_mm" if model.ours else f"RecBole, {model.family}"
        if group != title:
            print(
                ("\n" if title else "")
                + row(f"{group}:", "new items", "new users", "sequential", "loss", "reads", "notes")
            )
            title = group
        reads = ", ".join(tags.uses) + (f" ({tags.min_modalities}+)" if tags.min_modalities else "")
        notes = [f"stages {', '.join(tags.stages)}"] if tags.stages else []
        notes += ["several vectors per item"] if tags.patches else []
        notes += ["contrastive_weight"] if tags.contrastive else []
        can = ("yes" if able else "-" for able in (tags.ranks_new_items, tags.new_users, tags.sequential))
        print(row(f"  {model.name}", *can, tags.loss or "-", reads or "-", "; ".join(notes)).rstrip())


def list_names() -> int:
    """Print the names of all models, a line each."""
    ours, families = model_names()
    print("recbole_mm:\n  " + "\n  ".join(ours))
    for family, names in families.items():
        print(f"\nRecBole, {family}:\n  " + "\n  ".join(names))
    return 0
