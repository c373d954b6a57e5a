"""What mkdocs calls while it builds the site: adds the pages that are made of the code, and draws formulas."""

from __future__ import annotations

import re
from typing import Any

from docs_markup import render
from docs_pages import ROOT, inserts, models, pages
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

__all__ = ["on_config", "on_files", "on_page_content", "on_page_markdown"]


def on_config(config: Any) -> Any:
    """Put a page per model and per notebook into the navigation, behind the first page of their sections."""
    made = {
        "Models": [{name: f"models/{name}.md"} for name in models()],
        "Notebooks": [f"notebooks/{file.stem}.md" for file in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))],
    }
    for entry in config.nav or ():
        for title, more in made.items():
            if isinstance(entry, dict) and title in entry:
                entry[title] += [page for page in more if page not in entry[title]]
    config.watch += [str(ROOT / "recbole_mm"), str(ROOT / "properties"), str(ROOT / "README.md")]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that no file holds."""
    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put in what ``<!-- insert: NAME -->`` stands for."""
    if "<!-- insert:" not in markdown:
        return markdown
    known = inserts()

    def replace(found: re.Match[str]) -> str:
        if found[1] not in known:
            raise PluginError(f"{page.file.src_uri}: insert: {found[1]!r} is none of {', '.join(known)}.")
        return known[found[1]]

    return re.sub(r"<!-- insert: (.*?) -->", replace, markdown)


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Draw the formulas of a page."""
    try:
        return render(html)
    except ValueError as error:
        raise PluginError(f"{page.file.src_uri}: {error}") from error
