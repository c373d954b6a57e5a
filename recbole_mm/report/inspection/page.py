"""The page of an inspection: one file, no network, legible in print."""

from __future__ import annotations

import base64
import glob
import io
from pathlib import Path
from typing import Any

from recbole_mm.report.html import write_html
from recbole_mm.report.inspection.inspect import Inspection

__all__ = ["write_page"]

_SIDE = 96


def write_page(found: Inspection, file: Path) -> Path:
    """Write an inspection as HTML.

    Args:
        found: The findings.
        file: The file; written whole or not at all.

    Returns:
        The file.

    Raises:
        ImportError: jinja2 is not installed.
    """
    return write_html(
        "inspection.html",
        file,
        found=found,
        counts=found.interactions,
        pictures=_pictures(found),
        widest=_widest(found.interactions),
    )


def _widest(counts: dict[str, Any]) -> dict[str, int]:
    return {key: max([1, *counts[key].values()]) for key in ("per_user", "per_item")}


def _pictures(found: Inspection) -> dict[str, str]:
    """Raw id to a small picture as a data address, for the examples; empty where no picture file is known."""
    pattern = found.pictures
    if pattern is None:
        contents = [numbers.get("provenance", {}).get("content", "") for numbers in found.modalities.values()]
        pattern = next((text[len("files ") :] for text in contents if text.startswith("files ")), None)
    if pattern is None:
        return {}
    from recbole_mm.extract.pictures import read_picture

    wanted = {token for rows in found.examples.values() for row in rows for token in row}
    small = {}
    for token in sorted(wanted):
        try:
            path = Path(pattern.format(item_id=token))
            if path.suffix == ".*":
                path = next(iter(sorted(path.parent.glob(f"{glob.escape(path.stem)}.*"))), path)
            picture = read_picture(path)
        except (ValueError, KeyError, ImportError):
            continue
        picture.thumbnail((_SIDE, _SIDE))
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=80)
        small[token] = "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
    return small
