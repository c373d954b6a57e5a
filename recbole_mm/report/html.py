"""What all pages share: one way to fill a template, with everything escaped, into a file that is whole or not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_mm.files import write_atomically

__all__ = ["write_html"]


def write_html(template: str, file: Path, **content: Any) -> Path:
    """Fill a template and write the page.

    Args:
        template: Name of a file in ``report/templates``.
        file: The page; written whole or not at all.
        **content: What the template reads. Texts are escaped; markup has to be a ``Markup``.

    Returns:
        The page.

    Raises:
        ImportError: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise ImportError("The page needs jinja2: pip install 'recbole-mm[report]'.") from error
    environment = Environment(
        loader=PackageLoader("recbole_mm.report", "templates"), autoescape=True, undefined=StrictUndefined
    )
    write_atomically(file, environment.get_template(template).render(**content))
    return file
