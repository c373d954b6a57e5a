"""Pictures from files that nobody has looked at: whatever opens becomes RGB, whatever does not says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["MAX_PIXELS", "read_picture"]

MAX_PIXELS = 100_000_000
"""Pixels from which a picture is refused: they would take 300 MB."""

_SIDE = 512
"""Larger JPEG pictures are decoded at a fraction of their size, not below this."""


def read_picture(path: Path) -> Any:
    """A picture as people see it: the first frame, upright, transparency over white, RGB with 8 bits.

    Args:
        path: The file.

    Returns:
        A Pillow image in mode RGB.

    Raises:
        ValueError: It is no picture, it is damaged, or it is too large; the message says which.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise ValueError(f"{width:,} x {height:,} pixels, more than {MAX_PIXELS:,}")
            picture.draft("RGB", (_SIDE, _SIDE))
            picture.seek(0)
            picture.load()
            upright = ImageOps.exif_transpose(picture)
            return _rgb(upright)
    except FileNotFoundError:
        raise ValueError("no such file") from None
    except Image.DecompressionBombError:
        raise ValueError(f"more than {MAX_PIXELS:,} pixels") from None
    except UnidentifiedImageError:
        raise ValueError("not a picture in a format that Pillow knows") from None
    except ValueError:
        raise
    except Exception as error:  # a damaged file makes Pillow raise whatever the damage leads to
        raise ValueError(f"damaged ({error})") from error


def _rgb(picture: Any) -> Any:
    from PIL import Image

    if picture.mode.startswith(("I", "F")):  # 16 bits and more: the range that is used becomes 8 bits
        values = np.asarray(picture, dtype=np.float64)
        top = (
            65535.0 if picture.mode.startswith("I") and values.max(initial=0.0) > 255 else max(values.max(initial=0), 1)
        )
        picture = Image.fromarray((values / max(top, 1.0) * 255).clip(0, 255).astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")
