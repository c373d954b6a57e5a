"""Sounds from files, as mono at the rate that encoders expect."""

from __future__ import annotations

from pathlib import Path

import numpy as np

__all__ = ["RATE", "read_sound"]

RATE = 16_000
"""Samples a second."""
MAX_SECONDS = 30
"""Only the beginning is read: encoders see no more."""


def read_sound(path: Path) -> np.ndarray:
    """The beginning of a sound file, mono float32 in [-1, 1] at :data:`RATE`.

    Raises:
        ImportError: soundfile is not installed.
        ValueError: No such file, or it is not a sound; the message says which.
    """
    try:
        import soundfile
    except ImportError as error:
        raise ImportError("Reading sound needs soundfile: pip install 'recbole-mm[audio]'.") from error
    if not path.is_file():
        raise ValueError("no such file")
    try:
        with soundfile.SoundFile(path) as file:
            rate, samples = file.samplerate, file.read(MAX_SECONDS * file.samplerate, dtype="float32", always_2d=True)
    except (RuntimeError, OSError) as error:
        raise ValueError(f"not a sound that can be read ({error})") from error
    mono = samples.mean(axis=1)
    if not len(mono):
        raise ValueError("no sound in it")
    if rate == RATE:
        return mono
    from scipy.signal import resample_poly

    divisor = int(np.gcd(rate, RATE))
    return resample_poly(mono, RATE // divisor, rate // divisor).astype(np.float32)
