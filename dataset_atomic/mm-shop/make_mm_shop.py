"""Make mm-shop, a synthetic shop: a table of clicks, a table of products and a folder of drawn pictures.

Usage: ``python make_mm_shop.py [--output FOLDER]``; needs Pillow. Colour and shape of a product are in its picture
only, what it is made of is in its words only. Every customer likes some colours, some shapes and some materials, and
clicks mostly on products that have all three. Forty products are new: nobody has clicked on them, and ``wanted.csv``
says who would have, which no model may read.
"""

from __future__ import annotations

import argparse
import csv
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

SEED = 20261128
N_PRODUCTS, N_NEW, N_CUSTOMERS = 300, 40, 500
N_CLICKS = (8, 14)
SIZE = 96  # pixels
START = 1_735_689_600  # 2025-01-01, in seconds

COLOURS = {
    "red": (214, 40, 40),
    "yellow": (240, 215, 40),
    "green": (45, 160, 70),
    "blue": (35, 95, 210),
    "purple": (130, 50, 170),
    "black": (25, 25, 25),
}
SHAPES = ("circle", "square", "triangle", "star", "ring")
MATERIALS = {
    "wool": ("knitted", "a warm sweater for cold winter evenings, soft sheep wool, hand washed"),
    "bamboo": ("plant-grown", "kitchen ware of fast growing bamboo, light, dishwasher safe, no plastic"),
    "leather": ("tanned", "a bag of cow leather, stitched by hand, it ages with a patina"),
    "glass": ("blown", "a vase of clear blown glass, fragile, for flowers on the table"),
    "steel": ("forged", "a garden tool of stainless steel, sharp, it never rusts"),
    "paper": ("printed", "a notebook of recycled paper, two hundred lined pages for writing"),
}
PLACES = ("Aarhus", "Bergen", "Cadiz", "Delft", "Evora", "Ghent", "Izola", "Krems", "Lviv", "Malmo", "Ostrava", "Porto")
NAMES = ("Alba", "Bruno", "Cleo", "Dora", "Enno", "Fina", "Gero", "Hilma", "Ida", "Juno", "Kalle", "Lotte")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the shop.

    Args:
        arguments: Of the command line; those of the process when not given.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("mm-shop"), help="the folder (default: mm-shop)")
    output = parser.parse_args(arguments).output
    dice = random.Random(SEED)  # noqa: S311 - of a synthetic data set
    products = _products(dice)
    new = set(dice.sample(sorted(products), N_NEW))
    (output / "pictures").mkdir(parents=True, exist_ok=True)
    for sku, (colour, shape, _) in products.items():
        _picture(dice, COLOURS[colour], shape).save(output / "pictures" / f"{sku}.jpg", quality=90)
    clicks, wanted = _clicks(dice, products, new)
    _write(output / "products.csv", ("sku", "title", "description", "price"), _rows(dice, products))
    _write(output / "clicks.csv", ("customer", "sku", "ts"), clicks)
    _write(output / "wanted.csv", ("customer", "sku"), wanted)
    _write(output / "new.txt", None, [(sku,) for sku in sorted(new)])
    print(
        f"{output}: {len(products)} products, {len(new)} of them new, {N_CUSTOMERS} customers, {len(clicks):,} clicks"
    )


def _products(dice: random.Random) -> dict[str, tuple[str, str, str]]:
    """Number to colour, shape and material; numbers begin with zeros, as those of shops do."""
    kinds = (list(COLOURS), SHAPES, list(MATERIALS))
    return {f"{number:05d}": tuple(map(dice.choice, kinds)) for number in range(1, N_PRODUCTS + 1)}  # type: ignore[misc]


def _rows(dice: random.Random, products: dict[str, tuple[str, str, str]]) -> Iterable[Sequence[object]]:
    for sku, (_, _, material) in products.items():
        how, about = MATERIALS[material]
        title = f"{dice.choice(NAMES)} {how} {material}"
        words = about.split(", ")
        dice.shuffle(words)
        made = f"Made in {dice.choice(PLACES)}, {dice.randint(10, 60)} cm."
        yield sku, title, f"{title}: {', '.join(words)}. {made}", f"{dice.uniform(5, 90):.2f}"


def _picture(dice: random.Random, colour: tuple[int, int, int], shape: str) -> Image.Image:
    """A shape somewhere on a grey ground, with a thin outline."""
    ground = dice.randint(215, 235)
    picture = Image.new("RGB", (SIZE, SIZE), (ground, ground, ground))
    draw = ImageDraw.Draw(picture)
    r = SIZE * dice.uniform(0.36, 0.44)
    x, y = (SIZE / 2 + dice.uniform(-1, 1) * (SIZE / 2 - r - 2) for _ in range(2))
    fill = tuple(min(255, max(0, part + dice.randint(-12, 12))) for part in colour)
    box = (x - r, y - r, x + r, y + r)
    if shape == "circle":
        draw.ellipse(box, fill=fill, outline=(60, 60, 60))
    elif shape == "ring":
        draw.ellipse(box, outline=fill, width=round(r * 0.45))
    elif shape == "square":
        draw.rectangle(box, fill=fill, outline=(60, 60, 60))
    elif shape == "triangle":
        draw.polygon([(x, y - r), (x + r, y + r), (x - r, y + r)], fill=fill, outline=(60, 60, 60))
    else:
        star = [(0, -1), (0.24, -0.33), (0.95, -0.31), (0.38, 0.12), (0.59, 0.81), (0, 0.4)]
        points = [*star, *((-a, b) for a, b in reversed(star[1:-1]))]
        draw.polygon([(x + r * a, y + r * b) for a, b in points], fill=fill, outline=(60, 60, 60))
    return picture


def _clicks(
    dice: random.Random, products: dict[str, tuple[str, str, str]], new: set[str]
) -> tuple[list[tuple[str, str, int]], list[tuple[str, str]]]:
    """What customers clicked on, and the new products that have all that a customer likes."""
    old = [sku for sku in products if sku not in new]
    clicks, wanted = [], []
    for number in range(1, N_CUSTOMERS + 1):
        customer = f"c{number:04d}"
        likes = [set(dice.sample(list(kinds), k)) for kinds, k in ((COLOURS, 2), (SHAPES, 2), (MATERIALS, 2))]
        fit = {sku: sum(kind in liked for kind, liked in zip(kinds, likes)) for sku, kinds in products.items()}
        weights = {sku: (0.01, 0.05, 1.0, 40.0)[fit[sku]] for sku in old}
        for _ in range(dice.randint(*N_CLICKS)):
            sku = dice.choices(list(weights), list(weights.values()))[0]
            del weights[sku]
            clicks.append((customer, sku, START + dice.randrange(300 * 86_400)))
        wanted += [(customer, sku) for sku in sorted(new) if fit[sku] == 3]
    return sorted(clicks, key=lambda row: row[2]), wanted


def _write(file: Path, header: Sequence[str] | None, rows: Iterable[Sequence[object]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        if header is not None:
            writer.writerow(header)
        writer.writerows(rows)


if __name__ == "__main__":
    main()
