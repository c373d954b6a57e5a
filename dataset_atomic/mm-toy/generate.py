"""Write the synthetic data set mm-toy: atomic files and feature files with planted preferences.

Usage: ``python generate.py [--output FOLDER]``. The result is the same to the last bit on every machine: all draws are
integers from NumPy's legacy generator, whose stream is frozen, and all feature values are multiples of 1/64 between -4
and 4, which float16 holds exactly.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

NAME = "mm-toy"
SEED = 20240229
N_USERS, N_ITEMS, N_TOPICS, N_STYLES = 120, 80, 6, 3
N_LONE_USERS = 4  # the last users: one interaction each
N_LONE_ITEMS = 5  # the last items: one interaction each, so most splits leave them without a training interaction
N_UNSOLD_ITEMS = 3  # rows of the feature files that no interaction mentions
TOPICS = ("jazz", "metal", "folk", "techno", "opera", "punk")
STYLES = ("quiet", "lively", "strange")
# width of each modality, how strongly topic and style show in it, and the amplitude of its noise in 1/64
MODALITIES = {"image": (32, 8, 5, 40), "text": (24, 8, 3, 40), "audio": (12, 8, 1, 64)}
MISSING = {"image": 6, "text": 3, "audio": 15}  # items without a row; the first of them lacks every modality


def _prototypes(rng: np.random.RandomState, count: int, width: int) -> np.ndarray:
    """Random sign vectors of shape ``(count, width)``."""
    return rng.randint(0, 2, size=(count, width)) * 2 - 1


def _planted(
    rng: np.random.RandomState, topic: np.ndarray, style: np.ndarray, width: int, strength: tuple[int, int], noise: int
) -> np.ndarray:
    """Features of shape ``(n, width)``: topic and style signs in units of 1/16, plus uniform noise in units of 1/64."""
    by_topic, by_style = _prototypes(rng, N_TOPICS, width), _prototypes(rng, N_STYLES, width)
    signal = (strength[0] * by_topic[topic] + strength[1] * by_style[style]) * 4
    return ((signal + rng.randint(-noise, noise + 1, size=signal.shape)) / 64).astype(np.float16)


def _draw(rng: np.random.RandomState, weight: np.ndarray) -> int:
    """Index drawn with the integer weights ``weight``, without floating point."""
    return int(np.searchsorted(np.cumsum(weight), rng.randint(0, int(weight.sum())), side="right"))


def _interactions(
    rng: np.random.RandomState,
    topic: np.ndarray,
    style: np.ndarray,
    loves: np.ndarray,
    likes: np.ndarray,
    taste: np.ndarray,
) -> list[tuple[int, int, int, int]]:
    """Rows ``(user, item, rating, timestamp)``: mostly items of the user's topics and style; second topic late."""
    popularity = rng.randint(1, 4, size=N_ITEMS)
    sold = np.arange(N_ITEMS) < N_ITEMS - N_LONE_ITEMS
    lone_owner = rng.permutation(N_USERS - N_LONE_USERS)[:N_LONE_ITEMS]
    rows = []
    for user in range(N_USERS):
        count = 1 if user >= N_USERS - N_LONE_USERS else int(rng.randint(8, 15))
        clock = 1_600_000_000 + int(rng.randint(0, 30_000_000))
        weight = sold * popularity * np.where(style == taste[user], 5, 1)
        lone = [N_ITEMS - N_LONE_ITEMS + k for k in np.flatnonzero(lone_owner == user)]
        for position in range(count + len(lone)):
            early = position < count // 2
            fit = 1 + (topic == loves[user]) * (160 if early else 80) + (topic == likes[user]) * (50 if early else 120)
            item = lone[position - count] if position >= count else _draw(rng, weight * fit)
            weight[item] = 0
            on_topic = topic[item] in (loves[user], likes[user])
            rating = 3 + int(rng.randint(0, 3)) if on_topic else 1 + int(rng.randint(0, 3))
            clock += 1 + int(rng.randint(0, 500_000))
            rows.append((user, int(item), rating, clock))
    return [rows[k] for k in rng.permutation(len(rows))]


def _write_table(path: Path, header: list[str], rows: list[list[object]]) -> None:
    """Write an atomic file: tab-separated, ``name:type`` on the first line."""
    lines = ["\t".join(header)] + ["\t".join(str(value) for value in row) for row in rows]
    path.write_bytes(("\n".join(lines) + "\n").encode())


def build(folder: Path) -> None:
    """Write every file of the data set into ``folder``, which is made if needed."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.RandomState(SEED)
    users = np.array([f"u{k + 1}" for k in rng.permutation(N_USERS)])
    items = np.array([f"i{k + 1}" for k in rng.permutation(N_ITEMS + N_UNSOLD_ITEMS)])
    n_rows = len(items)
    topic, style = rng.permutation(np.arange(n_rows) % N_TOPICS), rng.permutation(np.arange(n_rows) % N_STYLES)
    loves = rng.permutation(np.arange(N_USERS) % N_TOPICS)
    # a third of the users have one topic only
    likes = np.where(rng.randint(0, 3, size=N_USERS) == 0, loves, (loves + 1 + rng.randint(0, N_TOPICS - 1)) % N_TOPICS)
    taste = rng.permutation(np.arange(N_USERS) % N_STYLES)
    inter = _interactions(rng, topic[:N_ITEMS], style[:N_ITEMS], loves, likes, taste)

    header = ["user_id:token", "item_id:token", "rating:float", "timestamp:float"]
    _write_table(folder / f"{NAME}.inter", header, [[users[u], items[i], r, t] for u, i, r, t in inter])

    # every 17th label and number is left empty: real tables have gaps
    brand, price = rng.randint(0, 9, size=N_ITEMS), rng.randint(100, 5000, size=N_ITEMS)
    rows = [
        [
            items[k],
            f"b{brand[k]}" if k % 17 else "",
            f"{price[k] // 100}.{price[k] % 100:02d}" if k % 17 != 3 else "",
            f"{TOPICS[topic[k]]} {STYLES[style[k]]}",
        ]
        for k in range(N_ITEMS)
    ]
    _write_table(folder / f"{NAME}.item", ["item_id:token", "brand:token", "price:float", "tags:token_seq"], rows)
    gender, age = rng.randint(0, 2, size=N_USERS), rng.randint(16, 80, size=N_USERS)
    rows = [
        [
            users[k],
            "fm"[gender[k]] if k % 17 else "",
            age[k] if k % 17 != 3 else "",
            " ".join(dict.fromkeys([TOPICS[loves[k]], TOPICS[likes[k]]])),
        ]
        for k in range(N_USERS)
    ]
    _write_table(folder / f"{NAME}.user", ["user_id:token", "gender:token", "age:float", "interests:token_seq"], rows)

    for modality, (width, by_topic, by_style, noise) in MODALITIES.items():
        feature = _planted(rng, topic, style, width, (by_topic, by_style), noise)
        # item 0 lacks every modality, the others lack one each
        missing = np.append(1 + rng.permutation(N_ITEMS - 1)[: MISSING[modality] - 1], 0)
        kept = np.setdiff1d(np.arange(n_rows), missing)[rng.permutation(n_rows - MISSING[modality])]
        np.savez(folder / f"{NAME}.item.{modality}.npz", id=items[kept], feature=feature[kept])

    profile = _planted(rng, loves, taste, 12, (3, 2), 32)
    kept = rng.permutation(N_USERS)[: N_USERS - 7]
    np.savez(folder / f"{NAME}.user.profile.npz", id=users[kept], feature=profile[kept])

    # a review speaks of the item's topic and of the user's taste, and its first two columns of the rating
    user, item, rating = (np.array(column) for column in list(zip(*inter))[:3])
    review = _planted(rng, topic[item], taste[user], 16, (3, 2), 40)
    review[:, :2] = ((rating - 3) / 2).astype(np.float16)[:, None]
    kept = np.sort(rng.permutation(len(inter))[: len(inter) - len(inter) // 10])
    np.savez(
        folder / f"{NAME}.inter.text.npz", user_id=users[user[kept]], item_id=items[item[kept]], feature=review[kept]
    )


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parent, help="folder to write into")
    build(parser.parse_args().output)


if __name__ == "__main__":
    main()
